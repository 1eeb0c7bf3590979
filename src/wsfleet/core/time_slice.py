"""Limits for the work in one iteration of the event loop.

Long work is divided into slices of time, with an iteration of the loop between two slices. Hot paths read the clock
themselves and import only `SLICE_S`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from typing import TypeVar

__all__ = ["CHUNK", "READ_BYTES", "SLICE_S", "TimeSlice", "in_slices"]

T = TypeVar("T")

SLICE_S = 0.001
"""Maximum time, in seconds, that a callback or task runs before it yields to the loop: well below the promised 2 ms."""

READ_BYTES = 2**16
"""Maximum size of one socket read, and therefore of one batch, in bytes."""

CHUNK = 100
"""Default number of items that `in_slices` yields together."""


class TimeSlice:
    """The time that a task may use in this iteration of the loop. It starts when the object is created."""

    __slots__ = ("_until",)

    def __init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        """Start a new slice, after an iteration of the loop."""
        self._until = time.perf_counter() + SLICE_S

    def expired(self) -> bool:
        """Return whether the slice is used up."""
        return time.perf_counter() > self._until

    async def yield_to_loop(self) -> None:
        """Let the loop run one iteration, and start a new slice. Safe to cancel."""
        await asyncio.sleep(0)
        self.restart()


async def in_slices(items: Sequence[T], most: int = CHUNK) -> AsyncIterator[Sequence[T]]:
    """Yield `items` in sequences of at most `most`, with an iteration of the loop after each slice of time."""
    time_slice = TimeSlice()
    for start in range(0, len(items), most):
        if time_slice.expired():
            await time_slice.yield_to_loop()
        yield items[start : start + most]
