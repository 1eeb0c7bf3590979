"""Notifications to a service manager, over a real datagram socket as systemd creates it."""

import asyncio
import json
import os
import signal
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.command import Command
from wsfleet.runtime.systemd import Notifier, without_notifier
from wsfleet.testing import FeedServer

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="there are no datagram sockets with paths")


class Manager:
    """The manager's end of the socket."""

    def __init__(self, address: str) -> None:
        self.name = address.replace("\0", "@")
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(address)
        self._socket.setblocking(False)

    def close(self) -> None:
        self._socket.close()

    def heard(self) -> list[dict[str, str]]:
        """All datagrams that arrived since the last call."""
        found = []
        while True:
            try:
                data = self._socket.recv(65536)
            except BlockingIOError:
                return found
            found.append(dict(line.split("=", 1) for line in data.decode().split("\n")))

    async def until(self, key: str) -> list[dict[str, str]]:
        """Wait until a datagram has `key`; return all up to this one."""
        found: list[dict[str, str]] = []
        while not any(key in each for each in found):
            await asyncio.sleep(0.01)
            found += self.heard()
        return found


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Manager]:
    if request.param == "abstract" and sys.platform != "linux":
        pytest.skip("abstract sockets are Linux's")
    opened = Manager(f"\0wsfleet-{os.getpid()}" if request.param == "abstract" else str(tmp_path / "notify"))
    yield opened
    opened.close()


def test_each_stage_is_one_datagram(manager: Manager) -> None:
    """Ready, reloading with the time, ready again, stopping: one datagram each, with a status line."""
    notifier = Notifier({"NOTIFY_SOCKET": manager.name})
    before = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    notifier.ready("3 of 3 open")
    notifier.reloading()
    notifier.ready("4 of\n4 open")
    notifier.stopping()
    first, reloading, second, stopping = manager.heard()
    assert first == {"READY": "1", "STATUS": "3 of 3 open"}
    assert reloading["RELOADING"] == "1"
    assert before <= int(reloading["MONOTONIC_USEC"]) <= time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    assert second == {"READY": "1", "STATUS": "4 of 4 open"}
    assert stopping["STOPPING"] == "1"


@pytest.mark.looptime
async def test_the_watchdog_is_notified_twice_within_its_limit(manager: Manager) -> None:
    """A watchdog of 3 s is notified every 1.5 s, with the current status."""
    notifier = Notifier({"NOTIFY_SOCKET": manager.name, "WATCHDOG_USEC": "3000000", "WATCHDOG_PID": str(os.getpid())})
    loop = asyncio.get_running_loop()
    began = loop.time()
    keeping = asyncio.create_task(notifier.keep(lambda: f"{loop.time() - began:g} s"))
    await asyncio.sleep(7)
    keeping.cancel()
    assert manager.heard() == [{"WATCHDOG": "1", "STATUS": f"{1.5 * number:g} s"} for number in range(5)]


@pytest.mark.looptime
async def test_without_a_watchdog_only_the_status_is_sent(manager: Manager) -> None:
    """Without a watchdog, or with that of another process, only the status is sent."""
    for more in ({}, {"WATCHDOG_USEC": "1000", "WATCHDOG_PID": "1"}, {"WATCHDOG_USEC": "0"}, {"WATCHDOG_USEC": "x"}):
        notifier = Notifier({"NOTIFY_SOCKET": manager.name, **more})
        keeping = asyncio.create_task(notifier.keep(lambda: "well"))
        await asyncio.sleep(11)
        keeping.cancel()
        assert manager.heard() == [{"STATUS": "well"}] * 3


@pytest.mark.parametrize("name", ["", "relative", "vsock:2:1"])
async def test_without_a_usable_socket_nothing_is_done(name: str) -> None:
    """Without a usable socket, all functions return at once."""
    notifier = Notifier({"NOTIFY_SOCKET": name, "WATCHDOG_USEC": "1000"})
    assert notifier.watchdog_s is None
    notifier.ready("")
    notifier.reloading()
    notifier.stopping()
    await notifier.keep(lambda: pytest.fail("the status was requested"))


