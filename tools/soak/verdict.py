"""The criteria of a soak, their results, and the reasons for their bounds."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from tools.soak.samples import Samples
from wsfleet import FleetStats

__all__ = ["Criterion", "End", "growth", "judge", "slope"]

WARM_UP = 0.25
"""Fraction of the time in which buffers, caches and the allocator's arenas fill; it is not included."""

FEWEST = 20
"""Minimum number of memory samples after the warm-up for a meaningful slope."""

TRACED = 0.02
RSS = 0.05
"""Allowed relative growth of the memory, over the time after the warm-up.

Traced memory is Python's own, measured after a garbage collection. It varies with the messages waiting in mailboxes,
and with the number of connections that are down; a robust slope is hardly affected. In ten minutes of 2,000
connections a hundred bytes leaked by each lost connection, or two by each message, are about as much as the bound,
which is meant for leaks of that kind. Resident memory also includes fragmentation, and the buffers of C and the kernel,
so its bound is larger.
"""

OBJECTS = 0.1
"""Allowed number of remaining objects of a built-in type, for each connection; a leak of one each would be ten times
that.
"""

OURS = ("wsfleet.", "websockets.", "tools.soak.load.", "_asyncio.", "asyncio.", "uvloop.")
"""Types of which no object may be left, because each references a connection's worth of memory."""


@dataclass(frozen=True)
class Criterion:
    """One criterion. `holds` is None if the soak was too short to decide."""

    name: str
    holds: bool | None
    found: str
    wanted: str


@dataclass(frozen=True)
class End:
    """The fleet's stats at its end, and the counts of processors and loops: only numbers, without references."""

    balanced: bool
    processed: int
    failed: int
    pending: int
    handled: int
    asked: dict[str, int]

    @classmethod
    def of(cls, stats: FleetStats, handled: int, asked: dict[str, int]) -> End:
        rows = stats.subscriptions
        return cls(
            balanced=stats.balanced,
            processed=sum(row.processed for row in rows),
            failed=sum(row.failed for row in rows),
            pending=sum(row.pending for row in rows),
            handled=handled,
            asked=asked,
        )


def slope(at: Sequence[float], values: Sequence[float]) -> float:
    """Return the median of the slopes between all pairs of points (Theil 1950, Sen 1968).

    Outliers, fewer than 29 % of the points, do not move it.
    """
    return statistics.median(
        (values[j] - values[i]) / (at[j] - at[i]) for i in range(len(at)) for j in range(i + 1, len(at))
    )


def growth(at: Sequence[float], values: Sequence[float]) -> float | None:
    """Return the relative growth of a series after the warm-up; None if it is too short."""
    start = at[0] + WARM_UP * (at[-1] - at[0]) if at else 0.0
    judged = [(when, value) for when, value in zip(at, values, strict=True) if when >= start]
    if len(judged) < FEWEST:
        return None
    times, levels = zip(*judged, strict=True)
    return slope(times, levels) * (times[-1] - times[0]) / statistics.median(levels)


def judge(
    samples: Samples, end: End, log: Sequence[str], before: Counter[str], after: Counter[str], connections: int
) -> list[Criterion]:
    """Return all criteria, and whether they hold."""
    looks, wrong = len(samples.at), samples.unbalanced
    seen_wanted = f"{end.processed:,} processed, and up to {end.failed:,} failed"
    seen = end.processed <= end.handled <= end.processed + end.failed
    return [
        Criterion("The balance is exact at the end", end.balanced, str(end.balanced).lower(), "true"),
        Criterion(
            "The balance is exact in every sample", not wrong, f"{wrong} of {looks:,} samples were unbalanced", "0"
        ),
        Criterion("Nothing is pending at the end", not end.pending, f"{end.pending:,}", "0"),
        Criterion("Processors and loops got the counted messages", seen, f"{end.handled:,} seen", seen_wanted),
        Criterion("The log contains no fault of wsfleet itself", not log, "; ".join(log[:3]) or "none", "none"),
        _flat("traced memory does not grow", samples, samples.traced, TRACED),
        _flat("resident memory does not grow", samples, samples.rss, RSS),
        _objects("No object of wsfleet, websockets or asyncio is left", _left(before, after, ours=True), 0),
        _objects(
            "The number of other objects is the same as before",
            _left(before, after, ours=False),
            max(50, round(OBJECTS * connections)),
        ),
    ]


def _flat(name: str, samples: Samples, values: Sequence[float], most: float) -> Criterion:
    found = growth(samples.weighed_at, values)
    wanted = f"at most +{most:.0%} over the time after the warm-up (Theil-Sen)"
    if found is None:
        return Criterion(name, None, f"too short: requires {FEWEST} samples after the warm-up", wanted)
    return Criterion(name, found <= most, f"{found:+.2%}", wanted)


def _left(before: Counter[str], after: Counter[str], *, ours: bool) -> Counter[str]:
    return Counter({name: n for name, n in (after - before).items() if name.startswith(OURS) == ours})


def _objects(name: str, left: Counter[str], most: int) -> Criterion:
    too_many = [(kind, count) for kind, count in left.most_common() if count > most]
    shown = ", ".join(f"{count:,} {kind}" for kind, count in (too_many or left.most_common(3))[:10])
    return Criterion(name, not too_many, shown or "none more", f"at most {most:,} more of each type")
