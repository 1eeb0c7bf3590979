"""The cost of sending a message, of a request with its reply, and of opening a connection, beside other libraries.

    python -m benchmarks.exchange

All run in one process, in turn, round after round, each with connections of its own to a server in another process.
Only the client's CPU time is measured. `send` awaits `send` for texts of 128 bytes. `rpc` has 64 JSON-RPC requests
under way on one connection, with a time limit for each; other libraries need a table of futures and a reading task for
that. `open` opens and closes connections, 50 at a time.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib
import itertools
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from statistics import median
from typing import Any

import msgspec
import uvloop
from websockets.asyncio.client import connect

from benchmarks.figures import Figure, Part, write
from benchmarks.talk import Child
from wsfleet import Fleet

PART = Part(
    "exchange",
    "sending, requests and opening, beside other libraries",
    pair_s=6.0,
    pairs=9,
    quick="--pairs 1 --count 64",
)

GOALS = {
    "send": {"websockets": 2.5, "aiohttp": 1.2, "picows.websockets": 0.9},
    "rpc": {"websockets": 1.6, "aiohttp": 0.9, "picows.websockets": 0.8},
    "open": {"websockets": 1.0, "aiohttp": 0.8, "picows.websockets": 1.0},
}
"""The minimum ratios of the cost of another library to that of wsfleet."""

UNDER_WAY = 64
OPENING = 50
TEXT = "x" * 128
REQUEST = {"method": "sum", "params": [1, 2]}

Send = Callable[[str], Awaitable[Any]]
Ask = Callable[[], Awaitable[Any]]


class Requests:
    """Request and reply by hand, on a connection of another library."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._waiting: dict[int, asyncio.Future[Any]] = {}
        self._ids = itertools.count(1)

    async def ask(self) -> Any:
        number = next(self._ids)
        reply = self._waiting[number] = asyncio.get_running_loop().create_future()
        await self._send(msgspec.json.encode({"jsonrpc": "2.0", **REQUEST, "id": number}).decode())
        async with asyncio.timeout(10.0):
            return await reply

    def take(self, message: str | bytes) -> None:
        data = msgspec.json.decode(message)
        reply = self._waiting.pop(data["id"], None)
        if reply is not None and not reply.done():
            reply.set_result(data)


class Library:
    """How one library connects, sends and receives."""

    @asynccontextmanager
    async def sending(self, uri: str) -> AsyncIterator[Send]:
        """A connection, as the function that sends a text."""
        raise NotImplementedError
        yield

    @asynccontextmanager
    async def asking(self, uri: str) -> AsyncIterator[Ask]:
        """A connection, as a function that sends a request and returns its reply."""
        raise NotImplementedError
        yield

    async def open_and_close(self, uri: str, count: int) -> None:
        """Open `count` connections, and close them."""
        async with AsyncExitStack() as stack:
            await asyncio.gather(*(stack.enter_async_context(self.sending(uri)) for _ in range(count)))


class WsFleet(Library):
    @asynccontextmanager
    async def sending(self, uri: str) -> AsyncIterator[Send]:
        async with Fleet() as fleet:
            connection = fleet.connect(uri)
            await connection.wait_open()
            yield connection.send

    @asynccontextmanager
    async def asking(self, uri: str) -> AsyncIterator[Ask]:
        async with Fleet() as fleet:
            pool = fleet.pool(uri, 1)
            await pool.wait_open()
            yield lambda: pool.request(REQUEST)

    async def open_and_close(self, uri: str, count: int) -> None:
        async with Fleet() as fleet:
            connections = [fleet.connect(uri) for _ in range(count)]
            for connection in connections:
                await connection.wait_open()


class WebSockets(Library):
    """`websockets`, and `picows.websockets`, which has the same interface."""

    def __init__(self, connect: Callable[..., Any]) -> None:
        self._connect = connect

    @asynccontextmanager
    async def sending(self, uri: str) -> AsyncIterator[Send]:
        async with self._connect(uri, compression=None) as connection:
            yield connection.send

    @asynccontextmanager
    async def asking(self, uri: str) -> AsyncIterator[Ask]:
        async with self._connect(uri, compression=None) as connection:
            requests = Requests(connection.send)

            async def read() -> None:
                async for message in connection:
                    requests.take(message)

            reading = asyncio.create_task(read())
            yield requests.ask
            reading.cancel()
            await asyncio.wait([reading])


