"""The writing side of an open socket: messages, pings, pongs, and flow control."""

from __future__ import annotations

import asyncio
import time

from websockets.frames import PING, Frame
from websockets.protocol import OPEN, Protocol

from wsfleet.core.accel import fastest
from wsfleet.core.errors import NotOpen
from wsfleet.transport.base import Payload
from wsfleet.transport.framing import client_frame

__all__ = ["WRITE_BYTES", "Writing"]

WRITE_BYTES = 2**16
"""High-water mark of the write buffer, in bytes."""

frame_of = fastest(client_frame, "wsfleet.transport._framing")


class Writing:
    """The part of a wire that implements `write`, `ping` and `wait_writable`.

    A base class instead of a separate object, to save memory with ten thousand connections.
    """

    __slots__ = (
        "_closing",
        "_loop",
        "_lost",
        "_pending_pong",
        "_ping_count",
        "_pings",
        "_plain",
        "_protocol",
        "_transport",
        "_writers",
        "latency_s",
        "writable",
    )

    def __init__(self, transport: asyncio.Transport, protocol: Protocol) -> None:
        self._transport = transport
        self._protocol = protocol
        self._plain = not protocol.extensions
        self._loop = asyncio.get_running_loop()
        self._closing = False
        self._lost: tuple[Exception | None] | None = None
        self.writable = True
        self._pending_pong = b""  # a pong that waits for room in the write buffer
        self._writers: list[asyncio.Future[None]] = []
        self._pings: list[tuple[bytes, float, float]] = []  # few items; an empty deque takes 760 bytes
        self._ping_count = 0
        self.latency_s: float | None = None

    @property
    def _open(self) -> bool:
        closed = self._closing or self._lost is not None or self._protocol.state is not OPEN
        return not closed and not self._transport.is_closing()

    @property
    def ping_sent(self) -> float | None:
        return self._pings[0][1] if self._pings else None

    async def wait_writable(self) -> None:
        while not self.writable and self._lost is None:
            waiter = self._loop.create_future()
            self._writers.append(waiter)
            try:
                await waiter
            finally:
                self._writers.remove(waiter)

    def write(self, payload: Payload) -> None:
        # `_closing` is set whenever the protocol object has left the state OPEN.
        if self._closing or self._lost is not None or self._transport.is_closing():
            raise NotOpen("the connection is closing")
        if self._plain:
            self._transport.write(frame_of(payload))
            return
        if isinstance(payload, str):
            self._protocol.send_text(payload.encode())
        else:
            self._protocol.send_binary(payload)
        self._flush()

    def ping(self) -> None:
        if not self._open:
            return
        self._ping_count += 1
        payload = self._ping_count.to_bytes(8, "big")
        # loop.time() is for deadlines. In uvloop its resolution is 1 ms, too coarse for a round trip time.
        self._pings.append((payload, self._loop.time(), time.perf_counter()))
        self._protocol.send_ping(payload)
        self._flush()

    def pause_writing(self) -> None:
        self.writable = False

    def resume_writing(self) -> None:
        self.writable = True
        if self._pending_pong:
            # Not here: the transport is in the middle of a write, and would report a loss twice if this one failed.
            self._loop.call_soon(self._write_owed)
        self._wake_writers()

    def _write_owed(self) -> None:
        pong, self._pending_pong = self._pending_pong, b""
        if pong and self._open:  # nothing follows a close frame
            self._transport.write(pong)

    def _wake_writers(self) -> None:
        for waiter in self._writers:
            if not waiter.done():
                waiter.set_result(None)

    def _flush(self) -> None:
        for data in self._protocol.data_to_send():
            # Empty data requests an EOF, which websockets sends only after the peer's EOF; asyncio closes then anyway.
            if data and not self._transport.is_closing():
                self._transport.write(data)

    def _answer(self, received: list[Frame]) -> None:
        """Send the protocol object's responses to received frames."""
        if not self.writable and received and received[-1].opcode is PING:
            # RFC 6455, section 5.5.3: it is sufficient to answer the latest ping. A peer that sends many pings and
            # reads no pongs must not fill our memory.
            self._pending_pong = b"".join(self._protocol.data_to_send())
        else:
            self._flush()

    def _pong(self, payload: bytes) -> None:
        # RFC 6455, section 5.5.3: a pong also answers all earlier pings.
        if any(payload == sent for sent, _, _ in self._pings):
            while True:
                sent, _, when = self._pings.pop(0)
                if sent == payload:
                    self.latency_s = time.perf_counter() - when
                    return