def test_a_notification_that_cannot_be_sent_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A notification that cannot be sent is logged; it neither waits nor raises."""
    Notifier({"NOTIFY_SOCKET": str(tmp_path / "nobody")}).ready("well")
    assert "cannot notify the service manager (READY=1)" in caplog.text
    deaf = Manager(str(tmp_path / "deaf"))
    notifier = Notifier({"NOTIFY_SOCKET": deaf.name})
    caplog.clear()
    while "cannot notify" not in caplog.text:  # until the buffer of the socket is full
        notifier.stopping()
    deaf.close()


def test_child_processes_do_not_inherit_the_address() -> None:
    """Child processes do not inherit the socket's address."""
    environ = {"NOTIFY_SOCKET": "/x", "WATCHDOG_USEC": "1", "WATCHDOG_PID": "1", "HOME": "/"}
    assert without_notifier(environ) == {"HOME": "/"}


# ---- the command ----


HANDLERS = """
import os, time
from pathlib import Path

async def hold(message):
    Path("held").write_text(str(os.getpid()))
    while not Path("go").exists():
        time.sleep(0.01)
"""


async def started(folder: Path, manager: Manager, *arguments: str, watchdog_s: float | None = None) -> Command:
    (folder / "handlers.py").write_text(HANDLERS)
    environ = {**os.environ, "NOTIFY_SOCKET": manager.name}
    if watchdog_s is not None:
        environ["WATCHDOG_USEC"] = str(int(watchdog_s * 1e6))
    command = [sys.executable, "-m", "wsfleet", "run", "feeds.toml", "--report", "report.json", *arguments]
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(*command, cwd=folder, stdout=pipe, stderr=pipe, env=environ)
    return Command(process, folder)


def write(folder: Path, uri: str, endpoints: int) -> None:
    text = "".join(f'[[connect]]\nuri = "{uri}/{n}"\nname = "f{n}"\n' for n in range(endpoints))
    (folder / "feeds.toml").write_text(f'{text}[[process]]\npattern = ">"\nhandler = "handlers:hold"\n')


@pytest.mark.parametrize("workers", [0, 2])
async def test_the_command_notifies_its_manager(manager: Manager, tmp_path: Path, workers: int) -> None:
    """READY is sent when the fleet runs, then watchdog notifications with a status line, then STOPPING."""
    more = ("--workers", str(workers)) if workers else ()
    async with FeedServer() as server:
        write(tmp_path, server.uri, 6)
        command = await started(tmp_path, manager, *more, watchdog_s=4)
        first, *_ = await manager.until("READY")
        assert set(first) == {"READY", "STATUS"}
        await server.wait_clients(6)
        while "6 of 6 endpoints open" not in (await manager.until("WATCHDOG"))[-1]["STATUS"]:
            pass
        command.kill(signal.SIGTERM)
        assert (await manager.until("STOPPING"))[-1]["STATUS"].startswith("draining")
        ended = await command.ended()
    assert ended.code == 0, ended.err
    assert not any("READY" in each for each in manager.heard())


async def test_ready_is_not_sent_if_the_start_fails(manager: Manager, tmp_path: Path) -> None:
    """If the start fails, READY is not sent, and the command exits with an error."""
    (tmp_path / "feeds.toml").write_text("x = 1\n")
    command = await started(tmp_path, manager)
    assert (await command.ended()).code == 2
    assert manager.heard() == []


async def test_a_blocked_loop_sends_no_notification(manager: Manager, tmp_path: Path) -> None:
    """While a processor blocks the loop, no notification is sent, so that the manager can react; afterwards they
    continue.
    """
    async with FeedServer() as server:
        write(tmp_path, server.uri, 1)
        command = await started(tmp_path, manager, watchdog_s=0.1)
        await server.wait_clients(1)
        await manager.until("WATCHDOG")
        await server.send("x")
        await command._until((tmp_path / "held").exists)
        manager.heard()
        await asyncio.sleep(0.5)  # ten notifications
        assert manager.heard() == []
        (tmp_path / "go").touch()
        await manager.until("WATCHDOG")
        assert (await command.drained()).code == 0


async def test_a_worker_that_is_blocked_is_replaced(manager: Manager, tmp_path: Path) -> None:
    """With a watchdog, the parent kills a blocked worker like the manager would kill the command."""
    async with FeedServer() as server:
        write(tmp_path, server.uri, 6)
        command = await started(tmp_path, manager, "--workers", "2", watchdog_s=5)
        await server.wait_clients(6)
        await server.clients[0].send("x")
        await command._until((tmp_path / "held").exists)
        await command.until_logged(": no report for")
        await command.until_logged("restarting in")
        (tmp_path / "go").touch()
        while len(server.requests) < 7:
            await asyncio.sleep(0.01)
        await server.wait_clients(6)
        ended = await command.drained()
    assert ended.code == 0, ended.err
    assert json.loads((tmp_path / "report.json").read_text())["workers"]["restarts"] == 1
