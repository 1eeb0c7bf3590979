"""The faults of a `FeedServer`, for `FeedServer.strike` and `FeedServer.script`.

    from wsfleet.testing import FeedServer, faults

    async with FeedServer() as server:
        server.script([faults.Refuse(503), faults.Reset(after=10)])   # faults of the next two attempts
        ...
        server.strike(faults.InvalidUTF8())                           # a fault for all connected clients

A `HandshakeFault` is the answer to one attempt. A `ConnectionFault` affects a connected client: at once, or after the
server has sent it `after` messages or after `after_s` seconds, whichever comes first. It takes effect once. Unless the
fault `spares` the connection, the server then treats the client as disconnected and sends nothing more to it.

For other faults, write a subclass with a `strike` or `answer` method. Section numbers refer to RFC 6455 unless another
RFC is named. "The client" is a client that conforms to it.
"""

from __future__ import annotations

import asyncio
import functools
import http
import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import websockets.frames
from websockets.datastructures import Headers
from websockets.exceptions import ProtocolError
from websockets.frames import Opcode
from websockets.http11 import Response

from wsfleet.testing.client import Client, ConnectionFault, Fault, HandshakeFault, check_number

__all__ = [
    "BadAnswer",
    "Close",
    "CompressionBomb",
    "ConnectionFault",
    "Drop",
    "EndlessHeaders",
    "Fault",
    "Flood",
    "FragmentFlood",
    "Garbage",
    "HandshakeFault",
    "InvalidUTF8",
    "NoAnswer",
    "Oversize",
    "Redirect",
    "Refuse",
    "ReservedBits",
    "Reset",
    "Silence",
    "SlowHandshake",
    "Stall",
    "Well",
]


def _frame(opcode: Opcode, payload: bytes, *, fin: bool = True, reserved: int = 0) -> bytes:
    """Return a frame (RFC 6455, section 5.2)."""
    first, length = fin << 7 | reserved << 4 | opcode, len(payload)
    if length < 126:
        return struct.pack("!BB", first, length) + payload
    if length < 2**16:
        return struct.pack("!BBH", first, 126, length) + payload
    return struct.pack("!BBQ", first, 127, length) + payload


