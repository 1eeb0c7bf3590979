"""What holds for every test: asyncio's debug mode, and nothing of ours left open afterwards."""

import asyncio
import gc
import inspect
import logging
import os
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from hypothesis import settings

# Hypothesis: how many examples, never how fast. WSFLEET_HYPOTHESIS=thorough looks longer.
# The suite draws the same examples every time; looking for new ones is the thorough profile's.
settings.register_profile("quick", deadline=None, derandomize=True)
settings.register_profile("thorough", deadline=None, max_examples=2000)
settings.load_profile(os.environ.get("WSFLEET_HYPOTHESIS", "quick"))

# For loops that tests start themselves, and for the processes they start.
os.environ.setdefault("PYTHONASYNCIODEBUG", "1")

try:
    import uvloop
except ImportError:
    pass
else:
    # The first of its loops opens two pipes that stay for the life of the process.
    uvloop.new_event_loop().close()

# How long what is closing may take to be gone. A bound on waiting, not on speed: it is used up by leaks only.
SETTLE_S = 30.0

_FDS = Path("/proc/self/fd")


def open_fds() -> Counter[str]:
    """What this process's file descriptors stand for; nothing where the system does not tell.

    Sockets and pipes are only counted, since uvloop makes its own ones afresh each time it runs; /dev/null is not,
    since uvloop opens it with its first connection and keeps it.
    """
    found: Counter[str] = Counter()
    try:
        names = os.listdir(_FDS)
    except OSError:
        return found
    for name in names:
        try:
            found[os.readlink(_FDS / name).partition(":[")[0]] += 1
        except OSError:  # the one that listed the folder
            continue
    del found[os.devnull]
    return found


def live_threads() -> set[threading.Thread]:
    """All threads but those of a loop's default executor, which asyncio itself ends with the loop."""
    return {thread for thread in threading.enumerate() if not thread.name.startswith(("asyncio_", "uvloop_"))}


class Opened:
    """What has been opened since this object was made, and not closed again."""

    def __init__(self) -> None:
        self._fds = open_fds()
        self._threads = live_threads()
        self._tasks = self._all_tasks()

    @staticmethod
    def _all_tasks() -> set[asyncio.Task[object]]:
        try:
            return asyncio.all_tasks() - {asyncio.current_task()}  # type: ignore[arg-type]
        except RuntimeError:  # a test without a loop
            return set()

    def left(self) -> list[str]:
        tasks = [f"task {task!r}" for task in self._all_tasks() - self._tasks if not task.done()]
        threads = [f"thread {thread!r}" for thread in live_threads() - self._threads]
        fds = [f"file descriptor: {kind}" for kind in (open_fds() - self._fds).elements()]
        return tasks + threads + fds


@pytest.fixture(autouse=True)
def nothing_left_open(request: pytest.FixtureRequest) -> Iterator[None]:
    """After each test no task, thread or file descriptor is left, unless it is marked `leaves_open`.

    Set up before the test's own fixtures, so it looks when they have ended too.
    """
    if request.node.get_closest_marker("leaves_open"):
        yield
    elif inspect.iscoroutinefunction(request.function):
        request.getfixturevalue("_nothing_left_open_in_the_loop")
        yield
    else:
        # looptime's plugin asks for the current loop around plain tests too; where there is none, one is made for it
        # that nobody would close.
        loop = asyncio.new_event_loop()
        asyncio.set_event_loop(loop)
        opened = Opened()
        yield
        collect()
        deadline = time.monotonic() + SETTLE_S
        while (left := opened.left()) and time.monotonic() < deadline:
            time.sleep(0.01)
        asyncio.set_event_loop(None)
        loop.close()
        if left:
            pytest.fail("left open:\n" + "\n".join(left), pytrace=False)


@pytest.fixture(autouse=True)
def logging_as_it_was() -> Iterator[None]:
    """What a command under test sets up for its process is no other test's."""
    loggers = [logging.getLogger(name) for name in (None, "wsfleet", "wsfleet.run")]
    levels = [logger.level for logger in loggers]
    handlers = loggers[0].handlers[:]
    yield
    loggers[0].handlers = handlers
    for logger, level in zip(loggers, levels, strict=True):
        logger.setLevel(level)


@pytest.fixture
async def _nothing_left_open_in_the_loop() -> AsyncIterator[None]:
    """The same inside the test's loop, whose own descriptors were there before and stay until after."""
    opened = Opened()
    yield
    collect()
    # A closed transport gives back its socket in one of the loop's next turns.
    deadline = time.monotonic() + SETTLE_S
    while (left := opened.left()) and time.monotonic() < deadline:
        await asyncio.sleep(0.01)
    if left:
        pytest.fail("left open:\n" + "\n".join(left), pytrace=False)


def collect() -> None:
    """Find what a test has left as garbage, and spare the next ones what has been found to stay.

    Imports alone make hundreds of thousands of objects, and there are thousands of tests.
    """
    gc.collect()
    gc.freeze()


def pytest_collection_finish() -> None:
    collect()
