"""Opens a connection to the server of a URI: name resolution, TCP, proxies, TLS.

This module is used instead of the code of websockets for three reasons: names are resolved in separate threads, an
unreachable address of a host or proxy causes only a short delay, and the TCP transport below TLS is accessible. The
last one is necessary to pause reading: a paused TLS transport continues to read the socket, and drops the data in its
buffer at the end of the stream. A paused TCP transport loses no data.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import ssl
import urllib.request
import weakref
from typing import Any, cast

import aiohappyeyeballs
from websockets.exceptions import InvalidMessage, InvalidProxy, InvalidProxyStatus, ProxyError, SecurityError
from websockets.http11 import Response
from websockets.proxy import Proxy, get_proxy, parse_proxy, prepare_connect_request
from websockets.streams import StreamReader
from websockets.uri import WebSocketURI

from wsfleet.core.checks import check_proxy
from wsfleet.core.redact import redact_uri, secrets_of
from wsfleet.transport.base import DialRequest, Progress
from wsfleet.transport.no_proxy import is_exempt
from wsfleet.transport.resolver import AddrInfo, Resolver, in_thread

__all__ = ["Dialer", "Opening", "SocksLoginRefused", "parse_head", "usual_proxy"]

log = logging.getLogger("wsfleet")

HEAD_MAX = 2**16
"""Maximum size of a response head, in bytes. websockets also limits the length and the number of its lines."""

BODY_S = 0.5
"""How long, in seconds, to wait for the body of a rejection. It is shown to people; its loss is no error."""

PROXIES_S = 1.0
"""How long, in seconds, the choice of a proxy is cached while the environment variables do not change.

