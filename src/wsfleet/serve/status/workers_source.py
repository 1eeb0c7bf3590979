"""The source of observers for a fleet that is divided among workers."""

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
from wsfleet.serve.status.recent import Recent
from wsfleet.serve.status.source import Down, Report, Sample, Source

__all__ = ["Workers", "WorkersSource"]

SAMPLE_S = 1.0
SAMPLES = 600


class Workers(Protocol):
    """The interface to the workers. `watch` registers a callback for a worker's index and each frame that it sends."""

    @property
    def required(self) -> Collection[str]: ...
    @property
    def count(self) -> int: ...
    def report(self) -> Report: ...
    def watch(self, watcher: Callable[[int, Event], None]) -> Callable[[], None]: ...
    async def reload(self) -> list[str]: ...


class WorkersSource(Source):
    """Observes `workers` by the frames that they send: a report every second, and events immediately."""

    def __init__(self, workers: Workers) -> None:
        self.workers = workers.count
        self.recent = Recent()
        self._workers = workers
        self._dead: dict[int, int] = {}
        self._dead_before = 0
        self._down: dict[str, tuple[int, float]] = {}  # number of connects, and time since when it is down
        self._last_report: Report | None = None
        self._events = Events()
        self._samples: deque[Sample] = deque(maxlen=SAMPLES)
        self._sampling: asyncio.Task[None] | None = None
        self._leave: Callable[[], None] | None = None

    @property
    def dead(self) -> int:  # type: ignore[override]
        """Number of dead letters, including those of workers that died."""
        return self._dead_before + sum(self._dead.values())

    async def start(self) -> None:
        """Start observing."""
        self._leave = self._workers.watch(self._on_frame)
        self._sampling = asyncio.get_running_loop().create_task(self._sample(), name="wsfleet-samples")

    async def stop(self) -> None:
        """Stop observing. Idempotent."""
        self._events.end()
        leave, self._leave = self._leave, None
        sampling, self._sampling = self._sampling, None
        if leave is not None:
            leave()
        if sampling is not None:
            sampling.cancel()
            await asyncio.wait({sampling})

    def _on_frame(self, worker: int, frame: Event) -> None:
        match frame["kind"]:
            case "event":
                event = frame["event"]
                if event["topic"].startswith("$state."):
                    self.recent.note(event)
                self._events.publish_plain(event)
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
        """Update the times since when endpoints are down. An endpoint that reconnected in between gets a new time."""
        report, now = self._workers.report(), time.time()
        if report is self._last_report:
            return
        self._last_report = report
        before, self._down = self._down, {}
        for row in _endpoints(report):
            if row["state"] != State.OPEN:
                known = before.get(row["name"])
                is_same = known is not None and known[0] == row["connects"]
                self._down[row["name"]] = known if known is not None and is_same else (row["connects"], now)

    # Results

    def report(self) -> Report:
        """Return the merged last reports of the workers."""
        return self._workers.report()

    async def down(self) -> dict[str, Down]:
        """Return a `Down` for each endpoint that is not OPEN, as seen in the reports."""
        self._update_down()
        required = self._workers.required
        return {
            name: Down(since, name in required, self.recent.next_attempt(name))
            for name, (_, since) in self._down.items()
        }

    def history(self) -> list[Sample]:
        """Return the samples so far, oldest first."""
        return list(self._samples)

    def events(self) -> AsyncIterator[Event]:
        """Return an iterator over the events of all workers from now on."""
        return self._events.watch()

    async def reload(self) -> list[str]:
        """Reload the configuration file in all workers, after it has been checked."""
        return await self._workers.reload()


def _endpoints(report: Report) -> list[dict[str, Any]]:
    return [row for row in report["endpoints"] if row["name"] != RETIRED]


def _sampled(report: Report) -> Sample:
    """Return the totals of `report`, including the counts of workers that died, since counters must not decrease."""
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
