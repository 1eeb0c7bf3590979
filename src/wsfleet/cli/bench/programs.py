"""The programs that `wsfleet bench` compares: three ways to pass a message to the same `async` function."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

import msgspec
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from wsfleet.cli.bench.peer import payloads
from wsfleet.core.options import Endpoint
from wsfleet.endpoint.envelopes import envelopes
from wsfleet.fleet.fleet import Fleet

__all__ = ["PROGRAMS", "Load", "Turn"]

FIRST_S = 10.0
"""Time limit for the first message, in seconds."""


@dataclass(frozen=True, slots=True)
class Load:
    """The load of every program: connections, message size in bytes, and duration of a turn in seconds."""

    port: int
    connections: int
    size: int
    turn_s: float

    @property
    def uri(self) -> str:
        """The server's URI."""
        return f"ws://127.0.0.1:{self.port}"


@dataclass(frozen=True, slots=True)
class Turn:
    """The result of one turn of a program."""

    messages: int
    cpu_s: float


class _Meter:
    """Counts messages and the CPU time of this process.

    `handle` takes the decoded data, `process` a `Message` of wsfleet. They are closures, because access to attributes
    of `self` would cost more than their work.
    """

    handle: Callable[[Any], Awaitable[None]]
    process: Callable[[Any], Awaitable[None]]
    count: Callable[[], int]

    def __init__(self) -> None:
        count = total = 0

        async def handle(data: Any) -> None:
            nonlocal count, total
            total += data["id"]
            count += 1

        async def process(message: Any) -> None:
            nonlocal count, total
            total += message.data["id"]
            count += 1

        self.handle, self.process, self.count = handle, process, lambda: count
        self.restart()

    def restart(self) -> None:
        """Restart the measurement of CPU time, to exclude the cost of connecting."""
        self._began = time.process_time()

    async def turn(self, seconds: float) -> Turn:
        """Measure for `seconds`, or until the first message if that takes longer."""
        await asyncio.sleep(seconds)
        async with asyncio.timeout(FIRST_S):
            while not self.count():  # noqa: ASYNC110 - setting an event would add to the cost of each message
                await asyncio.sleep(seconds / 10)
        return self.ended()

    def ended(self) -> Turn:
        return Turn(self.count(), time.process_time() - self._began)


async def bare(load: Load) -> Turn:
    """Run one loop per connection on websockets, which decodes each message and awaits the function."""
    decode = msgspec.json.Decoder().decode

    async def read(socket: ClientConnection, handle: Callable[[Any], Awaitable[None]]) -> None:
        try:
            await socket.send("go")
            while True:
                await handle(decode(await socket.recv(decode=False)))
        except ConnectionClosed:
            pass

    async with AsyncExitStack() as stack, asyncio.TaskGroup() as tasks:
        sockets = [
            await stack.enter_async_context(connect(load.uri, compression=None, proxy=None))
            for _ in range(load.connections)
        ]
        meter = _Meter()
        for socket in sockets:
            tasks.create_task(read(socket, meter.handle))
        turn = await meter.turn(load.turn_s)
        for socket in sockets:
            socket.transport.abort()  # a close would first read all data that the server has written
    return turn


async def fleet(load: Load) -> Turn:
    """Run wsfleet with default options and the function as processor. Raises RuntimeError if it is not balanced."""
    async with Fleet(name="bench") as running:
        meter = _Meter()
        connections = [
            running.connect(Endpoint(load.uri, name=f"feed-{number}", decode="json", proxy=False), meter.process)
            for number in range(load.connections)
        ]
        for connection in connections:
            await connection.wait_open()
        meter.restart()
        for connection in connections:
            await connection.send("go")
        turn = await meter.turn(load.turn_s)
    if not running.stats().balanced:
        raise RuntimeError("the balance does not hold")
    return turn


async def ceiling(load: Load) -> Turn:
    """Decode messages from memory, create `Message` objects and await the function: the upper bound of the rate."""
    decode = msgspec.json.Decoder().decode
    read: list[str | bytes] = list(payloads(load.size))
    until = time.monotonic() + load.turn_s
    meter = _Meter()
    process = meter.process
    while not meter.count() or time.monotonic() < until:
        messages, _ = envelopes(read, decode, "feed", "feed", meter.count() + 1, 1, time.time())
        for message in messages:
            await process(message)
    return meter.ended()


PROGRAMS: dict[str, Callable[[Load], Awaitable[Turn]]] = {"bare": bare, "wsfleet": fleet, "ceiling": ceiling}
"""In the order of their turns."""
