"""The documents: their examples work, and the tool that checks them finds faults."""

import ast
import asyncio
import inspect
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tools import check_site, doc_live
from tools.check_docs import Page
from tools.doc_blocks import Block, blocks, json_faults, outside, shell_faults, toml_faults, wrong_markers
from tools.doc_names import log_fields, metric_faults
from wsfleet import Connection, Fleet, Pool, Session, Subscription
from wsfleet.sinks import Sink
from wsfleet.testing import Chaos, FakeSocket, FakeTransport, FeedServer

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"


def run(folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
    paths = os.pathsep.join([str(ROOT / "src"), str(ROOT)])
    return subprocess.run(
        [sys.executable, *command],
        cwd=folder, env=os.environ | {"PYTHONPATH": paths}, capture_output=True, text=True, timeout=250, check=False,
    )  # fmt: skip


def test_every_block_of_every_document() -> None:
    """Each block is run, read by `wsfleet check`, parsed, or split into commands that exist."""
    done = run(ROOT, "-m", "tools.check_docs")
    assert done.returncode == 0, done.stdout + done.stderr


def block(language: str, code: str, **markers: str) -> Block:
    return Block(DOCS / "page.md", 1, language, {name.replace("_", " "): text for name, text in markers.items()}, code)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("wsfleet run feeds.toml --reprot report.json", "unrecognized arguments: --reprot"),
        ("wsfleet rnu feeds.toml", "invalid choice: 'rnu'"),
        ("wsfleet tap", "the following arguments are required"),
        ("make demmo", "the Makefile has no demmo"),
        ("A=1 make demo && make demmo", "the Makefile has no demmo"),
        ("python examples/fed.py", "there is no examples/fed.py"),
        ("python -m wsfleat", "there is no module wsfleat"),
        ("pip install '.[fats]'", "there is no extra"),
        ("promtool check rules deploy/nothing.yml", "there is no deploy/nothing.yml"),
        ("wsfleets --version", "no command"),
        ("curl --request POST http://127.0.0.1:9464/api/relaod", "nothing is served at /api/relaod"),
        ("curl http://127.0.0.1:9464/readyzz", "nothing is served at /readyzz"),
        ("curl http://127.0.0.1:9464/api/reload", "/api/reload does not support GET"),
        ("wsfleet 'run", "No closing quotation"),
    ],
)
def test_a_wrong_command_is_found(line: str, expected: str) -> None:
    """Commands, options, targets, files, modules and extras that do not exist are faults."""
    (fault,) = shell_faults(block("bash", line + "\n"), set())
    assert expected in fault


def test_existing_commands_are_no_faults() -> None:
    """Existing commands are no faults; in a console block only lines with a prompt are commands."""
    good = "A=1 wsfleet run feeds.toml --duration 5 | head -3 > out.txt  # so\nmake demo\npython handlers.py\n"
    good += "curl http://127.0.0.1:9464/readyz\ncurl https://elsewhere.example/anything\n"
    assert list(shell_faults(block("bash", good), {"handlers.py"})) == []
    assert list(shell_faults(block("console", "$ make demo\nwhatever it says: ' and so on\n"), set())) == []


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ('[[connect]]\nuri = "wss://feed.example"\ndecode = "jsn"\n', "'jsn'"),
        ('[[process]]\npatern = "*"\nhandler = "mine:on_price"\n', "did you mean 'pattern'"),
        ('[fleet]\nname = "x\n', ""),
    ],
)
def test_a_wrong_file_is_found(tmp_path: Path, code: str, expected: str) -> None:
    """Faults that `wsfleet check` finds in a file, or in a part of one, are faults of the document."""
    faults = list(toml_faults(block("toml", code), tmp_path))
    assert any(expected in fault for fault in faults) and faults


