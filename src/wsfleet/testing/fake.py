"""A network that does what the test says: no sockets, no threads, no real time.

transport = FakeTransport()
fleet = Fleet(transport=transport)
connection = fleet.connect("ws://feed.test/", name="feed")
async with fleet:
    socket = await transport.accept("feed")
    await socket.feed('{"n": 1}')
    socket.lose()
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Mapping

from wsfleet.core.errors import ConnectionLost, NotOpen
from wsfleet.core.time_slice import READ_BYTES
from wsfleet.transport.base import DialRequest, Payload, Progress, Receiver, Wire

__all__ = ["FakeSocket", "FakeTransport", "FakeWire"]


class FakeSocket:
    """The server's end of one accepted connection. `sent` lists what the fleet sent over it.

    It answers pings, unless `answers_pings` is set to False; `pings` counts them.
    """

    def __init__(self, target: DialRequest) -> None:
        self.uri = target.uri
        self.headers: Mapping[str, str] = dict(target.headers)
        self.sent: list[Payload] = []
        self.pings = 0
        self.answers_pings = True
        self.paused = False
        self._target = target
        self._loop = asyncio.get_running_loop()
        self._taken = 0
        self._news: asyncio.Future[None] = self._loop.create_future()
        self._receiver: Receiver | None = None
        self._waiting: deque[Payload] = deque()
        self._closing: ConnectionLost | None = None
        self._lost: ConnectionLost | None = None
        self._gone = False
        self._pinged_at: float | None = None
        self._last_frame = self._loop.time()
        self._latency_s: float | None = None

    def __repr__(self) -> str:
        return f"<FakeSocket of {self._target.name!r}{', gone' if self._gone else ''}>"

    async def feed(self, *payloads: Payload) -> None:
        """Let these messages arrive; returns when they are published, or held for `on_open`.

        While the fleet has paused reading, that is when it reads again, as with a closed TCP window. Raises
        ConnectionLost when the socket is gone. Cancelled, what has not arrived stays on its way, before what is fed
        next.
        """
        self._waiting.extend(payloads)
        while True:
            self._deliver()
            if not self._waiting:
                return
            if self._gone or self._closing is not None:
                self._waiting.clear()
                raise ConnectionLost(1006, "the fleet has closed this socket")
            await self._next_news()

    async def next_sent(self) -> Payload:
        """Return the next message that the fleet sends, or has sent and nobody asked for yet. Safe to cancel.

        Raises ConnectionLost when the socket is gone and there is none.
        """
        while self._taken >= len(self.sent):
            if self._gone:
                raise ConnectionLost(1006, "the socket is gone, and nothing more was sent")
            await self._next_news()
        self._taken += 1
        return self.sent[self._taken - 1]

    def close(self, code: int = 1000, reason: str = "") -> None:
        """Close the connection as a server does, with a close frame."""
        self._lose(ConnectionLost(code, reason))

    def lose(self) -> None:
        """Cut the connection without a close frame: the fleet sees 1006 (RFC 6455, section 7.1.5)."""
        self._lose(ConnectionLost(1006, "the peer closed the connection without a close frame"))

    def _pong(self) -> None:
        if self._pinged_at is not None and not self._gone:
            self._last_frame = self._loop.time()
            self._latency_s = self._last_frame - self._pinged_at
            self._pinged_at = None

    async def _next_news(self) -> None:
        await asyncio.shield(self._news)

    def _tell(self) -> None:
        self._news.set_result(None)
        self._news = self._loop.create_future()

    def _deliver(self) -> None:
        while self._waiting and self._receiver is not None and not (self.paused or self._gone or self._closing):
            self._read(self._receiver)

    def _read(self, receiver: Receiver) -> None:
        """One read of the socket: at most 64 KiB, handed over whole, as by the real wire."""
        self._last_frame, at = self._loop.time(), time.time()
        room = READ_BYTES
        while self._waiting and room > 0 and not (self._gone or self._closing):
            batch: list[Payload] = []
            while self._waiting and room > 0 and len(batch) < receiver.chunk:
                payload = self._waiting.popleft()
                room -= len(payload)
                batch.append(payload.encode() if isinstance(payload, str) and not receiver.as_text else payload)
            receiver.received(batch, at)

    def _lose(self, error: ConnectionLost) -> None:
        if self._gone:
            return
        self._gone = True
        self._lost = error
        if self._receiver is not None:
            self._receiver.lost(error)
        self._tell()

    def _resume(self) -> None:
        if self.answers_pings and not self.paused:
            self._pong()
        self._deliver()
        self._tell()

    def _end(self, error: ConnectionLost) -> None:
        # The loss is told in the loop's next turn, as by a real transport.
        if self._closing is None and not self._gone:
            self._closing = error
            self._loop.call_soon(self._lose, error)
            self._tell()


class FakeWire:
    """The fleet's end of a `FakeSocket`: see `wsfleet.transport.base.Wire`."""

    def __init__(self, socket: FakeSocket) -> None:
        self.request_headers = socket.headers
        self.response_headers: Mapping[str, str] = {}
        subprotocols = socket._target.subprotocols
        self.subprotocol = subprotocols[0] if subprotocols else None
        self.connected_at = socket._last_frame
        self._socket = socket
        self._loop = socket._loop

    @property
    def writable(self) -> bool:
        return True

    @property
    def last_frame(self) -> float:
        return self._socket._last_frame

    @property
    def ping_sent(self) -> float | None:
        return self._socket._pinged_at

    @property
    def latency_s(self) -> float | None:
        return self._socket._latency_s

    async def wait_writable(self) -> None:
        return

    def start(self, receiver: Receiver) -> None:
        socket = self._socket
        socket._receiver = receiver
        if socket._lost is not None:
            self._loop.call_soon(receiver.lost, socket._lost)
        socket._tell()

    def pause(self) -> None:
        self._socket.paused = True

    def resume(self) -> None:
        self._socket.paused = False
        if not self._socket._gone:
            # As with a real socket, what waits is not read inside the call that allows it.
            self._loop.call_soon(self._socket._resume)

    def write(self, payload: Payload) -> None:
        if not isinstance(payload, str | bytes):
            raise TypeError(f"a payload is str or bytes, not {type(payload).__name__}")
        if self._socket._gone or self._socket._closing is not None:
            raise NotOpen("the connection is closing")
        self._socket.sent.append(payload)
        self._socket._tell()

    def ping(self) -> None:
        socket = self._socket
        socket.pings += 1
        if socket._pinged_at is None:
            socket._pinged_at = self._loop.time()
        if socket.answers_pings and not socket.paused:
            self._loop.call_soon(socket._pong)

    def close(self, code: int, reason: str = "") -> None:
        self._socket._end(ConnectionLost(code, reason))

    def abort(self, reason: str = "") -> None:
        self._socket._end(ConnectionLost(1006, reason))


