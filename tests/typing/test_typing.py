"""The types of the public interface, as `mypy --strict` sees them in programs."""

import re
from pathlib import Path

import pytest
from mypy import api

import wsfleet

PROGRAMS = sorted((Path(__file__).parent / "programs").glob("*.py"))


def test_mypy_finds_the_marked_errors_and_no_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In each program, mypy reports an error at each line that ends in `# E:`, with the text after it, and no other."""
    monkeypatch.setenv("MYPYPATH", str(Path(wsfleet.__file__).parents[1]))
    options = ["--strict", "--config-file=", f"--cache-dir={tmp_path}", "--hide-error-context"]
    report, problems, _ = api.run([*options, *map(str, PROGRAMS)])
    assert not problems
    errors = re.findall(r"^(\S+?):(\d+): error: (.*)$", report, re.MULTILINE)
    found = {(Path(path).name, int(line)): text for path, line, text in reversed(errors)}
    expected = {(path.name, line): text for path in PROGRAMS for line, text in _marked(path)}
    assert found.keys() == expected.keys(), report
    assert not [(place, found[place]) for place, text in expected.items() if text not in found[place]]


def _marked(path: Path) -> list[tuple[int, str]]:
    lines = path.read_text().splitlines()
    marks = [(number, line.partition("# E: ")[2]) for number, line in enumerate(lines, 1)]
    return [(number, text) for number, text in marks if text]
