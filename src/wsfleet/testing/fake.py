"""A fake transport, controlled by the test: no sockets, no threads, no real time.

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
from collections.abc import Collection, Mapping
from typing import Any

from wsfleet.core.encode import encode_payload
from wsfleet.core.errors import ConnectionLost, NotOpen
from wsfleet.core.headers import Headers
from wsfleet.core.loop_watchdog import calls_user_code
from wsfleet.core.time_slice import READ_BYTES, SLICE_S
from wsfleet.endpoint.session import SessionCore
from wsfleet.transport.base import DialRequest, Payload, Progress, Receiver, Wire

__all__ = ["FakeSocket", "FakeTransport", "FakeWire"]


TURNS = 100
"""Iterations of the loop in which `on_open` gets as far as it can without waiting for anything but messages."""


class FakeSocket:
    """The server's end of an accepted connection. `sent` lists the messages that the fleet sent over it.

    It answers pings, unless `answers_pings` is set to False. `pings` counts them.
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
        self._changed: asyncio.Future[None] = self._loop.create_future()
        self._receiver: Receiver | None = None
        self._waiting: deque[Payload] = deque()
        self._closing: ConnectionLost | None = None
        self._lost: ConnectionLost | None = None
        self._gone = False
        self._pinged_at: float | None = None
        self._last_frame, self._last_frame_at = self._loop.time(), time.time()
        self._latency_s: float | None = None

    def __repr__(self) -> str:
        return f"<FakeSocket of {self._target.name!r}{', gone' if self._gone else ''}>"

    async def feed(self, *payloads: Any) -> None:
        """Deliver messages to the fleet, and return when they are published.

        A payload is anything that `Connection.send` takes. While `on_open` runs, messages are held; `feed` waits until
        it has returned or waits in `recv`. If `on_open` waits for anything else, they stay held when `feed` returns.
        While the fleet has paused reading, waits until it reads again, like with a closed TCP window. Raises
        ConnectionLost if the socket is closed before the messages are delivered. If cancelled, undelivered messages
        remain queued before those of the next call.
        """
        self._waiting.extend([encode_payload(payload) for payload in payloads])
        while True:
            self._deliver()
            if not self._waiting and self._receiver is not None:
                break
            if self._gone or self._closing is not None:
                self._waiting.clear()
                raise ConnectionLost(1006, "the fleet has closed this socket")
            await self._wait_change()
        for _ in range(TURNS):
            if not isinstance(self._receiver, SessionCore) or not self._receiver.on_open_busy:
                return
            await asyncio.sleep(0)

    async def next_sent(self) -> Payload:
        """Return the next sent message that this method has not returned yet; wait if there is none. Safe to cancel.

        Raises ConnectionLost if the socket is closed and there are no more messages.
        """
        while self._taken >= len(self.sent):
            if self._gone:
                raise ConnectionLost(1006, "the socket is closed, and there are no more messages")
            await self._wait_change()
        self._taken += 1
        return self.sent[self._taken - 1]

    def close(self, code: int = 1000, reason: str = "") -> None:
        """Close the connection with a close frame, as a server does."""
        self._lose(ConnectionLost(code, reason))

    def lose(self) -> None:
        """Cut the connection without a close frame: the fleet sees 1006 (RFC 6455, section 7.1.5)."""
        self._lose(ConnectionLost(1006, "the peer closed the connection without a close frame"))

    def _pong(self) -> None:
        if self._pinged_at is not None and not self._gone:
            self._last_frame, self._last_frame_at = self._loop.time(), time.time()
            self._latency_s = self._last_frame - self._pinged_at
            self._pinged_at = None

    async def _wait_change(self) -> None:
        await asyncio.shield(self._changed)

    def _notify(self) -> None:
        self._changed.set_result(None)
        self._changed = self._loop.create_future()

    def _deliver(self) -> None:
        while self._waiting and self._receiver is not None and not (self.paused or self._gone or self._closing):
            self._read(self._receiver)

    @calls_user_code("receiver")
    def _read(self, receiver: Receiver) -> None:
        """Deliver one read of at most 64 KiB, as the real wire does."""
        self._last_frame, self._last_frame_at = self._loop.time(), time.time()
        room = READ_BYTES
        while self._waiting and room > 0 and not (self._gone or self._closing):
            batch: list[Payload] = []
            while self._waiting and room > 0 and len(batch) < receiver.chunk:
                payload = self._waiting.popleft()
                room -= len(payload)
                batch.append(payload.encode() if isinstance(payload, str) and not receiver.as_text else payload)
            receiver.receive(batch, self._last_frame_at, time.perf_counter() + SLICE_S)
            receiver = self._receiver or receiver

    def _lose(self, error: ConnectionLost) -> None:
        if self._gone:
            return
        self._gone = True
        self._lost = error
        if self._receiver is not None:
            self._receiver.lost(error)
        self._notify()

    def _resume(self) -> None:
        if self.answers_pings and not self.paused:
            self._pong()
        self._deliver()
        self._notify()

    def _end(self, error: ConnectionLost) -> None:
        # The loss is reported in the next iteration of the loop, as by a real transport.
        if self._closing is None and not self._gone:
            self._closing = error
            self._loop.call_soon(self._lose, error)
            self._notify()


