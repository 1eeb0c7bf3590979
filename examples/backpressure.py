"""S10: processors that are slower than their feed: one makes the server wait, the others choose what they miss.

    python examples/backpressure.py ws://127.0.0.1:8765 --work 0.3 --seconds 20

Each has a connection of its own, for PAUSE stops the reading of its connection: the server finds its TCP window closed.
That suits an archive, which must have everything. A chart wants the newest of each symbol, a log the newest lines.
"""

import argparse
import asyncio
import contextlib
import signal
from typing import Any

from wsfleet import Buffer, Fleet, FleetStats, Message, Overflow, Slow

BUFFERS = {
    "archive": Buffer(messages=100, overflow=Overflow.PAUSE),
    "chart": Buffer(messages=100, overflow=Overflow.LATEST, key=lambda message: message.data["symbol"]),
    "log": Buffer(messages=100, overflow=Overflow.DROP_OLDEST),
}


def make_fleet(uri: str, work_s: float, drain_s: float) -> Fleet:
    fleet = Fleet(drain_s=drain_s)

    async def work(message: Message[dict[str, Any]]) -> None:
        await asyncio.sleep(work_s)

    for name, buffer in BUFFERS.items():
        fleet.connect(uri, work, name=name, decode="json", buffer=buffer)

    @fleet.process("$slow.*")
    async def tell(message: Message[Slow]) -> None:
        """Comes when a mailbox becomes full, and again only after it was down at half."""
        slow = message.data
        print(f"{slow.subscription} is full: {slow.pending} pending, so {slow.overflow}", flush=True)

    return fleet


def show(stats: FleetStats) -> None:
    rows = {row.name: row for row in stats.subscriptions}
    for endpoint in stats.endpoints:
        own = rows[endpoint.name]
        print(
            f"{endpoint.name:8} {endpoint.received:8} received {own.processed:6} processed {own.dropped:8} dropped"
            f" {own.pending:4} pending, paused for {endpoint.paused_s:.1f} s by {', '.join(endpoint.paused_by) or '-'}",
            flush=True,
        )


async def main(uri: str, work_s: float, drain_s: float, seconds: float) -> None:
    loop, stop = asyncio.get_running_loop(), asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    loop.call_later(seconds, stop.set)
    async with make_fleet(uri, work_s, drain_s) as fleet:
        while not stop.is_set():
            show(fleet.stats())
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), 2.0)
    print("at the end, when the processors had", f"{drain_s:g} s to finish what was pending:")
    show(fleet.stats())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("uri", help="a feed of JSON objects with a symbol")
    parser.add_argument("--work", type=float, default=0.3, metavar="S", help="for one message (default: 0.3)")
    parser.add_argument("--drain", type=float, default=10.0, metavar="S", help="what draining may take (default: 10)")
    parser.add_argument("--seconds", type=float, default=20.0, metavar="S", help="how long to run (default: 20)")
    args = parser.parse_args()
    asyncio.run(main(args.uri, args.work, args.drain, args.seconds))
