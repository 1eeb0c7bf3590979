"""Whether a soak went well: each criterion, what was found, and why its bound is where it is."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from tools.soak.samples import Samples
from wsfleet import FleetStats

__all__ = ["Criterion", "End", "growth", "judge", "slope"]

WARM_UP = 0.25
"""The share of the time in which buffers, caches and the allocator's arenas fill; it is not judged."""

FEWEST = 20
"""Samples of the memory after the warm-up, below which a slope says nothing."""

TRACED = 0.02
RSS = 0.05
"""How much of its level the memory may grow by, over all the time that is judged.

What is traced is Python's own, weighed after garbage was collected. It goes up and down with what waits in mailboxes,
and with how many connections are down at the moment; a robust slope sees little of that. In ten minutes of 2,000
connections a hundred bytes left behind by each lost connection, or two by each message, are about as much as the bound:
leaks of that kind are meant. What is resident also has the allocator's holes, and the buffers of C and the kernel, so
it may do more.
"""

OBJECTS = 0.1
"""How many objects of a type of Python's own may be left, for each connection: one at each would be ten times that."""

OURS = ("wsfleet.", "websockets.", "tools.soak.load.", "_asyncio.", "asyncio.", "uvloop.")
"""Of these types no object may be left: who holds one holds a connection's worth of memory."""


@dataclass(frozen=True)
class Criterion:
    """One thing that must hold. `holds` is None where the soak was too short to tell."""

    name: str
    holds: bool | None
    found: str
    wanted: str


@dataclass(frozen=True)
class End:
    """What the fleet said when it had ended, and what processors and loops had seen: numbers, which hold nothing."""

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
    """Return by what share of its median level a series grew after the warm-up; None where it is too short."""
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
        Criterion("The balance is exact at every look", not wrong, f"{wrong} of {looks:,} looks found none", "0"),
        Criterion("Nothing is pending at the end", not end.pending, f"{end.pending:,}", "0"),
        Criterion("Processors and loops saw what is counted", seen, f"{end.handled:,} seen", seen_wanted),
        Criterion("The log tells of no fault of wsfleet's own", not log, "; ".join(log[:3]) or "none", "none"),
        _flat("tracemalloc is flat", samples, samples.traced, TRACED),
        _flat("RSS is flat", samples, samples.rss, RSS),
        _objects("No object of wsfleet's, websockets' or asyncio's is left", _left(before, after, ours=True), 0),
        _objects(
            "Objects of other types are as many as before",
            _left(before, after, ours=False),
            max(50, round(OBJECTS * connections)),
        ),
    ]


def _flat(name: str, samples: Samples, values: Sequence[float], most: float) -> Criterion:
    found = growth(samples.weighed_at, values)
    wanted = f"at most +{most:.0%} over the time after the warm-up (Theil-Sen)"
    if found is None:
        return Criterion(name, None, f"too short to tell: needs {FEWEST} samples after the warm-up", wanted)
    return Criterion(name, found <= most, f"{found:+.2%}", wanted)


def _left(before: Counter[str], after: Counter[str], *, ours: bool) -> Counter[str]:
    return Counter({name: n for name, n in (after - before).items() if name.startswith(OURS) == ours})


def _objects(name: str, left: Counter[str], most: int) -> Criterion:
    too_many = [(kind, count) for kind, count in left.most_common() if count > most]
    shown = ", ".join(f"{count:,} {kind}" for kind, count in (too_many or left.most_common(3))[:10])
    return Criterion(name, not too_many, shown or "none more", f"at most {most:,} more of each type")
