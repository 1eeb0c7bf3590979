"""A WebSocket server for many clients, in its own process: it ticks, floods, resets and refuses on command.

    python -m benchmarks.ticker ADDRESS...

It listens on a port of each address, and prints their URIs as JSON. Each line of stdin is a command, answered by a line
of JSON: the number of connections.

    tick         one message per second to each connection, spread over the second
    quiet        no more ticks
    flood COUNT  COUNT messages to each connection, as fast as they are read
    reset        reset the connections of the first address, and stop listening there
    accept       listen there again
    count        only the answer

At the end of stdin, which is also when the parent dies, it ends. A message contains the time at which it was sent, by
`time.monotonic`, which is one clock for all processes of a machine.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import re
import socket
import struct
import sys
import time
from functools import partial

import uvloop

TICKS_PER_S = 100
SIZE = 100
BLOCK = 50
"""Messages of a flood in one write."""

_MAGIC = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


def message() -> bytes:
    """Return a frame of text: JSON of SIZE bytes, with the time (RFC 6455, section 5.2)."""
    payload = b'{"at": %.6f, "note": "' % time.monotonic()
    return bytes([0x81, SIZE]) + payload + b"n" * (SIZE - len(payload) - 2) + b'"}'


class Crowd:
    """The connections of one address, and the socket on which it listens for more."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.port = 0
        self.clients: dict[Client, None] = {}
        self._server: asyncio.Server | None = None
        self._turn = 0

    async def listen(self) -> None:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(partial(Client, self), self.address, self.port, backlog=4096)
        self.port = self._server.sockets[0].getsockname()[1]

    def reset(self) -> None:
        """Behave like a server that was killed."""
        if self._server is not None:
            self._server.close()
        for client in list(self.clients):
            client.reset()

    def tick(self) -> None:
        """Send to the next ones in turn, so that each gets one message per second."""
        clients = list(self.clients)
        begin = len(clients) * self._turn // TICKS_PER_S
        end = len(clients) * (self._turn + 1) // TICKS_PER_S
        for client in clients[begin:end]:
            client.transport.write(message())
        self._turn = (self._turn + 1) % TICKS_PER_S

    async def flood(self, count: int) -> None:
        """Send `count` messages to each, in rounds, and continue when each round has been written."""
        while count > 0:
            block = message() * min(BLOCK, count)
            count -= BLOCK
            for client in list(self.clients):
                client.transport.write(block)
            while any(client.transport.get_write_buffer_size() for client in self.clients):  # noqa: ASYNC110 - of all
                await asyncio.sleep(0.01)


class Client(asyncio.Protocol):
    """One connection. A client's messages are short, so each read is assumed to contain whole frames."""

    def __init__(self, crowd: Crowd) -> None:
        self.crowd = crowd
        self.request = b""
        self.open = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        if not self.open:
            self.request += data
            if b"\r\n\r\n" in self.request:
                self.accept()
            return
        while data:
            opcode, size = data[0] & 0x0F, data[1] & 0x7F
            payload = bytes(byte ^ data[2 + at % 4] for at, byte in enumerate(data[6 : 6 + size]))
            data = data[6 + size :]
            if opcode == 8:  # closing: echo the code, then the server closes the socket (section 7.1.1)
                self.transport.write(bytes([0x88, len(payload[:2])]) + payload[:2])
                self.transport.close()
            elif opcode == 9:
                self.transport.write(bytes([0x8A, size]) + payload)

    def accept(self) -> None:
        key = re.search(rb"(?i)\r\nsec-websocket-key: *(\S+)", self.request)
        assert key is not None
        accept = base64.b64encode(hashlib.sha1(key[1] + _MAGIC, usedforsecurity=False).digest())
        self.transport.write(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Accept: " + accept + b"\r\n\r\n"
        )
        self.open = True
        self.crowd.clients[self] = None

    def reset(self) -> None:
        sock = self.transport.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self.crowd.clients.pop(self, None)


class Ticker:
    """Sends the ticks of all addresses, and handles the commands."""

    def __init__(self, crowds: list[Crowd]) -> None:
        self.crowds = crowds
        self._ticking: asyncio.Task[None] | None = None

    async def obey(self, line: str) -> int:
        """Execute one command; return the number of connections."""
        command, *arguments = line.split()
        if self._ticking is not None and command in ("tick", "quiet"):
            self._ticking.cancel()
            self._ticking = None
        if command == "tick":
            self._ticking = asyncio.create_task(self._tick())
        elif command == "flood":
            await asyncio.gather(*(crowd.flood(int(arguments[0])) for crowd in self.crowds))
        elif command == "reset":
            self.crowds[0].reset()
        elif command == "accept":
            await self.crowds[0].listen()
        return sum(len(crowd.clients) for crowd in self.crowds)

    async def _tick(self) -> None:
        loop = asyncio.get_running_loop()
        due = loop.time()
        while True:
            for crowd in self.crowds:
                crowd.tick()
            due += 1 / TICKS_PER_S
            await asyncio.sleep(due - loop.time())


async def main(addresses: list[str]) -> None:
    ticker = Ticker([Crowd(address) for address in addresses])
    for crowd in ticker.crowds:
        await crowd.listen()
    print(json.dumps([f"ws://{crowd.address}:{crowd.port}/" for crowd in ticker.crowds]), flush=True)
    while line := await asyncio.to_thread(sys.stdin.readline):
        print(await ticker.obey(line), flush=True)
    for crowd in ticker.crowds:
        crowd.reset()


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1:]))
