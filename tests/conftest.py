"""Settings for all tests: asyncio's debug mode, and a check that nothing is left open."""

import asyncio
import gc
import inspect
import logging
import os
import threading
import time
import traceback
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from wsfleet.core import loop_watchdog

# Hypothesis: the number of examples, not their speed. WSFLEET_HYPOTHESIS=usual or thorough draws more.
# The suite draws the same examples every time; only the thorough profile draws new ones.
settings.register_profile("brief", deadline=None, derandomize=True, max_examples=10)
settings.register_profile("quick", deadline=None, derandomize=True, max_examples=50)
settings.register_profile("usual", deadline=None, derandomize=True)
settings.register_profile("thorough", deadline=None, max_examples=2000)
settings.load_profile(os.environ.get("WSFLEET_HYPOTHESIS", "quick"))

# For loops that tests start themselves, and for the processes that they start.
os.environ.setdefault("PYTHONASYNCIODEBUG", "1")

# In its debug mode asyncio records the stack of each future, task and handle. To record it whole, up to pytest's own
# frames, took more time than many tests.
traceback.extract_stack.__defaults__ = (None, 3)
asyncio.constants.DEBUG_STACK_DEPTH = 3

try:
    import uvloop
except ImportError:
    pass
else:
    # Its first loop opens two pipes that stay open until the process ends.
    uvloop.new_event_loop().close()

# Time limit for resources that are being closed. Only leaks use it up.
SETTLE_S = 30.0

_FDS = Path("/proc/self/fd")


def open_fds() -> Counter[str]:
    """The targets of this process's file descriptors; empty if the system does not support this.

    Sockets and pipes are only counted, since uvloop creates its own ones each time it runs; /dev/null is not counted,
    since uvloop opens it with its first connection and keeps it open.
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
    """All threads except those of a loop's default executor, which asyncio itself ends with the loop."""
    return {thread for thread in threading.enumerate() if not thread.name.startswith(("asyncio_", "uvloop_"))}


class Opened:
    """The resources that were opened since this object was created, and not closed."""

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

    Set up before the test's own fixtures, so it checks after their teardown.
    """
    if request.node.get_closest_marker("leaves_open"):
        yield
    elif inspect.iscoroutinefunction(request.function):
        request.getfixturevalue("_nothing_left_open_in_the_loop")
        yield
    else:
        # looptime's plugin also asks for the current loop in synchronous tests; without one, it would create one
        # that is never closed.
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
def a_busy_machine_is_no_block(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the watchdog's own tests use short blocks; in others, a busy machine would cause reports of them."""
    if request.path.stem != "test_loop_watchdog":
        monkeypatch.setattr(loop_watchdog, "BLOCKED_S", 60.0)


@pytest.fixture(autouse=True)
def logging_as_it_was() -> Iterator[None]:
    """Process-wide settings of a command under test do not affect other tests."""
    loggers = [logging.getLogger(name) for name in (None, "wsfleet", "wsfleet.run")]
    levels = [logger.level for logger in loggers]
    handlers = loggers[0].handlers[:]
    yield
    loggers[0].handlers = handlers
    for logger, level in zip(loggers, levels, strict=True):
        logger.setLevel(level)


async def watch_the_loop() -> AsyncIterator[None]:
    """The same check inside the test's loop, whose own descriptors were open before and stay open until after."""
    opened = Opened()
    yield
    collect()
    # A closed transport closes its socket in one of the loop's next iterations.
    deadline = time.monotonic() + SETTLE_S
    while (left := opened.left()) and time.monotonic() < deadline:
        await asyncio.sleep(0.01)
    if left:
        pytest.fail("left open:\n" + "\n".join(left), pytrace=False)


# A module whose tests share a loop defines a fixture of this name for it.
_nothing_left_open_in_the_loop = pytest.fixture(watch_the_loop, name="_nothing_left_open_in_the_loop")


def collect() -> None:
    """Collect the garbage that a test has left, and exempt objects that stay from later collections.

    Imports alone create hundreds of thousands of objects, and there are thousands of tests.
    """
    gc.collect()
    gc.freeze()


def pytest_collection_finish() -> None:
    collect()
