"""One connection: open, log in, receive, close. It never retries."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

from wsfleet.core.context import loop_thread_only
from wsfleet.core.error_text import is_exit_request
from wsfleet.core.errors import ConnectionLost, FleetError
from wsfleet.core.headers import Headers
from wsfleet.core.message import Message
from wsfleet.core.options import Buffer, Endpoint
from wsfleet.core.text import plural
from wsfleet.core.time_slice import TimeSlice
from wsfleet.endpoint.decode import CHUNK, compile_decoder
from wsfleet.endpoint.envelopes import payload_size
from wsfleet.endpoint.ingest import Ingest
from wsfleet.endpoint.sending import Sending
from wsfleet.transport.base import Wire

__all__ = ["Session", "SessionCore"]

_BOUND = Buffer()


class _Held:
    """A payload that arrived while `on_open` runs. It is decoded later, since `recv` may use another decoder."""

    __slots__ = ("at", "index", "payload", "size")

    def __init__(self, payload: str | bytes, index: int, at: float) -> None:
        self.payload = payload
        self.index = index
        self.at = at
        self.size = payload_size(payload)


class Session:
    """The open connection that `on_open` gets: to log in, subscribe, and wait for the answers.

    Use it until `on_open` returns; afterwards send with the `Connection`.
    """

    __slots__ = ("_core",)

    def __init__(self, core: SessionCore) -> None:
        self._core = core

    def __repr__(self) -> str:
        return f"<Session {self.number} of {self._core.options!r}>"

    @property
    def endpoint(self) -> str:
        """The name of the endpoint, or of the member of a pool."""
        return self._core.endpoint

    @property
    def number(self) -> int:
        """The number of this connection of the endpoint, from 1."""
        return self._core.number

    @property
    def request_headers(self) -> Headers:
        """The headers of the handshake request."""
        return self._core.wire.request_headers

    @property
    def response_headers(self) -> Headers:
        """The headers of the handshake response. Names are case-insensitive; `get_all(name)` returns all values."""
        return self._core.wire.response_headers

    @property
    def subprotocol(self) -> str | None:
        """The subprotocol that the server chose, or None."""
        return self._core.wire.subprotocol

    @loop_thread_only
    async def send(self, data: Any) -> None:
        """Send one message: str as text, bytes as binary, anything else as JSON text.

        Waits for room in the write buffer, and with `sends_per_s` for its turn. Raises NotOpen at once if the
        connection is not open, ConnectionLost if it is lost while waiting, TypeError for data that JSON cannot express,
        and ValueError for NaN and infinity. If cancelled while waiting, nothing was sent.
        """
        await self._core.send(data)

    @loop_thread_only
    async def recv(self, match: Callable[[Message[Any]], bool] | None = None, decode: Any = None) -> Message[Any]:
        """Return the next message for which `match(message)` is true. Other messages are kept, in their order.

        `decode` replaces the endpoint's decoder for this call. Messages that cannot be decoded are skipped, and kept.
        Raises ConnectionLost if the connection ends first, and FleetError outside of `on_open`. Safe to cancel: no
        message is lost.
        """
        return await self._core.recv(match, decode)

    def _check_thread(self) -> None:
        self._core.check_thread()


class SessionCore(Sending):
    """The internal side of a session: the receiver of the wire, controlled by the supervisor."""

    def __init__(self, endpoint: Endpoint, ingest: Ingest, wire: Wire, number: int) -> None:
        super().__init__(endpoint, ingest, wire)
        self.number = number
        self._before = ingest.received, ingest.sent
        self._thread = threading.get_ident()
        self._holding = True
        self._bounded = True
        self._reading = True
        self._held: list[_Held] = []
        self._held_bytes = 0
        self._removed = 0
        self._changed: asyncio.Future[None] | None = None  # recv() waits for it
        self.on_lost: Callable[[], object] | None = None
        self.on_lost_while_paused: Callable[[ConnectionLost], object] | None = None
        self.closed_by_us = False
        ingest.begin(number, wire)
        # Read by the wire. While on_open runs, text and binary frames must be distinguished.
        self.as_text = True
        self.chunk = CHUNK

    @property
    def wire(self) -> Wire:
        return self._wire

    @property
    def held(self) -> int:
        """The number of messages held until `on_open` returns."""
        return len(self._held)

    @property
    def on_open_busy(self) -> bool:
        """Whether `on_open` has not returned, and does not wait in `recv` for more messages."""
        return self._holding and self._changed is None and self._error is None

    @property
    def traffic(self) -> str:
        """The number of messages that were received and sent since the handshake, as text."""
        received, sent = self._ingest.received - self._before[0], self._ingest.sent - self._before[1]
        return f"{plural(received, 'message')} received, {sent:,} sent"

    @property
    def lost_error(self) -> ConnectionLost | None:
        return self._error

    def check_thread(self) -> None:
        """Raise FleetError in a thread other than the loop's."""
        if threading.get_ident() != self._thread:
            raise FleetError("a session belongs to the thread of its fleet's loop; elsewhere use Fleet.from_thread")

    def request_exit(self, error: BaseException) -> None:
        """Request the exit of the program, because user code raised `error`."""
        self._ingest.hub.request_exit(error)

    # Receiving while on_open runs

    async def recv(self, match: Callable[[Message[Any]], bool] | None, decode: Any) -> Message[Any]:
        """See `Session.recv`."""
        decoder = compile_decoder(decode)[0] if decode is not None else self._ingest.factory.decode
        place = 0
        removed = self._removed
        while True:
            if not self._holding:
                raise FleetError("recv() belongs to on_open; afterwards messages go to the subscriptions")
            if removed != self._removed:  # another recv() took a message, so positions have changed
                place, removed = 0, self._removed
            while place < len(self._held):
                held = self._held[place]
                message = self._message(held, decoder, decode == "bytes")
                if message is not None and (match is None or match(message)):
                    self._take(place)
                    self._ingest.answered += 1
                    return message
                place += 1
            if self._error is not None:
                raise ConnectionLost(self._error.code, self._error.reason) from self._error
            if self._changed is None:
                self._changed = self._loop.create_future()
            await asyncio.shield(self._changed)

    def _message(self, held: _Held, decoder: Callable[[Any], Any] | None, as_bytes: bool) -> Message[Any] | None:
        data: Any = held.payload
        try:
            if decoder is not None:
                data = decoder(data)
            elif as_bytes and isinstance(data, str):
                data = data.encode()
        except BaseException as exc:
            if is_exit_request(exc):
                raise
            return None
        factory = self._ingest.factory
        return Message(data, factory.topic, factory.name, held.index, self.number, held.at, held.size)

    def _take(self, place: int) -> _Held:
        held = self._held.pop(place)
        self._held_bytes -= held.size
        self._removed += 1
        return held

    def _hold(self, payloads: list[str | bytes], at: float) -> None:
        ingest = self._ingest
        for index, payload in enumerate(payloads, ingest.first_index + ingest.received):
            held = _Held(payload, index, at)
            ingest.received_bytes += held.size
            self._held.append(held)
            self._held_bytes += held.size
        if self._bounded and (len(self._held) > _BOUND.messages or self._held_bytes > _BOUND.bytes):
            self._reading = False
            self._wire.abort(
                f"more than {_BOUND.messages} messages or {_BOUND.bytes} bytes came before on_open was done"
            )
        self._notify()

    def _notify(self) -> None:
        if self._changed is not None:
            self._changed.set_result(None)
            self._changed = None

    async def release(self) -> None:
        """Publish the held messages after `on_open`, and pass on later ones directly."""
        ingest = self._ingest
        if self._held:
            # New messages wait behind the held ones. The bound does not apply to them.
            self._bounded = False
            self._wire.pause()
        time_slice = TimeSlice()
        while self._held:
            self._publish_held(ingest)
            if time_slice.expired():
                await time_slice.yield_to_loop()
        self._holding = False
        self._notify()
        if self._reading:
            ingest.attach(self._wire, self)
            self._wire.set_receiver(ingest)
            if not self._bounded and ingest.reading:
                self._wire.resume()

    def _publish_held(self, ingest: Ingest) -> None:
        messages = []
        for held in self._held[: ingest.chunk]:
            ingest.received_bytes -= held.size  # read() counts it
            message = ingest.read(self._raw(held), held.index, held.at)
            self._take(0)
            if message is not None:
                messages.append(message)
        ingest.hand_over(messages)

    def _raw(self, held: _Held) -> str | bytes:
        # Text was held as str while on_open ran, but the endpoint's decoder may want bytes.
        wants_bytes = not self._ingest.factory.as_text
        return held.payload.encode() if wants_bytes and isinstance(held.payload, str) else held.payload

    def discard(self) -> None:
        """Drop the held messages: `on_open` has failed."""
        while self._held:
            self._take(len(self._held) - 1)
            self._ingest.discarded += 1

    # The wire's receiver

    def receive(self, payloads: list[str | bytes], at: float, until: float) -> None:
        if self._reading:
            self._ingest.last_data, self._ingest.last_message_at = self._wire.last_frame, at
            self._hold(payloads, at)
            self._ingest.received += len(payloads)

    def lost_while_paused(self, error: ConnectionLost) -> None:
        self._refuse()
        report, self.on_lost_while_paused = self.on_lost_while_paused, None
        if report is not None:
            report(error)

    def lost(self, error: ConnectionLost) -> None:
        self._error, self._direct = error, False
        self._ingest.detach(error)
        self._notify()
        if not self.ended.done():
            self.ended.set_result(error)
        if self.on_lost is not None:
            self.on_lost()

    # Ending

    @property
    def reading(self) -> bool:
        """Whether messages are still passed on."""
        return self._reading

    @property
    def last_data(self) -> float:
        """The loop's time of the last message, or of the handshake."""
        return self._ingest.last_data

    def running_since(self, when: float, now: float) -> float:
        """Return the seconds from `when` to `now` in which the socket was read."""
        return self._ingest.running_since(when, now)

    def stop_reading(self) -> None:
        """Pass on no more messages. Sending still works."""
        self._ignore_messages()
        # Otherwise a mailbox with room again would resume reading.
        self._ingest.detach()
        self._wire.pause()

    def close(self, code: int, reason: str = "") -> None:
        """Begin the closing handshake. `ended` is done within `close_s` seconds."""
        self._ignore_messages()
        self.closed_by_us = True
        self._wire.close(code, reason)

    def abort(self, reason: str = "") -> None:
        self._ignore_messages()
        self.closed_by_us = True
        self._wire.abort(reason)

    def _ignore_messages(self) -> None:
        self._reading = False
        self._wire.set_receiver(self)
