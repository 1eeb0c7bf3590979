"""The adapter to `websockets`: its handshake, its rules, its closing; our way of reading.

After the handshake the transport's incoming bytes no longer go to websockets' connection but to a `WebSocketWire`.
It takes plain data frames straight out of each read (see `scanner`), and hands every other frame, whole, to
websockets' own protocol object, which therefore always stands at a frame's edge and keeps all of its rules in force.

Hooks used: `connect(create_connection=...)`, `ClientConnection.handshake`, the asyncio protocol methods, and the
Sans-I/O `ClientProtocol`.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
import time
from collections import deque
from collections.abc import Callable
from typing import Any
from urllib.parse import urljoin, urlsplit, urlunsplit

import aiohappyeyeballs
from websockets.asyncio.client import ClientConnection, connect
from websockets.asyncio.messages import MAX_FRAGMENTS
from websockets.client import ClientProtocol
from websockets.exceptions import InvalidHandshake, InvalidMessage, InvalidProxy, InvalidStatus, InvalidURI, ProxyError
from websockets.frames import BINARY, CONT, PONG, TEXT, CloseCode, Frame
from websockets.http11 import Response
from websockets.protocol import CLOSED, CONNECTING, OPEN
from websockets.proxy import get_proxy, parse_proxy
from websockets.uri import parse_uri

from wsfleet.errors import ConnectFailed, ConnectionLost, HandshakeRejected, NotOpen
from wsfleet.options import check_uri
from wsfleet.policy import retry_after_s
from wsfleet.redact import redact_text
from wsfleet.wire.base import Payload, Progress, Receiver, Target
from wsfleet.wire.resolver import Resolver, in_thread
from wsfleet.wire.scanner import frame_end, scan

__all__ = ["WebSocketTransport", "WebSocketWire", "accelerated"]

accelerated = False
"""Whether the scanner is the compiled one."""

READ_BYTES = 2**16
"""One read of a socket at most, and so one batch at most."""

SLICE_S = 0.001
"""How long one callback may hand over before the loop gets its turn: well below the 2 ms that wsfleet promises."""

MAX_REDIRECTS = 5

# websockets writes whole handshakes to its debug log, credentials included; this logger never goes that deep.
_quiet = logging.getLogger("wsfleet.wire")
_quiet.setLevel(logging.INFO)


class _Rejected(Exception):
    """The server's answer was not 101. Not an InvalidStatus, so that websockets leaves redirects to us."""

    def __init__(self, response: Response) -> None:
        self.response = response


class _Connection(ClientConnection):
    """websockets' connection for the time of the handshake; keeps what comes behind the response for the wire."""

    def __init__(self, protocol: ClientProtocol, progress: Progress, **options: Any) -> None:
        super().__init__(protocol, **options)
        self.early = bytearray()
        self._progress = progress
        self._head_tail = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # TCP and TLS are done; what can fail from here on is HTTP.
        self._progress.stage = "http"
        super().connection_made(transport)

    async def handshake(self, *args: Any, **kwargs: Any) -> None:
        try:
            await super().handshake(*args, **kwargs)
        except InvalidStatus as exc:
            raise _Rejected(exc.response) from None

    def data_received(self, data: bytes) -> None:
        if self.protocol.state is not CONNECTING:
            self.early += data
            return
        # The parser must not get a byte beyond the response: it would begin on frames that are the scanner's.
        # A response ends with an empty line (RFC 9112, section 2.1), which may be cut between two reads.
        seen = self._head_tail + data
        found = seen.find(b"\r\n\r\n")
        if found < 0:
            self._head_tail = seen[-3:]
            super().data_received(data)
            return
        cut = found + 4 - len(self._head_tail)
        self._head_tail = b""
        super().data_received(data[:cut])
        if len(data) > cut:
            if self.protocol.state is CONNECTING:  # rejected: what follows is the response's body
                super().data_received(data[cut:])
            else:
                self.early += data[cut:]


