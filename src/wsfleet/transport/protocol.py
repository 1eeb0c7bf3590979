"""One open socket: the protocol rules of websockets, with a faster reader.

The scanner extracts plain data frames directly from each read. All other frames are passed, complete, to the Sans-I/O
protocol object of websockets. The protocol object is therefore always at a frame boundary, and enforces its rules.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from typing import cast

from websockets.exceptions import PayloadTooBig, ProtocolError
from websockets.frames import BINARY, CONT, PONG, TEXT, CloseCode, Frame
from websockets.http11 import Request, Response
from websockets.protocol import Protocol

from wsfleet.core.accel import fastest
from wsfleet.core.headers import Headers
from wsfleet.core.loop_watchdog import calls_user_code
from wsfleet.core.time_slice import READ_BYTES, SLICE_S
from wsfleet.transport import scanner
from wsfleet.transport.base import Payload, Receiver
from wsfleet.transport.closer import Closing
from wsfleet.transport.dial import Opening
from wsfleet.transport.fairness import LOSS_S, ReadScheduler
from wsfleet.transport.fragments import TOO_MANY, Fragments, TooManyFragments
from wsfleet.transport.inflate import Inflater
from wsfleet.transport.scanner import frame_end
from wsfleet.transport.unread import TLSProtocolReader, read_rest, readable
from wsfleet.transport.writer import WRITE_BYTES

__all__ = ["TLS_READ_BYTES", "WebSocketWire"]

TLS_READ_BYTES = 2**18 + 2**16
"""Maximum size of the data that a TLS transport decrypts in one call: a read of 256 KiB, and a record begun before.

