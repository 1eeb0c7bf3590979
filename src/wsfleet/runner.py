"""Runs a fleet for a command: signals, duration, report, exit code."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import threading
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, TypeVar

from wsfleet.errors import EndpointFailed
from wsfleet.stats import RETIRED, FleetStats

if TYPE_CHECKING:
    from wsfleet.fleet import Fleet

__all__ = [
    "ENDED_WELL",
    "FAILED",
    "INTERRUPTED",
    "MISUSED",
    "raise_open_files",
    "run_fleet",
    "run_loop",
    "stop_signals",
]

ENDED_WELL = 0
FAILED = 1
MISUSED = 2
INTERRUPTED = 130

LEAVE_S = 2.0
"""So long after a second signal the process ends even if the loop does not: user code may be holding it."""

T = TypeVar("T")


def run_loop(main: Coroutine[Any, Any, T]) -> T:
    """Run `main` in a new event loop, on uvloop where it is installed."""
    try:
        from uvloop import new_event_loop
    except ImportError:
        with asyncio.Runner() as runner:
            return runner.run(main)
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        return runner.run(main)


def raise_open_files(wanted: int) -> int:
    """Raise the limit of open files towards `wanted`, as far as this user may; return what it is now."""
    try:
        import resource
    except ImportError:  # Windows has no such limit
        return wanted
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return wanted
    limit = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
    except (ValueError, OSError):  # some systems promise more than they give
        return soft
    return limit


@contextmanager
def stop_signals(first: Callable[[], object], second: Callable[[], object]) -> Iterator[None]:
    """Call `first`, then `second`, on the running loop, for SIGINT and SIGTERM; the main thread's loop alone.

    After the second the process ends by itself, with 130, should the loop be held up.
    """
    loop = asyncio.get_running_loop()
    steps = iter((first, second))
    leaving = threading.Timer(LEAVE_S, os._exit, (INTERRUPTED,))
    leaving.daemon = True

    def stop(number: int, frame: FrameType | None) -> None:
        step = next(steps, None)
        if step is not None:
            loop.call_soon_threadsafe(step)
        if step is second:
            leaving.start()

    # Not loop.add_signal_handler: that one would stay silent while a processor holds the loop.
    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        leaving.cancel()
        for number, handler in before.items():
            signal.signal(number, handler)


def run_fleet(
    fleet: Fleet,
    *,
    duration: float | None = None,
    report: str | None = None,
    watch: Callable[[Fleet], Awaitable[None]] | None = None,
) -> int:
    """Run `fleet` until its endpoints have ended, `duration` seconds are over, or a signal came; return the exit code.

    The first SIGINT or SIGTERM drains, the second stops at once. `watch(fleet)` runs beside it: it is cancelled when
    the fleet has ended, and when it ends first the fleet drains. `report` is the file for the last snapshot as JSON;
    raises OSError where it cannot be written.
    """
    if report is not None:
        Path(report).touch()  # better known before the run than after it
    code = run_loop(_run(fleet, duration, watch))
    stats = fleet.stats()
    if report is not None:
        Path(report).write_text(json.dumps(stats.to_dict(), indent=2) + "\n", encoding="utf-8")
    return code if code != ENDED_WELL else _exit_code(stats)


async def _run(fleet: Fleet, duration: float | None, watch: Callable[[Fleet], Awaitable[None]] | None) -> int:
    loop = asyncio.get_running_loop()
    serving = loop.create_task(fleet.serve())
    helpers: set[asyncio.Future[None]] = set()
    interrupted = False

    def drain() -> None:
        helpers.add(loop.create_task(fleet.close()))

    def interrupt() -> None:
        nonlocal interrupted
        interrupted = True
        serving.cancel()

    timer = loop.call_later(duration, drain) if duration is not None else None
    if watch is not None:
        helpers.add(asyncio.ensure_future(watch(fleet)))
    with stop_signals(drain, interrupt):
        try:
            await asyncio.wait({serving, *helpers}, return_when=asyncio.FIRST_COMPLETED)
            if not serving.done():
                drain()
            await asyncio.wait({serving})
        finally:
            if timer is not None:
                timer.cancel()
            for task in (serving, *helpers):
                task.cancel()
            ended = await asyncio.gather(serving, *helpers, return_exceptions=True)
    if interrupted:
        return INTERRUPTED
    for error in ended:
        if isinstance(error, EndpointFailed):
            print(f"wsfleet: {error}", file=sys.stderr)
            return FAILED
        if isinstance(error, Exception):
            raise error
    return ENDED_WELL


def _exit_code(stats: FleetStats) -> int:
    states = [row.state for row in stats.endpoints if row.name != RETIRED]
    if states and all(state == "FAILED" for state in states):
        return FAILED
    return ENDED_WELL if stats.balanced else FAILED
