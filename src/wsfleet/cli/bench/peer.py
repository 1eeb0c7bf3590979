"""The server's side of a connection, with minimal cost, and its messages."""

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
"""Minimum size of a message in bytes."""


def payloads(size: int) -> list[bytes]:
    """Return the messages of one block: distinct JSON objects of exactly `size` bytes each."""
    messages = []
    for number in range(max(1, BLOCK // (size + 4))):
        trade = {"symbol": "AMBER", "id": 10**6 + number, "price": 100.25 + number, "note": ""}
        padding = size - len(msgspec.json.encode(trade))
        messages.append(msgspec.json.encode(trade | {"note": "n" * padding}))
    return messages


def frame(payload: bytes) -> bytes:
    """Encode `payload` as a single text frame. A server does not mask its frames (RFC 6455, section 5.1)."""
    return Frame(Opcode.TEXT, payload).serialize(mask=False)


class Peer(asyncio.Protocol):
    """The server's side of one connection. websockets handles the protocol; messages are written as encoded frames."""

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
        """Handle the end of the opening handshake."""

    def message_received(self) -> None:
        """Handle a message from the client."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self.transport = transport
        transport.set_write_buffer_limits(high=UNSENT)

    def data_received(self, data: bytes) -> None:
        protocol, opened, has_message = self._protocol, False, False
        protocol.receive_data(data)
        for event in protocol.events_received():
            if isinstance(event, Request):
                self.path = event.path
                protocol.send_response(protocol.accept(event))
                opened = True
            elif isinstance(event, Frame):
                has_message = has_message or event.opcode in (Opcode.TEXT, Opcode.BINARY)
        for out in protocol.data_to_send():
            if out and not self.transport.is_closing():
                self.transport.write(out)
        if protocol.close_expected():  # the server closes the socket first (RFC 6455, section 7.1.1)
            self.transport.close()
        if opened and self.open:
            self.opened()
        if has_message:
            self.message_received()

    def pause_writing(self) -> None:
        self.full = True

    def resume_writing(self) -> None:
        self.full = False


async def serve(peer: Callable[[], Peer]) -> asyncio.Server:
    """Listen on loopback, print the port, and return at the end of standard input."""
    loop = asyncio.get_running_loop()
    parent_ended = asyncio.Event()
    loop.add_reader(sys.stdin, parent_ended.set)  # nothing is written to it, so readable means end of file
    server = await loop.create_server(peer, "127.0.0.1", 0, backlog=4096)
    try:
        print(server.sockets[0].getsockname()[1], flush=True)
        await parent_ended.wait()
    finally:
        loop.remove_reader(sys.stdin)
        server.close()
    return server
