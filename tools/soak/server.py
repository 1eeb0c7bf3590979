"""A server with random faults, in its own process: `python -m tools.soak.server CONNECTIONS SEED`.

It sends numbered messages to every client of `/feed/...`, answers requests at `/pool`, and continuously
causes faults for some clients. It prints its port as the first line, for each line of stdin its counts so far as
JSON, and ends when stdin does.
"""

from __future__ import annotations

import asyncio
import json
import logging
import random
import signal
import socket
import struct
import sys
from collections import Counter
from collections.abc import Callable

from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response
from websockets.protocol import State

from wsfleet.runtime.loop import run_loop
from wsfleet.transport.open_files import raise_limit

SLICE_S = 0.02
"""Connections are served in turn, in slices of this length."""

EVERY_S = 1.0
"""Interval between messages to a client."""

FAULT_EVERY_S = 90.0
"""Average interval between faults of a client; short enough that a leak at each loss becomes visible."""

SILENT_S = 12.0
BURST = 250
MAX_UNSENT = 2**18
CODES = (1000, 1001, 1008, 1011, 1012, 1013, 3000, 4999)

SPELL_EVERY_S, SPELL_S = 20.0, 3.0
"""Periods in which handshakes are refused, and at whose beginning many clients are lost at once."""

GARBAGE = {
    "reserved bits": b"\xf1\x02ab",
    "invalid UTF-8": b"\x81\x02\xff\xfe",
    "a masked frame": b"\x81\x82\x00\x00\x00\x00ab",
    "an unknown opcode": b"\x83\x00",
    "a frame too large": b"\x81\x7f" + (2**40).to_bytes(8, "big"),
    "half a frame": b"\x81\x7e\x10\x00half of it",
}


class Server:
    """Sends to its clients, and causes their faults."""

    def __init__(self, connections: int, seed: int) -> None:
        self.done: Counter[str] = Counter()
        self._chance = random.Random(seed)
        self._pause_s = min(FAULT_EVERY_S / connections, 0.5)  # a short run of few connections has faults too
        slices = round(EVERY_S / SLICE_S)
        self._slices: list[dict[ServerConnection, int]] = [{} for _ in range(slices)]
        self._bad_spell = False
        self._silenced: set[asyncio.TimerHandle] = set()

    # Clients

    async def handle(self, client: ServerConnection) -> None:
        """Serve one client until it has disconnected."""
        path = client.request.path if client.request else ""
        try:
            if path == "/pool":
                async for request in client:
                    await client.send(request)  # its id makes it a reply
                return
            if path.endswith("/login"):
                await client.recv()
                await client.send('{"welcome": true}')
            turn = self._chance.choice(self._slices)
            turn[client] = 0
            try:
                async for _ in client:
                    pass
            finally:
                del turn[client]
        except ConnectionClosed:
            pass

    async def answer(self, client: ServerConnection, request: Request) -> Response | None:
        """Accept a handshake, or refuse it, or let it hang."""
        trouble = self._chance.random()
        if trouble < 0.005:
            self._note("a handshake left hanging")
            await asyncio.sleep(10.0)
        elif self._bad_spell and trouble < 0.5:
            status = self._chance.choice([503, 429])
            self._note(f"refused with {status}")
            response = client.respond(status, "")
            if status == 429:
                response.headers["Retry-After"] = "1"
            return response
        return None

    async def feed(self) -> None:
        """Send a message to each client in turn, for ever."""
        loop = asyncio.get_running_loop()
        due = loop.time()
        while True:
            for turn in self._slices:
                for client in list(turn):
                    turn[client] = self._send(client, turn[client], 1)
                due += SLICE_S
                await asyncio.sleep(max(0.0, due - loop.time()))

    def _send(self, client: ServerConnection, number: int, count: int) -> int:
        if client.state is State.OPEN and client.transport.get_write_buffer_size() < MAX_UNSENT:
            for each in range(number + 1, number + count + 1):
                client.protocol.send_text(b'{"n": %d, "k": %d, "note": "%s"}' % (each, each % 8, b"." * 60))
            client.send_data()
            number += count
        return number

    # Faults

    async def misbehave(self) -> None:
        """Cause faults for random clients, for ever."""
        faults = [self._drop, self._reset, self._close, self._silence, self._garble, self._malform, self._burst]
        while True:
            await asyncio.sleep(self._chance.expovariate(1.0 / self._pause_s))
            turn = self._chance.choice(self._slices)
            if turn:
                client = self._chance.choice(list(turn))
                if client.state is State.OPEN:
                    self._chance.choice(faults)(client)

    async def spells(self) -> None:
        """Sometimes lose a tenth of all clients at once, and accept few of them for a while."""
        while True:
            await asyncio.sleep(self._chance.uniform(0.5, 1.5) * SPELL_EVERY_S)
            self._bad_spell = True
            self._note("a bad spell")
            worst: Callable[[ServerConnection], None] = self._chance.choice([self._drop, self._reset, self._close])
            for client in [c for turn in self._slices for c in turn if self._chance.random() < 0.1]:
                worst(client)
            await asyncio.sleep(self._chance.uniform(0.5, 1.5) * SPELL_S)
            self._bad_spell = False

    def _note(self, what: str) -> None:
        self.done[what] += 1

    def _drop(self, client: ServerConnection) -> None:
        self._note("dropped")
        client.transport.close()

    def _reset(self, client: ServerConnection) -> None:
        self._note("reset")
        client.transport.get_extra_info("socket").setsockopt(
            socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
        )
        client.transport.abort()

    def _close(self, client: ServerConnection) -> None:
        self._note("closed")
        if client.state is State.OPEN:
            client.protocol.send_close(self._chance.choice(CODES), "planted")
            client.send_data()

    def _silence(self, client: ServerConnection) -> None:
        self._note("silenced")
        client.transport.pause_reading()
        asyncio.get_running_loop().call_later(SILENT_S, client.transport.resume_reading)

    def _garble(self, client: ServerConnection) -> None:
        kind = self._chance.choice(list(GARBAGE))
        self._note(f"sent {kind}")
        client.transport.write(GARBAGE[kind])

    def _malform(self, client: ServerConnection) -> None:
        self._note("sent malformed JSON")
        client.protocol.send_text(b'{"n": ')
        client.send_data()

    def _burst(self, client: ServerConnection) -> None:
        self._note("sent a burst")
        for turn in self._slices:
            if client in turn:
                turn[client] = self._send(client, turn[client], BURST)


async def serve_soak(connections: int, seed: int) -> None:
    """Serve until standard input ends."""
    server = Server(connections, seed)
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    logger = logging.getLogger("tools.soak.server")
    logger.disabled = True  # its faults are intended, and would all be logged
    listening = await serve(
        server.handle,
        "127.0.0.1",
        0,
        process_request=server.answer,
        ping_interval=None,
        open_timeout=None,
        close_timeout=1.0,
        logger=logger,
        backlog=4096,
    )
    tasks = [loop.create_task(work) for work in (server.feed(), server.misbehave(), server.spells())]
    print(next(iter(listening.sockets)).getsockname()[1], flush=True)
    while await reader.readline():
        for task in tasks:
            if task.done():
                task.result()  # raises
        print(json.dumps(server.done), flush=True)
    for task in tasks:
        task.cancel()
    listening.close(close_connections=False)
    for client in listening.connections:
        client.transport.abort()


def main() -> None:
    connections, seed = map(int, sys.argv[1:])
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    raise_limit()
    run_loop(serve_soak(connections, seed))


if __name__ == "__main__":
    main()
