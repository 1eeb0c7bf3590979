"""Reading, comparing and showing results of Autobahn|Testsuite, and the recorded results."""

import asyncio
import json
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tools.autobahn import __main__ as autobahn
from tools.autobahn import results
from tools.autobahn.__main__ import EXPECTED, GROUPS, PAGE, START, STOP
from tools.autobahn.results import Result, chosen, differences

OK = Result("OK", "OK")
FAILED = Result("FAILED", "OK")


@pytest.mark.parametrize(
    ("behavior", "close", "kind"),
    [
        ("OK", "OK", "passed"),
        ("OK", "INFORMATIONAL", "passed"),
        ("NON-STRICT", "OK", "non-strict"),
        ("INFORMATIONAL", "INFORMATIONAL", "informational"),
        ("FAILED", "OK", "failed"),
        ("OK", "FAILED", "failed"),
        ("OK", "UNCLEAN", "failed"),
        ("INFORMATIONAL", "WRONG CODE", "failed"),
        ("UNIMPLEMENTED", "OK", "failed"),
    ],
)
def test_a_case_passes_only_if_its_close_is_good(behavior, close, kind):
    """A result that is neither good nor informational, of the behaviour or of the close, is a failure."""
    assert Result(behavior, close).kind == kind


def test_every_different_result_is_reported():
    """A better, worse, missing or new result is a difference, in the order of the cases; an equal one is none."""
    found = {"10.1.1": FAILED, "2.1": OK, "1.1": OK, "9.9": OK}
    expected = {"10.1.1": OK, "2.1": FAILED, "1.1": OK, "3.1": OK}
    assert list(differences(found, expected)) == [
        "2.1: OK, closing OK; expected: FAILED, closing OK",
        "3.1: no result; expected: OK, closing OK",
        "9.9: OK, closing OK; expected: no result",
        "10.1.1: FAILED, closing OK; expected: OK, closing OK",
    ]
    assert list(differences(expected, expected)) == []


def test_a_race_may_end_in_either_way():
    """If several ways to end a case are allowed, these are expected, and no others."""
    open_end = {"4.1.5": Result("OK|NON-STRICT", "OK")}
    assert list(differences({"4.1.5": OK}, open_end)) == []
    assert list(differences({"4.1.5": Result("NON-STRICT", "OK")}, open_end)) == []
    assert len(list(differences({"4.1.5": FAILED}, open_end))) == 1
    assert len(list(differences({"4.1.5": Result("OK", "UNCLEAN")}, open_end))) == 1


def test_a_part_of_the_cases_can_be_chosen():
    """Patterns are those of the suite: a `*` matches anything."""
    assert chosen({"1.1": OK, "7.1.5": OK, "7.10.1": OK}, ["7.1.*", "1.1"]) == {"1.1": OK, "7.1.5": OK}


def test_the_table_counts_each_section_once_for_each_client():
    """The table has a line for each section that ran, in order, and one for all."""
    one = {"10.1.1": OK, "2.1": OK, "2.2": Result("NON-STRICT", "OK")}
    lines = results.table({"a": one, "b": {**one, "2.1": FAILED}}).splitlines()
    assert lines[0].startswith("| section | cases | a: passed |")
    assert lines[2:] == [
        "| 2 Pings and pongs | 2 | 1 | 1 | 0 | 0 | 0 | 1 | 0 | 1 |",
        "| 10 Chopped frames | 1 | 1 | 0 | 0 | 0 | 1 | 0 | 0 | 0 |",
        "| all | 3 | 2 | 1 | 0 | 0 | 1 | 1 | 0 | 1 |",
    ]


def test_cases_that_did_not_pass_are_listed():
    """Cases that did not simply pass are listed, once for all clients if they agree."""
    one = {"10.1.1": Result("NON-STRICT", "OK"), "2.1": Result("NON-STRICT", "OK"), "1.1": OK}
    assert results.others({"a": one, "b": {**one, "1.1": FAILED}}).splitlines() == [
        "- non-strict: 2.1, 10.1.1",
        "- informational: none",
        "- failed, a: none",
        "- failed, b: 1.1",
    ]


def test_expected_results_can_be_read_again(tmp_path: Path):
    """Expected results can be written and read again, and the server's own summary is parsed."""
    found = {"10.1.1": FAILED, "2.1": OK}
    results.write_expected(tmp_path / "expected.json", found)
    assert results.read_expected(tmp_path / "expected.json") == found
    report = {"us": {case: {"behavior": each.behavior, "behaviorClose": each.close} for case, each in found.items()}}
    (tmp_path / "index.json").write_text(json.dumps(report))
    assert results.read_report(tmp_path / "index.json", "us") == found


def test_every_case_is_in_one_group():
    """A run contains each case once, group by group."""
    expected = results.read_expected(EXPECTED)
    parts = [case for patterns in GROUPS.values() for case in chosen(expected, patterns)]
    assert sorted(parts) == sorted(expected)


def test_the_reports_of_all_groups_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The findings of each group's server count; a group that was stopped has no report, and is run when continued."""
    monkeypatch.setattr(autobahn, "REPORTS", tmp_path)
    for group, case in [("1-7", "1.1"), ("12.1", "12.1.1")]:
        (tmp_path / "us" / group).mkdir(parents=True)
        report = {"us": {case: {"behavior": "OK", "behaviorClose": "OK"}}}
        (tmp_path / "us" / group / "index.json").write_text(json.dumps(report))
    (tmp_path / "us" / "12.2").mkdir()
    assert autobahn.read_reports("us") == {"1.1": OK, "12.1.1": OK}
    ran = []

    @asynccontextmanager
    async def server(python2, folder, cases):
        ran.append((folder.name, cases))
        yield "ws://h"

    async def client(name, url):
        pass

    monkeypatch.setattr(autobahn, "fuzzing_server", server)
    monkeypatch.setattr(autobahn, "run_client", client)
    asyncio.run(autobahn.run("us", "python2", {"1-7": ["1.*"], "12.1": ["12.1.*"], "12.2": ["12.2.*"]}))
    assert ran == [("12.2", ["12.2.*"])]


def test_no_failure_is_expected():
    """All 517 cases have an expected result, none of them failed; the page has a place for their table."""
    expected = results.read_expected(EXPECTED)
    assert len(expected) == 517
    ways = [Result(way, each.close) for each in expected.values() for way in each.behavior.split("|")]
    assert [each for each in ways if each.kind == "failed"] == []
    assert PAGE.read_text().index(START) < PAGE.read_text().index(STOP)
