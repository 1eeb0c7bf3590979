"""S9: one feed, many readers: overlapping patterns, topics of your own, and a latecomer who sees the last of each.

    python examples/publish_subscribe.py ws://127.0.0.1:8765 --join 50 --seconds 30

A reader knows topics, not connections. `*` stands for one token and `>` for the rest; a message that several
patterns match goes to each of their subscriptions once.
"""

import argparse
import asyncio
import signal
from collections import Counter
from typing import Any

from wsfleet import Buffer, Fleet, Message, Overflow

Price = dict[str, Any]


def make_fleet(uri: str, step: float) -> tuple[Fleet, Counter[str]]:
    fleet = Fleet()
    fleet.connect(uri, name="feed", decode="json", topic="prices.{symbol}", keep_last=1000)
    last: dict[str, float] = {}
    seen: Counter[str] = Counter()

    @fleet.process("prices.*")
    async def watch(message: Message[Price]) -> None:
        """Make a message of our own where a price has moved by more than `step`."""
        symbol, price = message.topic.removeprefix("prices."), message.data["price"]
        if abs(price - last.setdefault(symbol, price)) > step:
            direction = "up" if price > last[symbol] else "down"
            last[symbol] = price
            fleet.publish(f"moves.{symbol}.{direction}", price)

    @fleet.process("prices.AMBER", buffer=Buffer(overflow=Overflow.LATEST))
    async def show_amber(message: Message[Price]) -> None:
        print(f"AMBER {message.data['price']}", flush=True)

    @fleet.process("moves.*.up")
    async def cheer(message: Message[float]) -> None:
        print(f"{message.topic.split('.')[1]} is up, at {message.data}", flush=True)

    @fleet.process(">", name="count")  # everything but the $ topics, our own included
    async def count(message: Message[Any]) -> None:
        seen[message.topic] += 1

    return fleet, seen


async def join_late(fleet: Fleet, after: int) -> None:
    """Begin with the last price of each symbol, however long ago it came, and go on with the new ones."""
    while fleet.stats().hub.published < after:  # noqa: ASYNC110 - nothing reports when a count is reached
        await asyncio.sleep(0.1)
    async with fleet.subscribe("prices.*", name="latecomer", replay="last") as prices:
        async for message in prices:
            print(f"latecomer: {message.topic} {message.data['price']} ({message.index})", flush=True)


async def main(uri: str, step: float, join: int, seconds: float) -> None:
    loop, stop = asyncio.get_running_loop(), asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    loop.call_later(seconds, stop.set)
    fleet, seen = make_fleet(uri, step)
    async with fleet:
        late = asyncio.create_task(join_late(fleet, join))
        await stop.wait()
        late.cancel()
    for topic, count in sorted(seen.items()):
        print(f"{topic:20} {count:6}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("uri", help="a feed of JSON objects with symbol and price")
    parser.add_argument("--step", type=float, default=1.0, metavar="X", help="which move is printed (default: 1)")
    parser.add_argument(
        "--join", type=int, default=50, metavar="N", help="after so many messages somebody joins (default: 50)"
    )
    parser.add_argument("--seconds", type=float, default=30.0, metavar="S", help="how long to run (default: 30)")
    args = parser.parse_args()
    asyncio.run(main(args.uri, args.step, args.join, args.seconds))
