"""A server's end of a connection that costs next to nothing, and what it sends."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable

import msgspec
from websockets.frames import Frame, Opcode
from websockets.http11 import Request
from websockets.protocol import OPEN
from websockets.server import ServerProtocol

__all__ = ["SMALLEST", "Peer", "frame", "payloads", "serve"]

BLOCK = 2**16
UNSENT = 2**18
SMALLEST = 64
"""Bytes of the smallest message."""


def payloads(size: int) -> list[bytes]:
    """Return the messages of one block: JSON of exactly `size` bytes each, no two the same."""
    made = []
    for number in range(max(1, BLOCK // (size + 4))):
        trade = {"symbol": "AMBER", "id": 10**6 + number, "price": 100.25 + number, "note": ""}
        room = size - len(msgspec.json.encode(trade))
        made.append(msgspec.json.encode(trade | {"note": "n" * room}))
    return made


def frame(payload: bytes) -> bytes:
    """Return `payload` as a whole text frame of a server, so without a mask (RFC 6455, section 5.1)."""
    return Frame(Opcode.TEXT, payload).serialize(mask=False)


class Peer(asyncio.Protocol):
    """A server's end of one connection, which websockets keeps to the rules; what is sent goes past it, as bytes."""

    transport: asyncio.Transport

    def __init__(self) -> None:
        self.path = ""
        self.full = False
        self._protocol = ServerProtocol()

    @property
    def open(self) -> bool:
        """Whether messages may be written."""
        return self._protocol.state is OPEN and not self.transport.is_closing()

    def opened(self) -> None:
        """The handshake is done."""

    def told(self) -> None:
        """The client said something."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self.transport = transport
        transport.set_write_buffer_limits(high=UNSENT)

    def data_received(self, data: bytes) -> None:
        protocol, opened, told = self._protocol, False, False
        protocol.receive_data(data)
        for event in protocol.events_received():
            if isinstance(event, Request):
                self.path = event.path
                protocol.send_response(protocol.accept(event))
                opened = True
            elif isinstance(event, Frame):
                told = told or event.opcode in (Opcode.TEXT, Opcode.BINARY)
        for out in protocol.data_to_send():
            if out and not self.transport.is_closing():
                self.transport.write(out)
        if protocol.close_expected():  # it is the server who closes the socket (RFC 6455, section 7.1.1)
            self.transport.close()
        if opened and self.open:
            self.opened()
        if told:
            self.told()

    def pause_writing(self) -> None:
        self.full = True

    def resume_writing(self) -> None:
        self.full = False


async def serve(peer: Callable[[], Peer]) -> asyncio.Server:
    """Listen on loopback, print the port, and return when the standard input has ended."""
    loop = asyncio.get_running_loop()
    parent_gone = asyncio.Event()
    loop.add_reader(sys.stdin, parent_gone.set)  # nothing is ever written there: readable means ended
    server = await loop.create_server(peer, "127.0.0.1", 0, backlog=4096)
    try:
        print(server.sockets[0].getsockname()[1], flush=True)
        await parent_gone.wait()
    finally:
        loop.remove_reader(sys.stdin)
        server.close()
    return server
