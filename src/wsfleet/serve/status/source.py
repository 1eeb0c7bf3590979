"""What observers look at: a report, what is down, the last ten minutes, events. One for a page, metrics and screens."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from wsfleet.core.errors import ConfigError
from wsfleet.core.stats import Totals

__all__ = ["Down", "NoFile", "Report", "Sample", "Source"]

Report = dict[str, Any]
"""What `FleetStats.to_dict()` gives: the same for one fleet and for several workers' fleets."""


class NoFile(ConfigError):
    """There is no file that could be read again."""


class Down(NamedTuple):
    """What a row doesn't say of an endpoint that isn't OPEN; since when is in wall clock seconds."""

    since: float
    required: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample(Totals):
    """The totals of one second. Counters go on from the fleet's start: whoever wants a rate takes differences."""

    at: float


class Source(Protocol):
    """What is watched."""

    workers: int | None = None
    """How many processes it stands for; None where there is but this one."""

    dead: int = 0
    """Dead letters since it is watched."""

    async def start(self) -> None:
        """Begin to watch. Called by whoever serves it, in the loop, before anything else."""

    async def stop(self) -> None:
        """End watching. What was seen can still be asked for. Idempotent."""

    def report(self) -> Report:
        """Return everything that is counted, now."""
        ...

    async def snapshot(self) -> Report:
        """Return the same without holding the loop for long."""
        return self.report()

    async def down(self) -> Mapping[str, Down]:
        """Return since when each endpoint is down that isn't OPEN, by name."""
        ...

    def history(self) -> list[Sample]:
        """Return a sample for each of the last seconds, oldest first; at most ten minutes of them."""
        ...

    def events(self) -> AsyncIterator[dict[str, Any]]:
        """Watch what happens from this call on: `{"at", "topic", ...}`, plain data without secrets.

        Whoever does not keep up misses some, and gets a `$missed` with their `count`.
        """
        ...

    async def reload(self) -> list[str]:
        """Read the configuration again, and return what has changed, line by line.

        Raises ConfigError with every fault, and NoFile where there is nothing to read.
        """
        ...