@functools.lru_cache(maxsize=4)
def _deflated(size: int) -> bytes:
    """Return `size` spaces, compressed as one message of permessage-deflate (RFC 7692, section 7.2.1)."""
    deflate = zlib.compressobj(wbits=-15)
    chunk = b" " * min(size, 2**20)
    parts = [deflate.compress(chunk) for _ in range(size // len(chunk))] if chunk else []
    parts += [deflate.compress(b" " * (size % len(chunk)) if chunk else b""), deflate.flush(zlib.Z_SYNC_FLUSH)]
    return b"".join(parts).removesuffix(b"\x00\x00\xff\xff")


# Handshakes


@dataclass(frozen=True)
class Refuse(HandshakeFault):
    """Answers with a status and `headers`, for example 401, 503, or 429 with Retry-After (section 4.2.2, point 5)."""

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_number("status", self.status, 200, 599)

    async def answer(self, client: Client) -> Response | None:
        try:
            phrase = http.HTTPStatus(self.status).phrase
        except ValueError:
            phrase = "Refused"  # 499 and 520 are not standard, but some servers send them
        headers = Headers(self.headers)
        headers.setdefault("Connection", "close")
        headers.setdefault("Content-Length", "0")
        return Response(self.status, phrase, headers, b"")


@dataclass(frozen=True)
class Redirect(HandshakeFault):
    """Redirects the client to another URI (section 4.1; RFC 9110, section 15.4)."""

    uri: str
    status: int = 302

    def __post_init__(self) -> None:
        check_number("status", self.status, 300, 399)

    async def answer(self, client: Client) -> Response | None:
        return await Refuse(self.status, {"Location": self.uri}).answer(client)


@dataclass(frozen=True)
class NoAnswer(HandshakeFault):
    """Accepts the TCP connection and the request, and never answers. The client must time out."""

    async def answer(self, client: Client) -> Response | None:
        await asyncio.wait([client.connection_lost_waiter])
        return None


@dataclass(frozen=True)
class BadAnswer(HandshakeFault):
    """Answers with data that is not HTTP, and closes the connection, like a server of another protocol."""

    data: bytes = b"220 mail.example ESMTP ready\r\n"

    async def answer(self, client: Client) -> Response | None:
        client.write(self.data)
        client.transport.close()
        return await NoAnswer().answer(client)


@dataclass(frozen=True)
class SlowHandshake(HandshakeFault):
    """Sends a correct response, one byte every `byte_s` seconds. The connection is usable afterwards."""

    byte_s: float = 1.0

    async def answer(self, client: Client) -> Response | None:
        client._byte_s = self.byte_s
        return None


@dataclass(frozen=True)
class EndlessHeaders(HandshakeFault):
    """Answers 101 with an endless sequence of headers, as fast as the client reads them."""

    line_bytes: int = 1000

    async def answer(self, client: Client) -> Response | None:
        client.write(b"HTTP/1.1 101 Switching Protocols\r\n")
        line = b"X-Filler: " + b"x" * self.line_bytes + b"\r\n"
        try:
            while not client.transport.is_closing():
                client.write(line)
                await client.drain()
                await asyncio.sleep(0)
        except OSError:
            pass  # the client has closed the connection
        return await NoAnswer().answer(client)


# Connections that end


@dataclass(frozen=True)
class Well(ConnectionFault):
    """No fault: a step of a script for an attempt that succeeds."""

    spares: ClassVar[bool] = True

    def strike(self, client: Client) -> None:
        """Do nothing."""


@dataclass(frozen=True)
class Drop(ConnectionFault):
    """Cuts the connection without a close frame: the client sees 1006 (section 7.1.5)."""

    destroys: ClassVar[bool] = True

    def strike(self, client: Client) -> None:
        client.transport.abort()


@dataclass(frozen=True)
class Reset(ConnectionFault):
    """Sends half a frame, and resets the TCP connection: 1006. Messages in transit may be lost."""

    destroys: ClassVar[bool] = True

    def strike(self, client: Client) -> None:
        whole = _frame(Opcode.TEXT, b"half of this is all there will be")
        client.write(whole[: len(whole) // 2])
        client.reset()


@dataclass(frozen=True)
class Close(ConnectionFault):
    """Starts the closing handshake (section 7.1.2). In a script, without `after`: accepts, then closes at once.

    With 1005, sends a close frame without a code. Other codes that are not allowed in a frame (1006, 999; section
    7.4.1) are sent too, and the client fails the connection with 1002. Raises ValueError for a code that is not an
    unsigned 16-bit number, and for a reason of more than 123 bytes (section 5.5.1).
    """

    code: int = 1000
    reason: str = ""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("code", self.code, 0, 2**16 - 1)
        if len(self.reason.encode()) > 123:
            raise ValueError(f"reason must have at most 123 bytes, not {len(self.reason.encode())}")

    def strike(self, client: Client) -> None:
        if self.code == 1005:
            client.protocol.send_close()
        elif self.valid:
            client.protocol.send_close(self.code, self.reason)
        else:
            client.write(_frame(Opcode.CLOSE, struct.pack("!H", self.code) + self.reason.encode()))
            return
        client.send_data()
        client.hang_up()

    @property
    def valid(self) -> bool:
        """Whether the code is allowed in a close frame."""
        try:
            websockets.frames.Close(self.code, self.reason).check()
        except ProtocolError:
            return False
        return True


# Connections that stay open but do not respond


@dataclass(frozen=True)
class Silence(ConnectionFault):
    """Stops sending messages, but reads and answers pings (section 5.5.3). Only `stale_s` detects this.

    After `for_s` seconds the connection is cut; with None, at the end of the server.
    """

    for_s: float | None = None

    def strike(self, client: Client) -> None:
        client.hold(self.for_s)


@dataclass(frozen=True)
class Stall(ConnectionFault):
    """Leaves the connection half-open: the server reads nothing, sends nothing, and does not answer pings.

    This simulates a peer that hangs or has lost its network. After `for_s` seconds the connection is cut; with None, at
    the end of the server.
    """

    for_s: float | None = None

    def strike(self, client: Client) -> None:
        client.transport.pause_reading()
        client.hold(self.for_s)


# Protocol errors


_BODY = b"<html><head><title>502 Bad Gateway</title></head><body>The upstream server is gone.</body></html>"
_PAGE = b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: %d\r\n\r\n%s" % (len(_BODY), _BODY)


@dataclass(frozen=True)
class Garbage(ConnectionFault):
    """Sends bytes that are not a frame, by default a proxy's error page. The client fails with 1002 (section 5.2).

    If the bytes look like the beginning of a longer frame, the client waits for the rest.
    """

    data: bytes = field(default=_PAGE, repr=False)

    def strike(self, client: Client) -> None:
        client.write(self.data)


@dataclass(frozen=True)
class ReservedBits(ConnectionFault):
    """Sends a frame with a reserved bit that no extension defines: 1002 (section 5.2)."""

    bit: int = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("bit", self.bit, 1, 3)

    def strike(self, client: Client) -> None:
        client.write(_frame(Opcode.TEXT, b"reserved", reserved=0b1000 >> self.bit))


@dataclass(frozen=True)
class InvalidUTF8(ConnectionFault):
    """Sends a text message that is not valid UTF-8: 1007 (section 8.1)."""

    data: bytes = b'{"name": "M\xfcnster"}'

    def strike(self, client: Client) -> None:
        client.write(_frame(Opcode.TEXT, self.data))


@dataclass(frozen=True)
class Oversize(ConnectionFault):
    """Sends a message of `size` bytes, by default one more than the default of `max_size`: 1009 (section 7.4.1)."""

    size: int = 2**20 + 1

    def strike(self, client: Client) -> None:
        client.write(_frame(Opcode.TEXT, b"x" * self.size))


@dataclass(frozen=True)
class FragmentFlood(ConnectionFault):
    """Sends `fragments` frames of one byte of a message without an end (section 5.4): 1009 if fragments are limited."""

    fragments: int = 50_000

    def strike(self, client: Client) -> None:
        more = _frame(Opcode.CONT, b"x", fin=False)
        client.write(_frame(Opcode.TEXT, b"x", fin=False) + more * (self.fragments - 1))


@dataclass(frozen=True)
class CompressionBomb(ConnectionFault):
    """Sends a small message that inflates to `size` bytes (RFC 7692, section 8): 1009.

    Requires `FeedServer(compression="deflate")` and a client that offers compression. Raises ValueError otherwise.
    """

    size: int = 2**24

    def strike(self, client: Client) -> None:
        if not client.protocol.extensions:
            raise ValueError("a compression bomb needs a client and a FeedServer with compression='deflate'")
        client.write(_frame(Opcode.TEXT, _deflated(self.size), reserved=0b100))


@dataclass(frozen=True)
class Flood(ConnectionFault):
    """Sends `messages` valid messages at once, without flow control. The connection remains usable."""

    messages: int = 10_000
    payload: str | bytes = '{"flood": true}'

    spares: ClassVar[bool] = True

    def strike(self, client: Client) -> None:
        text = isinstance(self.payload, str)
        payload = self.payload.encode() if isinstance(self.payload, str) else self.payload
        client.write(_frame(Opcode.TEXT if text else Opcode.BINARY, payload) * self.messages)
