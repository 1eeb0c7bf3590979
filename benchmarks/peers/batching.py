"""A mailbox as an expert would write it for a loop: a deque, handed over in batches, and bounded.

A reader wakes the worker once for all messages since the last time; the worker takes them without waiting.
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
    """The unprocessed messages of one connection. A reader appends to `waiting` and calls `wake`."""

    __slots__ = ("_news", "_room", "waiting")

    def __init__(self) -> None:
        self.waiting: deque[bytes] = deque()
        self._news = asyncio.Event()
        self._room = asyncio.Event()

    def wake(self) -> None:
        """Wake the worker because messages wait."""
        self._news.set()

    async def room(self) -> None:
        """Wait until the worker has handled half of a full mailbox."""
        self._room.clear()
        await self._room.wait()

    async def work(self, decode: Decode, handle: Handle, resume: Callable[[], None] | None = None) -> None:
        """Pass every message to `handle`, for ever; call `resume` when there is room again.

        Messages are decoded here and not before: bytes are smaller, and are not tracked by the garbage collector.
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
