"""S11: thousands of connections in one event loop.

    python examples/thousands.py ws://127.0.0.1:8765 --connections 2000 --connects-per-s 500

Every second shows how many are open, what came in, how late the loop is, and the memory that it takes. `Limits` spares
the server: when it was away, its clients come back at the pace it can take, each after a random wait.
"""

import argparse
import asyncio
import logging
import resource
import signal
import sys
from collections import Counter

from wsfleet import Fleet, Limits, Message, State


def memory_mib() -> float:
    """The most that this process has used so far."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10


async def report(fleet: Fleet) -> None:
    while True:
        await asyncio.sleep(1)
        stats = fleet.stats()
        states = Counter(row.state for row in stats.endpoints)
        received = sum(row.received for row in stats.endpoints)
        print(
            f"{states[State.OPEN]} of {states.total()} open, {received:,} messages, the loop is late by"
            f" {stats.loop_lag_s * 1000:.0f} ms, {memory_mib():.0f} MiB at most",
            flush=True,
        )


async def main(uri: str, connections: int, connects_per_s: float, seconds: float) -> None:
    fleet = Fleet(limits=Limits(handshakes=128, connects_per_s=connects_per_s))

    @fleet.process("*")  # one for all, as the topic of each is its name: thousands would be idle most of the time
    async def take(message: Message[str]) -> None:
        """A place for what your program does; `message.endpoint` is where it came from."""

    for number in range(1, connections + 1):
        fleet.connect(uri, name=f"feed-{number}")

    stop = asyncio.Event()
    for sign in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(sign, stop.set)
    asyncio.get_running_loop().call_later(seconds, stop.set)
    async with (
        fleet
    ):  # from here on as many files may be open as the system allows, or a warning says how to allow more
        logging.getLogger("wsfleet").setLevel(logging.ERROR)  # a line for each loss is too much here
        reporting = asyncio.create_task(report(fleet))
        await stop.wait()
        reporting.cancel()

    stats = fleet.stats()
    connects, losses = (sum(getattr(row, name) for row in stats.endpoints) for name in ("connects", "losses"))
    print(f"{connects:,} connects, {losses:,} losses, {stats.subscriptions[0].processed:,} messages processed")
    print("every message is accounted for" if stats.balanced else "the balance does not hold")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("uri")
    parser.add_argument("--connections", type=int, default=2000, metavar="N", help="how many (default: 2000)")
    parser.add_argument("--connects-per-s", type=float, default=500.0, metavar="N", help="at most (default: 500)")
    parser.add_argument("--seconds", type=float, default=60.0, metavar="S", help="how long to run (default: 60)")
    args = parser.parse_args()
    asyncio.run(main(args.uri, args.connections, args.connects_per_s, args.seconds))