The buffer must hold all of it: the transport keeps the rest, and drops it if the stream ends first.
"""

SKIP = 256
"""Maximum number of frames to skip in one call while the connection closes."""

scan = fastest(scanner.scan, "wsfleet.transport._scanner")

log = logging.getLogger("wsfleet.wire")


class WebSocketWire(Closing, asyncio.BufferedProtocol):
    """One open socket. See `wsfleet.transport.base.Wire`.

    `_rest` is data that was read but not delivered, because there is no receiver yet, reading is paused, or the time
    slice was used up. While there is any, the socket is not read. After a loss it also has the data of the socket, and
    the end is reported after its delivery, which waits for the end of a pause.
    """

    # A BufferedProtocol reads into a buffer that all connections share. Slots, because CPython does not share the keys
    # of dictionaries with so many attributes, and a dictionary per connection takes more than a KiB.
    __slots__ = (
        "_continuing",
        "_fragments",
        "_inflater",
        "_limit",
        "_need",
        "_pos",
        "_reading",
        "_receiver",
        "_request_headers",
        "_response_headers",
        "_rest",
        "_scheduler",
        "_tail",
        "_text",
        "_view",
        "connected_at",
        "last_frame",
        "last_frame_at",
        "subprotocol",
    )

    def __init__(
        self,
        opening: Opening,
        protocol: Protocol,
        request: Request,
        response: Response,
        view: memoryview,
        close_s: float,
        max_fragments: int,
        scheduler: ReadScheduler,
    ) -> None:
        super().__init__(opening.transport, protocol, opening.source, close_s)
        self._scheduler = scheduler
        self._view = view
        self._receiver: Receiver | None = None
        self._limit: int = protocol.max_message_size or 0
        self._inflater = Inflater.of(protocol)

        self._rest = opening.early
        self._pos = 0
        self._continuing = False
        self._tail = bytearray()  # an incomplete frame
        self._need = 0  # size at which the frame, or the next part of its header, is complete
        self._fragments = Fragments(max_fragments)
        self._text = False
        self.last_frame_at = time.time()
        self._reading = False
        self.connected_at = self.last_frame = self._loop.time()
        if self._rest:
            self.last_frame = math.nextafter(self.connected_at, math.inf)  # data arrived together with the handshake
        self.subprotocol: str | None = protocol.subprotocol
        # As tuples, which take less memory than the mappings made from them on demand.
        self._request_headers = tuple(request.headers.raw_items())
        self._response_headers = tuple(response.headers.raw_items())

        opening.successor = self
        if opening.lost is not None:
            self.connection_lost(opening.lost[0])
        else:
            self._transport.set_protocol(self)
            if opening.encrypted:
                TLSProtocolReader(opening.source)
            self._transport.set_write_buffer_limits(WRITE_BYTES)  # the default of a TLS transport is 512 KiB

    # Methods for the session

    @property
    def request_headers(self) -> Headers:
        return Headers(self._request_headers)

    @property
    def response_headers(self) -> Headers:
        return Headers(self._response_headers)

    def start(self, receiver: Receiver) -> None:
        self._receiver = receiver
        self._continue_soon()

    def set_receiver(self, receiver: Receiver) -> None:
        if self._receiver is not None:
            self._receiver = receiver

    def pause(self) -> None:
        # After the start of the close, the rest is discarded regardless of a pause.
        if not self._closing:
            self._paused = True
            self._set_reading()

    def resume(self) -> None:
        if self._paused:
            self._paused = False
            self._continue_soon()

    @property
    def unread(self) -> bool:
        return bool(self._rest) or self._continuing or readable(self._source)

    # asyncio protocol methods

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._view

    @calls_user_code("receiver")
    def buffer_updated(self, nbytes: int) -> None:
        self.last_frame = self._loop.time()
        self.last_frame_at = at = time.time()
        receiver, scheduler = self._receiver, self._scheduler
        if self._rest or self._paused or scheduler.expired():
            self._rest += self._view[:nbytes]
            self._continue_soon()
            if len(self._rest) >= READ_BYTES:
                self._set_reading()
        else:
            # The usual read: few plain frames, and nothing before or after them.
            pos = 0
            batch: list[Payload] = []
            if not (receiver is None or self._tail or self._closing or self._protocol.current_size is not None):
                pos = scan(self._view, 0, self._limit, receiver.chunk, receiver.as_text, batch, nbytes)
                if pos == nbytes:
                    try:
                        receiver.receive(batch, at, scheduler.until)
                    except Exception as exc:
                        self._receiver_failed(exc)
            if pos < nbytes:
                self._take(self._view[:nbytes], pos, batch)
            if nbytes >= READ_BYTES:
                # More data is available, and uvloop would read up to 32 times in one callback.
                self._continue_soon()
                self._set_reading()
        scheduler.done()

    def _take(self, data: bytes | memoryview, pos: int, batch: list[Payload]) -> None:
        """Deliver `batch` and the frames of `data` from `pos` on, after the frame that an earlier read began."""
        if self._tail:
            pos = self._complete(data, batch)
        if batch or pos < len(data):
            self._run(data, pos, batch)

    def _complete(self, read: bytes | memoryview, batch: list[Payload]) -> int:
        """Process the frame that an earlier read began, if it is complete now. Return the start of the next frame."""
        tail, pos = self._tail, 0
        while len(tail) < self._need:
            stop = pos + self._need - len(tail)
            tail += read[pos:stop]
            if stop > len(read):
                return len(read)
            pos = stop
            self._need = self._frame_end(tail, 0)
        frame = bytes(tail)
        tail.clear()
        receiver = self._receiver
        plain = receiver and self._scans and scan(frame, 0, self._limit, 1, receiver.as_text, batch)
        if not (plain or self._discarding):
            self._hand_over(frame, batch)
        return pos

    @property
    def _scans(self) -> bool:
        """Whether the scanner may be used: not within a fragmented message, and not during the close."""
        return self._protocol.current_size is None and not (self._closing or self._discarding)

    def _frame_end(self, data: bytes | bytearray | memoryview, pos: int) -> int:
        # Within a fragmented message, websockets limits a frame to the remaining size of the message.
        return frame_end(data, pos, self._limit - (self._protocol.current_size or 0))

    def eof_received(self) -> None:
        # The transport closes after it has written its buffer, which a peer may never read.
        self._limit_close()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._lost is not None:
            return
        self._lost = (exc,)
        if self._source is self._transport and (rest := read_rest(self._source, exc)):
            self._rest += rest
            self.last_frame, self.last_frame_at = self._loop.time(), time.time()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._wake_writers()
        self._continue_soon()

    # Reading

    def _set_reading(self) -> None:
        idle = self._receiver is None and not self._closing
        reading = not (idle or self._paused or self._rest or self._continuing)
        if reading != self._reading and not self._source.is_closing():
            self._reading = reading
            if reading:
                self._source.resume_reading()
            else:
                self._source.pause_reading()

    def _continue_soon(self) -> None:
        if not self._continuing:
            self._continuing = True
            self._scheduler.call_soon(self._continue)

    def _continue(self) -> None:
        """Deliver deferred data, then resume reading or report the loss of the socket."""
        self._continuing = False
        if self._receiver is None and not self._closing:
            return
        if self._rest and not self._paused:
            data, pos = self._rest, self._pos
            self._rest, self._pos = b"", 0
            self._take(data, pos, [])
        if self._lost is None:
            self._set_reading()
        elif not self._rest:
            self._end(self._lost[0])
        elif self._paused and self._receiver is not None:
            self._receiver.lost_while_paused(self._loss(self._lost[0]))

    def _end(self, exc: Exception | None) -> None:
        self._protocol.receive_eof()
        if self._protocol.parser_exc is not None:
            # The traceback's frames refer to the protocol object: a reference cycle for each connection.
            self._protocol.parser_exc.__traceback__ = None
        receiver, self._receiver = self._receiver, None
        if receiver is not None:
            self._scheduler.spend(LOSS_S)
            try:
                receiver.lost(self._loss(exc))
            except Exception:
                log.exception("the receiver raised in lost()", extra={"event": "receiver.failed"})

    def _run(self, data: bytes | memoryview, pos: int, batch: list[Payload]) -> None:
        """Deliver `batch` and the frames of `data` from `pos` on.

        Defers the rest if the time slice is used up or reading is paused.
        """
        receiver = self._receiver
        end = len(data)
        until = time.perf_counter() + SLICE_S
        while pos < end and not self._discarding:
            before = pos
            if receiver is not None and self._scans:
                pos = scan(data, pos, self._limit, receiver.chunk - len(batch), receiver.as_text, batch)
                if self._inflater is not None:
                    pos = self._inflate(self._inflater, data, pos, receiver, batch)
                if pos == end or self._discarding:
                    break
            elif self._protocol.current_size is None:
                # Skip messages that the peer sent before it received our close frame.
                pos = scan(data, pos, self._limit, SKIP, False, [])
            full = receiver is not None and len(batch) >= receiver.chunk
            if not full and pos == before:
                stop = self._frame_end(data, pos)
                if stop > end:
                    self._tail += data[pos:]
                    self._need = stop - pos
                    break
                self._hand_over(bytes(data[pos:stop]), batch)
                pos = stop
            if full or time.perf_counter() > until:
                self._deliver(batch, until)
                batch = []
                if pos < end and (self._paused or time.perf_counter() > until):
                    # Copy the data: the next read of any connection overwrites the shared buffer.
                    self._rest, self._pos = (data, pos) if isinstance(data, bytes) else (bytes(data[pos:]), 0)
                    self._set_reading()
                    self._continue_soon()
                    return
        self._deliver(batch, until)

    def _inflate(
        self, inflater: Inflater, data: bytes | memoryview, pos: int, receiver: Receiver, batch: list[Payload]
    ) -> int:
        """Extract compressed messages. For an invalid one, fail the connection with the code that websockets uses."""
        try:
            return inflater.take(data, pos, self._limit, receiver.chunk - len(batch), receiver.as_text, batch)
        except ProtocolError as exc:
            self._fail(CloseCode.PROTOCOL_ERROR, str(exc), exc)
        except PayloadTooBig as exc:
            exc.set_current_size(None)
            self._fail(CloseCode.MESSAGE_TOO_BIG, str(exc), exc)
        except UnicodeDecodeError as exc:
            self._fail(CloseCode.INVALID_DATA, f"{exc.reason} at position {exc.start}")
        return pos

    @calls_user_code("receiver")
    def _deliver(self, batch: list[Payload], until: float) -> None:
        receiver = self._receiver
        if not batch or receiver is None:
            return
        try:
            receiver.receive(batch, self.last_frame_at, until)
        except Exception as exc:
            self._receiver_failed(exc)

    def _receiver_failed(self, exc: Exception) -> None:
        log.error("the receiver raised in receive()", exc_info=exc, extra={"event": "receiver.failed"})
        # Without a reason: details of a bug are not sent to the peer.
        self._fail(CloseCode.INTERNAL_ERROR, "", exc)

    def _hand_over(self, frame: bytes, batch: list[Payload]) -> None:
        """Pass one frame to the protocol object of websockets. Append a message that it completes to `batch`."""
        protocol = self._protocol
        protocol.receive_data(frame)
        received = cast(list[Frame], protocol.events_received())
        self._answer(received)
        for event in received:
            if event.opcode in (TEXT, BINARY, CONT):
                self._data_frame(event, batch)
            elif event.opcode is PONG:
                self._pong(bytes(event.data))
        if protocol.parser_exc is not None and protocol.close_sent is not None and not self._closing:
            # The protocol object has failed the connection because of a protocol error.
            self._failed = (int(protocol.close_sent.code), protocol.close_sent.reason)
        if protocol.close_expected():
            self._begin_close()

    def _data_frame(self, frame: Frame, batch: list[Payload]) -> None:
        receiver = self._receiver
        if receiver is None or self._closing or self._discarding:
            return
        if frame.opcode is not CONT:
            self._text = frame.opcode is TEXT
        try:
            data = self._fragments.add(frame)
        except TooManyFragments:
            self._fail(CloseCode.MESSAGE_TOO_BIG, TOO_MANY)
            return
        if data is None:
            return
        if not self._text:
            batch.append(data)
            return
        # RFC 6455, section 8.1: text that is not valid UTF-8 fails the connection.
        try:
            text = data.decode()
        except UnicodeDecodeError as exc:
            self._fail(CloseCode.INVALID_DATA, f"{exc.reason} at position {exc.start}")
            return
        batch.append(text if receiver.as_text else data)
