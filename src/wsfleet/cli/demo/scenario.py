"""The messages and faults of the demo's feed server, determined by a seed.

The command and the server's process compute the same plan: the command to show it, the server to carry it out.
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
"""The plan starts when all are connected, or at the latest after this share of the duration."""

# Time (as a share of the duration), kind, and share of the connections. Even after a late start, a fifth of the
# duration remains to recover from the last fault. Silence is first, because its detection takes longest.
_OUTLINE: tuple[tuple[float, Kind, float], ...] = (
    (0.10, "silence", 0.02),
    (0.18, "drop", 0.05),
    (0.28, "flap", 0.02),
    (0.45, "drop", 0.25),
)
_FLAPPING = 0.1  # duration of flapping, as a share of the demo's duration
_EARLIER = 0.04  # each fault starts up to this share of the duration earlier, at random

_TEXTS: dict[Kind, str] = {
    "silence": "silent: no messages, no pongs, the socket stays open",
    "drop": "cut without a close frame",
    "flap": "cut, then accepted and closed at once for {lasting_s:.1f} s",
}


@dataclass(frozen=True, slots=True)
class Fault:
    """A fault of the connections with the numbers `members`, `at_s` seconds after the start of the plan."""

    kind: Kind
    at_s: float
    lasting_s: float
    members: frozenset[int]

    def __str__(self) -> str:
        return f"{len(self.members):,} {_TEXTS[self.kind].format(lasting_s=self.lasting_s)}"


def make_plan(connections: int, duration_s: float, seed: int) -> tuple[Fault, ...]:
    """Return the faults of a demo, ordered by start time."""
    chance = random.Random(seed)
    plan = []
    for share_of_time, kind, share in _OUTLINE:
        at_s = duration_s * (share_of_time - _EARLIER * chance.random())
        members = chance.sample(range(1, connections + 1), max(1, round(connections * share)))
        plan.append(Fault(kind, at_s, duration_s * _FLAPPING if kind == "flap" else 0.0, frozenset(members)))
    return tuple(plan)


SYMBOLS = ("AMBER", "BIRCH", "CEDAR", "DELTA", "EMBER", "FJORD", "GROVE", "HAVEN")


class Price(msgspec.Struct, frozen=True):
    """One message of the feed. `n` is the number of the round; in each round every connection gets one message."""

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
        # A server's frames are not masked (RFC 6455, section 5.1), so the same bytes can be sent to all clients.
        frames = []
        for symbol in SYMBOLS:
            price = self._prices[symbol] = max(1.0, round(self._prices[symbol] + self._random.gauss(0, 0.25), 2))
            message = msgspec.json.encode(Price(n, symbol, price, time.time()))
            frames.append(Frame(Opcode.TEXT, message).serialize(mask=False))
        return frames
