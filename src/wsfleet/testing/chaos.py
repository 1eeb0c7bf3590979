"""Random faults of a server, reproducible by a seed."""

from __future__ import annotations

import random
from collections.abc import Iterator
from types import TracebackType
from typing import Self

from wsfleet.testing.faults import (
    Close,
    ConnectionFault,
    Drop,
    Fault,
    FragmentFlood,
    Garbage,
    InvalidUTF8,
    Oversize,
    Refuse,
    ReservedBits,
    Reset,
    Silence,
    SlowHandshake,
    Stall,
)
from wsfleet.testing.feed_server import FeedServer

__all__ = ["Chaos"]


class Chaos:
    """Applies a random fault to each connection of a `FeedServer`, until it is stopped.

    ::

        with Chaos(server, seed=7) as chaos:
            await server.send_numbered(1000)
        await server.wait_clients(1)

    Each connection fails after at most `messages` messages or at most `seconds` seconds; some attempts are refused. The
    seed alone determines the faults, their order, and the number of messages before each. A program should survive all
    of these faults: none is fatal by default, and the server cuts a connection that hangs within `seconds`, so that the
    ping timeouts of the program do not matter.

    `done` lists the faults so far, in order. The last ones may not have taken effect yet.
    """

    def __init__(
        self, server: FeedServer, seed: int | None = None, *, messages: int = 100, seconds: float = 0.5
    ) -> None:
        self.server = server
        self.seed = random.SystemRandom().randrange(2**32) if seed is None else seed
        self.messages = messages
        self.seconds = seconds
        self.done: list[Fault] = []
        self._random = random.Random(self.seed)

    def __enter__(self) -> Self:
        """Call `begin`."""
        self.begin()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Call `stop`."""
        self.stop()

    def __str__(self) -> str:
        return "\n".join([f"seed {self.seed}, {len(self.done)} faults", *map(repr, self.done)])

    def begin(self) -> None:
        """Apply a fault to each connected client, and to each following attempt."""
        for client in self.server.clients:
            self.server.strike(self._connection_fault(), client)
        self.server.script(self._steps())

    def stop(self) -> None:
        """Stop all faults: see `FeedServer.heal`."""
        self.server.heal()

    def _steps(self) -> Iterator[Fault]:
        while True:
            yield self._handshake_fault() if self._random.random() < 0.2 else self._connection_fault()

    def _handshake_fault(self) -> Fault:
        chance = self._random
        fault = chance.choice(
            [
                Refuse(chance.choice([500, 502, 503])),
                Refuse(429, {"Retry-After": "0"}),
                SlowHandshake(byte_s=self.seconds / 1000),
            ]
        )
        self.done.append(fault)
        return fault

    def _connection_fault(self) -> ConnectionFault:
        chance = self._random
        after, after_s = chance.randint(0, self.messages), chance.uniform(0.0, self.seconds)
        for_s = chance.uniform(0.0, self.seconds)
        fault = chance.choice(
            [
                Drop(after=after, after_s=after_s),
                Reset(after=after, after_s=after_s),
                Close(chance.choice([1000, 1001, 1011, 1012, 1013, 4000]), after=after, after_s=after_s),
                Silence(for_s, after=after, after_s=after_s),
                Stall(for_s, after=after, after_s=after_s),
                Garbage(after=after, after_s=after_s),
                InvalidUTF8(after=after, after_s=after_s),
                ReservedBits(after=after, after_s=after_s),
                Oversize(after=after, after_s=after_s),
                FragmentFlood(after=after, after_s=after_s),
            ]
        )
        self.done.append(fault)
        return fault
