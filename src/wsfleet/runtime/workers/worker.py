"""A worker process of `wsfleet run --workers`: runs a shard of the fleet, controlled by its parent."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import msgspec

from wsfleet.config import Reloader
from wsfleet.config.reading import Given
from wsfleet.core.errors import ConfigError, FleetError
from wsfleet.endpoint.continuity import History
from wsfleet.fleet.fleet import Fleet, control_of
from wsfleet.runtime.locate import find_fleet
from wsfleet.runtime.logs import log_to_stderr
from wsfleet.runtime.loop import EXIT_TIMEOUT_S, FAILED, MISUSED, collect_seldom, run_loop
from wsfleet.runtime.run import Run, ending_limit_s
from wsfleet.runtime.sharding import Shard, divide
from wsfleet.runtime.workers.channel import Channel, Frame
from wsfleet.serve.status.fleet_source import FleetSource
from wsfleet.sinks.stdout import take_turns

__all__ = ["REPORT_S", "main"]

REPORT_S = 1.0
"""Seconds between a worker's reports to its parent."""

FIRST_S = 0.05
"""Seconds between the first two reports. The interval doubles up to REPORT_S: most endpoints open at the start."""


def main() -> int:
    """Run the order in the first frame on standard input, and send the result to the parent."""
    # A terminal and a service manager signal the whole process group, but only the parent decides when to end.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _leave_to_parent)
    channel = Channel.of_standard_input()
    order = channel.receive()
    if order is None:
        return 1
    # Restore the parent's import path, which was changed to start this module.
    sys.path[:] = order["path"]
    _set("PYTHONPATH", order["pythonpath"])
    return _Worker(channel, order).run()


def _leave_to_parent(number: int, frame: FrameType | None) -> None:
    # Unlike SIG_IGN, a handler is not inherited by programs that user code starts.
    pass


def _given(frame: Frame) -> Given | None:
    """Return the configuration file as the parent has read it; None for a program."""
    given = frame.get("given")
    return None if given is None else Given(**given)


def _set(name: str, value: str | None) -> None:
    if value is None:
        os.environ.pop(name, None)
    else:
        os.environ[name] = value


