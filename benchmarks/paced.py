"""A server that sends small timestamped messages at an even pace, in its own process.

    python -m benchmarks.paced CONNECTIONS RATE

RATE messages per second in total, to one connection after the other, with random gaps, as of independent senders. They
begin when CONNECTIONS clients are connected and one of them sends a message. "at" in a message is `time.monotonic_ns()`
just before it is written. The server prints its port as the first line, and ends when its standard input does.
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
"""Number of messages between two iterations of the loop, which answers pings."""

LATE_S = 0.1
"""A delay longer than this is not made up for with a burst: the machine was busy, or suspended."""


class Pacer:
    """All connections, and their common flow."""

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
                    time.sleep(gap)  # noqa: ASYNC251 - the loop's own timers have a resolution of milliseconds
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
        # Not through the transport, which writes at the end of the loop's iteration: the timestamp would be too old.
        self._fd = self.transport.get_extra_info("socket").fileno()
        self._pacer.peers.append(self)

    def message_received(self) -> None:
        self._pacer.begin()

    def write(self) -> None:
        if self.open:
            try:
                os.write(self._fd, frame(b'{"symbol":"AMBER","price":100.25,"at":%d}' % time.monotonic_ns()))
            except OSError:  # it no longer reads
                self.transport.abort()


if __name__ == "__main__":
    raise_limit()
    uvloop.run(serve(partial(Listener, Pacer(int(sys.argv[1]), float(sys.argv[2])))))
