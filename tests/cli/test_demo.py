"""`wsfleet demo`, run as a command."""

import contextlib
import fcntl
import json
import os
import pty
import re
import resource
import signal
import socket
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from wsfleet.cli.demo.board import Board, Recoveries
from wsfleet.cli.demo.scenario import make_plan
from wsfleet.cli.main import main
from wsfleet.core.message import Message, State, StateChange
from wsfleet.core.stats import EndpointStats, FleetStats, HubStats, SubscriptionStats

COMMAND = [sys.executable, "-m", "wsfleet", "demo"]


# Seconds: the first is enough for all connections to recover; on a busy machine, one of the others.
DURATIONS = (5, 20, 80)


@contextlib.contextmanager
def demo(
    *arguments: str, command: list[str] = COMMAND, env: dict[str, str] | None = None, **options: object
) -> Iterator[subprocess.Popen[str]]:
    """A running demo, killed at the end if it has not ended by then."""
    # asyncio's debug mode would log slow callbacks on the standard error.
    environment = {**os.environ, "PYTHONASYNCIODEBUG": "", **(env or {})}
    pipes = {"env": environment, "stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen([*command, *arguments], text=True, **{**pipes, **options}) as process:
        try:
            yield process
        finally:
            process.kill()


def finished(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = process.communicate()
    return process.returncode, out, err


def server_port(text: str) -> int:
    found = re.search(r"ws://127\.0\.0\.1:(\d+)", text)
    assert found, text
    return int(found.group(1))


def nobody_listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def wait_for(process: subprocess.Popen[str], text: str) -> str:
    """Read lines of the standard output up to one that contains `text`."""
    seen = ""
    assert process.stdout is not None
    for line in process.stdout:
        seen += line
        if text in line:
            return seen
    raise AssertionError(f"{text!r} is not in\n{seen}")


@pytest.mark.parametrize("module", ["wsfleet"])
def test_runs_recovers_and_accounts_for_everything(module: str, tmp_path: Path) -> None:
    """All connections recover from the faults of the server, and the numbers of the report balance."""
    report = tmp_path / "report.json"
    arguments = ["--connections", "50", "--seed", "3", "--report", str(report)]
    for duration in DURATIONS:
        command = [sys.executable, "-m", module, "demo", "--duration", str(duration)]
        with demo(*arguments, command=command) as process:
            code, out, err = finished(process)
        assert (code, err) == (0, "")
        stats = json.loads(report.read_text())
        again = {row["name"] for row in stats["endpoints"] if row["connects"] > 1}
        hit = {f"feed-{number}" for fault in make_plan(50, duration, 3) for number in fault.members}
        if again >= hit:
            break
    assert stats["balanced"] is True
    assert len(stats["endpoints"]) == 50
    assert {row["state"] for row in stats["endpoints"]} == {"CLOSED"}
    # Silence, two cuts and one period of short connections: each affected connection returns.
    assert again >= hit
    received = sum(row["received"] for row in stats["endpoints"])
    assert received > 50
    prices = next(row for row in stats["subscriptions"] if row["name"] == "prices")
    assert prices["processed"] == prices["offered"] == received
    assert f"messages in  {received:,} (" in out
    assert f"processed    {received:,} by 'prices'" in out
    assert "seed 3" in out
    assert re.search(r"^to recover   median \d+\.\d\d s, worst \d+\.\d\d s$", out, re.MULTILINE)
    assert "balance      holds" in out
    assert nobody_listens(server_port(out))


def test_a_signal_drains_and_prints_the_summary() -> None:
    """Ctrl-C ends the demo early: all messages are processed, the summary is printed, and the exit code is 0."""
    with demo("--connections", "20", "--duration", "600") as process:
        seen = wait_for(process, "open 20")
        process.send_signal(signal.SIGINT)
        code, out, err = finished(process)
    assert (code, err) == (0, "")
    assert "balance      holds" in out
    assert nobody_listens(server_port(seen + out))


def test_two_signals_stop_at_once() -> None:
    """A second signal cancels the drain, and changes the exit code."""
    with demo("--connections", "20", "--duration", "600") as process:
        wait_for(process, "open 20")
        process.send_signal(signal.SIGTERM)
        process.send_signal(signal.SIGINT)
        code, _, _ = finished(process)
    # Both may have come before the first was handled, and a drain may be very short.
    assert code in (0, 130)


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="finds the server's process through /proc")
def test_the_server_dies_with_the_demo() -> None:
    """After any death of the demo, no feed server is left behind."""
    with demo("--connections", "5", "--duration", "600") as process:
        wait_for(process, "open 5")
        (server,) = children(process.pid)
        process.kill()
        finished(process)
        # In a test container it may not be reaped, so a zombie counts as dead.
        while (stat := Path(f"/proc/{server}/stat")).exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z":
            time.sleep(0.01)


def test_a_closed_pipe_ends_it() -> None:
    """`wsfleet demo | head -3` ends without an error."""
    with demo("--connections", "5", "--duration", "600") as process:
        wait_for(process, "open 5")
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == ""
        assert process.wait() == 0


def test_too_low_a_limit_of_open_files_is_reported() -> None:
    """If the hard limit of open files is too low, one line contains the required number, the limit and the remedy."""

    def few() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (100, 100))

    with demo("--connections", "1000", preexec_fn=few) as process:
        code, out, err = finished(process)
    assert (code, out) == (2, "")
    assert "1,064 open files" in err
    assert "the limit is 100" in err
    assert len(err.splitlines()) == 1