def test_a_valid_part_of_a_file_is_no_fault(tmp_path: Path) -> None:
    """A part of a file may lack the endpoint, the modules and the environment variables."""
    code = '[[process]]\npattern = "feed"\nhandler = "mine:on_price"\n[fleet]\nname = "${NAME}"\n'
    assert list(toml_faults(block("toml", code), tmp_path)) == []


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("import wsfleet\nwsfleet.Fleets()\n", "has no attribute 'Fleets'"),
        ("async def main():\n    raise ValueError('so')\nimport asyncio\nasyncio.run(main())\n", "ValueError: so"),
        ("from wsfleet import Fleet\nfleet = Fleet()\nfleet.connect('wss://feed.example', decode='jsn')\n", "jsn"),
        (
            "from wsfleet import Fleet\nfleet = Fleet()\nfleet.connect('wss://feed.example', name='feed')\n"
            "@fleet.process('feed')\nasync def fail(message):\n    1 / 0\n",
            "a function raised",
        ),
        ("print('that')\n", "'this' was not printed, but 'that"),
    ],
)
def test_a_wrong_program_is_found(monkeypatch: pytest.MonkeyPatch, code: str, expected: str) -> None:
    """A program that raises, has a failing function, or prints something else is a fault."""
    monkeypatch.setattr(doc_live, "LIMIT_S", 1.0)
    with doc_live.servers() as server:
        prints = {"prints": "this"} if "print" in code else {}
        assert expected in str(doc_live.failure(block("python", code, **prints), server))


def test_a_block_without_a_check_needs_a_reason(tmp_path: Path) -> None:
    """An unchecked language, an unknown marker and a marker without a reason are faults."""
    page = Page(DOCS / "page.md", tmp_path, "")
    (fault,) = page._check(block("yaml", "a: 1\n"))
    assert "yaml is not checked" in fault
    assert list(page._check(block("yaml", "a: 1\n", not_run="a part of deploy/"))) == []
    assert "unknown" in next(wrong_markers(block("python", "", rnu="")))
    assert "has no text" in next(wrong_markers(block("python", "", not_run="")))
    assert list(json_faults(block("json", "{")))


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ({"event": "endpoint.dwon"}, 'the log has no event "endpoint.dwon"'),
        ({"event": "endpoint.down", "atempts": 1}, "the log has no field atempts"),
    ],
)
def test_a_wrong_line_of_the_log_is_found(line: dict[str, object], expected: str) -> None:
    """A line has only fields that wsfleet.runtime.logs describes and events that exist in the code."""
    good = {"time": "", "level": "", "logger": "wsfleet", "message": "", "event": "endpoint.down", "endpoint": "feed"}
    assert list(json_faults(block("json", json.dumps(good)))) == []
    assert list(json_faults(block("json", json.dumps(good | line)))) == [expected]


def test_a_wrong_metric_is_found() -> None:
    """A name that begins with `wsfleet_` is a metric or the prefix of metrics, inside and outside of code."""
    good = "`wsfleet_dropped_messages_total`, `wsfleet_endpoint_...{endpoint}`, wsfleet_info{name}"
    assert list(metric_faults(good)) == []
    assert list(metric_faults("so `wsfleet_droped_total` is")) == ["there is no metric wsfleet_droped_total"]
    assert list(metric_faults("`wsfleet_endpiont_...`")) == ["there is no metric wsfleet_endpiont_"]


def test_the_fields_of_the_log_are_described() -> None:
    """wsfleet.runtime.logs and the page about the log describe every field that the code uses."""
    given: set[str] = set()
    for path in (ROOT / "src").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Dict):
                keys = {key.value for key in node.keys if isinstance(key, ast.Constant) and isinstance(key.value, str)}
                given |= keys if "event" in keys and "kind" not in keys else set()
    page = (DOCS / "operations-logs-reload.md").read_text("utf-8")
    rows = re.findall(r"^\| (`.*?) \|", page, re.MULTILINE)
    assert {"event", "endpoint", "by", "seconds"} <= given <= log_fields()
    assert set(re.findall(r"`(\w+)`", " ".join(rows))) == log_fields()


def test_a_block_that_would_not_be_checked_is_found(tmp_path: Path) -> None:
    """A block that is indented or not closed is a fault."""
    page = tmp_path / "page.md"
    page.write_text("- so:\n\n  ```python\n  wrong(\n  ```\n")
    assert blocks(page) == []
    assert list(outside(page))


