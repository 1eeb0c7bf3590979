"""The adapter to `websockets`.

It uses the Sans-I/O `ClientProtocol` and its exceptions, the parsers of URIs, proxies and responses, and the
compression extension. `wsfleet.transport.dial` opens the sockets, and `wsfleet.transport.protocol` reads them.
"""

from __future__ import annotations

import errno
import logging
import ssl
import time
from urllib.parse import urldefrag, urljoin, urlsplit

import websockets.datastructures
from websockets.client import ClientProtocol
from websockets.exceptions import InvalidProxy, InvalidProxyStatus, InvalidURI, WebSocketException
from websockets.extensions.permessage_deflate import enable_client_permessage_deflate
from websockets.http11 import USER_AGENT, Response
from websockets.protocol import CLIENT
from websockets.typing import Subprotocol
from websockets.uri import WebSocketURI, parse_uri

from wsfleet.core.errors import ConfigError, ConnectFailed, HandshakeRejected
from wsfleet.core.headers import Headers
from wsfleet.core.options import check_headers, check_uri
from wsfleet.core.redact import redact_text, redact_uri, secrets_of
from wsfleet.core.retry import PROXY_AUTHENTICATION, retry_after_s
from wsfleet.core.text import printable
from wsfleet.core.time_slice import READ_BYTES
from wsfleet.transport import open_files
from wsfleet.transport.base import DialRequest, Progress
from wsfleet.transport.dial import Dialer, Opening, SocksLoginRefused, parse_head
from wsfleet.transport.fairness import ReadScheduler
from wsfleet.transport.fragments import FragmentedProtocol, most_fragments
from wsfleet.transport.protocol import TLS_READ_BYTES, WebSocketWire
from wsfleet.transport.rejection import body_size, readable_body

__all__ = ["WebSocketTransport", "WebSocketWire"]

MAX_REDIRECTS = 5

NO_SUBPROTOCOLS = "another origin, to which subprotocols are not sent because they may be credentials; use that URI"

NO_SUBPROTOCOL = "the server chose none of the subprotocols; subprotocol_required=False allows that"
"""Browsers refuse such a server too: https://websockets.spec.whatwg.org/#concept-websocket-establish."""

_logger = logging.getLogger("wsfleet.wire")


class WebSocketTransport:
    """Opens sockets and does the handshake with `websockets`. See `wsfleet.transport.base.Transport`."""

    def __init__(self) -> None:
        self._dialer = Dialer()
        # All connections share one read buffer: each read is processed or copied before the next.
        self._view = memoryview(bytearray(READ_BYTES))
        self._tls_view: memoryview | None = None
        self._scheduler = ReadScheduler()

    async def aclose(self) -> None:
        await self._dialer.aclose()

    async def open(self, request: DialRequest, progress: Progress) -> WebSocketWire:
        progress.stage = "uri"
        uri, headers = request.uri, dict(request.headers)
        fault = next(check_headers(headers), None) or _uri_fault(uri)
        if fault:
            raise ConnectFailed("uri", fault) from ConfigError(fault)
        for _ in range(MAX_REDIRECTS + 1):
            try:
                return await self._attempt(parse_uri(uri), headers, request, progress)
            except HandshakeRejected as rejected:
                status, location = rejected.status, next(iter(rejected.headers.get_all("Location")), None)
                if status not in (301, 302, 303, 307, 308) or not location:
                    raise
            except (OSError, EOFError, ValueError, WebSocketException) as exc:
                raise _translate(exc, progress.stage) from (None if isinstance(exc, InvalidProxy) else exc)
            new = _redirect(uri, location, status)
            progress.secrets += secrets_of(new, {})
            if _origin(new) != _origin(uri):
                there = redact_uri(_origin(new))
                if request.subprotocols:
                    raise ConnectFailed("http", f"redirected to {there}, {NO_SUBPROTOCOLS}", status=status)
                progress.redirected, headers = there, {}
            uri = new
        raise ConnectFailed("http", f"more than {MAX_REDIRECTS} redirects", status=status)

    async def _attempt(
        self, where: WebSocketURI, headers: dict[str, str], request: DialRequest, progress: Progress
    ) -> WebSocketWire:
        opening = await self._dialer.dial(where, request, progress)
        try:
            progress.stage = "http"
            return await self._shake_hands(opening, where, headers, request, progress)
        except BaseException:
            opening.source.abort()
            raise

    async def _shake_hands(
        self,
        opening: Opening,
        where: WebSocketURI,
        headers: dict[str, str],
        request: DialRequest,
        progress: Progress,
    ) -> WebSocketWire:
        protocol = ClientProtocol(
            where,
            extensions=enable_client_permessage_deflate(None) if request.compression else None,
            subprotocols=[Subprotocol(name) for name in request.subprotocols] or None,
            max_size=request.max_size,
            logger=_logger,
        )
        # It would log whole handshakes, including credentials.
        protocol.debug = False
        upgrade = protocol.connect()
        for name, value in headers.items():
            if name in upgrade.headers:
                del upgrade.headers[name]
            upgrade.headers[name] = value
        upgrade.headers.setdefault("User-Agent", USER_AGENT)
        if request.cookies is not None:
            _add_cookies(upgrade.headers, request.cookies.header(where), progress)
        protocol.send_request(upgrade)
        head = await opening.ask(b"".join(protocol.data_to_send()))
        response = parse_head(head)
        if request.cookies is not None:
            request.cookies.store(where, Headers(response.headers))
        if response.status_code != 101:
            redirected = 300 <= response.status_code < 400
            body = b"" if redirected else await opening.body(body_size(response.headers))
            raise _rejection(response, readable_body(response.headers, body), progress.secrets)
        protocol.receive_data(head)
        if protocol.handshake_exc is not None:
            raise protocol.handshake_exc
        if request.subprotocols and request.subprotocol_required and protocol.subprotocol is None:
            raise ConnectFailed("http", NO_SUBPROTOCOL)
        # A new object, because the protocol object of the handshake keeps the whole response.
        opened = FragmentedProtocol(CLIENT, max_size=request.max_size, logger=_logger)
        opened.debug = False
        opened.extensions, opened.subprotocol = protocol.extensions, protocol.subprotocol
        most = request.max_fragments or most_fragments(request.max_size)
        view = self._view_for(opening)
        return WebSocketWire(opening, opened, upgrade, response, view, request.close_s, most, self._scheduler)

    def _view_for(self, opening: Opening) -> memoryview:
        if not opening.encrypted:
            return self._view
        if self._tls_view is None:
            self._tls_view = memoryview(bytearray(TLS_READ_BYTES))
        return self._tls_view


