"""Runs a fleet for a command: event loop, signals, duration, report, exit code."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Awaitable, Callable
from contextlib import nullcontext
from functools import partial
from pathlib import Path

from wsfleet.core.errors import FleetError
from wsfleet.core.message import State
from wsfleet.core.stats import RETIRED, FleetStats
from wsfleet.core.text import plural
from wsfleet.fleet.fleet import Fleet, control_of
from wsfleet.fleet.reloading import Reloaded, hangup
from wsfleet.runtime.base import BaseRun
from wsfleet.runtime.loop import (
    EXIT_TIMEOUT_S,
    FAILED,
    INTERRUPTED,
    Stops,
    collect_seldom,
    daemon_timer,
    leave,
    run_loop,
    stop_signals,
)
from wsfleet.runtime.report import exit_code, write_report

__all__ = ["Run", "ending_limit_s", "run_fleet"]

logger = logging.getLogger("wsfleet.run")


def run_fleet(
    fleet: Fleet,
    *,
    duration: float | None = None,
    report: str | Path | None = None,
    watch: Callable[[Fleet], Awaitable[None]] | None = None,
    summarize: Callable[[FleetStats], object] | None = None,
) -> int:
    """Run `fleet` until its endpoints end, `duration` seconds pass, or a signal arrives; return the exit code.

    The first SIGINT or SIGTERM drains, the second stops at once. `watch(fleet)` runs concurrently: it is cancelled when
    the fleet ends, and the fleet drains when it returns. `report` is the file for the last snapshot as JSON, written
    also after an error. If a handler does not end in time, or blocks the loop and does not end after a third signal,
    the process exits after `summarize` was called with the last counts. Raises OSError if the report cannot be written.
    """
    path = None if report is None else Path(report)
    give_up = partial(_give_up, fleet, path, summarize)
    late = daemon_timer(ending_limit_s(fleet), leave, FAILED, partial(give_up, "run.shutdown_timeout"))
    ending = partial(_start_once, late)
    stops = partial(stop_signals, ending=ending, last=partial(give_up, "run.stopped"))
    run = Run(fleet, duration, watch, stops, ending=ending)
    try:
        with collect_seldom():
            run_loop(run.serve())
    finally:
        late.cancel()
        if path is not None and run.stats is not None:
            write_report(path, run.stats.to_dict())
    return run.code()


_GIVING_UP = {
    "run.shutdown_timeout": "shutdown timed out: a handler is still running; exiting; lost: %s",
    "run.stopped": "stopped by signals while a handler is running; exiting; lost: %s",
}


def _give_up(fleet: Fleet, report: Path | None, summarize: Callable[[FleetStats], object] | None, event: str) -> None:
    """Write the report and let the process exit. Runs in a thread, since a handler may block the event loop."""
    stats = control_of(fleet).unchecked_stats()
    pending = sum(row.pending for row in stats.subscriptions)
    logger.error(_GIVING_UP[event], plural(pending, "pending message"), extra={"event": event, "pending": pending})
    if summarize is not None:
        summarize(stats)
    if report is not None:
        write_report(report, stats.to_dict())


def _start_once(timer: threading.Timer) -> None:
    if timer.ident is None:
        timer.start()


def ending_limit_s(fleet: Fleet) -> float:
    """Return how many seconds `fleet` may take to drain and close. After that, user code is blocking the shutdown."""
    return fleet.drain_s + control_of(fleet).closing_limit_s() + EXIT_TIMEOUT_S


class Run(BaseRun):
    """One run of a fleet, from start to exit code."""

    def __init__(
        self,
        fleet: Fleet,
        duration: float | None = None,
        watch: Callable[[Fleet], Awaitable[None]] | None = None,
        stops: Stops = stop_signals,
        logs_end: bool = True,
        ending: Callable[[], object] = bool,
    ) -> None:
        super().__init__(logs_end=logs_end)
        self.stats: FleetStats | None = None
        self.errors: list[BaseException] = []
        self._fleet = fleet
        self._duration = duration
        self._watch = watch
        self._serving: asyncio.Task[None] | None = None
        self._helpers: set[asyncio.Future[None]] = set()
        self._stops = stops
        self._shutdown = ending  # called when the shutdown starts, for any reason

    async def serve(self) -> None:
        """Run the fleet until it has ended and every task of this run is done."""
        loop = asyncio.get_running_loop()
        serving = self._serving = loop.create_task(self._serve())
        notifying = loop.create_task(self._notify_manager())
        if self._watch is not None:
            self._helpers.add(asyncio.ensure_future(self._watch(self._fleet)))
        timer = None if self._duration is None else loop.call_later(self._duration, self.drain)
        on_hangup = hangup(self._reload_on_signal) if self._logs_end else nullcontext()
        with self._stops(self._drain_on_signal, self._interrupt), on_hangup:
            try:
                await asyncio.wait({serving, *self._helpers}, return_when=asyncio.FIRST_COMPLETED)
                if not serving.done():
                    self.drain()
                await asyncio.wait({serving})
            finally:
                if timer is not None:
                    timer.cancel()
                others = (notifying, *self._helpers, *self._reloads)
                for task in (serving, *others):
                    task.cancel()
                ended = await asyncio.gather(serving, *others, return_exceptions=True)
                self.errors = [error for error in ended if isinstance(error, Exception)]
                self.stats = self._fleet.stats()

    async def _serve(self) -> None:
        async with self._fleet:
            self.running.set()
            try:
                await self._fleet.wait()
            finally:
                self._shutdown()

    def status(self) -> str:
        """Return the number of open endpoints, as text."""
        connections = self._fleet.connections.values()
        is_open = sum(connection.state is State.OPEN for connection in connections)
        return f"{is_open:,} of {len(connections):,} endpoints open"

    async def reload(self) -> Reloaded:
        """Reload the fleet's configuration file."""
        return await self._fleet.reload()

    def _begin_drain(self) -> None:
        self._helpers.add(asyncio.get_running_loop().create_task(self._fleet.close()))

    def _interrupt(self) -> None:
        self._interrupted = True
        if self._serving is not None:
            self._serving.cancel()

    def code(self) -> int:
        """Log the errors of the run and return its exit code."""
        for error in self.errors:
            expected = isinstance(error, FleetError | OSError)
            text = error if expected else type(error).__name__
            logger.error("%s", text, exc_info=None if expected else error, extra={"event": "run.failed"})
        if self._interrupted:
            return INTERRUPTED
        if self.errors or self.stats is None:
            return FAILED
        return exit_code(self.stats.balanced, [row.state for row in self.stats.endpoints if row.name != RETIRED])
