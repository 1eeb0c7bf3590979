"""A program to be tested: it keeps the highest price of each symbol.

python examples/testing/highs.py ws://127.0.0.1:8765
"""

import sys
from typing import Any

from wsfleet import Connection, Fleet, Message, Reconnect


class Highs:
    """`prices` has the highest price of each symbol so far."""

    def __init__(self) -> None:
        self.prices: dict[str, float] = {}

    def watch(self, fleet: Fleet, uri: str, reconnect: Reconnect | None = None) -> Connection:
        """Take in the feed at `uri`. A test passes a `reconnect` that does not keep it waiting."""
        return fleet.connect(
            uri,
            self._on_price,
            name="feed",
            decode="json",
            topic="prices.{symbol}",
            reconnect=reconnect or Reconnect(),
        )

    async def _on_price(self, message: Message[Any]) -> None:
        symbol, price = message.data["symbol"], message.data["price"]
        if price > self.prices.get(symbol, 0.0):
            self.prices[symbol] = price
            print(f"{symbol} {price}")


if __name__ == "__main__":
    everything = Fleet()
    Highs().watch(everything, sys.argv[1])
    everything.run()
