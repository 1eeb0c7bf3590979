"""What can go wrong, told apart by whose fault it is.

`ConfigError` is the program's, `ConnectFailed` and `ConnectionLost` are the network's or the peer's,
`NotOpen` and `Busy` are the caller's moment, `EndpointFailed` is wsfleet giving up. Everything derives from
`FleetError`. The texts of these errors carry no secrets, and nothing that a terminal would obey, as a part of them may
be a peer's; the exception of a lower layer is in `__cause__`.
"""

from __future__ import annotations

from collections.abc import Mapping

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
    """The root of all errors that wsfleet raises."""


class ConfigError(FleetError, ValueError):
    """A declaration cannot work as it stands: an option out of range, a name in use, a bad pattern.

    `faults` lists every fault found as `(field, text)`, so that a configuration file can show them all at once.
    """

    def __init__(self, message: str, faults: tuple[tuple[str, str], ...] = ()) -> None:
        super().__init__(message)
        self.faults = faults


class ConnectFailed(FleetError):
    """One attempt to connect failed. `stage` is one of dns, tcp, proxy, tls, http, on_open, uri."""

    def __init__(self, stage: str, message: str = "") -> None:
        self.stage = stage
        self.message = message

    def __str__(self) -> str:
        return one_line(f"{self.stage}: {self.message}") if self.message else f"connecting failed at stage {self.stage}"


class HandshakeRejected(ConnectFailed):
    """The server answered the opening handshake with something other than 101.

    `headers` are the response's, names in lower case; `retry_after_s` is its Retry-After in seconds
    (RFC 9110, section 10.2.3), or None.
    """

    def __init__(
        self, status: int, headers: Mapping[str, str] | None = None, retry_after_s: float | None = None
    ) -> None:
        later = "" if retry_after_s is None else f", retry after {retry_after_s:g} s"
        super().__init__("http", f"the server answered {status}{later}")
        self.status = status
        self.headers: Mapping[str, str] = dict(headers or {})
        self.retry_after_s = retry_after_s

    def __repr__(self) -> str:
        # Without the headers: a server may set cookies, or repeat what it was sent.
        return f"{type(self).__name__}({self.status}, retry_after_s={self.retry_after_s})"


class ConnectionLost(FleetError, ConnectionError):
    """An open connection ended. `code` and `reason` are the close frame's (RFC 6455, section 7.4); 1006 without one.

    `reason` is as the peer wrote it; in the error's text it is printable.
    """

    def __init__(self, code: int, reason: str = "") -> None:
        # Not by OSError, which would take them for an errno and its text.
        self.args = (code, reason)
        self.code = code
        self.reason = reason

    def __str__(self) -> str:
        return one_line(f"connection lost: {self.code} {self.reason}".rstrip())


class NotOpen(FleetError, ConnectionError):
    """The connection is not open at this moment; nothing was sent."""


class RequestTimeout(FleetError, TimeoutError):
    """No reply came within `timeout_s`."""


class RequestLost(FleetError):
    """The connection that carried the request was lost before the reply came; whether the server acted is unknown."""


class EndpointFailed(FleetError):
    """An endpoint is FAILED and will not be retried; the last error is in `__cause__`."""

    def __init__(self, name: str, message: str = "") -> None:
        self.name = name
        self.message = message

    def __str__(self) -> str:
        return one_line(f"endpoint {self.name!r} failed" + (f": {self.message}" if self.message else ""))


class Overflowed(FleetError):
    """A subscription with `Overflow.FAIL` received more than its buffer holds, and ended."""


class Busy(FleetError):
    """Two tasks want what only one can have: a second loop over a connection, or one over a processor's messages."""


class Fatal(FleetError):
    """Raised by an `on_open` to say that trying again is pointless: the endpoint becomes FAILED."""
