"""A flood into each kind of processor: the results for its messages, and for the memory."""

import asyncio
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.support.flood import HEAD, flooding
from wsfleet import Buffer, Fleet, FleetStats, Message, Overflow

SIZE = 1000
WORK_S = 0.001
BUFFER_BYTES = 2**20
MESSAGES = 500
KEYS = 1000

MIB = 2**20

GROWTH = 16 * MIB
"""Allowed growth of the memory over the warm-up.

The buffer's bytes, about as much again for the envelopes, the reads and the sockets' buffers, and memory kept by
the allocator. A flood brings more than that in a second.
"""


def rss() -> int:
    """This process's resident memory in bytes."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096


def number(message: Message[str]) -> int:
    return int(message.data[:HEAD])


def _key(message: Message[str]) -> int:
    return number(message) % KEYS


@dataclass
class Kind:
    """One kind of processor with one kind of buffer."""

    overflow: Overflow
    threads: bool = False

    @property
    def name(self) -> str:
        return f"{self.overflow.value}{', def' if self.threads else ''}"

    @property
    def buffer(self) -> Buffer:
        key = _key if self.overflow is Overflow.LATEST else None
        return Buffer(messages=MESSAGES, bytes=BUFFER_BYTES, overflow=self.overflow, key=key)


@dataclass
class Outcome:
    """The result of a flood."""

    kind: Kind
    stats: FleetStats
    seen: int
    out_of_order: int
    rss_start: int
    rss_max: int
    rss_end: int

    def faults(self) -> list[str]:
        """Deviations from the expected result."""
        stats, found = self.stats, []
        endpoint, row = stats.endpoints[0], stats.subscriptions[0]
        if not stats.balanced:
            found.append("the counts do not balance")
        if endpoint.received != endpoint.published or endpoint.published != row.offered + stats.hub.unrouted:
            found.append("some received messages were neither offered nor unrouted")
        # A call that was cancelled at the end of the fleet was seen, and failed.
        if not row.processed <= self.seen <= row.processed + row.failed or row.failed > 1:
            found.append(f"{self.seen} were seen, {row.processed} processed, {row.failed} failed")
        if self.out_of_order:
            found.append(f"{self.out_of_order} were out of order")
        if self.kind.overflow is Overflow.PAUSE and not endpoint.paused_s:
            found.append("the endpoint was never paused")
        if self.rss_max - self.rss_start > GROWTH:
            found.append(f"the memory grew by {(self.rss_max - self.rss_start) / MIB:.1f} MiB")
        return found


@dataclass
class Seen:
    """Counts the messages of a processor, and checks their order: for LATEST, of each key."""

    count: int = 0
    out_of_order: int = 0
    last: dict[int, int] = field(default_factory=dict)
    by_key: bool = False
    all_of_them: bool = False

    def __call__(self, message: Message[str]) -> None:
        n = number(message)
        key = n % KEYS if self.by_key else 0
        last = self.last.get(key, 0)
        self.out_of_order += n != last + 1 if self.all_of_them else n <= last
        self.last[key] = n
        self.count += 1


async def soak(kind: Kind, seconds: float) -> Outcome:
    """Let a server send at full speed for this time, to a processor that needs a millisecond for each message."""
    seen = Seen(by_key=kind.overflow is Overflow.LATEST, all_of_them=kind.overflow is Overflow.PAUSE)

    def work(message: Message[str]) -> None:
        seen(message)
        time.sleep(WORK_S)

    async def work_async(message: Message[str]) -> None:
        seen(message)
        await asyncio.sleep(WORK_S)

    fleet = Fleet(drain_s=0)
    processor: Any = work if kind.threads else work_async
    async with flooding(SIZE) as flood:
        async with fleet:
            connection = fleet.connect(flood.uri, processor, name="feed", buffer=kind.buffer)
            while connection.stats().received < 2 * MESSAGES:
                await asyncio.sleep(0.01)
            start = most = rss()
            until = time.monotonic() + seconds
            while time.monotonic() < until:
                await asyncio.sleep(0.02)
                most = max(most, rss())
                assert fleet.stats().balanced, fleet.stats().to_dict()
        return Outcome(kind, fleet.stats(), seen.count, seen.out_of_order, start, most, rss())
