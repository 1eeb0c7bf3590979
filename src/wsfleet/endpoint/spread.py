"""Spreads attempts that could all begin now over a few seconds."""

from __future__ import annotations

__all__ = ["SPREAD_S", "Spread"]

SPREAD_S = 2.5
"""Time, in seconds, over which the attempts of a host begin after its pause or its outage."""

LONGEST_S = SPREAD_S / 20
"""The longest interval between two attempts, in seconds: less than twenty of them do not need the whole time."""

CATCH_UP_S = 0.1
"""Delays of the event loop up to this time, in seconds, do not move the later attempts."""


class Spread:
    """The times at which `count` attempts begin, from `now` on, at equal intervals."""

    __slots__ = ("_interval_s", "next_at")

    def __init__(self, now: float, count: int) -> None:
        self.next_at = now
        self._interval_s = min(LONGEST_S, SPREAD_S / max(count, 1))

    def begin(self, now: float) -> None:
        """Note that an attempt begins."""
        self.next_at = max(self.next_at, now - CATCH_UP_S) + self._interval_s
