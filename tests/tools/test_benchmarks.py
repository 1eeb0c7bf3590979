"""`make bench` runs every part and reports the figures of all."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from benchmarks import __main__ as benchmarks
from benchmarks.figures import Figure, table, write

ROOT = Path(__file__).parents[2]
CHARTS = {"default", "scale", "storm", "fairness", "latency", "growth"}


@pytest.fixture
def children(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The commands of the parts, which report one figure each at once; `storm` fails."""
    commands: list[list[str]] = []

    def run(command: list[str], cwd: Path) -> SimpleNamespace:
        commands.append(command[2:])
        if command[2] == "benchmarks.storm":
            return SimpleNamespace(returncode=1)
        write(Path(command[-1]), [Figure(f"found {len(commands)}", "nothing", 1.0)], {})
        return SimpleNamespace(returncode=0)

    # Not the function itself, because matplotlib also calls it when it first looks for fonts.
    monkeypatch.setattr(benchmarks, "subprocess", SimpleNamespace(run=run))
    return commands


def test_a_quick_run_has_every_part_in_the_table_the_file_and_the_charts(tmp_path: Path) -> None:
    """Every part runs, announced in one line; the table, the JSON and the charts contain the figures."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", "--quick", "--json", tmp_path / "all.json", "--write", tmp_path],
        cwd=ROOT, env={**os.environ, "PYTHONASYNCIODEBUG": ""}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "all.json").read_text())
    assert list(found) == list(benchmarks.PARTS)
    assert json.loads((tmp_path / "bench.json").read_text()) == found
    lines = done.stdout.splitlines()
    assert lines[0].startswith(f"{len(found)} parts, about ")
    shown = done.stdout[done.stdout.index(table(found)) :]
    for number, (name, part) in enumerate(found.items(), 1):
        assert any(line.startswith(f"[{number}/{len(found)}] {name}: ") for line in lines)
        assert part["machine"]["wsfleet.accelerated"] in (True, False)
        assert part["figures"]
        assert all(figure["what"] in shown for figure in part["figures"])
    assert {file.stem for file in tmp_path.glob("*.svg")} == CHARTS
    assert all("<svg" in file.read_text() for file in tmp_path.glob("*.svg"))


def test_a_part_that_fails_leaves_the_others(
    children: list[list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The figures of the other parts are printed and saved, the failed one is named, and the exit code is 1."""
    file = tmp_path / "all.json"
    with pytest.raises(SystemExit) as raised:
        benchmarks.main(["--json", str(file)])
    assert raised.value.code == "failed: storm"
    assert len(children) == len(benchmarks.PARTS)
    found = json.loads(file.read_text())
    assert found.keys() == benchmarks.PARTS.keys() - {"storm"}
    assert table(found) in capsys.readouterr().out


def test_some_parts_are_written_beside_the_others(children: list[list[str]], tmp_path: Path) -> None:
    """The saved figures of a part that was not run are kept; those of one that was run are replaced."""
    for parts in ("buffers", "throughput,buffers"):
        benchmarks.main(["--part", parts, "--json", str(tmp_path / "bench.json")])
    before = json.loads((tmp_path / "bench.json").read_text())
    benchmarks.keep({"buffers": {"figures": ["new"]}}, tmp_path)
    after = json.loads((tmp_path / "bench.json").read_text())
    assert list(after) == ["throughput", "buffers"]
    assert after["throughput"] == before["throughput"]
    assert after["buffers"] == {"figures": ["new"]}


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("--only fleet --scenario tls", {"throughput": "--scenario tls --only fleet"}),
        ("--part scale,growth --pairs 2", {"scale": "", "growth": "--pairs 2"}),
        ("--part growth --quick --pairs 2", {"growth": f"{benchmarks.PARTS['growth'].quick} --pairs 2"}),
    ],
)
def test_each_part_gets_only_its_options(children: list[list[str]], arguments: str, expected: dict[str, str]) -> None:
    """Each part gets only the options that it has; an option of throughput selects that part."""
    benchmarks.main(arguments.split())
    given = {command[0].removeprefix("benchmarks."): " ".join(command[1:-2]) for command in children}
    assert given == expected


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ("--part scale,strom", "--part: unknown: strom; choose from throughput, "),
        ("--part scale --only fleet", "--scenario and --only belong to throughput"),
        ("--scenario tls --write", "--write: only complete parts are saved there"),
        ("--quick --write", "--write: only complete parts are saved there"),
    ],
)
def test_rejects_invalid_combinations_of_options(arguments: str, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Invalid combinations of options are rejected before the run, with the reason."""
    with pytest.raises(SystemExit) as raised:
        benchmarks.main(arguments.split())
    assert raised.value.code == 2
    assert text in capsys.readouterr().err


@pytest.mark.parametrize(
    ("figure", "goal", "reached"),
    [
        (Figure("a", "b", 7.0, 7.0), "≥ 7.00", "yes"),
        (Figure("a", "b", 6.99, 7.0), "≥ 7.00", "no"),
        (Figure("a", "b", 1.15, 1.15, "less"), "≤ 1.15", "yes"),
        (Figure("a", "b", 0.06, 0.05, "less"), "≤ 0.050", "no"),
        (Figure("a", "b", 8.0, 7.0, doubtful=True), "≥ 7.00", "?"),
        (Figure("a", "b", None, 1.0), "≥ 1.00", ""),
        (Figure("a", "b", 2.0), "", ""),
    ],
)
def test_the_table_shows_whether_a_goal_is_reached(figure: Figure, goal: str, reached: str, tmp_path: Path) -> None:
    """A goal is reached or missed only if the ratio is beyond the measurement error."""
    write(tmp_path / "part.json", [figure], {})
    head, row = table({"part": json.loads((tmp_path / "part.json").read_text())}).splitlines()
    assert head.split() == ["measured", "beside", "ratio", "goal", "reached"]
    assert row.split()[4:] == [*goal.split(), *reached.split()]
