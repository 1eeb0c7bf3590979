"""Runs one contender against a feed, in a process of its own, and prints what it cost as JSON.

    python -m benchmarks.contender NAME URI LOAD [AUTHORITY]

LOAD is a `Load` as JSON. A contender is a module in `peers` with `async def run(target, meter)`: open the connections,
call `meter.opened()`, send one word over one of them, which begins the flow on all, give every message to one of the
meter's functions, and close after `meter.done`.
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

TIMEOUT_S = 300.0


class Meter:
    """Counts messages, and the CPU time from the open connections to the last message processed.

    `handle` takes a message's decoded data, `process` a wsfleet message; their work is the same, and no more than
    keeps them honest. `handle_now` does it without being awaited, `tally` only counts. They are closures, because an
    attribute of `self` costs more than the work does.
    """

    handle: Callable[[Any], Awaitable[None]]
    process: Callable[[Any], Awaitable[None]]
    handle_now: Callable[[Any], None]
    tally: Callable[[Any], Awaitable[None]]
    result: Callable[[], dict[str, float]]

    def __init__(self, expected: int) -> None:
        self.expected = expected
        self.done = asyncio.Event()
        self.began = self.ended = 0.0
        count = total = 0

        async def handle(data: Any) -> None:
            nonlocal count, total
            total += data["size"]
            count += 1
            if count == expected:
                self.finish()

        async def process(message: Any) -> None:
            nonlocal count, total
            total += message.data["size"]
            count += 1
            if count == expected:
                self.finish()

        def handle_now(data: Any) -> None:
            nonlocal count, total
            total += data["size"]
            count += 1
            if count == expected:
                self.finish()

        async def tally(message: Any) -> None:
            nonlocal count
            count += 1
            if count == expected:
                self.finish()

        self.handle, self.process, self.handle_now, self.tally = handle, process, handle_now, tally
        self.result = lambda: {"count": count, "total": total, "cpu_s": self.ended - self.began}

    def opened(self) -> None:
        self.began = time.process_time()

    def finish(self, count: int | None = None) -> None:
        """Stop the clock; `count` is what a contender found that counts by itself."""
        self.ended = time.process_time()
        self.done.set()
        if count is not None:
            self.result = lambda: {"count": count, "total": 0, "cpu_s": self.ended - self.began}


def raise_open_files() -> None:
    """Let this process have as many sockets as the system allows it."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


async def main(name: str, target: Target) -> None:
    meter = Meter(target.load.connections * target.load.messages)
    contender = importlib.import_module(f"benchmarks.peers.{name}")
    async with asyncio.timeout(TIMEOUT_S):
        await contender.run(target, meter)
    print(json.dumps(meter.result()))


if __name__ == "__main__":
    raise_open_files()
    uvloop.run(main(sys.argv[1], Target(sys.argv[2], Load(**json.loads(sys.argv[3])), *sys.argv[4:])))
