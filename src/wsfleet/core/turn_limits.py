"""How much may be done in one turn of the event loop.

Long work is done in slices of time, with a turn of the loop in between. The code that every message passes through
compares with the clock itself, and takes only `SLICE_S` from here.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from typing import TypeVar

__all__ = ["CHUNK", "READ_BYTES", "SLICE_S", "TimeSlice", "in_slices"]

T = TypeVar("T")

SLICE_S = 0.001
"""How long one callback or task may go on before the loop gets its turn: well below the 2 ms that wsfleet promises."""

READ_BYTES = 2**16
"""One read of a socket at most, and so one batch at most."""

CHUNK = 100
"""Items that `in_slices` yields at a time."""


class TimeSlice:
    """The time that a task has left in this turn of the loop; it begins when the object is made."""

    __slots__ = ("_until",)

    def __init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        """Begin a new slice: the loop has had its turn."""
        self._until = time.perf_counter() + SLICE_S

    def expired(self) -> bool:
        """Whether the time is up."""
        return time.perf_counter() > self._until

    async def next_turn(self) -> None:
        """Let the loop have its turn, and begin a new slice."""
        await asyncio.sleep(0)
        self.restart()


async def in_slices(items: Sequence[T], most: int = CHUNK) -> AsyncIterator[Sequence[T]]:
    """Yield `items`, at most so many at a time, with a turn of the loop whenever a slice of time is over."""
    time_slice = TimeSlice()
    for start in range(0, len(items), most):
        if time_slice.expired():
            await time_slice.next_turn()
        yield items[start : start + most]