def _uri_fault(uri: str) -> str | None:
    fault = check_uri(uri)
    if fault is None:
        try:
            parse_uri(uri)
        except (InvalidURI, ValueError):
            fault = "is not valid"
    return f"the uri {fault}" if fault else None


def _add_cookies(headers: websockets.datastructures.Headers, stored: str, progress: Progress) -> None:
    """Add the stored cookies to those that the user has set in the headers."""
    if stored:
        value = "; ".join([*headers.get_all("Cookie"), stored])
        headers.pop("Cookie", None)
        headers["Cookie"] = value
        progress.secrets += secrets_of("", {"Cookie": stored})


def _rejection(response: Response, body: str, secrets: list[str]) -> HandshakeRejected:
    headers = Headers((name.lower(), value) for name, value in response.headers.raw_items())
    # Of several values the first counts: joined, they would be no valid time, and no valid URI.
    wait = next(iter(headers.get_all("Retry-After")), None)
    reason, body = (redact_text(printable(text), secrets) for text in (response.reason_phrase, body))
    return HandshakeRejected(response.status_code, headers, retry_after_s(wait, time.time()), reason, body)


def _rescheme(uri: str, old: str, new: str) -> str:
    scheme, colon, rest = uri.partition(":")
    return f"{new}{scheme[len(old) :]}:{rest}" if colon and scheme.lower().startswith(old) else uri


def _origin(uri: str) -> str:
    """Return the origin of a URI: scheme, host and port."""
    where = parse_uri(uri)
    host = f"[{where.host}]" if ":" in where.host else where.host
    return f"{'wss' if where.secure else 'ws'}://{host}:{where.port}"


def _redirect(uri: str, location: str, status: int) -> str:
    """Return the target of a redirect. Raises ConnectFailed for a redirect from wss to ws.

    The userinfo is kept only for the same origin. Headers are not sent to another origin, because any of them may be
    a credential.
    """
    # urljoin supports http, but not ws. A fragment is not sent to the server (RFC 9110, section 10.2.2).
    fault: str | None
    try:
        new = urldefrag(_rescheme(urljoin(_rescheme(uri, "ws", "http"), location), "http", "ws")).url
        fault = _uri_fault(new)
    except ValueError:
        fault = "it is not a URI"
    if fault:
        raise ConnectFailed("http", f"redirected to an invalid URI: {fault}", status=status)
    old_place, new_place = parse_uri(uri), parse_uri(new)
    if old_place.secure and not new_place.secure:
        raise ConnectFailed("http", "redirected from wss:// to ws://, which is not encrypted", status=status)
    if old_place.user_info and not new_place.user_info and _origin(uri) == _origin(new):
        parts = urlsplit(new)
        userinfo = urlsplit(uri).netloc.rpartition("@")[0]
        new = parts._replace(netloc=f"{userinfo}@{parts.netloc}").geturl()
    return new


def _translate(exc: Exception, stage: str) -> ConnectFailed:
    """Convert an exception of websockets, ssl or the operating system to ConnectFailed."""
    if isinstance(exc, InvalidProxy):
        # Its text contains the proxy's URL with the password, so it is not used, and not set as the cause.
        return ConnectFailed(stage, f"the proxy's URL is not valid: {exc.msg}")
    if isinstance(exc, InvalidProxyStatus):
        return ConnectFailed(stage, redact_text(str(exc)), status=exc.response.status_code)
    if isinstance(exc, SocksLoginRefused):
        return ConnectFailed(stage, str(exc), status=PROXY_AUTHENTICATION)
    if isinstance(exc, OSError) and exc.errno in (errno.EMFILE, errno.ENFILE):
        return ConnectFailed(stage, f"{exc.strerror}: {open_files.ADVICE}")
    if isinstance(exc, ssl.SSLCertVerificationError):
        return ConnectFailed(stage, f"the certificate is not valid: {exc.verify_message}")
    return ConnectFailed(stage, redact_text(str(exc) or type(exc).__name__))
