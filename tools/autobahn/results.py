"""The findings of the fuzzing server: read, compared with the expected ones, and shown as a table."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import NamedTuple

SECTIONS = {
    "1": "Framing",
    "2": "Pings and pongs",
    "3": "Reserved bits",
    "4": "Opcodes",
    "5": "Fragments",
    "6": "UTF-8",
    "7": "Closing",
    "9": "Large messages, and many",
    "10": "Chopped frames",
    "12": "Compression: sizes",
    "13": "Compression: parameters",
}

KINDS = ("passed", "non-strict", "informational", "failed")

_KINDS = {"OK": "passed", "NON-STRICT": "non-strict", "INFORMATIONAL": "informational"}


class Result(NamedTuple):
    """The behaviour of a client in one case, and the close of its connection, in the server's words."""

    behavior: str
    close: str

    @property
    def kind(self) -> str:
        return _KINDS.get(self.behavior, "failed") if self.close in _KINDS else "failed"

    def fits(self, expected: Result | None) -> bool:
        """Return whether this is expected; if a race may end in several ways, they are all listed: "OK|NON-STRICT"."""
        return expected is not None and self.behavior in expected.behavior.split("|") and self.close == expected.close


Results = Mapping[str, Result]


def read_report(path: Path, agent: str) -> Results:
    """Read the server's own summary of one agent."""
    cases = json.loads(path.read_text())[agent]
    return {case: Result(found["behavior"], found["behaviorClose"]) for case, found in cases.items()}


def read_expected(path: Path) -> Results:
    return {case: Result(*pair) for case, pair in json.loads(path.read_text()).items()}


def write_expected(path: Path, results: Results) -> None:
    lines = (f"  {json.dumps(case)}: {json.dumps(results[case])}" for case in sorted(results, key=place))
    path.write_text("{\n" + ",\n".join(lines) + "\n}\n")


def place(case: str) -> list[int]:
    """The sort key of a case: 9.2.1 before 10.1.1."""
    return [int(part) for part in case.split(".")]


def chosen(results: Results, patterns: Sequence[str]) -> Results:
    """The results of the cases that match one of `patterns`."""
    return {case: each for case, each in results.items() if any(fnmatchcase(case, pattern) for pattern in patterns)}


def differences(found: Results, expected: Results) -> Iterator[str]:
    """Describe each case whose result is not expected, including missing and unknown cases."""
    for case in sorted(found.keys() | expected.keys(), key=place):
        got, wanted = found.get(case), expected.get(case)
        if got is None or not got.fits(wanted):
            yield f"{case}: {_shown(got)}; expected: {_shown(wanted)}"


def _shown(result: Result | None) -> str:
    return f"{result.behavior}, closing {result.close}" if result else "no result"


def table(clients: Mapping[str, Results]) -> str:
    """Return the results as a table in Markdown: a row for each section, a column for each client and kind."""
    columns = ["section", "cases", *(f"{name}: {kind}" for name in clients for kind in KINDS)]
    lines = [_line(columns), _line(["---", *["---:"] * (len(columns) - 1)])]
    counts = {
        name: Counter((case.split(".")[0], each.kind) for case, each in of.items()) for name, of in clients.items()
    }
    sections = sorted({case.split(".")[0] for results in clients.values() for case in results}, key=int)
    for section in sections:
        ran = max(sum(count[section, kind] for kind in KINDS) for count in counts.values())
        numbers = [count[section, kind] for count in counts.values() for kind in KINDS]
        lines.append(_line([f"{section} {SECTIONS.get(section, '')}".strip(), ran, *numbers]))
    totals = [sum(each.kind == kind for each in of.values()) for of in clients.values() for kind in KINDS]
    lines.append(_line(["all", max(map(len, clients.values())), *totals]))
    return "\n".join(lines)


def _line(cells: list[object] | list[str]) -> str:
    return f"| {' | '.join(map(str, cells))} |"


def others(clients: Mapping[str, Results]) -> str:
    """List the cases that did not simply pass, by kind, and by client if they differ."""
    lines = []
    for kind in KINDS[1:]:
        named = {
            name: [case for case in sorted(of, key=place) if of[case].kind == kind] for name, of in clients.items()
        }
        lists = {name: ", ".join(cases) or "none" for name, cases in named.items()}
        if len(set(lists.values())) == 1:
            lists = {"": next(iter(lists.values()))}
        lines += [f"- {kind}{name and f', {name}'}: {cases}" for name, cases in lists.items()]
    return "\n".join(lines)