class WebSocketWire(asyncio.BufferedProtocol):
    """One open socket. See `wsfleet.wire.base.Wire`."""

    def __init__(self, connection: _Connection, view: memoryview, close_s: float) -> None:
        self._connection = connection
        self._protocol = connection.protocol
        self._transport = connection.transport
        self._loop = connection.loop
        self._view = view
        self._close_s = close_s
        self._receiver: Receiver | None = None
        self._limit: int = connection.protocol.max_message_size or 0

        # Incoming: an incomplete frame and how many bytes it needs; what one slice did not get to; fragments.
        self._tail = bytearray()
        self._need = 0
        self._rest: tuple[bytes, int] | None = None
        self._parts: list[bytes | bytearray | memoryview] = []
        self._text = False
        self._at = 0.0

        self._paused = False
        self._reading = True
        self._closing = False
        self._failed: tuple[int, str] | None = None
        self._gone = False
        self._timer: asyncio.TimerHandle | None = None

        self._write_paused = False
        self._writers: list[asyncio.Future[None]] = []
        self._pings: deque[tuple[bytes, float, float]] = deque()
        self._ping_count = 0

        self.connected_at = self.last_frame = self._loop.time()
        self.latency_s: float | None = None
        self.subprotocol: str | None = connection.subprotocol
        request, response = connection.request, connection.response
        self.request_headers = dict(request.headers.raw_items()) if request else {}
        self.response_headers = dict(response.headers.raw_items()) if response else {}

    # What the session calls

    def start(self, receiver: Receiver) -> None:
        self._receiver = receiver
        if self._connection.protocol.state is CLOSED:
            # Lost between the handshake and now; connection_lost() has been called on websockets' connection alone.
            self._loop.call_soon(self._lost, None)
            return
        early = bytes(self._connection.early)
        self._connection.early.clear()
        # As a BufferedProtocol and not an asyncio.Protocol, this one reads into a buffer that all connections share.
        self._transport.set_protocol(self)
        if early:
            self._feed(early)

    def pause(self) -> None:
        if not self._closing:
            self._paused = True
            self._set_reading()

    def resume(self) -> None:
        self._paused = False
        self._set_reading()

    @property
    def ping_sent(self) -> float | None:
        return self._pings[0][1] if self._pings else None

    @property
    def writable(self) -> bool:
        return not self._write_paused

    async def wait_writable(self) -> None:
        while self._write_paused and not self._gone:
            waiter = self._loop.create_future()
            self._writers.append(waiter)
            try:
                await waiter
            finally:
                self._writers.remove(waiter)

    def write(self, payload: Payload) -> None:
        if self._gone or self._closing or self._protocol.state is not OPEN:
            raise NotOpen("the connection is closing")
        if isinstance(payload, str):
            self._protocol.send_text(payload.encode())
        else:
            self._protocol.send_binary(payload)
        self._flush()

    def ping(self) -> None:
        if self._gone or self._closing or self._protocol.state is not OPEN:
            return
        self._ping_count += 1
        payload = self._ping_count.to_bytes(8, "big")
        # The loop's clock serves deadlines; uvloop's counts whole milliseconds, too coarse for a round trip.
        self._pings.append((payload, self._loop.time(), time.perf_counter()))
        self._protocol.send_ping(payload)
        self._flush()

    def close(self, code: int, reason: str = "") -> None:
        if self._gone:
            return
        if self._protocol.state is OPEN:
            self._protocol.send_close(code, reason)
            self._flush()
        self._begin_close()

    def abort(self, reason: str = "") -> None:
        if self._gone:
            return
        if self._failed is None:
            self._failed = (int(CloseCode.ABNORMAL_CLOSURE), reason)
        self._closing = True
        self._transport.abort()

    # Closing

    def _begin_close(self) -> None:
        """Wait for the peer to close, reading on so that its answer is seen, and not for ever."""
        if self._timer is None and not self._gone:
            self._closing = True
            self._timer = self._loop.call_later(self._close_s, self._transport.abort)
            self.resume()

    def _fail(self, code: CloseCode, reason: str) -> None:
        # RFC 6455, section 7.1.7: fail the connection, and process nothing more of it.
        self._protocol.fail(code, reason)
        self._failed = (int(code), reason)
        self._flush()
        self._begin_close()

    def _loss(self, exc: Exception | None) -> ConnectionLost:
        protocol = self._protocol
        if self._failed is not None:
            error = ConnectionLost(*self._failed)
        elif protocol.close_rcvd is not None:
            error = ConnectionLost(int(protocol.close_rcvd.code), protocol.close_rcvd.reason)
        elif protocol.parser_exc is not None and protocol.close_sent is not None:
            error = ConnectionLost(int(protocol.close_sent.code), protocol.close_sent.reason)
        elif protocol.close_sent is not None:
            error = ConnectionLost(int(protocol.close_sent.code), "closed by us; the peer did not answer")
        else:
            why = (exc and str(exc)) or "the peer closed the connection without a close frame"
            error = ConnectionLost(int(CloseCode.ABNORMAL_CLOSURE), why)
        error.__cause__ = exc
        return error

    def _lost(self, exc: Exception | None) -> None:
        if self._rest is not None:
            # These bytes had been read before the socket went: they count like any others.
            (data, pos), self._rest = self._rest, None
            self._run(data, pos, sliced=False)
        self._gone = True
        if self._timer is not None:
            self._timer.cancel()
        for waiter in self._writers:
            if not waiter.done():
                waiter.set_result(None)
        if self._receiver is not None:
            self._receiver.lost(self._loss(exc))
            self._receiver = None

    # asyncio protocol methods

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._view

    def buffer_updated(self, nbytes: int) -> None:
        self._feed(bytes(self._view[:nbytes]))

    def eof_received(self) -> bool | None:
        if self._rest is not None:
            (data, pos), self._rest = self._rest, None
            self._run(data, pos, sliced=False)
        self._connection.eof_received()
        return None

    def connection_lost(self, exc: Exception | None) -> None:
        self._connection.connection_lost(exc)
        self._lost(exc)

    def pause_writing(self) -> None:
        self._write_paused = True

    def resume_writing(self) -> None:
        self._write_paused = False
        for waiter in self._writers:
            if not waiter.done():
                waiter.set_result(None)

    def _set_reading(self) -> None:
        reading = not self._paused and self._rest is None
        if reading != self._reading and not self._gone:
            self._reading = reading
            if reading:
                self._transport.resume_reading()
            else:
                self._transport.pause_reading()

    def _flush(self) -> None:
        self._connection.send_data()

    # Reading

    @property
    def _discarding(self) -> bool:
        """Whether nothing that comes now means anything (RFC 6455, sections 1.4 and 7.1.7)."""
        protocol = self._protocol
        return self._failed is not None or protocol.close_rcvd is not None or protocol.parser_exc is not None

    def _feed(self, data: bytes) -> None:
        self.last_frame = self._loop.time()
        self._at = time.time()
        if self._tail:
            self._tail += data
            if len(self._tail) < self._need:
                return
            data = bytes(self._tail)
            self._tail.clear()
        self._run(data, 0)

    def _run(self, data: bytes, pos: int, *, sliced: bool = True) -> None:
        """Hand over the frames of `data` from `pos` on; leave the rest for the loop's next turn where time is up."""
        receiver = self._receiver
        protocol = self._protocol
        assert receiver is not None
        end = len(data)
        until = time.perf_counter() + SLICE_S
        while pos < end:
            if self._discarding:
                return
            if not self._closing and protocol.current_size is None:
                batch: list[Payload] = []
                pos = scan(data, pos, self._limit, receiver.chunk, receiver.as_text, batch)
                if batch:
                    receiver.received(batch, self._at)
                    if sliced and pos < end and time.perf_counter() > until:
                        self._put_off(data, pos)
                        return
                    continue
            stop = frame_end(data, pos, self._limit)
            if stop > end:
                self._tail += data[pos:]
                self._need = stop - pos
                return
            self._hand_over(data[pos:stop])
            pos = stop
            if sliced and pos < end and time.perf_counter() > until:
                self._put_off(data, pos)
                return

    def _put_off(self, data: bytes, pos: int) -> None:
        self._rest = (data, pos)
        self._set_reading()
        self._loop.call_soon(self._go_on)

    def _go_on(self) -> None:
        if self._rest is None or self._gone:
            return
        (data, pos), self._rest = self._rest, None
        self._run(data, pos)
        self._set_reading()

    def _hand_over(self, frame: bytes) -> None:
        """Let websockets' protocol object deal with one frame."""
        protocol = self._protocol
        protocol.receive_data(frame)
        events = protocol.events_received()
        self._flush()
        for event in events:
            assert isinstance(event, Frame)
            if event.opcode in (TEXT, BINARY, CONT):
                self._data_frame(event)
            elif event.opcode is PONG:
                self._pong(bytes(event.data))
        if protocol.close_expected():
            self._begin_close()

    def _data_frame(self, frame: Frame) -> None:
        if self._closing or self._discarding:
            return
        if frame.opcode is not CONT:
            self._text = frame.opcode is TEXT
        elif len(self._parts) >= MAX_FRAGMENTS:
            self._fail(CloseCode.MESSAGE_TOO_BIG, f"a message of more than {MAX_FRAGMENTS} fragments")
            return
        self._parts.append(frame.data)
        if not frame.fin:
            return
        payload: Payload = b"".join(self._parts)
        self._parts.clear()
        receiver = self._receiver
        assert receiver is not None and isinstance(payload, bytes)
        if self._text:
            # RFC 6455, section 8.1: text that isn't UTF-8 fails the connection.
            try:
                text = payload.decode()
            except UnicodeDecodeError as exc:
                self._fail(CloseCode.INVALID_DATA, f"{exc.reason} at position {exc.start}")
                return
            payload = text if receiver.as_text else payload
        receiver.received([payload], self._at)

    def _pong(self, payload: bytes) -> None:
        # RFC 6455, section 5.5.3: a pong answers the latest ping, so all before it are answered too.
        if any(payload == sent for sent, _, _ in self._pings):
            while True:
                sent, _, when = self._pings.popleft()
                if sent == payload:
                    self.latency_s = time.perf_counter() - when
                    return


