"""Runs a fleet for a command: loop, signals, duration, log, report, summary, exit code."""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import os
import select
import signal
import sys
import threading
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any, TypeVar

from wsfleet.core.errors import FleetError
from wsfleet.core.message import State
from wsfleet.core.stats import RETIRED, FleetStats, about_feeds
from wsfleet.fleet.fleet import Fleet, control_of
from wsfleet.fleet.reloading import hangup, reload_and_tell
from wsfleet.runtime.systemd import ENDING, Notifier

__all__ = [
    "ENDED_WELL",
    "FAILED",
    "INTERRUPTED",
    "LEAVE_S",
    "MISUSED",
    "Run",
    "check_report",
    "collect_seldom",
    "ending_limit_s",
    "log_summary",
    "nobody_reads",
    "run_fleet",
    "run_loop",
    "stop_signals",
    "summary",
    "write_report",
]

ENDED_WELL = 0
FAILED = 1
MISUSED = 2
INTERRUPTED = 130

LEAVE_S = 4.0
"""So long after a second signal the process ends even if the loop does not: user code may be holding it.

Longer than closing handshakes and a hanging sink take by default, so that the report is written after these.
"""

SELDOM = (2_000, 10, 50)
"""When the garbage collector works (`gc.set_threshold`): everything after a million objects more, and not 70,000."""

_USUAL = gc.get_threshold()

logger = logging.getLogger("wsfleet.run")

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
    leaving = _daemon_timer(LEAVE_S, os._exit, INTERRUPTED)

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


def _daemon_timer(seconds: float, function: Callable[..., object], *args: object) -> threading.Timer:
    timer = threading.Timer(min(seconds, threading.TIMEOUT_MAX), function, args)
    timer.daemon = True
    return timer


def _start_once(timer: threading.Timer) -> None:
    if timer.ident is None:
        timer.start()


def _leave(last: Callable[[], object]) -> None:
    try:
        last()
    finally:
        os._exit(FAILED)


def nobody_reads(fd: int) -> bool:
    """Whether `fd` is a pipe whose other end is closed."""
    poll = select.poll()
    poll.register(fd, 0)
    return any(event & select.POLLERR for _, event in poll.poll(0))


def run_fleet(
    fleet: Fleet,
    *,
    duration: float | None = None,
    report: str | Path | None = None,
    watch: Callable[[Fleet], Awaitable[None]] | None = None,
) -> int:
    """Run `fleet` until its endpoints have ended, `duration` seconds are over, or a signal came; return the exit code.

    The first SIGINT or SIGTERM drains, the second stops at once. `watch(fleet)` runs beside it: it is cancelled when
    the fleet has ended, and when it ends first the fleet drains. `report` is the file for the last snapshot as JSON,
    written whichever way the run ended; raises OSError where it cannot be written.
    """
    path = None if report is None else Path(report)
    late = _daemon_timer(ending_limit_s(fleet), _leave, lambda: _give_up(fleet, path))
    ending = partial(_start_once, late)
    run = Run(fleet, duration, watch, partial(stop_signals, ending=ending), ending=ending)
    try:
        with collect_seldom():
            run_loop(run.serve())
    finally:
        late.cancel()
        if path is not None and run.stats is not None:
            write_report(path, run.stats.to_dict())
    return run.code()


def _give_up(fleet: Fleet, report: Path | None) -> None:
    """Leave with what is known. In a thread: the loop is held up, or ends never because of a call that goes on."""
    logger.error("the end takes too long: a call holds it up; leaving without it")
    if report is not None:
        write_report(report, control_of(fleet).unchecked_stats().to_dict())


class Run:
    """One run of a fleet, from its start to the exit code."""

    def __init__(
        self,
        fleet: Fleet,
        duration: float | None = None,
        watch: Callable[[Fleet], Awaitable[None]] | None = None,
        stops: Stops = stop_signals,
        tells: bool = True,
        ending: Callable[[], object] = bool,
    ) -> None:
        self.stats: FleetStats | None = None
        self.errors: list[BaseException] = []
        self._fleet = fleet
        self._duration = duration
        self._watch = watch
        self._draining = False
        self._interrupted = False
        self._serving: asyncio.Task[None] | None = None
        self._helpers: set[asyncio.Future[None]] = set()
        self.running = asyncio.Event()
        self._stops = stops
        self._tells = tells
        self._shutdown = ending  # called when the end begins, whatever the reason
        self._notifier = Notifier()

    async def serve(self) -> None:
        """Serve until the fleet has ended and nothing of the run is left."""
        loop = asyncio.get_running_loop()
        serving = self._serving = loop.create_task(self._serve())
        telling = loop.create_task(self._tell_manager())
        if self._watch is not None:
            self._helpers.add(asyncio.ensure_future(self._watch(self._fleet)))
        timer = None if self._duration is None else loop.call_later(self._duration, self._drain)
        hangs_up = hangup(self.hang_up) if self._tells else nullcontext()
        with self._stops(self._drain_and_tell, self._interrupt), hangs_up:
            try:
                await asyncio.wait({serving, *self._helpers}, return_when=asyncio.FIRST_COMPLETED)
                if not serving.done():
                    self._drain()
                await asyncio.wait({serving})
            finally:
                if timer is not None:
                    timer.cancel()
                for task in (serving, telling, *self._helpers):
                    task.cancel()
                ended = await asyncio.gather(serving, telling, *self._helpers, return_exceptions=True)
                self.errors = [error for error in ended if isinstance(error, Exception)]
                self.stats = self._fleet.stats()

    async def _serve(self) -> None:
        async with self._fleet:
            self.running.set()
            try:
                await self._fleet.wait()
            finally:
                self._shutdown()

    async def _tell_manager(self) -> None:
        await self.running.wait()
        self._notifier.ready(self._status())
        await self._notifier.keep(self._status)

    def _status(self) -> str:
        if self._draining:
            return ENDING
        connections = self._fleet.connections.values()
        is_open = sum(connection.state is State.OPEN for connection in connections)
        return f"{is_open:,} of {len(connections):,} endpoints open"

    def _drain(self) -> None:
        if not self._draining:
            self._draining = True
            self._notifier.stopping()
            self._helpers.add(asyncio.get_running_loop().create_task(self._fleet.close()))

    def _drain_and_tell(self) -> None:
        if not self._draining and self._tells:
            logger.info("%s; once more to stop at once", ENDING)
        self._drain()

    def _interrupt(self) -> None:
        self._interrupted = True
        if self._serving is not None:
            self._serving.cancel()

    def hang_up(self) -> None:
        """Read the fleet's file again, as a daemon does on SIGHUP."""
        self._helpers.add(asyncio.get_running_loop().create_task(self._reload()))

    async def _reload(self) -> None:
        self._notifier.reloading()
        await reload_and_tell(self._fleet.reload)
        self._notifier.ready(self._status())

    def code(self) -> int:
        """Return the exit code, having logged what went wrong."""
        for error in self.errors:
            expected = isinstance(error, FleetError | OSError)
            logger.error("%s", error if expected else type(error).__name__, exc_info=None if expected else error)
        if self._interrupted:
            return INTERRUPTED
        if self.errors or self.stats is None or not self.stats.balanced:
            return FAILED
        states = [row.state for row in self.stats.endpoints if row.name != RETIRED]
        return FAILED if states and all(state == State.FAILED for state in states) else ENDED_WELL


