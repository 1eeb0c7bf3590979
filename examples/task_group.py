"""S2: many connections beside a task of your own, under one TaskGroup.

    python examples/task_group.py ws://127.0.0.1:8765 --connections 100 --seconds 30

`fleet.serve()` is one task of the group. If the report fails, the group ends the fleet; if a `required` endpoint
fails, the group ends the report.
"""

import argparse
import asyncio
import logging
import signal
import sys
from collections import Counter
from typing import Any

from wsfleet import EndpointFailed, Fleet, Message, State


def make_fleet(uris: list[str], connections: int) -> Fleet:
    fleet = Fleet(name="prices")
    for number in range(connections):
        uri = uris[number % len(uris)]
        fleet.connect(uri, name=f"feed-{number + 1}", decode="json", topic="prices.{symbol}", required=True)

    @fleet.process("prices.*")
    async def newest(message: Message[dict[str, Any]]) -> None:
        """A place for what your program does with a price."""

    return fleet


async def report(fleet: Fleet) -> None:
    while True:
        await asyncio.sleep(1)
        stats = fleet.stats()
        states = Counter(endpoint.state for endpoint in stats.endpoints)
        received = sum(endpoint.received for endpoint in stats.endpoints)
        losses = sum(endpoint.losses for endpoint in stats.endpoints)
        print(f"{states[State.OPEN]} of {states.total()} open, {received:,} messages, {losses} losses", flush=True)


async def main(uris: list[str], connections: int, seconds: float) -> None:
    logging.getLogger("wsfleet").setLevel(logging.ERROR)  # the report counts the losses; a line for each is too much
    fleet = make_fleet(uris, connections)
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(fleet.serve())
        reporting = tasks.create_task(report(fleet))
        asyncio.get_running_loop().call_later(seconds, stop.set)
        await stop.wait()
        await fleet.close()  # drains, and lets serve() return
        reporting.cancel()

    stats = fleet.stats()
    print(f"{stats.subscriptions[0].processed:,} processed, the balance {'holds' if stats.balanced else 'FAILS'}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("uris", nargs="+", metavar="URI", help="feeds of JSON objects with a symbol")
    parser.add_argument("--connections", type=int, default=10, metavar="N", help="in all, over the URIs in turn")
    parser.add_argument("--seconds", type=float, default=60.0, metavar="S", help="how long to run (default: 60)")
    args = parser.parse_args()
    try:
        asyncio.run(main(args.uris, args.connections, args.seconds))
    except* EndpointFailed as failed:
        sys.exit(str(failed.exceptions[0]))
