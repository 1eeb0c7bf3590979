"""A mailbox as an expert would write one for a loop of his own: a deque, handed over in batches, and bounded.

Whoever appends wakes the worker once for all that came since; the worker takes what there is without waiting.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any

BOUND = 1000

Decode = Callable[[bytes], Any]
Handle = Callable[[Any], Awaitable[None]]


class Batches:
    """What one connection has received and nobody handled yet. A reader appends to `waiting` and calls `wake`."""

    __slots__ = ("_news", "_room", "waiting")

    def __init__(self) -> None:
        self.waiting: deque[bytes] = deque()
        self._news = asyncio.Event()
        self._room = asyncio.Event()

    def wake(self) -> None:
        """Tell the worker that messages wait."""
        self._news.set()

    async def room(self) -> None:
        """Wait until the worker has handled half of what a full mailbox holds."""
        self._room.clear()
        await self._room.wait()

    async def work(self, decode: Decode, handle: Handle, resume: Callable[[], None] | None = None) -> None:
        """Give every message to `handle`, for ever; call `resume` where there is room again.

        What waits is decoded here and not before: it is smaller, and nothing for the garbage collector.
        """
        waiting, news, room = self.waiting, self._news, self._room
        take = waiting.popleft
        while True:
            await news.wait()
            news.clear()
            while waiting:
                for _ in range(min(len(waiting), BOUND // 2)):
                    await handle(decode(take()))
                if len(waiting) <= BOUND // 2:
                    room.set()
                    if resume is not None:
                        resume()
                await asyncio.sleep(0)
