"""README.md, its Chinese twin README.zh-CN.md, and the pages that continue it: their examples work as shown."""

import inspect
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, get_type_hints

import wsfleet

ROOT = Path(__file__).parents[2]
ENGLISH = (ROOT / "README.md").read_text("utf-8")
CHINESE = (ROOT / "README.zh-CN.md").read_text("utf-8")
OVERVIEW = (ROOT / "docs/overview.md").read_text("utf-8")
COMMANDS = (ROOT / "docs/command-line.md").read_text("utf-8")

FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(markdown: str, language: str | None = None) -> list[str]:
    return [code for found, code in FENCE.findall(markdown) if language in (None, found)]


def shape(markdown: str) -> list[str]:
    """The levels of the headings, and the list items, table rows and bold paragraphs below them, in their order."""
    lines = FENCE.sub("", markdown).splitlines()
    return [found[0] for line in lines if (found := re.match(r"#+ |- |\||\*\*", line))]


def links(markdown: str) -> list[str]:
    return sorted(re.findall(r"\]\(([^)]+)\)", FENCE.sub("", markdown)))


def run(folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
    source = str(Path(wsfleet.__file__).parents[1])
    return subprocess.run(
        [sys.executable, "-W", "error", *command],
        cwd=folder, env=os.environ | {"PYTHONPATH": source}, capture_output=True, text=True, timeout=250, check=False,
    )  # fmt: skip


def test_both_languages_have_the_same_content() -> None:
    """The same code blocks, and the same headings, lists, tables and links in the same order."""
    assert blocks(CHINESE) == blocks(ENGLISH)
    assert shape(CHINESE) == shape(ENGLISH)
    assert [link for link in links(CHINESE) if link != "README.md"] == [
        link for link in links(ENGLISH) if link != "README.zh-CN.md"
    ]


def test_they_link_to_each_other() -> None:
    """Each README links to the other one before its first section."""
    assert "](README.zh-CN.md)" in ENGLISH.split("##")[0]
    assert "](README.md)" in CHINESE.split("##")[0]


def test_the_first_program_prints_the_output_shown(tmp_path: Path) -> None:
    """The program runs as it is, and its output is the block below it."""
    found = re.search(r"<!-- run -->\n```python\n(.*?)```\n\n```text\n(.*?)```", ENGLISH, re.DOTALL)
    assert found is not None
    (tmp_path / "first.py").write_text(found[1])
    done = run(tmp_path, "first.py")
    assert (done.returncode, done.stdout) == (0, found[2]), done.stderr


def test_the_api_overview_can_be_declared() -> None:
    """The declarations on the page are accepted, and each option in its table exists."""
    names: dict[str, Any] = {}
    exec(blocks(OVERVIEW, "python")[0], names)
    fleet = names["fleet"]
    assert list(fleet.connections) == ["trades", "node-1", "node-2", "node-3", "node-4"]
    assert fleet.subscriptions["draw"].stats().overflow == "drop_oldest"
    options = {*get_type_hints(wsfleet.Endpoint), *get_type_hints(wsfleet.Buffer), *wsfleet.Overflow.__members__}
    for method in (wsfleet.Fleet, wsfleet.Fleet.pool, wsfleet.Fleet.process, wsfleet.Fleet.subscribe):
        options |= inspect.signature(method).parameters.keys()
    shown = [
        word for row in OVERVIEW.splitlines() if row.startswith("| ") for word in row.split("|")[2].split("`")[1::2]
    ]
    words = [word.partition("=")[0] for word in shown]
    assert len(words) > 30
    assert set(words) <= options


def test_check_prints_the_output_shown(tmp_path: Path) -> None:
    """`wsfleet check` prints what the page shows, for the file on it and for the same file with three misspellings."""
    (toml,) = blocks(COMMANDS, "toml")
    (shown,) = (block for block in blocks(COMMANDS, "console") if block.startswith("$ wsfleet check"))
    _, good, bad = shown.split("$ wsfleet check prices.toml\n")
    file = tmp_path / "prices.toml"
    file.write_text(toml)
    done = run(tmp_path, "-m", "wsfleet", "check", "prices.toml")
    assert (done.returncode, done.stdout) == (0, good), done.stderr
    for right, wrong in (('"json"', '"jsn"'), ('"5 s"', '"5 sec"'), ("pattern", "patern")):
        assert toml.count(right) == 1
        toml = toml.replace(right, wrong)
    file.write_text(toml)
    done = run(tmp_path, "-m", "wsfleet", "check", "prices.toml")
    assert (done.returncode, done.stderr) == (2, bad), done.stdout


def test_commands_and_options_exist() -> None:
    """Every `wsfleet` command in the README exists, and has the options that are shown."""
    commands = {line for block in blocks(ENGLISH, "console") for line in block.splitlines() if line.startswith("$ ")}
    assert {line.split()[2] for line in commands} == {"bench", "demo", "tap", "run", "check"}
    for line in commands:
        words = line.split()
        usage = run(ROOT, "-m", "wsfleet", words[2], "--help").stdout
        assert all(word in usage for word in words if word.startswith("--")), line


def test_every_command_is_described() -> None:
    """The page about the command line has a row for each command."""
    usage = run(ROOT, "-m", "wsfleet", "--help").stdout
    rows = set(re.findall(r"^\| `(\w+)` \|", COMMANDS, re.MULTILINE))
    assert rows == set(re.findall(r"^    (\w+) {2,}\w", usage, re.MULTILINE))


def test_the_costs_are_those_that_were_measured() -> None:
    """The figures in the table are those of benchmarks/results/bench.json, rounded."""
    measured = json.loads((ROOT / "benchmarks/results/bench.json").read_text())["throughput"]["figures"]
    ratios = {each["what"]: each["ratio"] for each in measured if each["beside"] == "fleet"}
    contenders = (
        *("websockets_direct", "websockets_queue", "aiohttp_direct", "aiohttp_queue"),
        *("picows_websockets_direct", "picows_core_direct"),
    )
    rows = re.findall(r"^\| `.*\| ([\d.]+) \| ([\d.]+) \|$", ENGLISH, re.MULTILINE)
    assert len(rows) == len(contenders)
    for contender, shown in zip(contenders, rows, strict=True):
        for load, figure in zip(("default", "many"), shown, strict=True):
            assert float(figure) == float(f"{ratios[f'{contender}, {load}']:.2g}"), (contender, load)


def test_it_is_short() -> None:
    """The README has 800 words at most; the rest belongs into docs/."""
    assert len(ENGLISH.split()) <= 800


def test_targets_exist() -> None:
    """The targets of `make` that are named are in the Makefile."""
    makefile = (ROOT / "Makefile").read_text()
    named = set(re.findall(r"\bmake ([a-z-]+)", ENGLISH))
    assert {"bench", "docs"} <= named
    assert all(re.search(rf"^{target}:", makefile, re.MULTILINE) for target in named)