class FakeTransport:
    """Given as `Fleet(transport=...)`: attempts wait until the test accepts or refuses them."""

    def __init__(self) -> None:
        self._attempts: list[tuple[str, DialRequest, asyncio.Future[FakeSocket]]] = []
        self._refusals: deque[BaseException] = deque()
        self._waiters: list[asyncio.Future[None]] = []

    async def accept(self, name: str | None = None) -> FakeSocket:
        """Wait for the next attempt of the endpoint `name`, or of any, let it succeed, and return its socket.

        Safe to cancel.
        """
        while True:
            for place, (who, target, answer) in enumerate(self._attempts):
                if name in (None, who) and not answer.done():
                    del self._attempts[place]
                    socket = FakeSocket(target)
                    answer.set_result(socket)
                    return socket
            waiter = asyncio.get_running_loop().create_future()
            self._waiters.append(waiter)
            await waiter

    def refuse(self, error: BaseException) -> None:
        """Let the next attempt fail with `error`: one that waits now, or else the next one to come."""
        for place, (_, _, answer) in enumerate(self._attempts):
            if not answer.done():
                del self._attempts[place]
                answer.set_exception(error)
                return
        self._refusals.append(error)

    async def open(self, target: DialRequest, progress: Progress) -> Wire:
        """Wait until the test answers the attempt. Cancelling it withdraws the attempt."""
        progress.stage = "tcp"
        if self._refusals:
            raise self._refusals.popleft()
        answer: asyncio.Future[FakeSocket] = asyncio.get_running_loop().create_future()
        attempt = (target.name, target, answer)
        self._attempts.append(attempt)
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)
        self._waiters.clear()
        try:
            return FakeWire(await answer)
        finally:
            if attempt in self._attempts:
                self._attempts.remove(attempt)

    async def aclose(self) -> None:
        """Nothing to release."""