def test_the_site_loads_nothing_from_elsewhere(tmp_path: Path) -> None:
    """Scripts, styles and pictures of other hosts, or missing ones, are faults; links are not."""
    (tmp_path / "page.html").write_text(
        '<a href="https://elsewhere.example">x</a><script src="https://elsewhere.example/x.js"></script>'
        '<link rel="stylesheet" href="nothing.css"><img src="data:,">'
    )
    (tmp_path / "site.css").write_text("@font-face { src: url(//elsewhere.example/x.woff) }")
    assert len(list(check_site.faults(tmp_path))) == 3


async def test_first_steps(tmp_path: Path) -> None:
    """The files of the first steps are valid, and a run of them leaves a balanced report with the fields shown."""
    page = DOCS / "first-steps.md"
    for each in blocks(page):
        if "file" in each.markers:
            (tmp_path / each.markers["file"]).write_text(each.code)
    checked = await asyncio.to_thread(run, tmp_path, "-m", "wsfleet", "check", "prices.toml")
    assert checked.stdout in page.read_text("utf-8") and checked.returncode == 0

    async def prices(client: object) -> None:
        await client.send(json.dumps({"symbol": "AMBER", "price": 101.25, "n": 1}))  # type: ignore[attr-defined]

    async with FeedServer(on_client=prices) as server:
        file = tmp_path / "prices.toml"
        file.write_text(file.read_text().replace("ws://127.0.0.1:8765", server.uri))
        command = ("-m", "wsfleet", "run", "prices.toml", "--report", "report.json", "--duration")
        for duration in ("2", "20", "60"):  # enough for the one message, however busy the machine is
            done = await asyncio.to_thread(run, tmp_path, *command, duration)
            if done.stdout:
                break
    report = json.loads((tmp_path / "report.json").read_text())
    assert done.returncode == 0 and report["balanced"], done.stderr
    assert "AMBER was never higher: 101.25" in done.stdout
    assert json.loads((tmp_path / "amber.jsonl").read_text())["data"]["price"] == 101.25
    shown = next(json.loads(each.code) for each in blocks(page) if each.language == "json")
    for rows in ("endpoints", "subscriptions"):
        assert shown[rows][0].keys() == report[rows][0].keys()


PUBLIC = [Fleet, Connection, Session, Subscription, Pool, Sink, FeedServer, FakeTransport, FakeSocket, Chaos]
UNCANCELLED = {"Subscription.__aenter__", "Subscription.__aexit__", "FakeSocket.wait_writable", "FakeTransport.aclose"}
"""Methods that never wait."""


@pytest.mark.parametrize("public", PUBLIC, ids=lambda each: each.__name__)
def test_public_methods_are_documented(public: type) -> None:
    """Each public method has a docstring, which explains cancellation if the method waits, as docs/api.md promises."""
    entered = ("__enter__", "__exit__", "__aenter__", "__aexit__", "__aiter__")
    methods = {name: each for name, each in vars(public).items() if not name.startswith("_") or name in entered}
    for name, method in methods.items():
        if not inspect.isfunction(method) or name == "slow":  # a part of an iterator
            continue
        assert method.__doc__, f"{public.__name__}.{name} has no docstring"
        waits = inspect.iscoroutinefunction(method) or name == "__aiter__"
        if waits and f"{public.__name__}.{name}" not in UNCANCELLED:
            assert "ancel" in method.__doc__, f"{public.__name__}.{name} does not explain cancellation"


def test_the_comparison_shows_the_measured_figures() -> None:
    """The figures are those of benchmarks/results/bench.json, rounded."""
    measured = json.loads((ROOT / "benchmarks/results/bench.json").read_text())["throughput"]["figures"]
    ratios = {each["what"]: each["ratio"] for each in measured if each["beside"] == "fleet"}
    text = (DOCS / "comparison.md").read_text("utf-8")
    rows = re.findall(r"^\| `(\w+)`:.* \| ([\d.]+) \|$", text, re.MULTILINE)
    assert len(rows) == 7
    for name, shown in rows:
        assert float(shown) == float(f"{ratios[f'{name}, default']:.2g}"), name
    assert f"{ratios['picows_core_direct, many']:.2f} and {ratios['picows_core_direct, 8k']:.2f}" in text
