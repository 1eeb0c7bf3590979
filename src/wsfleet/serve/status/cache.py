"""Caches snapshots of a source and the data derived from them, so that concurrent requests share them."""

from __future__ import annotations

import asyncio
import heapq
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from wsfleet.core.message import State
from wsfleet.core.stats import RETIRED, about_feeds
from wsfleet.core.time_slice import in_slices
from wsfleet.fleet.snapshot import percentile
from wsfleet.serve.status.recent import FLAPPING
from wsfleet.serve.status.source import Down, Report, Source
from wsfleet.serve.status.tables import ENDPOINTS, SUBSCRIPTIONS, Table

__all__ = ["Snapshot", "SnapshotCache"]

SHARE = 0.1
"""Maximum share of the loop's time for making snapshots."""

OLDEST_S = 1.0
"""Maximum age of a snapshot in seconds, even if making it takes long."""

SLOWEST = 10
DOWN = 20

LISTED = 100
"""Maximum number of endpoints that /readyz names."""

_OF_ENDPOINTS = ("received", "received_bytes", "sent", "malformed", "connects", "losses")
_OF_SUBSCRIPTIONS = ("processed", "failed", "dropped", "pending")
_HEAD = ("name", "uptime_s", "balanced", "accelerated", "loop_lag_s", "blocked")


class Snapshot:
    """A report and the data derived from it."""

    def __init__(self, report: Report, down: Mapping[str, Down], losses: Mapping[str, int]) -> None:
        self.report = report
        self.at = time.time()
        self.worst: list[Mapping[str, Any]] = []
        """Endpoints that are down, most important first. Set by `overview`."""
        self.endpoints = Table(report["endpoints"], ENDPOINTS, down, losses)
        self._losses = losses
        self._down = down
        self.subscriptions = Table(report["subscriptions"], SUBSCRIPTIONS)
        self._overview: dict[str, Any] | None = None

    async def overview(self, source: Source) -> dict[str, Any]:
        """Return the summary of the fleet."""
        if self._overview is None:
            self._overview = await self._make_overview(source)
        return self._overview

    async def _make_overview(self, source: Source) -> dict[str, Any]:
        # The totals include the counts of workers that died, since counters must not decrease.
        lost = self.report.get("workers", {}).get("lost", {})
        totals = {key: lost.get(key, 0) for key in (*_OF_ENDPOINTS, *_OF_SUBSCRIPTIONS)} | {"pending": 0}
        states: Counter[str] = Counter()
        latencies: list[float] = []
        flapping: list[Mapping[str, Any]] = []
        worst: list[Mapping[str, Any]] = []
        paused = 0
        async for rows in in_slices(self.report["endpoints"]):
            _add(totals, _OF_ENDPOINTS, rows)
            there = [row for row in rows if row["name"] != RETIRED]
            states.update([row["state"] for row in there])
            paused += sum([bool(row["paused_by"]) for row in there])
            worst = _worst([*worst, *self._down_among(there)])
            flapping += self._flapping_among(there)
            latencies += [row["latency_s"] for row in there if row["latency_s"] is not None]
        slowest: list[Mapping[str, Any]] = []
        async for rows in in_slices(self.report["subscriptions"]):
            _add(totals, _OF_SUBSCRIPTIONS, [row for row in rows if about_feeds(row["pattern"])])
            slowest = _slowest([*slowest, *rows])
        latencies.sort()
        self.worst = worst
        return {
            **{key: self.report.get(key) for key in _HEAD},
            "at": self.at,
            "states": {state.value: states.get(state.value, 0) for state in State},
            "totals": {**totals, "dead": source.dead, "paused": paused},
            "latency": {"p50": percentile(latencies, 0.5), "p99": percentile(latencies, 0.99)},
            "slowest": slowest,
            "down": worst[:DOWN],
            "down_count": sum(states.values()) - states[State.OPEN.value],
            "flapping": heapq.nsmallest(DOWN, flapping, key=lambda each: (-each["losses"], each["name"])),
            "flapping_count": len(flapping),
            "workers": source.workers,
        }

    def _down_among(self, rows: Iterable[Mapping[str, Any]]) -> Iterable[Mapping[str, Any]]:
        for row in rows:
            if row["state"] != State.OPEN:
                since, required, next_at = self._down.get(row["name"], Down(self.at, False))
                yield {
                    "name": row["name"],
                    "state": row["state"],
                    "since": since,
                    "error": row["last_error"],
                    "required": required,
                    "next_at": next_at,
                }

    def _flapping_among(self, rows: Iterable[Mapping[str, Any]]) -> Iterable[Mapping[str, Any]]:
        for row in rows:
            losses = self._losses.get(row["name"], 0)
            if losses >= FLAPPING:
                yield {"name": row["name"], "losses": losses, "state": row["state"], "error": row["last_error"]}


def _worst(down: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return required endpoints first, then FAILED ones, then those that have been down longest."""
    return heapq.nsmallest(
        LISTED, down, key=lambda each: (not each["required"], each["state"] != State.FAILED, each["since"])
    )


def _add(totals: dict[str, int], names: tuple[str, ...], rows: Any) -> None:
    for name in names:
        totals[name] += sum([row[name] for row in rows])


def _slowest(rows: list[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    there = [row for row in rows if row["name"] != RETIRED and (row["pending"] or row["dropped"])]
    there.sort(key=lambda row: (-row["pending"], -row["dropped"], row["name"]))
    return there[:SLOWEST]


class SnapshotCache:
    """Makes snapshots of a source on request, and limits the share of the loop's time that this takes."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._snapshot: Snapshot | None = None
        self._until = 0.0
        self._making: asyncio.Task[Snapshot] | None = None

    async def get(self) -> Snapshot:
        """Return a snapshot. It may be up to OLDEST_S seconds old if making a snapshot is expensive."""
        loop = asyncio.get_running_loop()
        if self._snapshot is not None and loop.time() < self._until:
            return self._snapshot
        if self._making is None:
            self._making = loop.create_task(self._make(), name="wsfleet-snapshot")
        # A request may be cancelled while others wait for the same snapshot.
        return await asyncio.shield(self._making)

    async def _make(self) -> Snapshot:
        begun = time.perf_counter()
        try:
            snapshot = Snapshot(
                await self._source.snapshot(), await self._source.down(), self._source.recent.losses(time.time())
            )
        finally:
            self._making = None
        self._snapshot = snapshot
        self._until = asyncio.get_running_loop().time() + min((time.perf_counter() - begun) / SHARE, OLDEST_S)
        return snapshot

    async def stop(self) -> None:
        """Cancel a snapshot that is being made."""
        if self._making is not None:
            self._making.cancel()
            await asyncio.wait({self._making})