class _Worker:
    """Runs a shard, with commands of the parent in place of signals."""

    def __init__(self, channel: Channel, order: Frame) -> None:
        self._channel = channel
        self._order = order
        self._lock = threading.Lock()
        self._queued: list[str] = []
        self._steps: dict[str, Callable[[], object]] = {}
        self._limit_s = 0.0
        self._given: Given | None = None
        self._run: Run
        self._fleet: Fleet
        self._reloads: set[asyncio.Task[None]] = set()
        channel.listen(self._on_frame)

    def run(self) -> int:
        order = self._order
        take_turns(order["turns"])
        log_to_stderr(order["level"], as_json=order["log_json"], worker=order["index"])
        fleet = find_fleet(order["target"], warn=False, given=_given(order))  # the parent has printed the warnings
        if fleet is None:
            self._channel.finish({"kind": "ended", "code": MISUSED})
            return MISUSED
        # The parent runs the observers of the whole fleet.
        control_of(fleet).keep_observers(lambda observer: not hasattr(observer, "over"))
        divide(fleet, *(Shard(*shard) for shard in order["shards"]))
        control_of(fleet).go_on(msgspec.convert(order["histories"], dict[str, History]))
        self._limit_s = ending_limit_s(fleet)
        self._fleet = fleet
        run = self._run = Run(fleet, watch=self._report, stops=self._stops, logs_end=False)
        try:
            with collect_seldom():
                run_loop(run.serve())
            code = run.code()
        except BaseException:
            logging.getLogger("wsfleet.run").exception("worker failed", extra={"event": "worker.failed"})
            code = FAILED
        last: dict[str, Any] = {} if run.stats is None else {"report": run.stats}
        self._channel.finish({"kind": "ended", "code": code, "failed": bool(run.errors), **last})
        return code

    async def _report(self, fleet: Fleet) -> None:
        """Send the parent the start, a report every second, and the events if there is an observer."""
        source = FleetSource(fleet) if self._order["observed"] else None
        forwarding = None
        if source is not None:
            await source.start()
            forwarding = asyncio.get_running_loop().create_task(self._forward(source.events()))
        try:
            await self._run.running.wait()
            self._channel.send({"kind": "started"})
            pause_s = FIRST_S
            while True:
                if self._channel.is_idle:
                    dead = 0 if source is None else source.dead
                    self._channel.send({"kind": "report", **await _state(fleet), "dead": dead})
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, REPORT_S)
        finally:
            if source is not None and forwarding is not None:
                await source.stop()
                forwarding.cancel()

    async def _forward(self, events: AsyncIterator[Frame]) -> None:
        missed = 0
        async for event in events:
            if missed and self._channel.send(
                {"kind": "event", "event": {"at": event["at"], "topic": "$missed", "count": missed}}
            ):
                missed = 0
            missed += not self._channel.send({"kind": "event", "event": event})

    def _begin_reload(self) -> None:
        task = asyncio.get_running_loop().create_task(self._reload())
        self._reloads.add(task)
        task.add_done_callback(self._reloads.discard)

    async def _reload(self) -> None:
        """Apply the file as the parent has read it, and send the result."""
        await self._run.running.wait()
        faults: list[str] = []
        reloader = control_of(self._fleet).reloader
        if self._given is not None and isinstance(reloader, Reloader):
            reloader.use(self._given)
        try:
            await self._fleet.reload()
        except ConfigError as exc:  # a module or a certificate has changed since the parent's check
            faults = str(exc).splitlines()
        except FleetError:
            return  # the fleet is draining; the parent will receive "ended"
        self._channel.send({"kind": "reloaded", "faults": faults, **await _state(self._fleet)}, always=True)

    # Commands of the parent

    def _on_frame(self, frame: Frame | None) -> None:
        """Handle a frame. Runs in the channel's thread."""
        step = "gone" if frame is None else frame["do"]
        with self._lock:
            if step == "gone" and not self._steps:
                os._exit(1)  # the run has not started
            given = None if frame is None else _given(frame)
            if given is not None:
                self._given = given
            self._queued.append(step)
        self._run_queued()

    def _run_queued(self) -> None:
        with self._lock:
            while self._steps and self._queued:
                self._steps[self._queued.pop(0)]()

    @contextmanager
    def _stops(self, first: Callable[[], object], second: Callable[[], object]) -> Iterator[None]:
        """Call `first` on "drain" or when the parent has ended, and `second` on "stop"; see `stop_signals`."""
        loop = asyncio.get_running_loop()

        def soon(step: Callable[[], object], limit_s: float | None) -> None:
            # Even if a processor blocks the loop, this process ends at most `limit_s` after its parent.
            if limit_s is not None:
                timer = threading.Timer(limit_s, os._exit, (1,))
                timer.daemon = True
                timer.start()
            try:
                loop.call_soon_threadsafe(step)
            except RuntimeError:  # the loop is already closed
                pass

        with self._lock:
            self._steps = {
                "drain": lambda: soon(first, None),
                "stop": lambda: soon(second, EXIT_TIMEOUT_S),
                "gone": lambda: soon(first, self._limit_s),
                "reload": lambda: soon(self._begin_reload, None),
            }
        self._run_queued()
        try:
            yield
        finally:
            with self._lock:
                self._steps = dict.fromkeys(self._steps, lambda: None)


async def _state(fleet: Fleet) -> Frame:
    """Return the report and the histories that the parent keeps in case this process dies."""
    return {"report": await fleet.snapshot(), "histories": await control_of(fleet).histories()}


if __name__ == "__main__":
    sys.exit(main())
