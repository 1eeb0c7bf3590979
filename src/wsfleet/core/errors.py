"""The exceptions of wsfleet.

`ConfigError` is a fault in the program. `ConnectFailed` and `ConnectionLost` are faults of the network or the peer.
`NotOpen` and `Busy` depend on the state of the connection at the time of the call. `EndpointFailed` means that wsfleet
has given up. All derive from `FleetError`. Their texts contain no secrets, and no control characters, since a peer may
have sent a part of them. The exception of a lower layer is in `__cause__`.
"""

from __future__ import annotations

from collections.abc import Mapping

from wsfleet.core.headers import Headers
from wsfleet.core.text import one_line

__all__ = [
    "Busy",
    "ConfigError",
    "ConnectFailed",
    "ConnectionLost",
    "EndpointFailed",
    "Fatal",
    "FleetError",
    "HandshakeRejected",
    "NotOpen",
    "Overflowed",
    "RequestLost",
    "RequestTimeout",
]


class FleetError(Exception):
    """Base class of all exceptions that wsfleet raises."""


class ConfigError(FleetError, ValueError):
    """A declaration is invalid: an option out of range, a name that is in use, an invalid pattern.

    `faults` lists all faults as `(field, text)`, so that the check of a configuration file can report all of them.
    """

    def __init__(self, message: str, faults: tuple[tuple[str, str], ...] = ()) -> None:
        super().__init__(message)
        self.faults = faults


class ConnectFailed(FleetError):
    """An attempt to connect failed. `stage` is one of uri, dns, tcp, proxy, tls, http, on_open.

    `status` is the HTTP status with which the server or the proxy refused the connection or redirected it, or None. It
    is 407 also if a SOCKS proxy refused the user name and password.
    """

    status: int | None = None

    def __init__(self, stage: str, message: str = "", *, status: int | None = None) -> None:
        self.stage = stage
        self.message = message
        self.status = status

    def __str__(self) -> str:
        return one_line(f"{self.stage}: {self.message}") if self.message else f"connect failed at stage {self.stage}"


_SHOWN = 200  # characters of a body that are in the text of the error


class HandshakeRejected(ConnectFailed):
    """The server answered the opening handshake with a status other than 101 (RFC 6455, section 4.1).

    `headers` are the response headers, with names in lower case. Lookups are case-insensitive, and
    `headers.get_all(name)` returns all values of a field. `retry_after_s` is the value of Retry-After in seconds (RFC
    9110, section 10.2.3), or None. `reason` is the reason phrase, and `body` the beginning of the body, up to 1 KiB, as
    one line of text without credentials; "" if there is none, or if it is not text.
    """

    status: int

    def __init__(
        self,
        status: int,
        headers: Mapping[str, str] | None = None,
        retry_after_s: float | None = None,
        reason: str = "",
        body: str = "",
    ) -> None:
        text = f"the server answered {status} {reason}".rstrip()
        if retry_after_s is not None:
            text += f", retry after {retry_after_s:g} s"
        if body:
            text += f": {body if len(body) <= _SHOWN else body[:_SHOWN] + '...'}"
        super().__init__("http", text, status=status)
        self.headers = Headers(headers or {})
        self.retry_after_s = retry_after_s
        self.reason = reason
        self.body = body

    def __repr__(self) -> str:
        # Without the headers, which may contain cookies or repeat credentials of the request.
        return f"{type(self).__name__}({self.status}, retry_after_s={self.retry_after_s})"


class ConnectionLost(FleetError, ConnectionError):
    """An open connection was lost.

    `code` and `reason` are those of the close frame (RFC 6455, section 7.4); without a close frame, `code` is 1006.
    `reason` is unchanged; in the text of the error, control characters are escaped.
    """

    def __init__(self, code: int, reason: str = "") -> None:
        # OSError.__init__ would interpret two arguments as an errno and its text.
        self.args = (code, reason)
        self.code = code
        self.reason = reason

    def __str__(self) -> str:
        return one_line(f"connection lost: {self.code} {self.reason}".rstrip())


class NotOpen(FleetError, ConnectionError):
    """The connection is not open. Nothing was sent."""


class RequestTimeout(FleetError, TimeoutError):
    """No reply arrived within `timeout_s`."""


class RequestLost(FleetError):
    """The connection of the request was lost before the reply arrived. The server may have executed the request."""


class EndpointFailed(FleetError):
    """An endpoint is FAILED and makes no more attempts. The last error is in `__cause__`."""

    def __init__(self, name: str, message: str = "") -> None:
        self.name = name
        self.message = message

    def __str__(self) -> str:
        return one_line(f"endpoint {self.name!r} failed" + (f": {self.message}" if self.message else ""))


class Overflowed(FleetError):
    """The buffer of a subscription with `Overflow.FAIL` was full, and the subscription ended."""


class Busy(FleetError):
    """Another consumer already receives these messages: another loop over the connection, or a processor."""


class Fatal(FleetError):
    """Raise this in `on_open` if further attempts are pointless: the endpoint becomes FAILED."""
