"""S6: several processors over the same messages: a quick one, a slow one, a faulty one, and a file.

    python examples/processors.py ws://127.0.0.1:8765 --journal prices.jsonl

Each has its own mailbox. The slow one misses prices, the faulty one fails, and the file has every line all the same.
Ctrl-C or SIGTERM ends it with the counts of each.
"""

import argparse
import asyncio

import msgspec

from wsfleet import Buffer, DeadLetter, Fleet, Message, Overflow, sinks


class Price(msgspec.Struct, frozen=True):
    """What the feed sends; a message of another shape is counted as malformed, and reaches nobody."""

    symbol: str
    price: float


def make_fleet(uri: str, journal: str) -> Fleet:
    fleet = Fleet()
    fleet.connect(uri, name="feed", decode=Price, topic="prices.{symbol}")
    last: dict[str, float] = {}

    @fleet.process("prices.*")
    async def newest(message: Message[Price]) -> None:
        last[message.data.symbol] = message.data.price

    @fleet.process("prices.AMBER", buffer=Buffer(messages=2, overflow=Overflow.DROP_OLDEST))
    async def chart(message: Message[Price]) -> None:
        """Rather misses prices than shows old ones."""
        await asyncio.sleep(0.5)
        print(f"AMBER {message.data.price}", flush=True)

    @fleet.process("prices.*")
    async def inverse(message: Message[Price]) -> None:
        print(f"{message.topic} is {1 / message.data.price:.4f} of one", flush=True)  # until a price is 0

    @fleet.process("$dead.inverse")
    async def tell(message: Message[DeadLetter]) -> None:
        print(f"failed: {message.data.error!r} for {message.data.message.data}", flush=True)

    fleet.process("prices.*", name="journal")(sinks.open(f"jsonl:{journal}"))
    return fleet


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("uri", help="a feed of JSON objects with symbol and price")
    parser.add_argument("--journal", default="prices.jsonl", metavar="PATH", help="a line for every price goes there")
    args = parser.parse_args()
    fleet = make_fleet(args.uri, args.journal)
    fleet.run()
    for row in fleet.stats().subscriptions:
        print(f"{row.name:8} {row.processed:6} processed {row.failed:6} failed {row.dropped:6} dropped")