class FakeWire:
    """The fleet's end of a `FakeSocket`: see `wsfleet.transport.base.Wire`."""

    def __init__(self, socket: FakeSocket) -> None:
        self.request_headers = Headers(socket.headers)
        self.response_headers = Headers()
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
    def last_frame_at(self) -> float:
        return self._socket._last_frame_at

    @property
    def ping_sent(self) -> float | None:
        return self._socket._pinged_at

    @property
    def latency_s(self) -> float | None:
        return self._socket._latency_s

    @property
    def unread(self) -> bool:
        return bool(self._socket._waiting)

    async def wait_writable(self) -> None:
        return

    def start(self, receiver: Receiver) -> None:
        socket = self._socket
        socket._receiver = receiver
        if socket._lost is not None:
            self._loop.call_soon(receiver.lost, socket._lost)
        socket._notify()

    def set_receiver(self, receiver: Receiver) -> None:
        if self._socket._receiver is not None:
            self._socket._receiver = receiver

    def pause(self) -> None:
        self._socket.paused = True

    def resume(self) -> None:
        self._socket.paused = False
        if not self._socket._gone:
            # As with a real socket, waiting data is not delivered within this call.
            self._loop.call_soon(self._socket._resume)

    def write(self, payload: Payload) -> None:
        if not isinstance(payload, str | bytes):
            raise TypeError(f"a payload must be str or bytes, not {type(payload).__name__}")
        if self._socket._gone or self._socket._closing is not None:
            raise NotOpen("the connection is closing")
        self._socket.sent.append(payload)
        self._socket._notify()

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
    """A transport for `Fleet(transport=...)`. Attempts wait until the test accepts or refuses them."""

    def __init__(self) -> None:
        self._endpoints: Collection[str] | None = None
        self._attempts: list[tuple[str, DialRequest, asyncio.Future[FakeSocket]]] = []
        self._refusals: deque[BaseException] = deque()
        self._waiters: list[asyncio.Future[None]] = []

    async def accept(self, name: str | None = None, *, timeout_s: float = 5.0) -> FakeSocket:
        """Accept the next attempt, of the endpoint `name` or of any endpoint, and return its socket.

        Waits if there is no attempt. Raises TimeoutError after `timeout_s` seconds if the fleet has no such endpoint,
        and names those that it has. Safe to cancel.
        """
        while True:
            for index, (endpoint, target, answer) in enumerate(self._attempts):
                if name in (None, endpoint) and not answer.done():
                    del self._attempts[index]
                    socket = FakeSocket(target)
                    answer.set_result(socket)
                    return socket
            waiter = asyncio.get_running_loop().create_future()
            self._waiters.append(waiter)
            # An attempt of an endpoint may take long to come: backoff, or a pause of the host.
            await asyncio.wait([waiter], timeout=None if self._expects(name) else timeout_s)
            if not waiter.done() and not self._expects(name):
                wanted = "" if name is None else f" {name!r}"
                known = ", ".join(map(repr, self._endpoints or ())) or "none"
                raise TimeoutError(f"the fleet has no endpoint{wanted}, waited {timeout_s:g} s; it has: {known}")

    def _expects(self, name: str | None) -> bool:
        if self._endpoints is None:  # used without a fleet
            return True
        return bool(self._endpoints) if name is None else name in self._endpoints

    def _set_endpoints(self, names: Collection[str]) -> None:
        """Called by the fleet: `names` are those of its endpoints, and follow its changes."""
        self._endpoints = names

    def refuse(self, error: BaseException) -> None:
        """Let an attempt fail with `error`: the first that waits now, or the next one."""
        for index, (_, _, answer) in enumerate(self._attempts):
            if not answer.done():
                del self._attempts[index]
                answer.set_exception(error)
                return
        self._refusals.append(error)

    async def open(self, target: DialRequest, progress: Progress) -> Wire:
        """Wait until the test accepts or refuses the attempt. Cancellation withdraws the attempt."""
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
        """Do nothing: there are no resources."""
