"""What the integration tests share."""

import asyncio
from collections import defaultdict
from collections.abc import Callable
from typing import Any

from wsfleet import Connection, Fleet, Message, Reconnect

# Quick enough for tests; the bound still grows.
QUICK = Reconnect(initial_s=0.05, max_s=0.5)

# A bound on waiting for what must come, not on how soon.
PATIENCE_S = 60.0


async def until(holds: Callable[[], Any], what: str) -> None:
    """Waits until `holds()`; fails with `what` when it never does."""
    try:
        async with asyncio.timeout(PATIENCE_S):
            while not holds():
                await asyncio.sleep(0.01)
    except TimeoutError:
        raise AssertionError(f"waited in vain: {what}") from None


async def opened(connection: Connection) -> None:
    """Waits until the connection is open; raises what `wait_open` does."""
    async with asyncio.timeout(PATIENCE_S):
        await connection.wait_open()


def endpoint(fleet: Fleet, name: str) -> Any:
    """The row of one endpoint, out of a snapshot that must be balanced."""
    return _row(fleet, "endpoints", name)


def subscription(fleet: Fleet, name: str) -> Any:
    """The row of one subscription, out of a snapshot that must be balanced."""
    return _row(fleet, "subscriptions", name)


def _row(fleet: Fleet, rows: str, name: str) -> Any:
    stats = fleet.stats()
    assert stats.balanced, stats
    (row,) = (row for row in getattr(stats, rows) if row.name == name)
    return row


class Numbers:
    """Over a numbered feed: `take` is a processor that remembers what came in each session of each endpoint."""

    def __init__(self) -> None:
        self.seen: dict[tuple[str, int], list[int]] = defaultdict(list)

    async def take(self, message: Message[dict[str, Any]]) -> None:
        self.seen[message.endpoint, message.session].append(message.data["n"])

    def count(self, name: str, session: int = 1) -> int:
        return len(self.seen[name, session])

    def assert_no_holes(self) -> None:
        """In each session the numbers go up by one, from whichever came first."""
        for key, numbers in self.seen.items():
            assert not numbers or numbers == list(range(numbers[0], numbers[0] + len(numbers))), key
