"""Runs one contender against a feed, in a process of its own, and prints what it cost as JSON.

    python -m benchmarks.contender NAME URI CONNECTIONS MESSAGES

A contender is a module in `peers` with `async def run(uri, connections, meter)`: open the connections, call
`meter.opened()`, send one word over one of them, which begins the flow on all, give every message to the meter's
`handle` or `process`, and close after `meter.done`.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any

import uvloop

TIMEOUT_S = 300.0


class Meter:
    """Counts messages, and the CPU time from the open connections to the last message processed.

    `handle` takes a message's decoded data, `process` a wsfleet message; their work is the same, and no more than
    keeps them honest. They are closures, because an attribute of `self` costs more than the work does.
    """

    handle: Callable[[Any], Awaitable[None]]
    process: Callable[[Any], Awaitable[None]]
    result: Callable[[], dict[str, float]]

    def __init__(self, expected: int) -> None:
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

        self.handle, self.process = handle, process
        self.result = lambda: {"count": count, "total": total, "cpu_s": self.ended - self.began}

    def opened(self) -> None:
        self.began = time.process_time()

    def finish(self) -> None:
        self.ended = time.process_time()
        self.done.set()


async def main(name: str, uri: str, connections: int, messages: int) -> None:
    meter = Meter(connections * messages)
    contender = importlib.import_module(f"benchmarks.peers.{name}")
    async with asyncio.timeout(TIMEOUT_S):
        await contender.run(uri, connections, meter)
    print(json.dumps(meter.result()))


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])))