class WebSocketTransport:
    """Opens sockets through `websockets`. One for a fleet; see `wsfleet.wire.base.Transport`."""

    def __init__(self) -> None:
        self._view = memoryview(bytearray(READ_BYTES))
        self._resolver = Resolver()
        self._context: asyncio.Future[ssl.SSLContext] | None = None

    async def aclose(self) -> None:
        await self._resolver.aclose()

    async def open(self, target: Target, progress: Progress) -> WebSocketWire:
        uri, headers = target.uri, dict(target.headers)
        for _ in range(MAX_REDIRECTS + 1):
            connection = None
            try:
                connection = await self._connect(uri, headers, target, progress)
                return WebSocketWire(connection, self._view, target.close_s)
            except _Rejected as exc:
                rejected = _rejection(exc.response)
                location = rejected.headers.get("location")
                if rejected.status not in (301, 302, 303, 307, 308) or not location:
                    raise rejected from None
                uri, headers = _redirect(uri, location, headers)
            except (OSError, InvalidHandshake, InvalidURI, InvalidProxy, ImportError, ValueError) as exc:
                raise _translate(exc, progress.stage) from exc
        raise ConnectFailed("http", f"more than {MAX_REDIRECTS} redirects")

    async def _connect(self, uri: str, headers: dict[str, str], target: Target, progress: Progress) -> _Connection:
        where = parse_uri(uri)
        options: dict[str, Any] = {}
        if where.secure:
            options["ssl"] = target.ssl or await self._default_context()
            options["server_hostname"] = where.host
        proxy = get_proxy(where) if target.proxy is None else target.proxy or None
        sock: socket.socket | None = None
        if proxy is None:
            sock = await self._dial(where.host, where.port, progress)
            options["sock"] = sock
        else:
            progress.stage = "proxy"
            proxy, more = await self._resolved_proxy(proxy)
            options |= more
        if sock is not None and where.secure:
            progress.stage = "tls"
        return await connect(  # type: ignore[return-value]
            uri,
            additional_headers=headers,
            subprotocols=list(target.subprotocols) or None,  # type: ignore[arg-type]
            compression=target.compression,
            proxy=proxy,
            max_size=target.max_size,
            create_connection=_factory(progress),  # type: ignore[arg-type]
            logger=_quiet,
            # Deadlines, pings and queueing are wsfleet's own.
            open_timeout=None,
            ping_interval=None,
            ping_timeout=None,
            close_timeout=None,
            max_queue=None,
            **options,
        )

    async def _dial(self, host: str, port: int, progress: Progress) -> socket.socket:
        progress.stage = "dns"
        addresses = await self._resolver.resolve(host, port)
        progress.stage = "tcp"
        # RFC 8305: a broken IPv6 costs a quarter of a second, not the whole deadline.
        return await aiohappyeyeballs.start_connection(addresses, happy_eyeballs_delay=0.25)

    async def _resolved_proxy(self, proxy: str) -> tuple[str, dict[str, Any]]:
        """Return the proxy's URL by address: websockets would look its name up on the loop's shared executor."""
        parsed = parse_proxy(proxy)
        address = (await self._resolver.resolve(parsed.host, parsed.port))[0][4][0]
        parts = urlsplit(proxy)
        userinfo = parts.netloc.rpartition("@")[0]
        netloc = f"{userinfo + '@' if userinfo else ''}{f'[{address}]' if ':' in address else address}:{parsed.port}"
        options = {"proxy_server_hostname": parsed.host} if parsed.scheme == "https" else {}
        return urlunsplit(parts._replace(netloc=netloc)), options

    async def _default_context(self) -> ssl.SSLContext:
        """Return the one SSLContext of all endpoints that have none of their own; reading the CAs blocks, so elsewhere."""
        if self._context is None or self._context.cancelled():
            self._context = in_thread(ssl.create_default_context, "wsfleet-tls")
        return await asyncio.shield(self._context)


