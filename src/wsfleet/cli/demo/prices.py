"""The demo's feed: prices that wander, ready to be written to any number of sockets."""

from __future__ import annotations

import random
import time

import msgspec
from websockets.frames import Frame, Opcode

__all__ = ["Price", "Prices"]

SYMBOLS = ("AMBER", "BIRCH", "CEDAR", "DELTA", "EMBER", "FJORD", "GROVE", "HAVEN")


class Price(msgspec.Struct, frozen=True):
    """One message of the feed; `n` counts the rounds in which every connection gets one."""

    n: int
    symbol: str
    price: float
    sent_at: float


class Prices:
    """A random walk for each symbol."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self._prices = dict.fromkeys(SYMBOLS, 100.0)

    def frames(self, n: int) -> list[bytes]:
        """Return the next price of each symbol as a whole WebSocket frame, as message number `n`."""
        # A server's frames are not masked (RFC 6455, section 5.1), so all clients can be sent the same bytes.
        frames = []
        for symbol in SYMBOLS:
            price = self._prices[symbol] = max(1.0, round(self._prices[symbol] + self._random.gauss(0, 0.25), 2))
            message = msgspec.json.encode(Price(n, symbol, price, time.time()))
            frames.append(Frame(Opcode.TEXT, message).serialize(mask=False))
        return frames
