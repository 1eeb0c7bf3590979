"""Distributes reads and losses of thousands of sockets over several iterations of the event loop."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable

from wsfleet.core.time_slice import SLICE_S

__all__ = ["ReadScheduler"]

GAP_S = 0.000_02
"""Reads in one iteration follow each other within this time, in seconds. After a longer gap, other code has run."""


LOSS_S = 0.000_05
"""Estimated time, in seconds, that a supervisor needs to handle the loss of a connection."""


class ReadScheduler:
    """Limits the delivery of all connections of a transport to SLICE_S per iteration of the event loop.

    In one iteration, the loop calls all protocols with readable sockets before other callbacks. Without this limit,
    all their messages would be decoded, and kept in memory, before the first one is processed.
    """

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._waiting: deque[Callable[[], None]] = deque()
        self._scheduled = False
        self._last = 0.0  # end of the last read
        self.until = 0.0
        """The end of the slice of this iteration's reads."""
        self._marked = False
        self._until = 0.0  # the end of the slice of `_run`

    def expired(self) -> bool:
        """Return whether reads have used up SLICE_S. Call this before each read, and `done` after it."""
        now = time.perf_counter()
        if now - self._last > GAP_S:
            self.until = now + SLICE_S
            return False
        if now < self.until - SLICE_S * 3 / 4:
            return False
        if not self._marked:
            # Iterations may follow each other within GAP_S too. A callback detects the next iteration.
            self._marked = True
            self._in_loop().call_soon(self._next_iteration)
        return now > self.until

    def done(self) -> None:
        """Record the end of a read, which was delivered or deferred."""
        self._last = time.perf_counter()

    def call_soon(self, callback: Callable[[], None]) -> None:
        """Call `callback` in the next iteration of the loop, or in a later one if many callbacks wait."""
        loop = self._in_loop()
        self._waiting.append(callback)
        if not self._scheduled:
            self._scheduled = True
            loop.call_soon(self._run)

    def spend(self, seconds: float) -> None:
        """Charge `seconds` to this iteration's slice, for work that a callback causes in other callbacks."""
        self._until -= seconds

    def _in_loop(self) -> asyncio.AbstractEventLoop:
        loop = asyncio.get_running_loop()
        if loop is not self._loop:
            # The previous loop has been closed with its callbacks.
            self._loop = loop
            self._waiting.clear()
            self._scheduled = self._marked = False
        return loop

    def _next_iteration(self) -> None:
        self._marked = False
        self.until = time.perf_counter() + SLICE_S

    def _run(self) -> None:
        self._until = time.perf_counter() + SLICE_S
        try:
            for _ in range(len(self._waiting)):  # callbacks added meanwhile run in the next iteration
                self._waiting.popleft()()
                if time.perf_counter() > self._until:
                    break
        finally:
            self._scheduled = bool(self._waiting)
            if self._scheduled:
                self._in_loop().call_soon(self._run)
