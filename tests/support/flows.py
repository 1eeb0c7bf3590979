"""Helpers for tests of the messages' path: messages, sources that can be paused, iterations of the loop."""

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
    """A message that did not come over a socket."""
    return Message(number, topic, size=size)


class Tap:
    """A source that mailboxes can pause, and that counts the pauses."""

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
        assert mailbox in self.paused_by, "reported as overfull, but not full"
        self.overfull_by.append(mailbox)

    def release(self, mailbox: Mailbox) -> None:
        self.paused_by.remove(mailbox)
        self.log.append(self.name)


class Reports:
    """Replaces the hub of a mailbox: records each report that it became full."""

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
    """Run all callbacks that are ready, and those that they schedule."""
    for _ in range(count):
        await asyncio.sleep(0)


async def until(condition: Callable[[], Any]) -> None:
    """Wait until `condition()` is true; the test's own timeout is the limit."""
    while not condition():
        await asyncio.sleep(0.001)


@asynccontextmanager
async def feeding(fleet: Fleet, transport: FakeTransport, name: str = "feed") -> AsyncIterator[FakeSocket]:
    """The running fleet, with the open socket of the endpoint `name`."""
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
    """The fleet's stats, which must balance."""
    stats = fleet.stats()
    assert stats.balanced, stats.to_dict()
    return stats


def keeper(seen: list[Any]) -> Callable[[Message[Any]], Awaitable[None]]:
    """A processor that records the data of its messages in `seen`."""

    async def keep(message: Message[Any]) -> None:
        seen.append(message.data)

    return keep


class Clock:
    """Replaces `time`: at each call, the specified time has passed."""

    def __init__(self, step_s: float) -> None:
        self.now = 0.0
        self.step_s = step_s

    def perf_counter(self) -> float:
        self.now += self.step_s
        return self.now


def burn(seconds: float) -> None:
    """Block the loop for this time, like code that awaits nothing."""
    until = time.perf_counter() + seconds
    while time.perf_counter() < until:
        pass


async def turns_while(work: Any) -> int:
    """The number of times another task ran while `work` continued without waiting."""
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
