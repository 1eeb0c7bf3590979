"""From a URI to a transport on which its server listens: names, TCP, proxies, TLS.

Sockets are opened here and not by websockets for three things: names are looked up on threads of our own, a broken
address of a host or proxy costs little, and TLS is begun on a TCP transport that we keep. For a TLS transport that
is told to pause goes on reading the socket, and drops what it holds when it sees the end; pausing TCP loses nothing.
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
from wsfleet.transport.resolver import AddrInfo, Resolver, in_thread

__all__ = ["Dialer", "Opening", "parse_head", "usual_proxy"]

log = logging.getLogger("wsfleet")

HEAD_MAX = 2**16
"""The longest head of a response that is read; websockets bounds its lines and their number besides."""

PROXIES_S = 1.0
"""For so long it is remembered which proxy to use, while the usual variables stay as they are.

Looking through the whole environment, or the system's settings, costs a large part of an attempt's CPU time.
"""

_LOWER = [f"{name}_proxy" for name in ("ws", "wss", "socks", "http", "https", "all", "no")]
PROXY_VARIABLES = (*_LOWER, *map(str.upper, _LOWER))


class Opening(asyncio.Protocol):
    """A connection that is being opened: asks over HTTP, and reads the answer's head and not a byte beyond it.

    `transport` is what to write to, `source` the TCP transport at the bottom of it, where reading is paused.
    """

    # uvloop's transports keep their first protocol as long as they live: so it is small, and holds no answer.
    __slots__ = ("_answer", "_received", "heir", "lost", "source", "transport")

    source: asyncio.Transport
    transport: asyncio.Transport

    def __init__(self) -> None:
        self.heir: asyncio.BufferedProtocol | None = None
        self.lost: tuple[Exception | None] | None = None
        self._received = bytearray()
        self._answer: asyncio.Future[bytes] | None = None

    @property
    def early(self) -> bytes:
        """What came behind the last answer's head."""
        return bytes(self._received)

    @property
    def encrypted(self) -> bool:
        return self.transport is not self.source

    async def ask(self, request: bytes) -> bytes:
        """Send `request` and return the head of the answer. From then on reading is paused."""
        if self.lost is not None:
            raise self._ended(self.lost[0])
        self._answer = asyncio.get_running_loop().create_future()
        self.transport.write(request)
        self.source.resume_reading()
        try:
            return await self._answer
        finally:
            self._answer = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.source = self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        before = len(self._received)
        self._received += data
        if self._answer is None or self._answer.done():
            if len(self._received) > HEAD_MAX:
                self.source.pause_reading()
            return
        # A head ends with an empty line (RFC 9112, section 2.1), which may be cut between two reads.
        end = self._received.find(b"\r\n\r\n", max(0, before - 3)) + 4
        if end >= 4:
            head = bytes(self._received[:end])
            del self._received[:end]
            self.source.pause_reading()
            self._answer.set_result(head)
        elif len(self._received) > HEAD_MAX:
            self._answer.set_exception(SecurityError(f"an answer with a head of more than {HEAD_MAX} bytes"))

    def eof_received(self) -> None:
        self._fail(self._ended(None))

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = (exc,)
        self._fail(self._ended(exc))
        if self.heir is not None:
            self.heir.connection_lost(exc)

    def _fail(self, error: Exception) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(error)

    @staticmethod
    def _ended(exc: Exception | None) -> Exception:
        return exc or ConnectionResetError("the connection was closed before it was answered")


def parse_head(head: bytes) -> Response:
    """Return the response whose head this is, without its body. Raises InvalidMessage."""
    reader = StreamReader()
    reader.feed_data(head)
    parser = Response.parse(reader.read_line, reader.read_exact, reader.read_to_eof, proxy=True)
    try:
        next(parser)
    except StopIteration as exc:
        return cast(Response, exc.value)
    except Exception as exc:
        raise InvalidMessage("did not receive a valid HTTP response") from exc
    raise InvalidMessage("did not receive a whole HTTP response")


async def _connected(address: AddrInfo) -> socket.socket:
    """Return a socket connected to the only address, where a race would be the most of the work."""
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
    """Return the proxy that the environment, or the system, names for `where`."""
    proxy = get_proxy(where)
    if proxy is None and not urllib.request.proxy_bypass(f"{where.host}:{where.port}"):
        proxy = urllib.request.getproxies().get("all")  # websockets passes it over
    return proxy


