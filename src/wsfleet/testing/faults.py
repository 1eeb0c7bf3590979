"""What a `FeedServer` can do wrong, each fault a value: to strike with, or to write a script of.

    from wsfleet.testing import FeedServer, faults

    async with FeedServer() as server:
        server.script([faults.Refuse(503), faults.Reset(after=10)])   # the next two attempts; then all is well
        ...
        server.strike(faults.InvalidUTF8())                           # whoever is connected, now

A `HandshakeFault` is the answer to one attempt. A `ConnectionFault` happens to a connected client: at once, or after
the server has sent it `after` messages, or after `after_s` seconds, whichever comes first. It happens once, and the
client then counts as gone for the server: nothing more is sent to it, and who comes back is a new one.

A fault of your own is a subclass with a `strike` or an `answer`. Sections are those of RFC 6455, unless another one is
named; "the client" is one that keeps to it.
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
    """One frame (RFC 6455, section 5.2)."""
    first, length = fin << 7 | reserved << 4 | opcode, len(payload)
    if length < 126:
        return struct.pack("!BB", first, length) + payload
    if length < 2**16:
        return struct.pack("!BBH", first, 126, length) + payload
    return struct.pack("!BBQ", first, 127, length) + payload


@functools.lru_cache(maxsize=4)
def _deflated(size: int) -> bytes:
    """So many spaces, as one message of permessage-deflate (RFC 7692, section 7.2.1)."""
    deflate = zlib.compressobj(wbits=-15)
    chunk = b" " * min(size, 2**20)
    parts = [deflate.compress(chunk) for _ in range(size // len(chunk))] if chunk else []
    parts += [deflate.compress(b" " * (size % len(chunk)) if chunk else b""), deflate.flush(zlib.Z_SYNC_FLUSH)]
    return b"".join(parts).removesuffix(b"\x00\x00\xff\xff")


# Handshakes


@dataclass(frozen=True)
class Refuse(HandshakeFault):
    """Answers with a status: 401, 403, 404, 429 with a Retry-After among `headers`, 503 (section 4.2.2, point 5)."""

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_number("status", self.status, 200, 599)

    async def answer(self, client: Client) -> Response | None:
        try:
            phrase = http.HTTPStatus(self.status).phrase
        except ValueError:
            phrase = "Refused"  # 499 or 520 are no standard, but servers send them
        headers = Headers(self.headers)
        headers.setdefault("Connection", "close")
        headers.setdefault("Content-Length", "0")
        return Response(self.status, phrase, headers, b"")


@dataclass(frozen=True)
class Redirect(HandshakeFault):
    """Sends the client to another address (section 4.1; RFC 9110, section 15.4)."""

    uri: str
    status: int = 302

    def __post_init__(self) -> None:
        check_number("status", self.status, 300, 399)

    async def answer(self, client: Client) -> Response | None:
        return await Refuse(self.status, {"Location": self.uri}).answer(client)


@dataclass(frozen=True)
class NoAnswer(HandshakeFault):
    """Takes the TCP connection and the request, and never says a word; the client must give up by itself."""

    async def answer(self, client: Client) -> Response | None:
        await asyncio.wait([client.connection_lost_waiter])
        return None


@dataclass(frozen=True)
class BadAnswer(HandshakeFault):
    """Answers with something that is not HTTP, and hangs up: the address of another service."""

    data: bytes = b"220 mail.example ESMTP ready\r\n"

    async def answer(self, client: Client) -> Response | None:
        client.write(self.data)
        client.transport.close()
        return await NoAnswer().answer(client)


@dataclass(frozen=True)
class SlowHandshake(HandshakeFault):
    """Answers rightly, but only a byte every `byte_s` seconds: whoever is patient gets a good connection."""

    byte_s: float = 1.0

    async def answer(self, client: Client) -> Response | None:
        client._byte_s = self.byte_s
        return None


@dataclass(frozen=True)
class EndlessHeaders(HandshakeFault):
    """Answers 101, and then with headers without an end, as fast as the client takes them."""

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
            pass  # the client has had enough
        return await NoAnswer().answer(client)


# Connections that end


@dataclass(frozen=True)
class Well(ConnectionFault):
    """Nothing goes wrong: a step that leaves one attempt alone."""

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
    """Writes half a frame, and resets the TCP connection: 1006, and what is on its way may be lost with it."""

    destroys: ClassVar[bool] = True

    def strike(self, client: Client) -> None:
        whole = _frame(Opcode.TEXT, b"half of this is all there will be")
        client.write(whole[: len(whole) // 2])
        client.reset()


@dataclass(frozen=True)
class Close(ConnectionFault):
    """Begins the closing handshake (section 7.1.2). In a script, without `after`: accepts, then closes at once.

    1005 sends a close frame without a code. Another code that no frame may carry (1006, 999; section 7.4.1) is sent all
    the same, and the client fails the connection with 1002. Raises ValueError for a code that is no number of 16 bits,
    and a reason of more than 123 bytes (section 5.5.1).
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
        """Whether a frame may carry the code."""
        try:
            websockets.frames.Close(self.code, self.reason).check()
        except ProtocolError:
            return False
        return True


