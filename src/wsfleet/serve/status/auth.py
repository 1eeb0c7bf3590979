"""Access control of the HTTP interface: the listen address, allowed Host headers, the token, and security headers.

Any web page can make the user's browser send requests to a server on loopback. Two checks reject these: the Host
header, which a page cannot choose (this prevents DNS rebinding), and for requests that change something, the token in a
header that a page of another origin cannot set.
"""

from __future__ import annotations

import hmac
import ipaddress
import re
from collections.abc import Iterable
from email.utils import formatdate

from starlette.datastructures import Headers
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from wsfleet.core.checks import refuse

__all__ = ["SPARE", "Guard", "check_listen", "is_loopback", "split_listen"]

_LISTEN = re.compile(r"(?:\[(?P<v6>[0-9A-Fa-f:.]+)\]|(?P<host>[^\[\]:\s]+)):(?P<port>\d{1,5})")
# Only the whole header is checked: browsers connect to "b.example" for "localhost:80@b.example".
_HOST = re.compile(r"(?:\[(?P<v6>[0-9A-Fa-f:.]+)\]|(?P<host>[A-Za-z0-9._-]+))(?::\d{0,5})?")
_TOKEN = re.compile(r"[\x21-\x7e]+")
_READS = ("GET", "HEAD")

SPARE = "wsfleet.spare"
"""Key in the `state` of a scope: the connection is beyond the limits and answers one health check."""

_HEALTH_PATHS = ("/healthz", "/readyz")

_HEADERS = (
    (b"cache-control", b"no-store"),
    (
        b"content-security-policy",
        b"default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; object-src 'none'",
    ),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
)


def split_listen(listen: str) -> tuple[str, int]:
    """Parse `listen` into address and port. Raises ValueError."""
    found = _LISTEN.fullmatch(listen) if isinstance(listen, str) else None
    if found is None:
        raise ValueError(f"must be an address and a port, such as '127.0.0.1:9464' or '[::1]:9464', not {listen!r}")
    host, port = found["v6"] or found["host"], int(found["port"])
    if port > 65535:
        raise ValueError(f"has port {port}; the highest port is 65535")
    if host == "localhost":
        return "127.0.0.1", port
    try:
        return str(ipaddress.ip_address(host)), port
    except ValueError:
        raise ValueError(f"must name an IP address or localhost, not {host!r}") from None


def check_listen(listen: str, token: str | None) -> None:
    """Raise ConfigError if `listen` or `token` is not valid, or if the address requires a token. Never shows it."""
    fault = None
    try:
        host, _ = split_listen(listen)
    except ValueError as exc:
        fault = str(exc)
    else:
        if token is None and not is_loopback(host):
            fault = f"{listen!r} is reachable from other machines and requires a token; set one or use 127.0.0.1"
    good = token is None or (isinstance(token, str) and _TOKEN.fullmatch(token) is not None)
    refuse("http", [("listen", fault), ("token", None if good else "must be printable ASCII without spaces")])


def is_loopback(host: str) -> bool:
    """Whether `host` is localhost or a loopback address."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _named_host(header: str) -> str:
    """Return the host of a Host header without port and brackets; "" if the header is not valid."""
    found = _HOST.fullmatch(header)
    return (found["v6"] or found["host"]) if found else ""


class Guard:
    """Passes a request to `app`, or rejects it. `open_paths` need no token: they contain no data of the fleet."""

    def __init__(self, app: ASGIApp, *, token: str | None, loopback: bool, open_paths: Iterable[str]) -> None:
        self._app = app
        self._token = None if token is None else token.encode()
        self._loopback = loopback
        self._open_paths = frozenset(open_paths)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        is_spare = SPARE in scope.get("state", ())

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                date = (b"date", formatdate(usegmt=True).encode())
                message["headers"] = [*message.get("headers", ()), date, *_HEADERS]
                if is_spare:
                    message["headers"].append((b"connection", b"close"))
            await send(message)

        is_full = is_spare and scope["path"] not in _HEALTH_PATHS
        app = (_full() if is_full else self._refusal(scope)) or self._app
        await app(scope, receive, guarded)

    def _refusal(self, scope: Scope) -> PlainTextResponse | None:
        headers, reads = Headers(scope=scope), scope["method"] in _READS
        header = headers.get("host", "")
        host = _named_host(header)
        if self._token is None:
            if not is_loopback(host):
                return _refuse(
                    403, f"the Host header must be a loopback name such as 127.0.0.1, not {host or header!r}"
                )
            return None if reads else _refuse(403, "read-only: changes require a server with a token")
        if self._has_token(headers.get("authorization", "")):
            return None
        if reads and (scope["path"] in self._open_paths or (self._loopback and is_loopback(host))):
            return None
        return _refuse(401, "a token is required; send the header Authorization: Bearer TOKEN", bearer=True)

    def _has_token(self, authorization: str) -> bool:
        scheme, _, given = authorization.partition(" ")
        given = given.strip()
        # In constant time, against timing attacks.
        is_equal = hmac.compare_digest(given.encode("latin-1", "replace"), self._token or b"")
        return is_equal and scheme.lower() == "bearer"


def _full() -> PlainTextResponse:
    return PlainTextResponse("too many connections\n", 503, {"retry-after": "5"})


def _refuse(status: int, text: str, *, bearer: bool = False) -> PlainTextResponse:
    return PlainTextResponse(f"{text}\n", status, {"www-authenticate": "Bearer"} if bearer else None)
