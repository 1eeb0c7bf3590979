"""What the demo's feed server sends, and what it does wrong and when: the same for the same seed.

The faults are planned by the command, which announces them, and again by the server's process.
"""

from __future__ import annotations

import random
import time
from dataclasses import dataclass
from typing import Literal

import msgspec
from websockets.frames import Frame, Opcode

__all__ = ["LATEST_START", "Fault", "Price", "Prices", "make_plan"]

Kind = Literal["silence", "drop", "flap"]

LATEST_START = 1 / 3
"""The plan begins when all are connected, but no later than after this share of the duration."""

# When (as a share of the duration), what, and to how many of the connections. Even when it begins late, a fifth of
# the time is left for coming back from the last one. Silence comes first, because it takes longest to be noticed.
_OUTLINE: tuple[tuple[float, Kind, float], ...] = (
    (0.10, "silence", 0.02),
    (0.18, "drop", 0.05),
    (0.28, "flap", 0.02),
    (0.45, "drop", 0.25),
)
_FLAPPING = 0.1  # how long flapping lasts, as a share of the duration
_EARLIER = 0.04  # each begins up to this share of the duration earlier

_TEXTS: dict[Kind, str] = {
    "silence": "silent: nothing is sent, no ping answered, the socket stays open",
    "drop": "cut without a close frame",
    "flap": "cut, and for {lasting_s:.1f} s accepted only to be closed at once",
}


@dataclass(frozen=True, slots=True)
class Fault:
    """`kind` happens to the connections of the numbers `members`, `at_s` seconds after all were connected."""

    kind: Kind
    at_s: float
    lasting_s: float
    members: frozenset[int]

    def __str__(self) -> str:
        return f"{len(self.members):,} {_TEXTS[self.kind].format(lasting_s=self.lasting_s)}"


def make_plan(connections: int, duration_s: float, seed: int) -> tuple[Fault, ...]:
    """Return the faults of a demo in the order of their beginning."""
    chance = random.Random(seed)
    plan = []
    for share_of_time, kind, share in _OUTLINE:
        at_s = duration_s * (share_of_time - _EARLIER * chance.random())
        members = chance.sample(range(1, connections + 1), max(1, round(connections * share)))
        plan.append(Fault(kind, at_s, duration_s * _FLAPPING if kind == "flap" else 0.0, frozenset(members)))
    return tuple(plan)


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
