"""S5: feeds of very different quality in one program, where none can harm another.

    python examples/isolation.py ws://127.0.0.1:8765 ws://127.0.0.1:9 wss://example.com/nothing-here

A feed that fails for good is reported, left alone for a while, and tried again. A message that its processor cannot
take is a dead letter. The others notice nothing of either.
"""

import argparse
import asyncio
import contextlib
import signal
from typing import Any

from wsfleet import DeadLetter, Fleet, Message, NotOpen, Reconnect, State, StateChange


async def take(message: Message[dict[str, Any]]) -> None:
    if message.data["price"] <= 0:
        raise ValueError(f"a price of {message.data['price']}")
    print(f"{message.endpoint}  {message.data}", flush=True)


def make_fleet(uris: list[str], again_s: float) -> Fleet:
    fleet = Fleet()
    for number, uri in enumerate(uris, 1):
        budget = Reconnect(initial_s=0.2, max_s=5.0, max_restarts=10, window_s=60.0)
        fleet.connect(uri, take, name=f"feed-{number}", decode="json", reconnect=budget)

    def try_again(endpoint: str) -> None:
        with contextlib.suppress(NotOpen):  # the fleet is ending
            fleet.connections[endpoint].restart()

    @fleet.process("$state.*")
    async def watch(message: Message[StateChange]) -> None:
        change = message.data
        print(f"{change.endpoint} is {change.state}{f' ({change.error})' if change.error else ''}", flush=True)
        if change.state is State.FAILED:
            asyncio.get_running_loop().call_later(again_s, try_again, change.endpoint)

    @fleet.process("$dead.*")
    async def bury(message: Message[DeadLetter]) -> None:
        letter = message.data
        print(f"{letter.message.endpoint} message {letter.message.index} failed: {letter.error}", flush=True)

    return fleet


async def main(uris: list[str], again_s: float, seconds: float) -> None:
    loop, stop = asyncio.get_running_loop(), asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    loop.call_later(seconds, stop.set)
    async with make_fleet(uris, again_s) as fleet:
        await stop.wait()
    for row in fleet.stats().endpoints:
        print(f"{row.name}: {row.connects} connects, {row.received} messages, last error: {row.last_error}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("uris", nargs="+", metavar="URI", help="feeds of JSON objects with a price")
    parser.add_argument("--again", type=float, default=30.0, metavar="S", help="how long a failed feed is left alone")
    parser.add_argument("--seconds", type=float, default=60.0, metavar="S", help="how long to run (default: 60)")
    args = parser.parse_args()
    asyncio.run(main(args.uris, args.again, args.seconds))
