"""What the tests of the messages' way share: messages, something that can be paused, turns of the loop."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from wsfleet import Buffer, Fleet, FleetStats, Message, Overflow
from wsfleet.pipeline.mailbox import Mailbox
from wsfleet.testing import FakeSocket, FakeTransport

DROP_OLDEST = Overflow.DROP_OLDEST


def from_socket(index: int, size: int = 1, topic: str = "feed") -> Message[int]:
    """A message that came over a socket."""
    return Message(index, topic, "feed", index, 1, 0.0, size)


def injected(number: int, size: int = 1, topic: str = "news") -> Message[int]:
    """A message behind which no socket stands."""
    return Message(number, topic, size=size)


class Tap:
    """A source that mailboxes can pause, and that remembers how often they did."""

    def __init__(self, name: str = "tap", log: list[str] | None = None) -> None:
        self.name = name
        self.paused_by: set[Mailbox] = set()
        self.holds = 0
        self.overfull_by: list[Mailbox] = []
        self.log = [] if log is None else log

    def hold(self, mailbox: Mailbox) -> None:
        assert mailbox not in self.paused_by, "paused twice by the same mailbox"
        self.paused_by.add(mailbox)
        self.holds += 1

    def overfull(self, mailbox: Mailbox) -> None:
        assert mailbox in self.paused_by, "overfull without being full"
        self.overfull_by.append(mailbox)

    def release(self, mailbox: Mailbox) -> None:
        self.paused_by.remove(mailbox)
        self.log.append(self.name)


class Reports:
    """Takes the place of the hub for a mailbox: remembers each time that it says it became full."""

    def __init__(self) -> None:
        self.pending: list[int] = []

    def __call__(self, mailbox: Mailbox, message: Message[Any]) -> None:
        self.pending.append(mailbox.pending)


def mailbox(
    messages: int = 1000,
    nbytes: int = 2**24,
    overflow: Overflow = Overflow.PAUSE,
    key: Callable[[Message[Any]], Any] | None = None,
) -> tuple[Mailbox, Reports]:
    reports = Reports()
    return Mailbox("box", ">", Buffer(messages, nbytes, overflow, key), reports), reports


def put(box: Mailbox, source: Tap, *messages: Message[Any]) -> None:
    box.put(list(messages), sum(message.size for message in messages), source)


def data(box: Mailbox) -> list[Any]:
    return [message.data for message in box.waiting]


async def turns(count: int = 3) -> None:
    """Let everything that is ready happen, and what follows from it."""
    for _ in range(count):
        await asyncio.sleep(0)


async def until(condition: Callable[[], Any]) -> None:
    """Wait until `condition()` is true; the test's own timeout is the limit."""
    while not condition():
        await asyncio.sleep(0.001)


@asynccontextmanager
async def feeding(fleet: Fleet, transport: FakeTransport, name: str = "feed") -> AsyncIterator[FakeSocket]:
    """The fleet running, with the socket of the endpoint `name` open."""
    async with fleet:
        yield await opened(fleet, transport, name)


async def opened(fleet: Fleet, transport: FakeTransport, name: str = "feed") -> FakeSocket:
    socket = await transport.accept(name)
    await fleet.connections[name].wait_open()
    return socket


def row(fleet: Fleet, name: str) -> Any:
    """The row of the subscription `name`."""
    return next(row for row in fleet.stats().subscriptions if row.name == name)


def endpoint_row(fleet: Fleet, name: str = "feed") -> Any:
    return next(row for row in fleet.stats().endpoints if row.name == name)


def balanced(fleet: Fleet) -> FleetStats:
    """The fleet's stats, which are in balance."""
    stats = fleet.stats()
    assert stats.balanced, stats.to_dict()
    return stats


def keeper(seen: list[Any]) -> Callable[[Message[Any]], Awaitable[None]]:
    """A processor that keeps the data of what it gets in `seen`."""

    async def keep(message: Message[Any]) -> None:
        seen.append(message.data)

    return keep


class Clock:
    """Stands in for `time`: each look at it finds that as much time has passed as the test says."""

    def __init__(self, step_s: float) -> None:
        self.now = 0.0
        self.step_s = step_s

    def perf_counter(self) -> float:
        self.now += self.step_s
        return self.now


def burn(seconds: float) -> None:
    """Keep the loop for so long, as work that waits for nothing does."""
    until = time.perf_counter() + seconds
    while time.perf_counter() < until:
        pass


async def turns_while(work: Any) -> int:
    """How many turns another task got while `work` went on without waiting for anything."""
    count = 0

    async def tick() -> None:
        nonlocal count
        while True:
            count += 1
            await asyncio.sleep(0)

    ticking = asyncio.create_task(tick())
    await asyncio.sleep(0)
    before = count
    await work
    after = count
    ticking.cancel()
    await asyncio.wait([ticking])
    return after - before
