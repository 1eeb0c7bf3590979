"""`wsfleet bench`, run as a command. The figures depend on the machine; their consistency is checked here."""

import fcntl
import json
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pytest

from wsfleet import accelerated
from wsfleet.cli.bench.command import Line, summary
from wsfleet.cli.bench.peer import payloads
from wsfleet.cli.main import main

COMMAND = [sys.executable, "-m", "wsfleet", "bench"]
PIPES = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
ENVIRONMENT = {**os.environ, "PYTHONASYNCIODEBUG": ""}


def bench(*arguments: str, **environment: str) -> tuple[int, str, str]:
    done = subprocess.run([*COMMAND, *arguments], env=ENVIRONMENT | environment, capture_output=True, text=True)
    return done.returncode, done.stdout, done.stderr


def test_shows_three_programs_and_their_ratios(tmp_path: Path) -> None:
    """The table and the report contain the same figures, measured with received messages, and the
    settings of the run.
    """
    report = tmp_path / "report.json"
    code, out, err = bench("--duration", "1", "--connections", "3", "--size", "200", "--report", str(report))
    assert (code, err) == (0, "")
    result = json.loads(report.read_text())
    assert (result["connections"], result["size"], result["accelerated"]) == (3, 200, accelerated)
    assert f"; {result['loop']}" in out
    assert set(result["programs"]) == {"bare", "wsfleet", "ceiling"}
    for name, label in (("bare", "by hand"), ("wsfleet", "wsfleet"), ("ceiling", "the ceiling")):
        row = result["programs"][name]
        assert row["messages"] > 0
        shown = re.search(rf"^{label} +([\d,]+) +([\d.]+) µs +([\d.]+) +(\d+)%$", out, re.MULTILINE)
        assert shown, out
        assert shown[1] == f"{row['messages_per_cpu_s']:,.0f}"
        assert shown[3] == f"{row['times_bare']:.2f}"
    assert result["programs"]["bare"]["times_bare"] == result["programs"]["ceiling"]["of_ceiling"] == 1


def test_works_without_optional_packages(tmp_path: Path) -> None:
    """It works without uvloop and without compiled parts, and shows both."""
    (tmp_path / "uvloop.py").write_text("raise ImportError('not installed')\n")
    code, out, err = bench("--duration", "1", WSFLEET_NO_EXTENSIONS="1", PYTHONPATH=str(tmp_path))
    assert (code, err) == (0, "")
    assert "pure Python" in out
    assert "asyncio (uvloop is faster" in out


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--size", "10"], "--size: must be from 64"),
        (["--connections", "0"], "--connections"),
        (["--duration", "0"], "--duration"),
        (["--report", "missing/report.json"], "--report: no such directory: missing"),
    ],
)
def test_rejects_invalid_arguments(arguments: list[str], text: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Invalid settings are errors of the command line, reported before the run."""
    code = main(["bench", *arguments])
    out, err = capsys.readouterr()
    assert (code, out) == (2, "")
    assert text in err


def test_a_signal_before_the_first_round_is_a_failure() -> None:
    """Ctrl-C ends the run quickly; without any measurement, no table is printed."""
    with subprocess.Popen(
        [*COMMAND, "--duration", "600"],
        env=ENVIRONMENT | {"TERM": "xterm", "FORCE_COLOR": "1", "COLUMNS": "80"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stderr is not None
        process.stderr.read(1)  # the progress bar is shown
        process.send_signal(signal.SIGINT)
        out, err = process.communicate()
    assert (process.returncode, out) == (1, b"")
    assert b"ended before the first round was complete" in err


def test_ends_with_0_when_its_output_is_closed(tmp_path: Path) -> None:
    """`wsfleet bench | true` is no failure, and the report is still written."""
    report = tmp_path / "report.json"
    arguments = ["--duration", "1", "--report", str(report)]
    with subprocess.Popen([*COMMAND, *arguments], env=ENVIRONMENT, **PIPES) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait() == 0
    assert report.exists()


def test_shows_a_progress_bar_on_a_terminal() -> None:
    """On a terminal a progress bar of at most 80 columns is replaced by the table; the cursor is restored."""
    main, side = pty.openpty()
    fcntl.ioctl(side, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    environment = ENVIRONMENT | {"TERM": "xterm-256color"}
    with subprocess.Popen([*COMMAND, "--duration", "2"], env=environment, stdout=side, stderr=side) as process:
        os.close(side)
        screen = b""
        try:
            while chunk := os.read(main, 2**16):
                screen += chunk
        except OSError:  # the end of a pseudo-terminal on Linux
            pass
    os.close(main)
    shown = screen.decode()
    assert process.returncode == 0
    assert shown.rindex("\x1b[?25h") > shown.rindex("\x1b[?25l")
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown)
    assert "━" in plain
    assert plain.rindex("of the ceiling") > plain.rindex("━")


def test_the_ratios_are_taken_within_each_round() -> None:
    """A round on a busy machine changes the figures of all libraries, not their ratios."""

    def round_(slow: float) -> dict[str, Line]:
        costs = {"bare": 8.0, "wsfleet": 2.0, "ceiling": 1.0}
        return {name: Line(name, 1000, cost * slow, "uvloop") for name, cost in costs.items()}

    result = summary([round_(1.0), round_(7.0), round_(2.0)], {"connections": 8, "size": 128})
    wsfleet = result["programs"]["wsfleet"]
    assert (wsfleet["times_bare"], wsfleet["of_ceiling"]) == (4.0, 0.5)
    assert (wsfleet["messages_per_cpu_s"], wsfleet["messages"]) == (250.0, 3000)


@pytest.mark.parametrize("size", [64, 65, 128, 8192, 2**20])
def test_messages_have_the_requested_size(size: int) -> None:
    """Every message is JSON of exactly that size."""
    made = payloads(size)
    assert {len(payload) for payload in made} == {size}
    assert all("id" in json.loads(payload) for payload in made)
