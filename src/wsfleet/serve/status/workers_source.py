"""The workers of one fleet, as observers look at them: as if it were one process."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Collection
from typing import Any, Protocol

from wsfleet.core.message import State
from wsfleet.core.stats import RETIRED, about_feeds
from wsfleet.fleet.snapshot import percentile
from wsfleet.serve.status.events import Event, Events
from wsfleet.serve.status.source import Down, Report, Sample, Source

__all__ = ["Workers", "WorkersSource"]

SAMPLE_S = 1.0
SAMPLES = 600


class Workers(Protocol):
    """What is asked of the workers: `watch` calls back with a worker's index and each frame that it sends."""

    @property
    def required(self) -> Collection[str]: ...
    @property
    def count(self) -> int: ...
    def report(self) -> Report: ...
    def watch(self, watcher: Callable[[int, Event], None]) -> Callable[[], None]: ...
    async def reload(self) -> list[str]: ...


class WorkersSource(Source):
    """Watches `workers` by what they tell: a report each second, and events at once."""

    def __init__(self, workers: Workers) -> None:
        self.workers = workers.count
        self._workers = workers
        self._dead: dict[int, int] = {}
        self._dead_before = 0
        self._down: dict[str, tuple[int, float]] = {}  # after how many connects, and since when
        self._last_report: Report | None = None
        self._events = Events()
        self._samples: deque[Sample] = deque(maxlen=SAMPLES)
        self._sampling: asyncio.Task[None] | None = None
        self._leave: Callable[[], None] | None = None

    @property
    def dead(self) -> int:  # type: ignore[override]
        """Dead letters seen, by workers that have died, too."""
        return self._dead_before + sum(self._dead.values())

    async def start(self) -> None:
        """Begin to watch."""
        self._leave = self._workers.watch(self._heard)
        self._sampling = asyncio.get_running_loop().create_task(self._sample(), name="wsfleet-samples")

    async def stop(self) -> None:
        """End watching. Idempotent."""
        self._events.end()
        leave, self._leave = self._leave, None
        sampling, self._sampling = self._sampling, None
        if leave is not None:
            leave()
        if sampling is not None:
            sampling.cancel()
            await asyncio.wait({sampling})

    def _heard(self, worker: int, frame: Event) -> None:
        match frame["kind"]:
            case "event":
                self._events.publish_plain(frame["event"])
            case "report":
                self._dead[worker] = frame.get("dead", 0)
            case "died":
                self._dead_before += self._dead.pop(worker, 0)

    async def _sample(self) -> None:
        loop = asyncio.get_running_loop()
        due = loop.time()
        while True:
            self._update_down()
            self._samples.append(_sampled(self._workers.report()))
            due = max(due + SAMPLE_S, loop.time())
            await asyncio.sleep(due - loop.time())

    def _update_down(self) -> None:
        """Note since when endpoints are down: those that were up in between are so afresh."""
        report, now = self._workers.report(), time.time()
        if report is self._last_report:
            return
        self._last_report = report
        before, self._down = self._down, {}
        for row in _endpoints(report):
            if row["state"] != State.OPEN:
                known = before.get(row["name"])
                still = known is not None and known[0] == row["connects"]
                self._down[row["name"]] = known if known is not None and still else (row["connects"], now)

    # What it knows

    def report(self) -> Report:
        """Return everything that is counted, as the workers have told last."""
        return self._workers.report()

    async def down(self) -> dict[str, Down]:
        """Return since when each endpoint is down that isn't OPEN, as far as was seen."""
        self._update_down()
        required = self._workers.required
        return {name: Down(since, name in required) for name, (_, since) in self._down.items()}

    def history(self) -> list[Sample]:
        """Return the samples so far, oldest first."""
        return list(self._samples)

    def events(self) -> AsyncIterator[Event]:
        """Watch what happens in any of them from this call on."""
        return self._events.watch()

    async def reload(self) -> list[str]:
        """Have all of them read the file again, after it was checked."""
        return await self._workers.reload()


def _endpoints(report: Report) -> list[dict[str, Any]]:
    return [row for row in report["endpoints"] if row["name"] != RETIRED]


def _sampled(report: Report) -> Sample:
    """Return the totals of `report`. What workers that died had counted is in them: counters do not go back."""
    endpoints, lost = report["endpoints"], report["workers"]["lost"]
    subscriptions = [row for row in report["subscriptions"] if about_feeds(row["pattern"])]

    def total(rows: list[dict[str, Any]], key: str) -> int:
        return sum([int(row[key]) for row in rows], int(lost.get(key, 0)))

    latencies = sorted(row["latency_s"] for row in endpoints if row["latency_s"] is not None)
    return Sample(
        at=time.time(),
        received=total(endpoints, "received"),
        processed=total(subscriptions, "processed"),
        dropped=total(subscriptions, "dropped"),
        failed=total(subscriptions, "failed"),
        losses=total(endpoints, "losses"),
        connects=total(endpoints, "connects"),
        open=sum(row["state"] == State.OPEN for row in endpoints),
        pending=sum(row["pending"] for row in subscriptions),
        loop_lag_s=report["loop_lag_s"],
        latency_p50=percentile(latencies, 0.5),
        latency_p99=percentile(latencies, 0.99),
    )
