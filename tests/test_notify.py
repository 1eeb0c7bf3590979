"""What a service manager is told, over a real datagram socket, as systemd makes it."""

import asyncio
import os
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from wsfleet.notify import Notifier, without_notifier

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="there are no datagram sockets with paths")


class Manager:
    """The other end of the socket."""

    def __init__(self, address: str) -> None:
        self.name = address.replace("\0", "@")
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(address)
        self._socket.setblocking(False)

    def close(self) -> None:
        self._socket.close()

    def heard(self) -> list[dict[str, str]]:
        """All that came since the last time, a datagram each."""
        found = []
        while True:
            try:
                data = self._socket.recv(65536)
            except BlockingIOError:
                return found
            found.append(dict(line.split("=", 1) for line in data.decode().split("\n")))

    async def until(self, key: str) -> list[dict[str, str]]:
        """Wait until a datagram has `key`; return all up to there."""
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


def test_the_stages(manager: Manager) -> None:
    """Ready, reloading with the time, ready again, stopping: a datagram each, with a line of status."""
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
async def test_signs_of_life_come_twice_within_the_limit(manager: Manager) -> None:
    """A watchdog of 3 s is told every 1.5 s, with the status of that moment."""
    notifier = Notifier({"NOTIFY_SOCKET": manager.name, "WATCHDOG_USEC": "3000000", "WATCHDOG_PID": str(os.getpid())})
    loop = asyncio.get_running_loop()
    began = loop.time()
    keeping = asyncio.create_task(notifier.keep(lambda: f"{loop.time() - began:g} s"))
    await asyncio.sleep(7)
    keeping.cancel()
    assert manager.heard() == [{"WATCHDOG": "1", "STATUS": f"{1.5 * number:g} s"} for number in range(5)]


@pytest.mark.looptime
async def test_without_a_watchdog_only_the_status_is_told(manager: Manager) -> None:
    """And where the watchdog is another process's, too."""
    for more in ({}, {"WATCHDOG_USEC": "1000", "WATCHDOG_PID": "1"}, {"WATCHDOG_USEC": "0"}, {"WATCHDOG_USEC": "x"}):
        notifier = Notifier({"NOTIFY_SOCKET": manager.name, **more})
        keeping = asyncio.create_task(notifier.keep(lambda: "well"))
        await asyncio.sleep(11)
        keeping.cancel()
        assert manager.heard() == [{"STATUS": "well"}] * 3


@pytest.mark.parametrize("name", ["", "relative", "vsock:2:1"])
async def test_where_nobody_asked_nothing_is_done(name: str) -> None:
    """Without a socket that we know how to reach, everything returns at once."""
    notifier = Notifier({"NOTIFY_SOCKET": name, "WATCHDOG_USEC": "1000"})
    assert notifier.watchdog_s is None
    notifier.ready("")
    notifier.reloading()
    notifier.stopping()
    await notifier.keep(lambda: pytest.fail("nobody asked"))


def test_a_manager_that_is_gone_or_does_not_read_costs_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """What cannot be told is logged, and neither waited for nor raised."""
    Notifier({"NOTIFY_SOCKET": str(tmp_path / "nobody")}).ready("well")
    assert "could not be told READY=1" in caplog.text
    deaf = Manager(str(tmp_path / "deaf"))
    notifier = Notifier({"NOTIFY_SOCKET": deaf.name})
    caplog.clear()
    while "could not be told" not in caplog.text:  # until the socket's buffer is full
        notifier.stopping()
    deaf.close()


def test_other_processes_do_not_speak_for_the_service() -> None:
    """What we start does not get the socket."""
    environ = {"NOTIFY_SOCKET": "/x", "WATCHDOG_USEC": "1", "WATCHDOG_PID": "1", "HOME": "/"}
    assert without_notifier(environ) == {"HOME": "/"}
