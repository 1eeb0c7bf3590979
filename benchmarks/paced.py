"""A server that sends small stamped messages at an even pace, in a process of its own.

    python -m benchmarks.paced CONNECTIONS RATE

RATE messages a second in all, one connection after the other, with random gaps, as of independent senders. They begin
when CONNECTIONS clients are there and one of them says a word. "at" in a message is `time.monotonic_ns()` just before
it is written. The server prints its port as the first line, and ends when its standard input does.
"""

from __future__ import annotations

import asyncio
import os
import random
import sys
import time
from functools import partial

import uvloop

from wsfleet.cli.bench.peer import Peer, frame, serve
from wsfleet.transport.open_files import raise_limit

TURN = 16
"""Messages between two turns of the loop, which answers pings."""

LATE_S = 0.1
"""What lies further back than this is not caught up with in one burst: the machine was busy, or asleep."""


class Pacer:
    """All connections, and the one flow over them."""

    def __init__(self, connections: int, rate: float) -> None:
        self.peers: list[Listener] = []
        self._connections = connections
        self._rate = rate
        self._flow: asyncio.Task[None] | None = None

    def begin(self) -> None:
        if self._flow is None and len(self.peers) >= self._connections:
            self._flow = asyncio.create_task(self._send())

    async def _send(self) -> None:
        gaps = random.Random(1)
        due = time.monotonic()
        while True:
            for number, peer in enumerate(list(self.peers)):
                due = max(due + gaps.expovariate(self._rate), time.monotonic() - LATE_S)
                gap = due - time.monotonic()
                if gap > 0:
                    time.sleep(gap)  # noqa: ASYNC251 - the loop's own timers know whole milliseconds
                peer.write()
                if number % TURN == 0:
                    await asyncio.sleep(0)
            await asyncio.sleep(0)


class Listener(Peer):
    """One connection."""

    def __init__(self, pacer: Pacer) -> None:
        super().__init__()
        self._pacer = pacer

    def opened(self) -> None:
        # Not through the transport, which writes at the end of the loop's turn: the stamp would be too old.
        self._fd = self.transport.get_extra_info("socket").fileno()
        self._pacer.peers.append(self)

    def message_received(self) -> None:
        self._pacer.begin()

    def write(self) -> None:
        if self.open:
            try:
                os.write(self._fd, frame(b'{"symbol":"AMBER","price":100.25,"at":%d}' % time.monotonic_ns()))
            except OSError:  # it does not read any more
                self.transport.abort()


if __name__ == "__main__":
    raise_limit()
    uvloop.run(serve(partial(Listener, Pacer(int(sys.argv[1]), float(sys.argv[2])))))
