"""The interface between a fleet and its observers: report, endpoints that are down, history, and events."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from wsfleet.core.errors import ConfigError
from wsfleet.core.stats import Totals
from wsfleet.serve.status.recent import Recent

__all__ = ["Down", "NoFile", "Report", "Sample", "Source"]

Report = dict[str, Any]
"""A result of `FleetStats.to_dict()`, for one fleet or merged from several workers."""


class NoFile(ConfigError):
    """The fleet has no configuration file to reload."""


class Down(NamedTuple):
    """Additional data of an endpoint that is not OPEN. Times are wall clock times in seconds.

    `next_at` is the time of the next attempt, of an endpoint in BACKOFF.
    """

    since: float
    required: bool
    next_at: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample(Totals):
    """The totals at the time `at`. Counters are totals since the fleet's start, so rates are their differences."""

    at: float


class Source(Protocol):
    """Supplies the data of one fleet."""

    workers: int | None = None
    """Number of worker processes, or None for a single process."""

    dead: int = 0
    """Number of dead letters since `start`."""

    recent: Recent
    """The endpoints' losses of the last minute."""

    async def start(self) -> None:
        """Start observing. Must be called in the loop before other methods."""

    async def stop(self) -> None:
        """Stop observing. Collected data stays available. Idempotent."""

    def report(self) -> Report:
        """Return a report of the current counts."""
        ...

    async def snapshot(self) -> Report:
        """Return a report without blocking the loop for long."""
        return self.report()

    async def down(self) -> Mapping[str, Down]:
        """Return a `Down` by name for each endpoint that is not OPEN."""
        ...

    def history(self) -> list[Sample]:
        """Return a sample for each of the last seconds, oldest first; at most ten minutes of them."""
        ...

    def events(self) -> AsyncIterator[dict[str, Any]]:
        """Return an iterator over the events from now on: `{"at", "topic", ...}`, plain data without secrets.

        A slow watcher misses events, and receives a `$missed` event with their `count`.
        """
        ...

    async def reload(self) -> list[str]:
        """Reload the configuration, and return a line for each change.

        Raises ConfigError with all faults, and NoFile if there is no configuration file.
        """
        ...