def test_raises_the_soft_limit_of_open_files() -> None:
    """A soft limit that is too low is raised if the hard limit suffices."""

    def few() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))

    with demo("--connections", "150", "--duration", "3", preexec_fn=few) as process:
        code, out, err = finished(process)
    assert (code, err) == (0, "")
    assert "open 150" in out


@pytest.mark.parametrize("arguments", [["--connections", "0"], ["--duration", "-1"], ["--duration", "inf"]])
def test_rejects_invalid_arguments(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Invalid numbers are errors of the command line."""
    code = main(["demo", *arguments])
    out, err = capsys.readouterr()
    assert (code, out) == (2, "")
    assert arguments[0] in err


def test_a_report_that_cannot_be_written_is_reported_before_the_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A wrong --report is reported before the run."""
    code = main(["demo", "--report", str(tmp_path / "missing" / "report.json")])
    out, err = capsys.readouterr()
    assert (code, out) == (2, "")
    assert "--report" in err


def on_a_terminal(*arguments: str) -> tuple[int, str]:
    """The exit code of a demo, and its output on a terminal."""
    main, side = pty.openpty()
    fcntl.ioctl(side, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    with demo(*arguments, stdout=side, stderr=side, env={"TERM": "xterm-256color"}) as process:
        os.close(side)
        screen = b""
        try:
            while chunk := os.read(main, 2**16):
                screen += chunk
        except OSError:  # the end of a pseudo-terminal on Linux
            pass
        code = process.wait()
    os.close(main)
    return code, screen.decode()


def test_shows_a_live_table_on_a_terminal() -> None:
    """On a terminal a table of at most 80 columns is redrawn in place, then replaced by the summary; the cursor is
    restored.
    """
    for duration in DURATIONS:
        code, shown = on_a_terminal("--connections", "20", "--duration", str(duration))
        if "time to recover" in shown:
            break
    assert code == 0
    assert "\x1b[?25l" in shown, "the cursor is hidden while the table moves"
    assert shown.rindex("\x1b[?25h") > shown.rindex("\x1b[?25l")
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown)
    assert max(map(len, re.split(r"[\r\n]+", plain))) <= 80
    for text in ("OPEN", "BACKOFF", "prices", "slow-chart", "time to recover", "cut without a close frame"):
        assert text in plain
    assert plain.index("balance      holds: every") > plain.rindex("slow-chart  ")


def test_the_plan_is_the_same_for_the_same_seed() -> None:
    """The faults depend only on the seed, include each kind, and leave time for the recovery."""
    assert make_plan(1000, 15.0, 7) == make_plan(1000, 15.0, 7)
    assert make_plan(1000, 15.0, 7) != make_plan(1000, 15.0, 8)
    for connections in (1, 2, 1000):
        plan = make_plan(connections, 15.0, 7)
        assert {fault.kind for fault in plan} == {"silence", "drop", "flap"}
        assert [fault.at_s for fault in plan] == sorted(fault.at_s for fault in plan)
        assert all(0 < fault.at_s < 10 for fault in plan)
        assert all(fault.members <= set(range(1, connections + 1)) and fault.members for fault in plan)


async def test_recovery_is_from_leaving_open_to_open_again() -> None:
    """Failed attempts prolong a recovery, but do not add one; the first opening and a close do not count."""
    recoveries = Recoveries()

    async def change(at: float, previous: State, state: State, endpoint: str = "one") -> None:
        await recoveries.note(Message(StateChange(endpoint, previous, state, None, 1, 0.0), received_at=at))

    assert str(recoveries) == "no outages"
    await change(1.0, State.CONNECTING, State.OPEN)
    await change(5.0, State.OPEN, State.BACKOFF)
    assert (recoveries.missing, str(recoveries)) == (1, "none reconnected")
    await change(6.0, State.BACKOFF, State.CONNECTING)
    await change(7.0, State.CONNECTING, State.BACKOFF)
    await change(8.5, State.CONNECTING, State.OPEN)
    assert (recoveries.missing, recoveries.times_s) == (0, [3.5])
    await change(9.0, State.OPEN, State.BACKOFF, "other")
    assert str(recoveries) == "median 3.50 s, worst 3.50 s; 1 still down at the end"
    await change(9.5, State.OPEN, State.CLOSED)
    await change(9.5, State.BACKOFF, State.CLOSED, "other")
    assert (recoveries.missing, recoveries.times_s) == (0, [3.5])


def test_the_summary_shows_missing_messages() -> None:
    """Unbalanced counts, drops and failures are shown in the summary."""
    endpoint = EndpointStats("feed-1", "", "FAILED", 3, 2, 1000, 9000, 0, 0, 0, 1000, 0, 0, (), 0.0, None, None)
    rows = (
        SubscriptionStats("prices", "prices.*", 1000, 999, 0, 0, 0, 0, "pause", 0.0),
        SubscriptionStats("slow-chart", "prices.AMBER", 100, 40, 0, 60, 0, 0, "drop_oldest", 0.0),
        SubscriptionStats("recoveries", "$state.*", 7, 7, 0, 0, 0, 0, "pause", 0.0),
    )
    stats = FleetStats("demo", 10.0, False, False, 0.0, HubStats(), (endpoint,), rows)
    board = Board("to nowhere", make_plan(1, 10.0, 1), 10.0, ("prices", "slow-chart"), Recoveries())
    summary = board.summary(stats)
    assert "DOES NOT HOLD" in summary
    assert "999 by 'prices'" in summary
    assert "60 by 'slow-chart'" in summary
    assert "reconnects   2" in summary
    assert "NOT BALANCED" in board.line(stats)
    assert "(100/s)" in board.line(stats)
