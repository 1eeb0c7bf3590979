"""The event loop of a command: uvloop if installed, thresholds of the garbage collector, and signal handlers."""

from __future__ import annotations

import asyncio
import gc
import os
import select
import signal
import sys
import threading
from collections.abc import Callable, Coroutine, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from types import FrameType
from typing import Any, TypeVar

from wsfleet.fleet.run import uvloop_factory

__all__ = [
    "ENDED_WELL",
    "EXIT_TIMEOUT_S",
    "FAILED",
    "INTERRUPTED",
    "MISUSED",
    "Stops",
    "collect_seldom",
    "daemon_timer",
    "is_broken_pipe",
    "leave",
    "run_loop",
    "stop_signals",
]

# Exit codes
ENDED_WELL = 0
FAILED = 1
MISUSED = 2
INTERRUPTED = 130

EXIT_TIMEOUT_S = 4.0
"""Seconds after a second signal until the process exits even if user code blocks the event loop.

Longer than closing handshakes and a blocked sink take by default, so that the report is written after these.
"""

LAST_S = 2.0
"""Seconds for the summary and the report of a process that exits while user code blocks the event loop."""

SELDOM = (2_000, 10, 50)
"""Thresholds for `gc.set_threshold`: a full collection after one million new objects instead of 70,000."""

_USUAL = gc.get_threshold()

T = TypeVar("T")

Stops = Callable[[Callable[[], object], Callable[[], object]], AbstractContextManager[None]]
"""A context manager that calls the first function to drain the run, and the second to stop it at once."""


def run_loop(main: Coroutine[Any, Any, T]) -> T:
    """Run `main` in a new event loop: uvloop's if installed."""
    with asyncio.Runner(loop_factory=uvloop_factory()) as runner:
        return runner.run(main)


@contextmanager
def collect_seldom() -> Iterator[None]:
    """Make full garbage collections rare: with ten thousand connections each one blocks the loop for half a second.

    Ten thousand reconnects would cause several of them. Thresholds that the program has set are kept, and so are those
    of CPython 3.14, whose collector works incrementally.
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
    last: Callable[[], object] = bool,
) -> Iterator[None]:
    """Call `first`, then `second`, on the running loop, for SIGINT and SIGTERM. Works only in the main thread.

    If the loop is blocked after the second signal, the process exits with 130 after EXIT_TIMEOUT_S; a third signal
    makes it exit at once. Before that, `last` is called, in a thread; see `leave`. `ending` is called by the handler of
    the first signal, also if the loop is blocked. `first` is also called, possibly again, when the reader of standard
    output has closed the pipe.
    """
    loop = asyncio.get_running_loop()
    steps = iter((first, second))
    # In a thread: the code that the signal has interrupted may be writing to standard error.
    exiting = threading.Thread(target=leave, args=(INTERRUPTED, last), daemon=True)

    def exit_now() -> None:
        with suppress(RuntimeError):  # it was started already
            exiting.start()

    leaving = daemon_timer(EXIT_TIMEOUT_S, exit_now)

    def stop(number: int, frame: FrameType | None) -> None:
        step = next(steps, None)
        if step is None:
            exit_now()
        elif step is second:
            loop.call_soon_threadsafe(step)
            leaving.start()
        else:
            loop.call_soon_threadsafe(step)
            ending()

    def broken_pipe(number: int, frame: FrameType | None) -> None:
        # `wsfleet run feeds.toml | head`. A write to a socket that the peer has closed raises the same signal.
        if is_broken_pipe(1):
            loop.call_soon_threadsafe(first)

    handlers = {signal.SIGINT: stop, signal.SIGTERM: stop}
    if hasattr(signal, "SIGPIPE"):  # not on Windows
        handlers[signal.SIGPIPE] = broken_pipe
    try:
        with _handling(handlers):
            yield
    finally:
        leaving.cancel()


@contextmanager
def _handling(handlers: Mapping[signal.Signals, Callable[[int, FrameType | None], None]]) -> Iterator[None]:
    """Install handlers of signals. They run although a processor blocks the loop, unlike `loop.add_signal_handler`."""
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield
    finally:
        for number, previous in before.items():
            signal.signal(number, previous)


def leave(code: int, last: Callable[[], object]) -> None:
    """Call `last`, and end the process with `code` although other threads are running.

    It ends after LAST_S if `last` is blocked, for example by a full pipe.
    """
    daemon_timer(LAST_S, os._exit, code).start()
    try:
        last()
    finally:
        os._exit(code)


def daemon_timer(seconds: float, function: Callable[..., object], *args: object) -> threading.Timer:
    """Return a timer whose thread does not keep the process alive."""
    timer = threading.Timer(min(seconds, threading.TIMEOUT_MAX), function, args)
    timer.daemon = True
    return timer


def is_broken_pipe(fd: int) -> bool:
    """Whether `fd` is a pipe whose other end is closed."""
    poll = select.poll()
    poll.register(fd, 0)
    return any(event & select.POLLERR for _, event in poll.poll(0))
