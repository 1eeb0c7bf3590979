"""S1: one connection, one processor, and a loop over the same messages.

    python examples/one_feed.py ws://127.0.0.1:8765 --count 50

The processor keeps the range of every symbol's prices, the loop prints each price. Neither knows of the other, nor of
the server having been away: `session` is the number of the connection of a message.
"""

import argparse
import asyncio
import sys
from typing import Any

from wsfleet import EndpointFailed, Fleet, Message

Price = dict[str, Any]


async def main(uri: str, count: int) -> None:
    lowest: dict[str, float] = {}
    highest: dict[str, float] = {}

    async def keep_range(message: Message[Price]) -> None:
        symbol, price = message.data["symbol"], message.data["price"]
        lowest[symbol] = min(price, lowest.get(symbol, price))
        highest[symbol] = max(price, highest.get(symbol, price))

    async with Fleet() as fleet:
        feed = fleet.connect(uri, keep_range, name="feed", decode="json")
        async for message in feed:
            print(f"{message.index:5}  session {message.session}  {message.data}", flush=True)
            if message.index >= count:
                break

    # The fleet's end waited for the processor, so these are the ranges of everything that came.
    for symbol in sorted(lowest):
        print(f"{symbol}: {lowest[symbol]} to {highest[symbol]}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("uri", help="a feed of JSON objects with symbol and price")
    parser.add_argument("--count", type=int, default=50, metavar="N", help="end after so many messages (default: 50)")
    args = parser.parse_args()
    try:
        asyncio.run(main(args.uri, args.count))
    except EndpointFailed as error:  # for good: a wrong path, a wrong password, a certificate not to be trusted
        sys.exit(str(error))
    except KeyboardInterrupt:
        sys.exit(130)
