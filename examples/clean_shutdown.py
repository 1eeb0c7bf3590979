"""S7: end without losing what has come in, and without leaving anything open.

    python examples/clean_shutdown.py ws://127.0.0.1:8765 --journal orders.txt
    kill -TERM ...

The end of `async with` stops reading, lets the processors finish what waits (for at most `--drain` seconds), and
closes the sockets. What was opened before the fleet is closed after it, so the processors can use it to the last.
"""

import argparse
import asyncio
import signal
from pathlib import Path
from typing import Any

from wsfleet import Fleet, Message


async def until_stopped(seconds: float) -> None:
    """Return after `seconds`, or at Ctrl-C or SIGTERM. What a service manager sends first is SIGTERM."""
    loop, stop = asyncio.get_running_loop(), asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    loop.call_later(seconds, stop.set)
    await stop.wait()


async def main(uri: str, path: Path, work_s: float, drain_s: float, seconds: float) -> None:
    with path.open("a") as journal:
        stored = 0

        async def store(message: Message[dict[str, Any]]) -> None:
            nonlocal stored
            await asyncio.sleep(work_s)  # stands for what takes time: a database, another service
            print(message.data["n"], file=journal)
            stored += 1
            if stored == 1 or stored % 100 == 0:
                print(f"{stored} stored", flush=True)

        async with Fleet(drain_s=drain_s) as fleet:
            fleet.connect(uri, store, name="orders", decode="json")
            await until_stopped(seconds)
            print(f"ending, {fleet.stats().subscriptions[0].pending} are still to be stored", flush=True)

    stats = fleet.stats()
    own = stats.subscriptions[0]
    print(f"{stats.endpoints[0].received} received, {stored} stored, {own.failed} failed, {own.dropped} dropped")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("uri", help="a feed of JSON objects with a number n")
    parser.add_argument("--journal", type=Path, default=Path("orders.txt"), metavar="PATH")
    parser.add_argument("--work", type=float, default=0.05, metavar="S", help="what storing one takes (default: 0.05)")
    parser.add_argument("--drain", type=float, default=30.0, metavar="S", help="what draining may take (default: 30)")
    parser.add_argument("--seconds", type=float, default=60.0, metavar="S", help="how long to run (default: 60)")
    args = parser.parse_args()
    asyncio.run(main(args.uri, args.journal, args.work, args.drain, args.seconds))
