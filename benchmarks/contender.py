"""Runs one contender against a feed, in its own process.

    python -m benchmarks.contender NAME URI LOAD [AUTHORITY]

LOAD is a `Load` as JSON. A contender is a module in `peers` with `async def run(target, meter)`: open the connections,
pass every message to one of the meter's functions, await `meter.flow(begin)`, where `begin` sends one message over one
of the connections, and close. "open" is printed when all are; then, for every line of stdin, the feed sends once, and
the cost is printed as JSON.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import resource
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any

import uvloop

from benchmarks.scenarios import Load, Target

TIMEOUT_S = 120.0


class Meter:
    """Counts messages, and the CPU time from the message that starts their flow to the last one processed.

    `handle` takes a message's decoded data, `process` a wsfleet message; their work is the same, and just enough
    to prove that the message was decoded. `handle_now` is not a coroutine, `tally` only counts. They are closures,
    because an attribute of `self` costs more than the work does.
    """

    handle: Callable[[Any], Awaitable[None]]
    process: Callable[[Any], Awaitable[None]]
    handle_now: Callable[[Any], None]
    tally: Callable[[Any], Awaitable[None]]

    def __init__(self, expected: int) -> None:
        self.expected = expected
        self.handled = 0
        self._done = asyncio.Event()
        self._ended = 0.0
        self._count = self._total = 0
        count = total = 0

        def all_here() -> None:
            nonlocal count, total
            self.finish(count, total)
            count = total = 0

        async def handle(data: Any) -> None:
            nonlocal count, total
            total += data["size"]
            count += 1
            if count == expected:
                all_here()

        async def process(message: Any) -> None:
            nonlocal count, total
            total += message.data["size"]
            count += 1
            if count == expected:
                all_here()

        def handle_now(data: Any) -> None:
            nonlocal count, total
            total += data["size"]
            count += 1
            if count == expected:
                all_here()

        async def tally(message: Any) -> None:
            nonlocal count
            count += 1
            if count == expected:
                all_here()

        self.handle, self.process, self.handle_now, self.tally = handle, process, handle_now, tally

    def finish(self, count: int, total: int = 0) -> None:
        """Stop the clock: the expected number of messages has been handled."""
        self._ended = time.process_time()
        self._count, self._total = count, total
        self._done.set()

    async def flow(self, begin: Callable[[], Awaitable[None]]) -> None:
        """Let messages flow once for each line of stdin."""
        print("open", flush=True)
        while await asyncio.to_thread(sys.stdin.readline):
            self._done.clear()
            began = time.process_time()
            async with asyncio.timeout(TIMEOUT_S):
                await begin()
                await self._done.wait()
            self.handled += self._count
            print(json.dumps([self._count, self._total, self._ended - began]), flush=True)


def raise_open_files() -> None:
    """Raise this process's limit of sockets to the system's maximum."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


async def main(name: str, target: Target) -> None:
    meter = Meter(target.load.connections * target.load.messages)
    await importlib.import_module(f"benchmarks.peers.{name}").run(target, meter)


if __name__ == "__main__":
    raise_open_files()
    uvloop.run(main(sys.argv[1], Target(sys.argv[2], Load(**json.loads(sys.argv[3])), *sys.argv[4:])))
