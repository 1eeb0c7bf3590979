"""The event loop of a command: which one it is, how seldom the garbage collector runs, and which signals end it."""

from __future__ import annotations

import asyncio
import gc
import os
import select
import signal
import sys
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import AbstractContextManager, contextmanager
from types import FrameType
from typing import Any, TypeVar

__all__ = [
    "ENDED_WELL",
    "EXIT_TIMEOUT_S",
    "FAILED",
    "INTERRUPTED",
    "MISUSED",
    "Stops",
    "collect_seldom",
    "daemon_timer",
    "nobody_reads",
    "run_loop",
    "stop_signals",
]

# Exit codes
ENDED_WELL = 0
FAILED = 1
MISUSED = 2
INTERRUPTED = 130

EXIT_TIMEOUT_S = 4.0
"""So long after a second signal the process ends even if the loop does not: user code may be holding it.

Longer than closing handshakes and a hanging sink take by default, so that the report is written after these.
"""

SELDOM = (2_000, 10, 50)
"""When the garbage collector works (`gc.set_threshold`): everything after a million objects more, and not 70,000."""

_USUAL = gc.get_threshold()

T = TypeVar("T")

Stops = Callable[[Callable[[], object], Callable[[], object]], AbstractContextManager[None]]
"""Has the first function called when the run is to drain, and the second when it is to stop at once."""


def run_loop(main: Coroutine[Any, Any, T]) -> T:
    """Run `main` in a new event loop, on uvloop where it is installed."""
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        return runner.run(main)


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    # Apart from running it: what is raised within an `except` has that error in its traceback.
    try:
        from uvloop import new_event_loop
    except ImportError:
        return None
    return new_event_loop


@contextmanager
def collect_seldom() -> Iterator[None]:
    """Have CPython collect everything less often: with ten thousand connections it holds the loop for half a second.

    Ten thousand that come back make it do so several times. What the program has set itself is left as it is, and so
    is the collector of CPython 3.14, which goes through everything in small steps.
    """
    ours = gc.get_threshold() == _USUAL and sys.version_info < (3, 14)
    if ours:
        gc.set_threshold(*SELDOM)
    try:
        yield
    finally:
        if ours:
            gc.set_threshold(*_USUAL)


@contextmanager
def stop_signals(
    first: Callable[[], object],
    second: Callable[[], object],
    *,
    ending: Callable[[], object] = bool,
) -> Iterator[None]:
    """Call `first`, then `second`, on the running loop, for SIGINT and SIGTERM; the main thread's loop alone.

    After the second the process ends by itself, with 130, should the loop be held up; after a third at once. `ending`
    is called with the first, whatever holds the loop. `first` is also called, perhaps again, when nobody reads the
    standard output any more.
    """
    loop = asyncio.get_running_loop()
    steps = iter((first, second))
    leaving = daemon_timer(EXIT_TIMEOUT_S, os._exit, INTERRUPTED)

    def stop(number: int, frame: FrameType | None) -> None:
        step = next(steps, None)
        if step is None:
            os._exit(INTERRUPTED)
        loop.call_soon_threadsafe(step)
        if step is second:
            leaving.start()
        else:
            ending()

    def broken_pipe(number: int, frame: FrameType | None) -> None:
        # `wsfleet run feeds.toml | head`. Writing to a socket that the peer has closed raises the same signal.
        if nobody_reads(1):
            loop.call_soon_threadsafe(first)

    handlers = {signal.SIGINT: stop, signal.SIGTERM: stop}
    if hasattr(signal, "SIGPIPE"):  # not on Windows
        handlers[signal.SIGPIPE] = broken_pipe
    # Not loop.add_signal_handler: that one would stay silent while a processor holds the loop.
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield
    finally:
        leaving.cancel()
        for number, previous in before.items():
            signal.signal(number, previous)


def daemon_timer(seconds: float, function: Callable[..., object], *args: object) -> threading.Timer:
    """Return a timer whose thread does not keep the process alive."""
    timer = threading.Timer(min(seconds, threading.TIMEOUT_MAX), function, args)
    timer.daemon = True
    return timer


def nobody_reads(fd: int) -> bool:
    """Whether `fd` is a pipe whose other end is closed."""
    poll = select.poll()
    poll.register(fd, 0)
    return any(event & select.POLLERR for _, event in poll.poll(0))
