"""One of the processes of `wsfleet run --workers`: a share of the fleet, under a parent that says when to end."""

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

from wsfleet.core.errors import ConfigError, FleetError
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
"""How often a worker tells its parent everything that it counts."""

FIRST_S = 0.05
"""How long after the start it does so again. Each pause is twice the last: most endpoints open in the first moments."""


def main() -> int:
    """Do what the first frame on the standard input says, until that is over; the parent is told how it went."""
    # A terminal and a service manager send these to the whole group: when to end is the parent's to say.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _leave_to_parent)
    channel = Channel.of_standard_input()
    order = channel.receive()
    if order is None:
        return 1
    # Its environment is the parent's own, whatever was needed to find us.
    sys.path[:] = order["path"]
    _set("PYTHONPATH", order["pythonpath"])
    return _Worker(channel, order).run()


def _leave_to_parent(number: int, frame: FrameType | None) -> None:
    # A handler, unlike SIG_IGN, is not inherited by programs that user code may start.
    pass


def _set(name: str, value: str | None) -> None:
    if value is None:
        os.environ.pop(name, None)
    else:
        os.environ[name] = value


class _Worker:
    """A run of a share, with the parent's word in place of signals."""

    def __init__(self, channel: Channel, order: Frame) -> None:
        self._channel = channel
        self._order = order
        self._lock = threading.Lock()
        self._early: list[str] = []
        self._steps: dict[str, Callable[[], object]] = {}
        self._limit_s = 0.0
        self._run: Run
        self._fleet: Fleet
        self._reloads: set[asyncio.Task[None]] = set()
        channel.listen(self._hear)

    def run(self) -> int:
        order = self._order
        take_turns(order["turns"])
        log_to_stderr(order["level"], as_json=order["log_json"], worker=order["index"])
        fleet = find_fleet(order["target"], warn=False)  # the parent has
        if fleet is None:
            self._channel.finish({"kind": "ended", "code": MISUSED})
            return MISUSED
        control_of(fleet).keep_observers(
            lambda observer: not hasattr(observer, "over")
        )  # the parent has those, for all
        divide(fleet, *(Shard(*shard) for shard in order["shards"]))
        self._limit_s = ending_limit_s(fleet)
        self._fleet = fleet
        run = self._run = Run(fleet, watch=self._tell, stops=self._stops, logs_end=False)
        try:
            with collect_seldom():
                run_loop(run.serve())
            code = run.code()
        except BaseException:
            logging.getLogger("wsfleet.run").exception("a worker ends")
            code = FAILED
        last: dict[str, Any] = {} if run.stats is None else {"report": run.stats}
        self._channel.finish({"kind": "ended", "code": code, "failed": bool(run.errors), **last})
        return code

    async def _tell(self, fleet: Fleet) -> None:
        """Tell the parent that the fleet runs, what it counts every second, and what happens where somebody looks."""
        source = FleetSource(fleet) if self._order["observed"] else None
        passing_on = None
        if source is not None:
            await source.start()
            passing_on = asyncio.get_running_loop().create_task(self._pass_on(source.events()))
        try:
            await self._run.running.wait()
            self._channel.send({"kind": "started"})
            pause_s = FIRST_S
            while True:
                if self._channel.is_idle:
                    dead = 0 if source is None else source.dead
                    self._channel.send({"kind": "report", "report": await fleet.snapshot(), "dead": dead})
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, REPORT_S)
        finally:
            if source is not None and passing_on is not None:
                await source.stop()
                passing_on.cancel()

    async def _pass_on(self, events: AsyncIterator[Frame]) -> None:
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
        """Read the file again, which the parent has found good, and tell when all is as it says."""
        await self._run.running.wait()
        faults: list[str] = []
        try:
            await self._fleet.reload()
        except ConfigError as exc:  # it has changed meanwhile
            faults = str(exc).splitlines()
        except FleetError:
            return  # the end has begun, and the parent will hear of it
        told = {"kind": "reloaded", "faults": faults, "report": await self._fleet.snapshot()}
        self._channel.send(told, always=True)

    # What the parent says

    def _hear(self, frame: Frame | None) -> None:
        """In the channel's thread."""
        step = "gone" if frame is None else frame["do"]
        with self._lock:
            if step == "gone" and not self._steps:
                os._exit(1)  # nothing runs yet
            self._early.append(step)
        self._follow()

    def _follow(self) -> None:
        with self._lock:
            while self._steps and self._early:
                self._steps[self._early.pop(0)]()

    @contextmanager
    def _stops(self, first: Callable[[], object], second: Callable[[], object]) -> Iterator[None]:
        """Call `first` when the parent says so or is gone, `second` when it says so; see `stop_signals`."""
        loop = asyncio.get_running_loop()

        def soon(step: Callable[[], object], limit_s: float | None) -> None:
            # However a processor holds the loop, this process outlives its parent by so much at most.
            if limit_s is not None:
                timer = threading.Timer(limit_s, os._exit, (1,))
                timer.daemon = True
                timer.start()
            try:
                loop.call_soon_threadsafe(step)
            except RuntimeError:  # the loop has ended meanwhile
                pass

        with self._lock:
            self._steps = {
                "drain": lambda: soon(first, None),
                "stop": lambda: soon(second, EXIT_TIMEOUT_S),
                "gone": lambda: soon(first, self._limit_s),
                "reload": lambda: soon(self._begin_reload, None),
            }
        self._follow()
        try:
            yield
        finally:
            with self._lock:
                self._steps = dict.fromkeys(self._steps, lambda: None)


if __name__ == "__main__":
    sys.exit(main())
