"""Ends connections a few at a time: a server that goes takes thousands of them with it in the same moment."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable

__all__ = ["Losses"]

SLICE_S = 0.001
"""How long one callback may go on before the loop gets its turn: well below the 2 ms that wsfleet promises."""


class Losses:
    """What is to be done about sockets that are gone, in the order of their going. One for a transport."""

    def __init__(self) -> None:
        self._waiting: deque[Callable[[], None]] = deque()
        self._scheduled = False

    def soon(self, callback: Callable[[], None]) -> None:
        """Call `callback` in a later turn of the running loop: the next one, unless there are many before it."""
        self._waiting.append(callback)
        self._schedule()

    def _schedule(self) -> None:
        if self._waiting and not self._scheduled:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._run)

    def _run(self) -> None:
        self._scheduled = False
        until = time.perf_counter() + SLICE_S
        try:
            while self._waiting and time.perf_counter() <= until:
                self._waiting.popleft()()
        finally:
            self._schedule()
