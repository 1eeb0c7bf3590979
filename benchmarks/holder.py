"""A client that holds many connections, in its own process, and reports their cost.

    python -m benchmarks.holder KIND COUNT URI...

KIND is "fleet", wsfleet with one processor for all; "fleet-own", with a processor for each; or "websockets", one reader
task for each, and its pings. Each line of stdin is answered by a line of JSON: `open` connects to the URIs in turn,
`count` returns tasks and messages, `cost` the CPU time so far, and the memory after a garbage collection. At the end of
stdin it ends.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import subprocess
import sys
import time
from contextlib import AsyncExitStack
from typing import Any, Protocol

import uvloop
from websockets.asyncio.client import ClientConnection, connect

from wsfleet import Fleet, Limits, Liveness, Message

PING_S = 20.0
HANDSHAKES = Limits().handshakes


def resident_bytes() -> int:
    """Return this process's current memory."""
    if sys.platform == "linux":
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    asked = subprocess.run(["ps", "-o", "rss=", "-p", str(os.getpid())], capture_output=True, check=True, text=True)  # noqa: S607
    return int(asked.stdout) * 1024


class Holder(Protocol):
    """One way to hold connections."""

    received: int

    async def open(self, uris: list[str], stack: AsyncExitStack) -> None:
        """Connect to each URI, and return when all are open; leaving `stack` closes them."""


class FleetHolder:
    """wsfleet with its defaults. With `own`, each connection has a processor, and so a second task."""

    def __init__(self, own: bool) -> None:
        self.received = 0
        self._own = own

    async def open(self, uris: list[str], stack: AsyncExitStack) -> None:
        fleet = Fleet(drain_s=1.0)

        async def take(message: Message[str]) -> None:
            self.received += 1

        if not self._own:
            fleet.process("*")(take)
        liveness = Liveness(ping_s=PING_S)
        for number, uri in enumerate(uris):
            fleet.connect(uri, take if self._own else None, name=f"feed-{number}", liveness=liveness)
        await stack.enter_async_context(fleet)
        for connection in list(fleet.connections.values()):
            await connection.wait_open()


class WebsocketsHolder:
    """`websockets` and a hand-written program: as many concurrent handshakes as with wsfleet."""

    def __init__(self) -> None:
        self.received = 0

    async def open(self, uris: list[str], stack: AsyncExitStack) -> None:
        tasks = await stack.enter_async_context(asyncio.TaskGroup())
        handshakes = asyncio.Semaphore(HANDSHAKES)

        async def opened(uri: str) -> ClientConnection:
            async with handshakes:
                return await connect(uri, compression=None, ping_interval=PING_S, ping_timeout=PING_S)

        for opening in [tasks.create_task(opened(uri)) for uri in uris]:
            tasks.create_task(self._read(await opening))

    async def _read(self, connection: ClientConnection) -> None:
        async for _ in connection:
            self.received += 1


class Costs:
    """The resources used by this process, without those of the measurement."""

    def __init__(self) -> None:
        self._looking_s = 0.0

    def look(self) -> dict[str, float]:
        began = time.process_time()
        gc.collect()
        rss = resident_bytes()
        cpu_s = began - self._looking_s
        self._looking_s += time.process_time() - began
        return {"rss": rss, "cpu_s": cpu_s}


async def main(kind: str, count: int, uris: list[str]) -> None:
    holder: Holder = WebsocketsHolder() if kind == "websockets" else FleetHolder(own=kind == "fleet-own")
    costs = Costs()
    async with AsyncExitStack() as stack:
        while line := await asyncio.to_thread(sys.stdin.readline):
            answer: dict[str, Any] = {}
            if line == "open\n":
                began = time.monotonic()
                await holder.open([uris[number % len(uris)] for number in range(count)], stack)
                answer = {"seconds": time.monotonic() - began}
            elif line == "count\n":
                answer = {"tasks": len(asyncio.all_tasks()), "received": holder.received}
            elif line == "cost\n":
                answer = costs.look()
            print(json.dumps(answer), flush=True)
        os._exit(0)  # the parent has all results, and closing thousands of connections one by one is not measured


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1], int(sys.argv[2]), sys.argv[3:]))
