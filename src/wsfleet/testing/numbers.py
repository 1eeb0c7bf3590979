"""Numbered messages: which arrived, which a fault destroyed, and which were lost for no known reason."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

__all__ = ["Audit", "Trail", "audit"]


@dataclass
class Trail:
    """The numbers that were sent over one connection, in order."""

    path: str = ""
    numbers: list[int] = field(default_factory=list)
    destroyed: bool = False
    """Whether messages in transit may have been lost at the end of the connection."""


@dataclass(frozen=True, slots=True)
class Audit:
    """The result of `FeedServer.audit` for the numbers of `FeedServer.send_numbered`.

    `arrived` is the number of different numbers that were seen. `destroyed` lists missing numbers that a fault
    explains: they follow the last seen number of a connection that was cut or that the client ended. `lost` lists all
    other missing numbers. `repeated` were seen more than once. `unknown` were seen but never sent.
    """

    sent: int
    arrived: int
    destroyed: tuple[int, ...]
    lost: tuple[int, ...]
    repeated: tuple[int, ...]
    unknown: tuple[int, ...]

    @property
    def clean(self) -> bool:
        """Whether there are no lost, repeated and unknown numbers."""
        return not (self.lost or self.repeated or self.unknown)


def audit(trails: Sequence[Trail], seen: Iterable[int]) -> Audit:
    """Compare the sent numbers with the seen ones; see `FeedServer.audit`."""
    counts = Counter(seen)
    sent = {number for trail in trails for number in trail.numbers}
    destroyed: set[int] = set()
    for trail in trails:
        if trail.destroyed:
            last = max((number for number in trail.numbers if number in counts), default=0)
            destroyed.update(number for number in trail.numbers if number > last)
    destroyed -= counts.keys()
    return Audit(
        sent=len(sent),
        arrived=len(sent & counts.keys()),
        destroyed=tuple(sorted(destroyed)),
        lost=tuple(sorted(sent - counts.keys() - destroyed)),
        repeated=tuple(sorted(number for number, times in counts.items() if times > 1)),
        unknown=tuple(sorted(counts.keys() - sent)),
    )
