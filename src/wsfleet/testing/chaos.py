"""A server that fails at random, the same way for the same seed."""

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
    """Gives every connection of a `FeedServer` a fault of its own, until it is stopped; then all is well.

    ::

        with Chaos(server, seed=7) as chaos:
            await server.send_numbered(1000)
        await server.wait_clients(1)

    Each connection lives until it has had some messages, at most `messages`, or for some time, at most `seconds`; some
    attempts are refused. Which faults come, in which order and after how many messages, follows from the seed alone.
    The faults are those that a program should survive: none of them is fatal by default, and what hangs is cut by the
    server within `seconds`, so that the program's patience with pings does not matter.

    `done` lists the faults so far, in their order; the last ones may still wait for their moment.
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
        """Begin, as `begin` does."""
        self.begin()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Stop, as `stop` does."""
        self.stop()

    def __str__(self) -> str:
        return "\n".join([f"seed {self.seed}, {len(self.done)} faults", *map(repr, self.done)])

    def begin(self) -> None:
        """Give a fault to every connected client, and to each that comes."""
        for client in self.server.clients:
            self.server.strike(self._connection_fault(), client)
        self.server.script(self._steps())

    def stop(self) -> None:
        """Let the server be well: see `FeedServer.heal`."""
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