class Dialer:
    """Opens transports. One for a fleet, so that lookups and the SSLContext are shared."""

    def __init__(self) -> None:
        self._resolver = Resolver()
        self._context: asyncio.Future[ssl.SSLContext] | None = None
        self._blind: weakref.WeakSet[ssl.SSLContext] = weakref.WeakSet()
        self._proxies: dict[tuple[object, ...], str | None] = {}
        self._proxies_until = 0.0

    async def aclose(self) -> None:
        await self._resolver.aclose()
        if self._context is not None and not self._context.done():
            await asyncio.wait([self._context], timeout=0.5)

    async def dial(self, where: WebSocketURI, request: DialRequest, progress: Progress) -> Opening:
        """Return an open way to the server, through a proxy where one is set. Cancelling leaves nothing open."""
        chosen = self._usual_proxy(where) if request.proxy is None else request.proxy or None
        proxy, progress.proxy = None, ""
        if chosen is not None:
            progress.stage = "proxy"
            fault = check_proxy(chosen)  # the parser's own words would quote a password
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
                self._warn_of_blindness(request)
                await self._encrypt(opening, request.ssl, where.host)
        except BaseException:
            opening.source.abort()
            raise
        return opening

    def _usual_proxy(self, where: WebSocketURI) -> str | None:
        """Return the usual proxy, which is remembered for a moment."""
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
            # RFC 8305: a broken IPv6 costs a quarter of a second, not the whole deadline.
            return await aiohappyeyeballs.start_connection(addresses, happy_eyeballs_delay=0.25)
        except RuntimeError as exc:  # uvloop's, for some errors of the system
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
            if proxy.scheme in ("socks5", "socks4"):  # the name is ours to look up; with "h" and "a" the proxy's
                progress.stage = "dns"
                addresses = await self._resolver.resolve(where.host, where.port)
                # IPv4 first, which every proxy can reach, and SOCKS4 nothing else.
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
                # What is behind another proxy is reached over that one's socket; ours is connected already.
                forward=cast(Any, _Connected(sock)),
            )
            return await client.connect(host, where.port)
        except OSError:
            sock.close()
            raise
        except Exception as exc:
            sock.close()
            raise ProxyError(f"the SOCKS proxy did not connect: {exc}") from exc
        except BaseException:
            sock.close()
            raise

    async def _tunnel(self, opening: Opening, proxy: Proxy, where: WebSocketURI) -> None:
        """Ask an HTTP proxy for a way to the server (RFC 9110, section 9.3.6)."""
        if proxy.scheme == "https":
            await self._encrypt(opening, None, proxy.host)
        answer = parse_head(await opening.ask(prepare_connect_request(proxy, where)))
        if not 200 <= answer.status_code < 300:
            raise InvalidProxyStatus(answer)
        if opening.early:
            raise ProxyError("the proxy sent something before it was asked to")

    async def _encrypt(self, opening: Opening, context: ssl.SSLContext | None, host: str) -> None:
        context = context or await self._default_context()
        loop = asyncio.get_running_loop()
        opening.source.resume_reading()  # paused since the proxy's answer
        transport = await loop.start_tls(opening.transport, opening, context, server_hostname=host)
        if transport is None or opening.lost is not None:
            raise ConnectionResetError("the connection was closed in the TLS handshake")
        opening.transport = transport

    def _warn_of_blindness(self, request: DialRequest) -> None:
        """Say once of each SSLContext that it does not tell the server from anybody else."""
        context = request.ssl
        if context is None or context in self._blind or (context.check_hostname and context.verify_mode):
            return
        self._blind.add(context)
        what = "certificate" if context.verify_mode == ssl.CERT_NONE else "name in its certificate"
        log.warning(
            "%s: the server's %s is not checked, as its SSLContext says; anybody may pose as it", request.name, what
        )

    async def _default_context(self) -> ssl.SSLContext:
        """Return the SSLContext of all endpoints that have none of their own. Reading the CAs blocks, so elsewhere."""
        if self._context is None:
            self._context = in_thread(ssl.create_default_context, "wsfleet-tls")
            self._context.add_done_callback(self._context_made)
        return await asyncio.shield(self._context)

    def _context_made(self, context: asyncio.Future[ssl.SSLContext]) -> None:
        if context.exception() is not None:
            self._context = None  # an unreadable file of CAs may be readable next time


class _Connected:
    """Stands for a proxy that python-socks would go through first: gives it the socket that is connected already."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock

    async def connect(self, **_: Any) -> socket.socket:
        return self._sock
