"""Numbered messages: which of them arrived, which a fault destroyed, and which nobody can account for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

__all__ = ["Audit", "Trail", "audit"]


@dataclass
class Trail:
    """The numbers that went out over one connection, in their order."""

    path: str = ""
    numbers: list[int] = field(default_factory=list)
    destroyed: bool = False
    """Whether the connection ended in a way that may take along what was on its way."""


@dataclass(frozen=True, slots=True)
class Audit:
    """What became of the numbers of `FeedServer.send_numbered`.

    `arrived` counts the different numbers that were seen. `destroyed` are those that a fault may have taken along: at
    the end of a connection that was cut, or that the client ended, and after the last number that was seen of it.
    `lost` are all others that were not seen: no fault explains these. `repeated` were seen more than once, `unknown`
    were never sent.
    """

    sent: int
    arrived: int
    destroyed: tuple[int, ...]
    lost: tuple[int, ...]
    repeated: tuple[int, ...]
    unknown: tuple[int, ...]

    @property
    def clean(self) -> bool:
        """Whether there is no loss beyond what faults destroyed, and nothing came twice or from nowhere."""
        return not (self.lost or self.repeated or self.unknown)


def audit(trails: Sequence[Trail], seen: Iterable[int]) -> Audit:
    """Compare what was sent with what was seen; see `FeedServer.audit`."""
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
