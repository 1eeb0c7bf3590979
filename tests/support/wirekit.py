"""Helpers for tests of the wire: frames, a socket without a network, a receiver that records its messages."""

import asyncio
import struct
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

from websockets.datastructures import Headers
from websockets.extensions import Extension
from websockets.frames import BINARY, CLOSE, CONT, PING, PONG, TEXT  # noqa: F401 - for all who make frames
from websockets.http11 import Request, Response
from websockets.protocol import CLIENT

from wsfleet.core.errors import ConnectionLost
from wsfleet.core.time_slice import READ_BYTES
from wsfleet.transport.fairness import ReadScheduler
from wsfleet.transport.fragments import FragmentedProtocol
from wsfleet.transport.protocol import WebSocketWire


def frame(
    opcode: int, payload: bytes = b"", *, fin: bool = True, reserved: int = 0, form: int = 0, mask: bytes | None = None
) -> bytes:
    """One frame of any kind, the forbidden ones included (RFC 6455, section 5.2).

    `form` is how the length is written: 0 the shortest form, otherwise at least this number of bits (16 or 64).
    """
    head = bytes([(0x80 if fin else 0) | reserved << 4 | opcode])
    masked = 0x80 if mask is not None else 0
    length = len(payload)
    if form == 0 and length < 126:
        head += bytes([masked | length])
    elif form < 64 and length < 2**16:
        head += bytes([masked | 126]) + struct.pack("!H", length)
    else:
        head += bytes([masked | 127]) + struct.pack("!Q", length)
    if mask is not None:
        payload = bytes(byte ^ mask[place % 4] for place, byte in enumerate(payload))
        head += mask
    return head + payload


def written_frames(data: bytes) -> list[tuple[int, bytes]]:
    """The frames that a client wrote, as `(opcode, payload)`, without their random masks."""
    found = []
    pos = 0
    while pos < len(data):
        opcode, length = data[pos] & 0x0F, data[pos + 1] & 0x7F
        assert data[pos + 1] & 0x80, "a client's frames are masked (RFC 6455, section 5.1)"
        pos += 2
        if length == 126:
            (length,) = struct.unpack_from("!H", data, pos)
            pos += 2
        elif length == 127:
            (length,) = struct.unpack_from("!Q", data, pos)
            pos += 8
        mask, payload = data[pos : pos + 4], data[pos + 4 : pos + 4 + length]
        found.append((opcode, bytes(byte ^ mask[place % 4] for place, byte in enumerate(payload))))
        pos += 4 + length
    return found


class Collector:
    """A receiver that records everything, and may pause its wire after every so many batches."""

    def __init__(self, *, as_text: bool = True, chunk: int = 256, pause_every: int = 0) -> None:
        self.as_text = as_text
        self.chunk = chunk
        self.pause_every = pause_every
        self.wire: WebSocketWire | None = None
        self.batches: list[list[str | bytes]] = []
        self.paused = False
        self.while_paused = 0
        self.losses: list[ConnectionLost] = []
        self.ended: asyncio.Future[ConnectionLost] = asyncio.get_running_loop().create_future()

    def start(self, wire: WebSocketWire) -> None:
        self.wire = wire
        wire.start(self)

    @property
    def messages(self) -> list[str | bytes]:
        return [payload for batch in self.batches for payload in batch]

    @property
    def error(self) -> ConnectionLost | None:
        return self.ended.result() if self.ended.done() else None

    def receive(self, payloads: list[str | bytes], at: float, until: float) -> None:
        assert not self.ended.done(), "delivered after the loss"
        self.while_paused += self.paused
        self.batches.append(payloads)
        if self.pause_every and len(self.batches) % self.pause_every == 0 and self.wire is not None:
            self.paused = True
            self.wire.pause()

    def resume(self) -> None:
        self.paused = False
        assert self.wire is not None
        self.wire.resume()

    def lost_while_paused(self, error: ConnectionLost) -> None:
        self.losses.append(error)

    def lost(self, error: ConnectionLost) -> None:
        self.ended.set_result(error)


class Pipe(asyncio.Transport):
    """A transport without a network: fed data wait, as in a socket's buffer, until the protocol reads."""

    def __init__(self) -> None:
        super().__init__()
        self._loop = asyncio.get_running_loop()
        self.protocol: Any = None
        self.incoming: deque[bytes] = deque()
        self.reading = False
        self.ending = False
        self.closing = False
        self.lost = False
        self.written = bytearray()

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self.protocol = protocol

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass

    def is_closing(self) -> bool:
        return self.closing

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        assert not self.closing
        self.reading = True

    def write(self, data: bytes | bytearray | memoryview) -> None:
        assert not self.closing, "written to a transport that is closing"
        self.written += data

    def abort(self, exc: Exception | None = None) -> None:
        if not self.closing:
            self.closing = True
            self.reading = False
            self._loop.call_soon(self._lose, exc)

    def _lose(self, exc: Exception | None) -> None:
        self.lost = True
        self.protocol.connection_lost(exc)

    def read(self) -> bool:
        """Let the protocol make one read; return whether there was one."""
        if self.closing or not self.reading:
            return False
        if self.incoming:
            data = self.incoming.popleft()
            if isinstance(self.protocol, asyncio.BufferedProtocol):
                view = self.protocol.get_buffer(-1)
                count = min(len(data), len(view))
                view[:count] = data[:count]
                if count < len(data):
                    self.incoming.appendleft(data[count:])
                self.protocol.buffer_updated(count)
            else:
                self.protocol.data_received(data)
            return True
        if self.ending:
            self.ending = False
            if not self.protocol.eof_received():
                self.abort()
            return True
        return False

    async def settle(self) -> None:
        """Run the loop until the protocol has read all that it accepts, and finished its deferred work."""
        idle = 0
        while idle < 4:
            busy = self.read() or getattr(self.protocol, "_continuing", False)
            idle = 0 if busy else idle + 1
            await asyncio.sleep(0)


@dataclass
class Opened:
    """Replaces an `Opening` whose handshake is complete."""

    transport: Pipe
    early: bytes = b""
    lost: tuple[Exception | None] | None = None
    successor: asyncio.BufferedProtocol | None = None
    encrypted: bool = False

    @property
    def source(self) -> Pipe:
        return self.transport


def open_protocol(max_size: int, extensions: Sequence[Extension] = ()) -> FragmentedProtocol:
    """websockets' client, as the wire uses it, with a complete handshake."""
    protocol = FragmentedProtocol(CLIENT, max_size=max_size)
    protocol.extensions = list(extensions)
    return protocol


def open_wire(
    pipe: Pipe,
    protocol: FragmentedProtocol,
    early: bytes = b"",
    close_s: float = 2.0,
    opening: Any = None,
    max_fragments: int = 4096,
    scheduler: ReadScheduler | None = None,
) -> WebSocketWire:
    headers = Headers()
    return WebSocketWire(
        cast(Any, opening or Opened(pipe, early)),
        protocol,
        Request("/", headers),
        Response(101, "Switching Protocols", headers),
        memoryview(bytearray(READ_BYTES)),
        close_s,
        max_fragments,
        scheduler or ReadScheduler(),
    )
