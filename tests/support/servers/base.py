"""A foreign server in its own process, on a free loopback port, that tests may kill and restart."""

import asyncio
import atexit
import os
import random
import shutil
import signal
import socket
import subprocess
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Self

import pytest

HOST = "127.0.0.1"
READY_S = 30.0
STOP_S = 15.0
PORT_TRIES = 10

# Debian installs servers in sbin, which may not be in PATH.
_SEARCH = os.pathsep.join([os.environ.get("PATH", ""), "/usr/local/sbin", "/usr/sbin", "/sbin"])


# Process groups that may still run: if the tests are aborted, these are ended as well.
_groups: set[int] = set()


@atexit.register
def _kill_groups() -> None:
    for group in _groups:
        try:
            os.killpg(group, signal.SIGKILL)
        except ProcessLookupError:
            pass


class StartFailed(Exception):
    """The server ended before it accepted a connection."""


def missing(what: str) -> None:
    """Ends the test: skipped, or failed if all servers are required."""
    lacking(f"{what} is not installed")


def lacking(why: str) -> None:
    """Ends the test for another missing requirement that can be installed."""
    if os.environ.get("WSFLEET_REQUIRE_SERVERS"):
        pytest.fail(why, pytrace=False)
    pytest.skip(why)


def require(program: str) -> str:
    """The path of an installed program."""
    path = shutil.which(program, path=_SEARCH)
    if path is None:
        missing(program)
    assert path is not None
    return path


def free_port() -> int:
    """A port that nothing listens on, from below the ephemeral range.

    A port of that range could be assigned, while the server is down, to an outgoing connection of another process, or
    to one to this very port, which then is connected to itself.
    """
    for _ in range(1000):
        port = random.randrange(20000, 32768)
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((HOST, port))
            except OSError:
                continue
            return port
    raise RuntimeError("no free port found")


class Server:
    """One server. A subclass defines the command that runs it, and the contents of the command's files.

    `start`, `stop` and `restart` return when the server accepts connections, or when its processes have ended.
    """

    program = ""
    scheme = "ws"

    def __init__(self, folder: Path) -> None:
        # Not named after id(self): a server may get the id of one that was deleted.
        self.folder = Path(tempfile.mkdtemp(prefix=f"{type(self).__name__}-", dir=folder))
        self.log = self.folder / "log"
        self.port = 0
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def uri(self) -> str:
        return f"{self.scheme}://{HOST}:{self.port}"

    def command(self) -> list[str]:
        """Writes the server's files for the current `port` and returns the command, which stays in the foreground."""
        raise NotImplementedError

    async def start(self) -> None:
        """On the port that it had before; the first time on a free one, or on another one if that was
        taken meanwhile.
        """
        fresh = not self.port
        for last in range(PORT_TRIES - 1, -1, -1):
            if fresh:
                self.port = free_port()
            try:
                await self._launch()
                return
            except StartFailed:
                if not last:
                    raise
                await asyncio.sleep(0.1)

    async def _launch(self) -> None:
        assert self._process is None, "already started"
        command = self.command()
        with self.log.open("ab") as log:
            # Its own group, so that no worker process outlives a kill, and Ctrl-C only reaches the tests.
            self._process = subprocess.Popen(
                command, cwd=self.folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        _groups.add(self._process.pid)
        try:
            async with asyncio.timeout(READY_S):
                while not await self._accepts():
                    if self._process.poll() is not None:
                        raise StartFailed(f"{command} ended with {self._process.returncode}:\n{self.log_text()}")
                    await asyncio.sleep(0.02)
        except BaseException:
            await self.kill()
            raise
        # Another server may have answered on the port.
        if self._process.poll() is not None:
            await self.kill()
            raise StartFailed(f"{command} ended at once:\n{self.log_text()}")

    async def _accepts(self) -> bool:
        try:
            _, writer = await asyncio.open_connection(HOST, self.port)
        except OSError:
            return False
        writer.close()
        try:
            await writer.wait_closed()
        except OSError:
            pass
        return True

    async def stop(self) -> None:
        """Terminate: the server may close its connections. After `STOP_S` it is killed."""
        if self._process is None:
            return
        self._process.terminate()
        try:
            await self._gone()
        except TimeoutError:
            pass
        await self.kill()

    async def kill(self) -> None:
        """Kill with SIGKILL, with its worker processes: no close frame on any connection."""
        if self._process is None:
            return
        try:
            os.killpg(self._process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        await self._gone()
        _groups.discard(self._process.pid)
        self._process = None

    def freeze(self) -> None:
        """Stop with SIGSTOP: it does nothing, while its system still accepts connections and data for it."""
        assert self._process is not None
        os.killpg(self._process.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        """Continue with SIGCONT."""
        assert self._process is not None
        os.killpg(self._process.pid, signal.SIGCONT)

    async def restart(self) -> None:
        """Kill it, then start it again on the same port."""
        await self.kill()
        await self.start()

    async def _gone(self) -> None:
        assert self._process is not None
        async with asyncio.timeout(STOP_S):
            while self._process.poll() is None:
                await asyncio.sleep(0.01)

    def log_text(self) -> str:
        return self.log.read_text("utf-8", "replace") if self.log.exists() else ""

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.stop()
