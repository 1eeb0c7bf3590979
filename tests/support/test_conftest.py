"""The check for open resources finds those that a test leaves open."""

import asyncio
import socket
import threading
from pathlib import Path

import pytest

from tests.conftest import Opened


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="this system does not list file descriptors")
def test_descriptors_are_found(tmp_path: Path) -> None:
    """A file and a socket are found as long as they are open."""
    opened = Opened()
    with (tmp_path / "file").open("w"), socket.socket():
        assert sorted(opened.left()) == [f"file descriptor: {tmp_path / 'file'}", "file descriptor: socket"]
    assert opened.left() == []


async def test_tasks_and_threads_are_found() -> None:
    """A task and a thread are found as long as they run."""
    opened = Opened()
    ending = threading.Event()
    thread = threading.Thread(target=ending.wait, name="lingering")
    thread.start()
    task = asyncio.create_task(asyncio.sleep(3600), name="sleeper")
    left = opened.left()
    ending.set()
    thread.join()
    task.cancel()
    await asyncio.wait([task])
    assert len(left) == 2
    assert "sleeper" in left[0]
    assert "lingering" in left[1]
    assert opened.left() == []
