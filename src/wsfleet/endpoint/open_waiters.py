"""The futures of callers that wait until an endpoint opens or ends."""

from __future__ import annotations

import asyncio

__all__ = ["OpenWaiters"]


class OpenWaiters:
    """Resolves its futures together. One future may wait for several endpoints."""

    __slots__ = ("_waiters",)

    def __init__(self) -> None:
        self._waiters: list[asyncio.Future[None]] = []

    def __len__(self) -> int:
        return len(self._waiters)

    def add(self, waiter: asyncio.Future[None]) -> None:
        """Resolve `waiter` at the next `wake`."""
        self._waiters = [each for each in self._waiters if not each.done()]
        self._waiters.append(waiter)

    async def wait(self) -> None:
        """Wait for the next `wake`. Safe to cancel."""
        waiter = asyncio.get_running_loop().create_future()
        self.add(waiter)
        try:
            await waiter
        finally:
            if waiter in self._waiters:
                self._waiters.remove(waiter)

    def wake(self) -> None:
        """Resolve all futures: the endpoint has opened or ended."""
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)
        self._waiters.clear()
