"""The source of observers for one fleet in this process."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator
from dataclasses import asdict, replace
from typing import Any

from wsfleet.core.message import Message, StateChange
from wsfleet.core.options import Buffer, Overflow
from wsfleet.core.stats import plain_rows
from wsfleet.core.time_slice import in_slices
from wsfleet.fleet.fleet import Fleet, control_of
from wsfleet.pipeline.subscription import Subscription
from wsfleet.serve.status.events import KINDS, Event, Events, plain
from wsfleet.serve.status.recent import Recent
from wsfleet.serve.status.source import Down, NoFile, Report, Sample, Source

__all__ = ["FleetSource"]

SAMPLE_S = 1.0
SAMPLES = 600


class FleetSource(Source):
    """Observes `fleet` by snapshots, and by its own processors for the `$` topics."""

    def __init__(self, fleet: Fleet) -> None:
        self.workers = None
        self.recent = Recent()
        self._fleet = fleet
        self._dead: Subscription | None = None
        self._events = Events()
        self._samples: deque[Sample] = deque(maxlen=SAMPLES)
        self._sampling: asyncio.Task[None] | None = None
        self._names: list[str] = []

    async def start(self) -> None:
        """Start observing. The fleet may be running or not started yet."""
        for kind in KINDS:
            name = self._free_name(f"observer-{kind}")
            # In a burst of events, the newest ones are kept.
            buffer = Buffer(messages=10_000, overflow=Overflow.DROP_OLDEST)
            self._fleet.process(f"${kind}.*", name=name, buffer=buffer, batch=100)(self._publish)
            self._names.append(name)
            if kind == "dead":
                self._dead = self._fleet.subscriptions[name]
        self._sampling = asyncio.get_running_loop().create_task(self._sample(), name="wsfleet-samples")

    def _free_name(self, name: str) -> str:
        taken, free, number = {*self._fleet.subscriptions, *self._fleet.connections}, name, 1
        while free in taken:
            number += 1
            free = f"{name}-{number}"
        return free

    @property
    def dead(self) -> int:  # type: ignore[override]
        """Number of dead letters, including those that the buffer dropped."""
        return 0 if self._dead is None else self._dead.stats().offered

    async def stop(self) -> None:
        """Stop observing."""
        self._events.end()
        sampling, self._sampling = self._sampling, None
        if sampling is not None:
            sampling.cancel()
            await asyncio.wait({sampling})
        for name in self._names:
            if name in self._fleet.subscriptions:
                self._fleet.subscriptions[name].close()
        self._names.clear()

    async def _publish(self, messages: list[Message[Any]]) -> None:
        for message in messages:
            if isinstance(message.data, StateChange):
                self.recent.note(plain(message))
            self._events.publish(message)

    async def _sample(self) -> None:
        loop = asyncio.get_running_loop()
        due = loop.time()
        while True:
            totals = await self._fleet.totals()
            self._samples.append(Sample(at=time.time(), **asdict(totals)))
            due = max(due + SAMPLE_S, loop.time())
            await asyncio.sleep(due - loop.time())

    # Results

    def report(self) -> Report:
        """Return a report of the current counts."""
        return self._fleet.stats().to_dict()

    async def snapshot(self) -> Report:
        """Return a report, made in slices that do not block the loop for long."""
        stats = await self._fleet.snapshot()
        report = replace(stats, endpoints=(), subscriptions=()).to_dict()
        async for endpoints in in_slices(stats.endpoints):
            report["endpoints"] += plain_rows(endpoints)
        async for subscriptions in in_slices(stats.subscriptions):
            report["subscriptions"] += plain_rows(subscriptions)
        return report

    async def down(self) -> dict[str, Down]:
        """Return the time since when each endpoint that is not OPEN is down."""
        found: dict[str, Down] = {}
        began = time.time() - asyncio.get_running_loop().time()
        async for connections in in_slices(list(self._fleet.connections.values())):
            for each in connections:
                if each.down_since is not None:
                    found[each.name] = Down(began + each.down_since, each.required, self.recent.next_attempt(each.name))
        return found

    def history(self) -> list[Sample]:
        """Return the samples so far, oldest first."""
        return list(self._samples)

    def events(self) -> AsyncIterator[Event]:
        """Return an iterator over the events from now on."""
        return self._events.watch()

    async def reload(self) -> list[str]:
        """Reload the fleet."""
        if control_of(self._fleet).reloader is None:
            raise NoFile("this fleet has no configuration file; start it with `wsfleet run FILE.toml`")
        return await self._fleet.reload()
