"""Snapshots of a fleet. For ten thousand endpoints they are made over many iterations of the loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator, Iterable, Sequence
from typing import TypeVar

from wsfleet.core.accel import accelerated
from wsfleet.core.message import State
from wsfleet.core.stats import (
    Counted,
    FleetStats,
    Totals,
    about_feeds,
    is_endpoint_balanced,
    is_hub_balanced,
    is_subscription_balanced,
)
from wsfleet.core.time_slice import CHUNK, TimeSlice, in_slices
from wsfleet.endpoint.supervisor import Supervisor
from wsfleet.fleet.registry import Registry
from wsfleet.pipeline.mailbox import Mailbox

__all__ = ["build_stats", "percentile", "snapshot", "totals"]

T = TypeVar("T")
Row = TypeVar("Row")


def build_stats(registry: Registry, name: str, uptime_s: float) -> FleetStats:
    """Count everything at once."""
    steps = _build(registry, name, uptime_s)
    while True:
        try:
            next(steps)
        except StopIteration as done:
            stats: FleetStats = done.value
            return stats


async def snapshot(registry: Registry, name: str, uptime_s: float) -> FleetStats:
    """Count everything, a few rows in each iteration of the loop. Safe to cancel."""
    steps = _build(registry, name, uptime_s)
    while True:
        try:
            next(steps)
        except StopIteration as done:
            stats: FleetStats = done.value
            return stats
        await asyncio.sleep(0)


def _build(registry: Registry, name: str, uptime_s: float) -> Generator[None, None, FleetStats]:
    """Build the stats, and yield when a slice of time is over.

    The terms of the balance are read before the first yield, since messages go on meanwhile. The rest of a row (state,
    last error) is read when the row is made.
    """
    registry.reap()
    supervisors, mailboxes = list(registry.supervisors.values()), registry.hub.mailboxes()
    endpoint_counts = [supervisor.counted() for supervisor in supervisors]
    mailbox_counts = [mailbox.counted() for mailbox in mailboxes]
    hub = registry.hub.stats()
    removed, unsubscribed = registry.retired_endpoints, registry.hub.retired_stats()
    lag_s, blocked = registry.services.sweep.lag_s, registry.services.watchdog.stats()

    endpoints, endpoints_balanced = yield from _rows(
        supervisors, endpoint_counts, Supervisor.stats, removed, is_endpoint_balanced
    )
    subscriptions, subscriptions_balanced = yield from _rows(
        mailboxes, mailbox_counts, Mailbox.stats, unsubscribed, is_subscription_balanced
    )
    published, offered = sum([row.published for row in endpoints]), sum([row.offered for row in subscriptions])
    return FleetStats(
        name=name,
        uptime_s=uptime_s,
        balanced=is_hub_balanced(hub, published, offered) and endpoints_balanced and subscriptions_balanced,
        accelerated=accelerated(),
        loop_lag_s=lag_s,
        blocked=blocked,
        hub=hub,
        endpoints=tuple(endpoints),
        subscriptions=tuple(subscriptions),
    )


def _rows(
    items: Sequence[T],
    counts: Sequence[Counted],
    make: Callable[[T, Counted], Row],
    retired: Row | None,
    is_balanced: Callable[[Row], bool],
) -> Generator[None, None, tuple[list[Row], bool]]:
    """Make the rows, the one of the removed parts last; return them, and whether each keeps the balance."""
    rows: list[Row] = []
    balanced = retired is None or is_balanced(retired)
    time_slice = TimeSlice()
    for item, counted in zip(items, counts, strict=True):
        if len(rows) % CHUNK == 0 and time_slice.expired():
            yield
            time_slice.restart()
        row = make(item, counted)
        balanced = balanced and is_balanced(row)
        rows.append(row)
    return rows if retired is None else [*rows, retired], balanced


async def totals(registry: Registry) -> Totals:
    """Add everything up. Messages in transit may be counted in one sum and not yet in another."""
    removed, unsubscribed = registry.retired_endpoints, registry.hub.retired_stats()
    received, losses, connects = (removed.received, removed.losses, removed.connects) if removed else (0, 0, 0)
    opened, latencies = 0, []
    async for supervisors in in_slices(list(registry.supervisors.values())):
        received += sum([s.ingest.received for s in supervisors])
        losses += sum([s.losses for s in supervisors])
        connects += sum([s.session_count for s in supervisors])
        opened += sum([s.state is State.OPEN for s in supervisors])
        latencies += _latencies(supervisors)
    gone = unsubscribed
    processed, failed = (gone.processed, gone.failed) if gone else (0, 0)
    dropped, pending = (gone.dropped, gone.pending) if gone else (0, 0)
    of_feeds = [mailbox for mailbox in registry.hub.mailboxes() if about_feeds(mailbox.pattern)]
    async for mailboxes in in_slices(of_feeds):
        processed += sum([m.processed for m in mailboxes])
        dropped += sum([m.dropped for m in mailboxes])
        failed += sum([m.failed for m in mailboxes])
        pending += sum([m.pending for m in mailboxes])
    latencies.sort()
    return Totals(
        received=received,
        processed=processed,
        dropped=dropped,
        failed=failed,
        losses=losses,
        connects=connects,
        open=opened,
        pending=pending,
        loop_lag_s=registry.services.sweep.lag_s,
        latency_p50=percentile(latencies, 0.5),
        latency_p99=percentile(latencies, 0.99),
    )


def _latencies(supervisors: Iterable[Supervisor]) -> list[float]:
    found = [s.session.wire.latency_s for s in supervisors if s.session is not None]
    return [latency_s for latency_s in found if latency_s is not None]


def percentile(ordered: Sequence[float], part: float) -> float | None:
    """Return the value that `part` of all are not above; None of nothing."""
    return ordered[min(int(len(ordered) * part), len(ordered) - 1)] if ordered else None
