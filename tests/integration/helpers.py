"""Helpers of the integration tests."""

import asyncio
from collections import defaultdict
from collections.abc import Callable
from typing import Any

from wsfleet import Connection, Fleet, Message, Reconnect

# Short for tests; the bound still grows.
QUICK = Reconnect(initial_s=0.05, max_s=0.5)

# Time limit for events that must happen, not a measure of speed.
PATIENCE_S = 60.0


async def until(holds: Callable[[], Any], what: str) -> None:
    """Waits until `holds()`; fails with `what` after the time limit."""
    try:
        async with asyncio.timeout(PATIENCE_S):
            while not holds():
                await asyncio.sleep(0.01)
    except TimeoutError:
        raise AssertionError(f"waited in vain: {what}") from None


async def opened(connection: Connection) -> None:
    """Waits until the connection is open; raises what `wait_open` raises."""
    async with asyncio.timeout(PATIENCE_S):
        await connection.wait_open()


def endpoint(fleet: Fleet, name: str) -> Any:
    """The row of one endpoint, from a snapshot that must be balanced."""
    return _row(fleet, "endpoints", name)


def subscription(fleet: Fleet, name: str) -> Any:
    """The row of one subscription, from a snapshot that must be balanced."""
    return _row(fleet, "subscriptions", name)


def _row(fleet: Fleet, rows: str, name: str) -> Any:
    stats = fleet.stats()
    assert stats.balanced, stats
    (row,) = (row for row in getattr(stats, rows) if row.name == name)
    return row


class Numbers:
    """For a numbered feed: `take` is a processor that records the numbers of each session of each endpoint."""

    def __init__(self) -> None:
        self.seen: dict[tuple[str, int], list[int]] = defaultdict(list)

    async def take(self, message: Message[dict[str, Any]]) -> None:
        self.seen[message.endpoint, message.session].append(message.data["n"])

    def count(self, name: str, session: int = 1) -> int:
        return len(self.seen[name, session])

    def assert_no_holes(self) -> None:
        """In each session the numbers are consecutive, from the first one on."""
        for key, numbers in self.seen.items():
            assert not numbers or numbers == list(range(numbers[0], numbers[0] + len(numbers))), key