# Connections that seem to live


@dataclass(frozen=True)
class Silence(ConnectionFault):
    """Sends no message any more, but still reads, and answers pings (section 5.5.3): only `stale_s` notices.

    After `for_s` seconds the connection is cut; without it, when the server ends.
    """

    for_s: float | None = None

    def strike(self, client: Client) -> None:
        client.hold(self.for_s)


@dataclass(frozen=True)
class Stall(ConnectionFault):
    """Leaves the connection half-open: nothing is read, nothing written, nothing closed; pings go unanswered.

    So a peer looks that hangs, or whose network is gone. After `for_s` seconds the connection is cut; without it, when
    the server ends.
    """

    for_s: float | None = None

    def strike(self, client: Client) -> None:
        client.transport.pause_reading()
        client.hold(self.for_s)


# What no server should send


_BODY = b"<html><head><title>502 Bad Gateway</title></head><body>The upstream server is gone.</body></html>"
_PAGE = b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: %d\r\n\r\n%s" % (len(_BODY), _BODY)


@dataclass(frozen=True)
class Garbage(ConnectionFault):
    """Writes bytes that are no frame, by default a proxy's error page: the client fails with 1002 (section 5.2).

    Bytes that look like the beginning of a frame may leave a client waiting for its end, if there are too few of them.
    """

    data: bytes = field(default=_PAGE, repr=False)

    def strike(self, client: Client) -> None:
        client.write(self.data)


@dataclass(frozen=True)
class ReservedBits(ConnectionFault):
    """Sends a frame with a reserved bit that no extension has given a meaning: 1002 (section 5.2)."""

    bit: int = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("bit", self.bit, 1, 3)

    def strike(self, client: Client) -> None:
        client.write(_frame(Opcode.TEXT, b"reserved", reserved=0b1000 >> self.bit))


@dataclass(frozen=True)
class InvalidUTF8(ConnectionFault):
    """Sends a text message that is not UTF-8: the client fails with 1007 (section 8.1)."""

    data: bytes = b'{"name": "M\xfcnster"}'

    def strike(self, client: Client) -> None:
        client.write(_frame(Opcode.TEXT, self.data))


@dataclass(frozen=True)
class Oversize(ConnectionFault):
    """Sends one message of `size` bytes, by default one more than `max_size` allows: 1009 (section 7.4.1)."""

    size: int = 2**20 + 1

    def strike(self, client: Client) -> None:
        client.write(_frame(Opcode.TEXT, b"x" * self.size))


@dataclass(frozen=True)
class FragmentFlood(ConnectionFault):
    """Sends a message in `fragments` frames of a byte each, and never the last (section 5.4): 1009, where bounded."""

    fragments: int = 50_000

    def strike(self, client: Client) -> None:
        more = _frame(Opcode.CONT, b"x", fin=False)
        client.write(_frame(Opcode.TEXT, b"x", fin=False) + more * (self.fragments - 1))


@dataclass(frozen=True)
class CompressionBomb(ConnectionFault):
    """Sends a small message that inflates to `size` bytes (RFC 7692, section 8): 1009.

    Compression must have been agreed on: `FeedServer(compression="deflate")`, and a client that asks for it. Raises
    ValueError where it was not.
    """

    size: int = 2**24

    def strike(self, client: Client) -> None:
        if not client.protocol.extensions:
            raise ValueError("a compression bomb needs a client and a FeedServer with compression='deflate'")
        client.write(_frame(Opcode.TEXT, _deflated(self.size), reserved=0b100))


@dataclass(frozen=True)
class Flood(ConnectionFault):
    """Sends `messages` good messages at once, however slowly they are read. The connection stays as it was."""

    messages: int = 10_000
    payload: str | bytes = '{"flood": true}'

    spares: ClassVar[bool] = True

    def strike(self, client: Client) -> None:
        text = isinstance(self.payload, str)
        payload = self.payload.encode() if isinstance(self.payload, str) else self.payload
        client.write(_frame(Opcode.TEXT if text else Opcode.BINARY, payload) * self.messages)