def check_report(path: Path) -> str | None:
    """Return why no report can be written to `path`, or None: better known before the run than after it."""
    if path.is_dir():
        return f"{path} is a folder; name a file"
    if not path.parent.is_dir():
        return f"there is no folder {path.parent}; make it first"
    if not os.access(path.parent, os.W_OK):
        return f"the folder {path.parent} cannot be written to; name another"
    return None


def write_report(path: Path, report: Mapping[str, Any]) -> None:
    """Write `report` as JSON. Whoever waits for the file never sees half of it. Raises OSError."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


def ending_limit_s(fleet: Fleet) -> float:
    """Return how long `fleet` may take to drain and to close; past that, something of the user's holds it."""
    return fleet.drain_s + control_of(fleet).closing_limit_s() + LEAVE_S


def _messages(stats: FleetStats, workers: Mapping[str, Any] | None) -> dict[str, int]:
    lost: Mapping[str, int] = {} if workers is None else workers["lost"]
    # Those of `$` topics would only blur what became of the feed.
    subscriptions = [row for row in stats.subscriptions if about_feeds(row.pattern)]
    counts = {
        "received": sum(row.received for row in stats.endpoints),
        "processed": sum(row.processed for row in subscriptions),
        "failed": sum(row.failed for row in subscriptions),
        "dropped": sum(row.dropped for row in subscriptions),
        "malformed": sum(row.malformed for row in stats.endpoints),
        "unrouted": stats.hub.unrouted + lost.get("hub_unrouted", 0),
    }
    return {what: count + lost.get(what, 0) for what, count in counts.items()}


def _endpoints(stats: FleetStats) -> tuple[int, int, list[str]]:
    """Return how many there are, how often they were connected again, and which have failed."""
    rows = [row for row in stats.endpoints if row.name != RETIRED]
    again = sum(max(row.connects - 1, 0) for row in rows)
    return len(rows), again, [row.name for row in rows if row.state == State.FAILED]


def summary(stats: FleetStats, workers: Mapping[str, Any] | None = None) -> Iterator[str]:
    """Yield what a person wants to know at the end of a run, line by line.

    `workers` is that part of the report; what those had counted that died is in the sums.
    """
    count, again, failed = _endpoints(stats)
    names = f" ({', '.join(failed[:5])}{', ...' if len(failed) > 5 else ''})" if failed else ""
    balance = "holds: every message is accounted for" if stats.balanced else "DOES NOT HOLD"
    yield f"{stats.name} ran for {stats.uptime_s:.1f} s"
    yield "  messages   " + ", ".join(f"{number:,} {what}" for what, number in _messages(stats, workers).items())
    yield f"  endpoints  {count:,}, {again:,} reconnects, {len(failed):,} failed{names}"
    if workers is not None:
        waited, restarts = _waited(workers), workers["restarts"]
        yield f"  workers    {workers['count']}, {restarts:,} started again, {waited:,} messages lost that waited there"
        if restarts or waited:
            balance += ", but for what was lost with a worker"
    yield f"  balance    {balance}"


def _waited(workers: Mapping[str, Any]) -> int:
    """Return how many messages waited in workers that died."""
    return int(workers["lost"]["pending"] + workers["lost"]["held"])


def log_summary(stats: FleetStats, workers: Mapping[str, Any] | None = None) -> None:
    """Log the same as one record with the numbers as fields; whatever the level, as the lines are printed."""
    count, again, failed = _endpoints(stats)
    told = {
        "event": "fleet.ended",
        "fleet": stats.name,
        "uptime_s": stats.uptime_s,
        **_messages(stats, workers),
        "endpoints": count,
        "reconnects": again,
        "endpoints_failed": len(failed),
        "balanced": stats.balanced,
    }
    if workers is not None:
        told |= {"workers": workers["count"], "restarts": workers["restarts"], "lost": _waited(workers)}
    text = f"{stats.name} ran for {stats.uptime_s:.1f} s"
    logger.handle(logger.makeRecord(logger.name, logging.INFO, __file__, 0, text, (), None, extra=told))
