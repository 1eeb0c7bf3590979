"""The cost of the loop watchdog while nothing blocks the loop: the same flow with the watchdog, and without, in turn.

    python -m benchmarks.watchdog

The messages come from a transport in memory, as fast as they are processed: the worst case, because a loop that never
waits does not yield the interpreter to a thread voluntarily. Slices of half a second alternate; the one without is
between two with it.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from statistics import median, quantiles

import uvloop

from wsfleet import Fleet, Message
from wsfleet.testing import FakeSocket, FakeTransport

PAYLOADS = ["x" * 128] * 256


async def slice_ns(socket: FakeSocket, seconds: float) -> float:
    """Return the CPU time of one message in nanoseconds, the sum of all threads."""
    count, until, began = 0, time.perf_counter() + seconds, time.process_time()
    while time.perf_counter() < until:
        await socket.feed(*PAYLOADS)
        count += len(PAYLOADS)
        await asyncio.sleep(0)
    return (time.process_time() - began) / count * 1e9


async def main(pairs: int, seconds: float) -> None:
    transport = FakeTransport()
    fleet = Fleet(transport=transport)

    async def take(message: Message[str]) -> None:
        pass

    fleet.connect("ws://feed.test/", take, name="feed")
    ratios: list[float] = []
    async with fleet:
        socket = await transport.accept("feed")
        await fleet.connections["feed"].wait_open()
        watchdog = fleet._registry.services.watchdog
        await slice_ns(socket, seconds)
        for _ in range(pairs):
            before = await slice_ns(socket, seconds)
            watchdog.stop()
            without = await slice_ns(socket, seconds)
            watchdog._stopping.clear()
            watchdog.start()
            ratios.append((before + await slice_ns(socket, seconds)) / 2 / without)
    low, _, high = quantiles(ratios, n=4)
    print(f"cost of a message relative to that without it: {median(ratios):.3f} (quartiles {low:.3f} to {high:.3f})")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m benchmarks.watchdog", description="the cost of the loop watchdog")
    parser.add_argument("--pairs", type=int, default=20, metavar="N")
    parser.add_argument("--seconds", type=float, default=0.5, metavar="S", help="length of each slice")
    options = parser.parse_args()
    uvloop.run(main(options.pairs, options.seconds))
