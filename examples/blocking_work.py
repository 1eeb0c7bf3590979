"""S12: work that blocks, kept away from the event loop: a plain `def` runs in threads, or in processes.

    python examples/blocking_work.py ws://127.0.0.1:8765 --journal prices.txt.gz
    python examples/blocking_work.py ws://127.0.0.1:8765 --careless      # the same in an async def: see who is named

Threads are for what waits: files, databases, clients without asyncio. Processes are for what computes: Python runs one
thread at a time. Either way the mailbox is bounded, and the connection is read while the work goes on.
"""

import argparse
import asyncio
import gzip
import logging
import os
import random
import signal
from pathlib import Path
from typing import Any

from wsfleet import Buffer, Fleet, Message, Overflow

Price = dict[str, Any]
NEWEST = Buffer(messages=2, overflow=Overflow.LATEST, key=lambda message: message.data["symbol"])


def simulate(message: Message[Price]) -> None:
    """Compute for a while. In a process of its own, so what comes out is printed, or stored, from there."""
    price = message.data["price"]
    ends = sorted(price * random.lognormvariate(0.0, 0.2) for _ in range(200_000))
    worst = ends[len(ends) // 100]
    print(f"{message.data['symbol']} {price}: 1 % below {worst:.0f} (process {os.getpid()})", flush=True)


async def careless(message: Message[Price]) -> None:
    """What not to do: until it returns, no connection is read and no ping answered."""
    for _ in range(10):
        simulate(message)


async def main(uri: str, path: Path, processes: int, wrong: bool, seconds: float) -> None:
    logging.basicConfig(format="%(levelname)s %(message)s")
    loop, stop = asyncio.get_running_loop(), asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    loop.call_later(seconds, stop.set)

    with gzip.open(path, "at") as journal:
        fleet = Fleet()
        fleet.connect(uri, name="feed", decode="json", topic="prices.{symbol}")

        @fleet.process("prices.*")
        def store(message: Message[Price]) -> None:
            journal.write(f"{message.index} {message.data['symbol']} {message.data['price']}\n")

        if wrong:
            fleet.process("prices.*", buffer=NEWEST)(careless)
        else:
            fleet.process("prices.*", buffer=NEWEST, offload="process", concurrency=processes)(simulate)
        async with fleet:
            await stop.wait()

    stats = fleet.stats()
    for row in stats.subscriptions:
        print(f"{row.name}: {row.processed} processed, {row.failed} failed, {row.dropped} dropped")
    blocked = stats.blocked
    print(f"the loop was blocked by {blocked.by} at {blocked.where}" if blocked else "the loop was never blocked")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("uri", help="a feed of JSON objects with symbol and price")
    parser.add_argument("--journal", type=Path, default=Path("prices.txt.gz"), metavar="PATH")
    parser.add_argument("--processes", type=int, default=2, metavar="N", help="that compute (default: 2)")
    parser.add_argument("--careless", action="store_true", help="compute in the event loop")
    parser.add_argument("--seconds", type=float, default=30.0, metavar="S", help="how long to run (default: 30)")
    args = parser.parse_args()
    asyncio.run(main(args.uri, args.journal, args.processes, args.careless, args.seconds))
