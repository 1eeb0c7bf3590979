"""`wsfleet top`, run as a command, in a terminal and without one."""

import asyncio
import fcntl
import os
import pty
import signal
import struct
import sys
import termios
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.fleetview import FleetView
from tests.support.served import Served, serving
from wsfleet.cli.main import main
from wsfleet.cli.top import command

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="a pseudo-terminal is one of Unix")


class Terminal:
    """A terminal: its output, and its keyboard."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self.written = b""
        asyncio.get_running_loop().add_reader(fd, self._read)

    def _read(self) -> None:
        try:
            self.written += os.read(self._fd, 65536)
        except OSError:  # the other end is closed
            asyncio.get_running_loop().remove_reader(self._fd)

    def type(self, text: bytes) -> None:
        os.write(self._fd, text)

    async def until(self, text: bytes) -> None:
        while text not in self.written:
            await asyncio.sleep(0.01)


@contextmanager
def terminal(columns: int = 120, lines: int = 40) -> Iterator[tuple[Terminal, int]]:
    """A terminal, and the end of it for a command."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
    try:
        yield Terminal(ours), theirs
    finally:
        asyncio.get_running_loop().remove_reader(ours)
        os.close(ours)
        os.close(theirs)


async def started(theirs: int, *arguments: str, **environment: str) -> asyncio.subprocess.Process:
    variables = {**os.environ, "PYTHONASYNCIODEBUG": "", "TERM": "xterm-256color", **environment}
    command = [sys.executable, "-m", "wsfleet", "top", *arguments]
    return await asyncio.create_subprocess_exec(
        *command, stdin=theirs, stdout=theirs, stderr=theirs, env=variables, start_new_session=True
    )


async def ended(process: asyncio.subprocess.Process) -> int:
    try:
        return await process.wait()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def test_shows_a_fleet_and_ends_with_q() -> None:
    """In a terminal the command shows the fleet, with the token of the environment, and q ends it with 0."""
    with terminal() as (person, theirs):
        async with serving(Served(FleetView())) as served:
            served.token = "let-me-in"
            process = await started(theirs, served.url, WSFLEET_TOKEN="let-me-in")
            await person.until(b"market")
            await person.until(b"feed-12")
            person.type(b"q")
            assert await ended(process) == 0
    assert b"Traceback" not in person.written
    assert person.written.rstrip().endswith(b"\x1b[?25h") or b"\x1b[?1049l" in person.written, "the screen is restored"


async def test_waits_for_a_fleet_that_is_not_there_yet() -> None:
    """A fleet that starts later than the command is shown when it runs."""
    async with serving(Served(FleetView())) as served:
        port = int(served.url.rpartition(":")[2])
    with terminal() as (person, theirs):
        process = await started(theirs, f"127.0.0.1:{port}")
        await person.until(b"UNREACHABLE")
        async with serving(Served(FleetView()), port):
            await person.until(b"market")
            person.type(b"q")
            assert await ended(process) == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
async def test_a_signal_restores_the_terminal(number: signal.Signals) -> None:
    """After a signal the terminal is restored, and the exit code shows the signal."""
    with terminal() as (person, theirs):
        async with serving(Served(FleetView())) as served:
            process = await started(theirs, served.url)
            await person.until(b"feed-12")
            process.send_signal(number)
            assert await ended(process) == 128 + number
    assert b"\x1b[?1049l" in person.written


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["http://user:hunter2@host"], "the URL must not contain a user or password"),
        (["ftp://host"], "the URL must begin with http:// or https://"),
        (["--token-file", "nowhere"], "--token-file: No such file or directory"),
        (["--token-file", "two-lines"], "--token-file: is not one line of printable ASCII"),
        ([], "requires a terminal; programs can use http://127.0.0.1:9464/api/stats"),
    ],
)
def test_an_invalid_command_line_is_one_line(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """An invalid command line is reported in one line, without possible secrets, and ends with 2."""
    monkeypatch.chdir(tmp_path)
    Path("two-lines").write_text("hunter2\nhunter2\n")
    assert main(["top", *arguments]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and message in err and "hunter2" not in err


def test_the_command_line_takes_no_token(capsys: pytest.CaptureFixture[str]) -> None:
    """There is no --token, which other users of the machine could read; --token-file cannot be shortened to it."""
    assert main(["top", "--help"]) == 0
    assert "--token " not in capsys.readouterr().out


async def test_a_signal_ends_it_although_its_exit_has_no_effect(monkeypatch: pytest.MonkeyPatch) -> None:
    """After SIGTERM or SIGHUP the process exits with 128 + N, also if Textual does not react: its terminal is gone."""
    codes: list[int] = []

    class Stuck:
        def __init__(self, client: object) -> None: ...

        def exit(self, code: int) -> None: ...

        async def run_async(self) -> None:
            for number in (signal.SIGTERM, signal.SIGHUP):
                os.kill(os.getpid(), number)
                while 128 + number not in codes:
                    await asyncio.sleep(0.01)

    monkeypatch.setattr("wsfleet.cli.top.terminal.Top", Stuck)
    monkeypatch.setattr("wsfleet.runtime.loop.EXIT_TIMEOUT_S", 0.0)
    monkeypatch.setattr(os, "_exit", codes.append)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        async with asyncio.timeout(60.0):
            await command._show("http://127.0.0.1:1", lambda: None)
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    assert codes == [143, 129]