class Aiohttp(Library):
    def __init__(self, aiohttp: Any) -> None:
        self._aiohttp = aiohttp

    @asynccontextmanager
    async def sending(self, uri: str) -> AsyncIterator[Send]:
        async with self._aiohttp.ClientSession() as session, session.ws_connect(uri) as connection:
            yield connection.send_str

    @asynccontextmanager
    async def asking(self, uri: str) -> AsyncIterator[Ask]:
        async with self._aiohttp.ClientSession() as session, session.ws_connect(uri) as connection:
            requests = Requests(connection.send_str)

            async def read() -> None:
                async for message in connection:
                    requests.take(message.data)

            reading = asyncio.create_task(read())
            yield requests.ask
            reading.cancel()
            await asyncio.wait([reading])

    async def open_and_close(self, uri: str, count: int) -> None:
        unlimited = self._aiohttp.TCPConnector(limit=0)
        async with self._aiohttp.ClientSession(connector=unlimited) as session:
            opened = await asyncio.gather(*(session.ws_connect(uri) for _ in range(count)))
            for connection in opened:
                await connection.close()


def libraries() -> dict[str, Library]:
    """Return the libraries that are installed, by name. The others are named on standard error."""
    found: dict[str, Library] = {"wsfleet": WsFleet(), "websockets": WebSockets(connect)}
    for name in ("aiohttp", "picows.websockets"):
        try:
            module = importlib.import_module(name)
        except ImportError:
            print(f"{name} is not installed; left out", file=sys.stderr)
            continue
        found[name] = Aiohttp(module) if name == "aiohttp" else WebSockets(module.connect)
    return found


async def send(library: Library, uri: str, count: int) -> float:
    """Return the CPU time, in seconds, of sending one message."""
    async with library.sending(f"{uri}/drop") as call:
        begin = time.process_time()
        for _ in range(count):
            await call(TEXT)
        return (time.process_time() - begin) / count


async def rpc(library: Library, uri: str, count: int) -> float:
    """Return the CPU time, in seconds, of one request with its reply."""
    async with library.asking(uri) as ask:

        async def several() -> None:
            for _ in range(count // UNDER_WAY):
                reply = await ask()
                assert reply["result"] == REQUEST["params"]

        begin = time.process_time()
        await asyncio.gather(*(several() for _ in range(UNDER_WAY)))
        return (time.process_time() - begin) / (count // UNDER_WAY * UNDER_WAY)


async def open_(library: Library, uri: str, count: int) -> float:
    """Return the CPU time, in seconds, of opening and closing one connection."""
    rounds = max(1, count // 40 // OPENING)
    begin = time.process_time()
    for _ in range(rounds):
        await library.open_and_close(f"{uri}/drop", OPENING)
    return (time.process_time() - begin) / (rounds * OPENING)


LOADS = {"send": send, "rpc": rpc, "open": open_}


def figures(data: Mapping[str, Any]) -> list[Figure]:
    return [
        Figure(f"{library}, {load}", "wsfleet", row["ratio"], GOALS[load].get(library))
        for load, rows in data["loads"].items()
        for library, row in rows.items()
        if library != "wsfleet"
    ]


def measure(uri: str, load: str, pairs: int, count: int) -> dict[str, Any]:
    """Return the median cost of each library, and the median of its ratios to that of wsfleet in the same round."""
    compared = libraries()
    costs: dict[str, list[float]] = {name: [] for name in compared}
    for _ in range(pairs):
        for name, library in compared.items():
            costs[name].append(uvloop.run(LOADS[load](library, uri, count)))
    return {
        name: {
            "us": median(found) * 1e6,
            "ratio": median(each / own for each, own in zip(found, costs["wsfleet"], strict=True)),
        }
        for name, found in costs.items()
    }


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.exchange", description=PART.about)
    parser.add_argument("--pairs", type=int, default=PART.pairs, metavar="N", help="rounds")
    parser.add_argument("--count", type=int, default=12_800, metavar="N", help="messages or requests in each round")
    parser.add_argument("--load", action="append", choices=LOADS, help="can be repeated (default: all)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures to this file")
    options = parser.parse_args(arguments)
    found: dict[str, dict[str, Any]] = {}
    with Child("echo") as server:
        uri = f"ws://127.0.0.1:{server.answer()}"
        for load in options.load or LOADS:
            found[load] = rows = measure(uri, load, options.pairs, options.count)
            print(f"{load}: CPU time each, median of {options.pairs} rounds")
            for name, row in rows.items():
                goal = GOALS[load].get(name)
                shown = "" if goal is None else f"  goal {goal}"
                print(f"  {name:18} {row['us']:8.2f} us  {row['ratio']:5.2f}{shown}", flush=True)
    data = {"rounds": options.pairs, "loads": found}
    write(options.json, figures(data), data)


if __name__ == "__main__":
    main()