def _factory(progress: Progress) -> Callable[..., _Connection]:
    def create(protocol: ClientProtocol, **options: Any) -> _Connection:
        return _Connection(protocol, progress, **options)

    return create


def _rejection(response: Response) -> HandshakeRejected:
    headers = {name.lower(): value for name, value in response.headers.raw_items()}
    return HandshakeRejected(response.status_code, headers, retry_after_s(headers.get("retry-after"), time.time()))


def _redirect(uri: str, location: str, headers: dict[str, str]) -> tuple[str, dict[str, str]]:
    """Return where a redirect leads, and which headers may go there.

    To another origin goes nothing that the user set: credentials have many names. Never from wss to ws.
    """
    new = urljoin(uri.replace("ws", "http", 1), location)  # urljoin knows http, not ws
    new = new.replace("http", "ws", 1) if new.startswith("http") else new
    fault = check_uri(new)
    if fault:
        raise ConnectFailed("http", f"redirected to a place that {fault}")
    old_place, new_place = parse_uri(uri), parse_uri(new)
    if old_place.secure and not new_place.secure:
        raise ConnectFailed("http", "redirected from wss:// to ws://, which would give up encryption")
    origin = (old_place.secure, old_place.host, old_place.port)
    return new, headers if origin == (new_place.secure, new_place.host, new_place.port) else {}


def _translate(exc: Exception, stage: str) -> ConnectFailed:
    """Turn what websockets, ssl and the system raise into ConnectFailed with the right stage."""
    if isinstance(exc, ssl.SSLError):
        stage = "proxy" if stage == "proxy" else "tls"
    elif isinstance(exc, ProxyError | InvalidProxy | ImportError):
        stage = "proxy"
    elif isinstance(exc, InvalidURI):
        stage = "uri"
    if isinstance(exc, InvalidMessage) and isinstance(exc.__cause__, EOFError):
        return ConnectFailed(stage, "the server closed the connection before it answered")
    if isinstance(exc, ssl.SSLCertVerificationError):
        return ConnectFailed(stage, f"the certificate is not good: {exc.verify_message}")
    return ConnectFailed(stage, redact_text(str(exc) or type(exc).__name__))
