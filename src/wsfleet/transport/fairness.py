"""What thousands of sockets bring or lose in one moment, spread over turns of the event loop."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable

from wsfleet.core.time_slice import SLICE_S

__all__ = ["Turns"]

GAP_S = 0.000_02
"""Reads of one turn follow each other sooner than this. Where they do not, the loop has done something else."""


LOSS_S = 0.000_05
"""What the loss of a connection costs its supervisor, as soon as it is told: to explain it, and to wait for a while."""


class Turns:
    """Lets all connections of a transport together hand over for SLICE_S in each turn of the event loop.

    The loop calls whoever has something to read before anything else gets its turn, however many they are. What they
    bring would be decoded, and lie in memory, long before the first of it is processed.
    """

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._waiting: deque[Callable[[], None]] = deque()
        self._scheduled = False
        self._began = self._last = 0.0  # this turn's first read began; the last one was done
        self._marked = False
        self._until = 0.0

    def late(self) -> bool:
        """Tell whether reads have held this turn for SLICE_S; ask before each one, and call `done` after it."""
        now = time.perf_counter()
        if now - self._last > GAP_S:
            self._began = now
            return False
        if now - self._began < SLICE_S / 4:
            return False
        if not self._marked:
            # Turns may follow each other as fast. Where nothing else is called before the slice is over, it is one.
            self._marked = True
            self._in_loop().call_soon(self._turned)
        return now - self._began > SLICE_S

    def done(self) -> None:
        """A read has been handed over, or put off."""
        self._last = time.perf_counter()

    def soon(self, callback: Callable[[], None]) -> None:
        """Call `callback` in the loop's next turn, or, where many are before it, in a later one."""
        loop = self._in_loop()
        self._waiting.append(callback)
        if not self._scheduled:
            self._scheduled = True
            loop.call_soon(self._run)

    def spend(self, seconds: float) -> None:
        """Count what a callback has caused, and others will do, as time of this turn's slice."""
        self._until -= seconds

    def _in_loop(self) -> asyncio.AbstractEventLoop:
        loop = asyncio.get_running_loop()
        if loop is not self._loop:
            # The last one was closed, and what it had to do with it.
            self._loop = loop
            self._waiting.clear()
            self._scheduled = self._marked = False
        return loop

    def _turned(self) -> None:
        self._marked = False
        self._began = time.perf_counter()

    def _run(self) -> None:
        self._until = time.perf_counter() + SLICE_S
        try:
            for _ in range(len(self._waiting)):  # whoever comes back at once has its turn in the next one
                self._waiting.popleft()()
                if time.perf_counter() > self._until:
                    break
        finally:
            self._scheduled = bool(self._waiting)
            if self._scheduled:
                self._in_loop().call_soon(self._run)
