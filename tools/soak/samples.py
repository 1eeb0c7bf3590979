"""The measurements during the soak: memory, objects, and the fleet's own stats."""

from __future__ import annotations

import gc
import logging
import os
import subprocess
import sys
import time
import tracemalloc
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from wsfleet import Fleet, Overflow, State

__all__ = ["OwnFaults", "Samples", "count_objects", "resident_bytes"]


def resident_bytes() -> int:
    """Return how much of the memory is this process's now."""
    if sys.platform == "linux":
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    asked = subprocess.run(["ps", "-o", "rss=", "-p", str(os.getpid())], capture_output=True, check=True, text=True)
    return int(asked.stdout) * 1024


def count_objects() -> Counter[str]:
    """Collect garbage, and count the objects that the garbage collector tracks, by type."""
    gc.collect()
    return Counter({_name(kind): count for kind, count in Counter(map(type, gc.get_objects())).items()})


def _name(kind: type) -> str:
    return kind.__name__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__name__}"


class OwnFaults(logging.Handler):
    """Collects log records about wsfleet's own faults, or unhandled exceptions."""

    TEXTS = ("the supervisor failed", "its worker failed")

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.found: list[str] = []

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Be the only handler: others may keep the records, and all that they reference."""
        loggers = [logging.getLogger(name) for name in ("wsfleet", "asyncio")]
        for logger in loggers:
            logger.addHandler(self)
            logger.propagate = False
        try:
            yield
        finally:
            for logger in loggers:
                logger.removeHandler(self)
                logger.propagate = True

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        if record.name == "asyncio" or any(fault in text for fault in self.TEXTS):
            self.found.append(text)


@dataclass
class Samples:
    """Series over time. `at` and the attributes of that kind belong together; so do `weighed_at` and the memory's."""

    at: list[float] = field(default_factory=list)
    states: dict[str, list[int]] = field(default_factory=lambda: {state.value: [] for state in State})
    received: list[int] = field(default_factory=list)
    losses: list[int] = field(default_factory=list)
    connects: list[int] = field(default_factory=list)
    pending: list[int] = field(default_factory=list)
    paused: list[int] = field(default_factory=list)
    dropped: dict[str, list[int]] = field(default_factory=lambda: {policy.value: [] for policy in Overflow})
    unbalanced: int = 0
    weighed_at: list[float] = field(default_factory=list)
    rss: list[int] = field(default_factory=list)
    traced: list[int] = field(default_factory=list)
    objects: dict[str, list[int]] = field(default_factory=dict)
    _began: float = field(default_factory=time.monotonic)

    def look(self, fleet: Fleet) -> None:
        """Record the fleet's stats."""
        stats = fleet.stats()
        self.at.append(time.monotonic() - self._began)
        self.unbalanced += not stats.balanced
        states = Counter(endpoint.state for endpoint in stats.endpoints)
        for state, series in self.states.items():
            series.append(states[state])
        self.received.append(sum(endpoint.received for endpoint in stats.endpoints))
        self.losses.append(sum(endpoint.losses for endpoint in stats.endpoints))
        self.connects.append(sum(endpoint.connects for endpoint in stats.endpoints))
        self.paused.append(sum(bool(endpoint.paused_by) for endpoint in stats.endpoints))
        self.pending.append(sum(row.pending for row in stats.subscriptions))
        for policy, dropped in self.dropped.items():
            dropped.append(sum(row.dropped for row in stats.subscriptions if row.overflow == policy))

    def weigh(self) -> None:
        """Record the memory after a garbage collection; without it, the garbage would dominate."""
        counts = count_objects()
        self.weighed_at.append(time.monotonic() - self._began)
        self.rss.append(resident_bytes())
        self.traced.append(tracemalloc.get_traced_memory()[0])
        for name, count in counts.most_common(TYPES):
            self.objects.setdefault(name, [0] * (len(self.weighed_at) - 1)).append(count)
        for name, series in self.objects.items():
            if len(series) < len(self.weighed_at):
                series.append(counts[name])


TYPES = 12
"""The types of objects whose counts are kept: those with the most."""