Reading the whole environment or the system settings takes a large part of an attempt's CPU time.
"""

_LOWER = [f"{name}_proxy" for name in ("ws", "wss", "socks", "http", "https", "all", "no")]
PROXY_VARIABLES = (*_LOWER, *map(str.upper, _LOWER))


_SOCKS_LOGIN = ("Username and password authentication failure", "No acceptable authentication methods were offered")
"""The errors of python-socks for the replies to a wrong or missing password (RFC 1928, section 3; RFC 1929)."""


class SocksLoginRefused(ProxyError):
    """A SOCKS proxy requires another user name or password."""


class Opening(asyncio.Protocol):
    """A connection before the end of the opening handshake: sends HTTP requests and reads the heads of the responses.

    `transport` is the transport for writing. `source` is the TCP transport below it, which is used to pause reading.
    """

    # uvloop's transports keep a reference to their first protocol, so this object must stay small.
    __slots__ = ("_answer", "_received", "_wanted", "lost", "source", "successor", "transport")

    source: asyncio.Transport
    transport: asyncio.Transport

    def __init__(self) -> None:
        self.successor: asyncio.BufferedProtocol | None = None
        self.lost: tuple[Exception | None] | None = None
        self._received = bytearray()
        self._answer: asyncio.Future[bytes] | None = None
        self._wanted = 0  # the number of bytes of a body; 0: the next head

    @property
    def early(self) -> bytes:
        """The bytes received after the last response head."""
        return bytes(self._received)

    @property
    def encrypted(self) -> bool:
        return self.transport is not self.source

    async def ask(self, request: bytes) -> bytes:
        """Send `request` and return the head of the response. Reading is paused afterwards."""
        if self.lost is not None:
            raise self._ended(self.lost[0])
        self._answer = asyncio.get_running_loop().create_future()
        self.transport.write(request)
        self.source.resume_reading()
        try:
            return await self._answer
        finally:
            self._answer = None

    async def body(self, size: int) -> bytes:
        """Return the first `size` bytes after the head, or those that have come when the body ends or `BODY_S` is over.

        Nothing else can be done with the connection afterwards.
        """
        self._answer = asyncio.get_running_loop().create_future()
        self._wanted = size
        if self.lost is None and len(self._received) < size:
            self.source.resume_reading()
            await asyncio.wait([self._answer], timeout=BODY_S)
            self._answer.cancel() if not self._answer.done() else self._answer.exception()
            self.source.pause_reading()
        self._answer = None
        return bytes(self._received[:size])

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.source = self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        before = len(self._received)
        self._received += data
        if self._answer is None or self._answer.done():
            if len(self._received) > HEAD_MAX:
                self.source.pause_reading()
            return
        if self._wanted:
            if len(self._received) >= self._wanted:
                self._answer.set_result(b"")
            return
        # A head ends with an empty line (RFC 9112, section 2.1), which may be split between two reads.
        end = self._received.find(b"\r\n\r\n", max(0, before - 3)) + 4
        if end >= 4:
            head = bytes(self._received[:end])
            del self._received[:end]
            self.source.pause_reading()
            self._answer.set_result(head)
        elif len(self._received) > HEAD_MAX:
            self._answer.set_exception(SecurityError(f"the head of the response exceeds {HEAD_MAX} bytes"))

    def eof_received(self) -> None:
        self._fail(self._ended(None))

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = (exc,)
        self._fail(self._ended(exc))
        if self.successor is not None:
            self.successor.connection_lost(exc)

    def _fail(self, error: Exception) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(error)

    @staticmethod
    def _ended(exc: Exception | None) -> Exception:
        return exc or ConnectionResetError("the connection was closed before the response")


def parse_head(head: bytes) -> Response:
    """Parse the head of a response, and return the response without its body. Raises InvalidMessage."""
    reader = StreamReader()
    reader.feed_data(head)
    parser = Response.parse(reader.read_line, reader.read_exact, reader.read_to_eof, proxy=True)
    try:
        next(parser)
    except StopIteration as exc:
        return cast(Response, exc.value)
    except Exception as exc:
        raise InvalidMessage("did not receive a valid HTTP response") from exc
    raise InvalidMessage("did not receive a complete HTTP response")


async def _connected(address: AddrInfo) -> socket.socket:
    """Return a socket connected to `address`. For a single address, Happy Eyeballs would be pure overhead."""
    family, kind, proto, _, where = address
    sock = socket.socket(family, kind, proto)
    try:
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, where)
    except BaseException:
        sock.close()
        raise
    return sock


def usual_proxy(where: WebSocketURI) -> str | None:
    """Return the proxy for `where` from the environment or the system settings."""
    no_proxy = urllib.request.getproxies_environment().get("no")
    if no_proxy is not None and is_exempt(where.host, where.port, no_proxy):
        return None
    proxy = get_proxy(where)
    if proxy is None and not urllib.request.proxy_bypass(f"{where.host}:{where.port}"):
        proxy = urllib.request.getproxies().get("all")  # all_proxy, which websockets ignores
    return proxy


class Dialer:
    """Opens transports. A fleet has one dialer, so that name lookups and the SSLContext are shared."""

    def __init__(self) -> None:
        self._resolver = Resolver()
        self._context: asyncio.Future[ssl.SSLContext] | None = None
        self._unverified: weakref.WeakSet[ssl.SSLContext] = weakref.WeakSet()
        self._proxies: dict[tuple[object, ...], str | None] = {}
        self._proxies_until = 0.0

    async def aclose(self) -> None:
        await self._resolver.aclose()
        if self._context is not None and not self._context.done():
            await asyncio.wait([self._context], timeout=0.5)

    async def dial(self, where: WebSocketURI, request: DialRequest, progress: Progress) -> Opening:
        """Return a connection to the server, through a proxy if one is set. Cancellation closes the socket."""
        chosen = self._usual_proxy(where) if request.proxy is None else request.proxy or None
        proxy, progress.proxy = None, ""
        if chosen is not None:
            progress.stage = "proxy"
            fault = check_proxy(chosen)  # the message of the parser's exception could contain a password
            if fault:
                raise InvalidProxy(chosen, f"it {fault}")
            proxy = parse_proxy(chosen)
            progress.proxy = redact_uri(chosen)
            progress.secrets += secrets_of(chosen, {})
        if proxy is not None and proxy.scheme.startswith("socks"):
            sock = await self._socks(proxy, where, progress)
        elif proxy is not None:
            sock = await self._tcp(await self._resolver.resolve(proxy.host, proxy.port))
        else:
            progress.stage = "dns"
            addresses = await self._resolver.resolve(where.host, where.port)
            progress.stage = "tcp"
            sock = await self._tcp(addresses)
        _, opening = await asyncio.get_running_loop().create_connection(Opening, sock=sock)
        try:
            if proxy is not None and proxy.scheme.startswith("http"):
                await self._tunnel(opening, proxy, where)
            if where.secure:
                progress.stage = "tls"
                self._warn_unverified(request)
                await self._encrypt(opening, request.ssl, where.host)
        except BaseException:
            opening.source.abort()
            raise
        return opening

    def _usual_proxy(self, where: WebSocketURI) -> str | None:
        """Return the proxy of the environment, cached for `PROXIES_S`."""
        now = asyncio.get_running_loop().time()
        if now >= self._proxies_until:
            self._proxies.clear()
            self._proxies_until = now + PROXIES_S
        case = (where.secure, where.host, where.port, *map(os.environ.get, PROXY_VARIABLES))
        if case not in self._proxies:
            self._proxies[case] = usual_proxy(where)
        return self._proxies[case]

    async def _tcp(self, addresses: list[AddrInfo]) -> socket.socket:
        try:
            if len(addresses) == 1:
                return await _connected(addresses[0])
            # RFC 8305: an unreachable IPv6 address causes a delay of 0.25 s, not a timeout.
            return await aiohappyeyeballs.start_connection(addresses, happy_eyeballs_delay=0.25)
        except RuntimeError as exc:  # raised by uvloop for some system errors
            raise OSError(str(exc)) from exc

    async def _socks(self, proxy: Proxy, where: WebSocketURI, progress: Progress) -> socket.socket:
        try:
            from python_socks import ProxyType
            from python_socks.async_.asyncio import Proxy as SocksProxy
        except ImportError:
            raise ProxyError("a SOCKS proxy needs python-socks: pip install 'wsfleet[socks]'") from None
        sock = await self._tcp(await self._resolver.resolve(proxy.host, proxy.port))
        try:
            host = where.host
            if proxy.scheme in ("socks5", "socks4"):  # with "socks5h" and "socks4a" the proxy resolves the name
                progress.stage = "dns"
                addresses = await self._resolver.resolve(where.host, where.port)
                # IPv4 first: SOCKS4 supports only IPv4, and some proxies cannot reach IPv6 addresses.
                host = min(addresses, key=lambda address: address[0] != socket.AF_INET)[4][0]
                progress.stage = "proxy"
            kind = ProxyType.SOCKS4 if proxy.scheme.startswith("socks4") else ProxyType.SOCKS5
            by_name = proxy.scheme in ("socks5h", "socks4a")
            client = SocksProxy(
                kind,
                proxy.host,
                proxy.port,
                proxy.username,
                proxy.password,
                by_name,
                # python-socks supports chained proxies; `forward` provides our connected socket as the first link.
                forward=cast(Any, _Connected(sock)),
            )
            return await client.connect(host, where.port)
        except OSError:
            sock.close()
            raise
        except Exception as exc:
            sock.close()
            error_type = SocksLoginRefused if str(exc) in _SOCKS_LOGIN else ProxyError
            raise error_type(f"the SOCKS proxy failed to connect: {exc}") from exc
        except BaseException:
            sock.close()
            raise

    async def _tunnel(self, opening: Opening, proxy: Proxy, where: WebSocketURI) -> None:
        """Open a tunnel through an HTTP proxy with CONNECT (RFC 9110, section 9.3.6)."""
        if proxy.scheme == "https":
            await self._encrypt(opening, None, proxy.host)
        answer = parse_head(await opening.ask(prepare_connect_request(proxy, where)))
        if not 200 <= answer.status_code < 300:
            raise InvalidProxyStatus(answer)
        if opening.early:
            raise ProxyError("the proxy sent unexpected data after its response")

    async def _encrypt(self, opening: Opening, context: ssl.SSLContext | None, host: str) -> None:
        context = context or await self._default_context()
        loop = asyncio.get_running_loop()
        opening.source.resume_reading()  # paused since the proxy's answer
        transport = await loop.start_tls(opening.transport, opening, context, server_hostname=host)
        if transport is None or opening.lost is not None:
            raise ConnectionResetError("the connection was closed during the TLS handshake")
        opening.transport = transport

    def _warn_unverified(self, request: DialRequest) -> None:
        """Log a warning, once for each SSLContext that does not authenticate the server."""
        context = request.ssl
        if context is None or context in self._unverified or (context.check_hostname and context.verify_mode):
            return
        self._unverified.add(context)
        unchecked = "certificate" if context.verify_mode == ssl.CERT_NONE else "host name in its certificate"
        log.warning(
            "%s: the SSLContext does not verify the server's %s; the server is not authenticated",
            request.name,
            unchecked,
            extra={"event": "endpoint.unverified", "endpoint": request.name},
        )

    async def _default_context(self) -> ssl.SSLContext:
        """Return the default SSLContext. It is created in a thread, because reading the certificates blocks."""
        if self._context is None:
            self._context = in_thread(ssl.create_default_context, "wsfleet-tls")
            self._context.add_done_callback(self._context_made)
        return await asyncio.shield(self._context)

    def _context_made(self, context: asyncio.Future[ssl.SSLContext]) -> None:
        if context.exception() is not None:
            self._context = None  # try again on the next attempt


class _Connected:
    """Acts as the first proxy of a chain for python-socks, and returns a socket that is already connected."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock

    async def connect(self, **_: Any) -> socket.socket:
        return self._sock
