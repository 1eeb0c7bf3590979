"""The interfaces between the endpoints and the WebSocket library.

A `Transport` opens sockets; an open socket is a `Wire`; it delivers messages to a `Receiver`, in batches. All methods
run in the loop's thread. A receiver's methods are called in callbacks of the loop: they must return soon and must not
raise. After `lost`, no method of the receiver is called.
"""

from __future__ import annotations

import ssl
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol, runtime_checkable

from wsfleet.core.errors import ConnectionLost
from wsfleet.core.headers import Headers
from wsfleet.transport.cookies import Cookies

__all__ = ["DialRequest", "Payload", "Progress", "Receiver", "Transport", "Wire", "WithEndpoints"]

Payload = str | bytes


@dataclass(frozen=True, slots=True)
class DialRequest:
    """The parameters of one attempt: an `Endpoint` with the results of its functions."""

    # Fields that may contain a credential are not in the repr, which other libraries may log.
    name: str
    uri: str = field(repr=False)
    headers: Mapping[str, str] = field(repr=False)
    subprotocols: Sequence[str] = field(default=(), repr=False)
    subprotocol_required: bool = False
    compression: Literal["deflate"] | None = None
    ssl: ssl.SSLContext | None = None
    proxy: str | Literal[False] | None = field(default=None, repr=False)
    max_size: int = 2**20
    max_fragments: int | None = None
    close_s: float = 2.0
    cookies: Cookies | None = field(default=None, repr=False)


class Receiver(Protocol):
    """Receives the messages of a wire: the session while `on_open` runs, then the endpoint's intake."""

    as_text: bool
    """Whether text messages are delivered as str; otherwise as bytes that are valid UTF-8."""

    @property
    def chunk(self) -> int:
        """Maximum number of messages in one call of `receive`. The wire checks its time slice between calls."""

    def receive(self, payloads: list[Payload], at: float, until: float) -> None:
        """Process complete messages, in order. `at` is the wall clock time of the socket read.

        Calls of idle processors may begin until `until`, the end of the time slice (`time.perf_counter`).
        """

    def lost_while_paused(self, error: ConnectionLost) -> None:
        """Handle the loss of the socket while reading is paused. `lost` follows, after all messages that were read."""

    def lost(self, error: ConnectionLost) -> None:
        """Handle the loss of the socket. Called once, after all messages that were read have been delivered."""


class Wire(Protocol):
    """One open socket.

    `connected_at` is the `loop.time()` of the end of the handshake, `last_frame` that of the last read with data from
    the peer, and `ping_sent` that of the oldest ping without a pong, or None. `last_frame_at` is the wall clock time of
    that last read, or of the handshake. `latency_s` is the round trip time of the last ping, or None.
    """

    @property
    def request_headers(self) -> Headers: ...
    @property
    def response_headers(self) -> Headers: ...
    @property
    def subprotocol(self) -> str | None: ...
    @property
    def connected_at(self) -> float: ...
    @property
    def last_frame(self) -> float: ...
    @property
    def last_frame_at(self) -> float: ...
    @property
    def ping_sent(self) -> float | None: ...
    @property
    def latency_s(self) -> float | None: ...
    @property
    def unread(self) -> bool:
        """Whether data, or the end of the stream, has arrived and is not delivered yet."""

    def start(self, receiver: Receiver) -> None:
        """Start to deliver messages, beginning with those that arrived since the handshake."""

    def set_receiver(self, receiver: Receiver) -> None:
        """Deliver later messages, and the loss, to `receiver` instead. Does nothing after the loss."""

    def pause(self) -> None:
        """Stop reading the socket, so that the sender's TCP window closes, and stop delivery after this batch.

        Data that has arrived is kept, and delivered on `resume`. A loss of the socket is reported after it.
        """

    def resume(self) -> None:
        """Resume reading and delivery."""

    @property
    def writable(self) -> bool:
        """Whether the write buffer has room."""

    async def wait_writable(self) -> None:
        """Wait for room in the write buffer, or for the loss of the socket. Safe to cancel."""

    def write(self, payload: Payload) -> None:
        """Send one message, str as text and bytes as binary. Raises NotOpen after the start of the close."""

    def ping(self) -> None:
        """Send a ping; its pong sets `latency_s`. Does nothing after the start of the close."""

    def close(self, code: int, reason: str = "") -> None:
        """Start the closing handshake (RFC 6455, section 7.1.2), and discard further messages.

        `lost` is called within `close_s`.
        """

    def abort(self, reason: str = "") -> None:
        """Close the socket at once, and discard data that was read but not delivered.

        `lost` is called later, with `reason` if the peer gave none.
        """


class Progress:
    """The stage and the route of an attempt, for the text of its error.

    `proxy` is the URL of the proxy, and `redirected` the origin of a redirect to another origin; both are redacted, and
    empty if there is none. `secrets` are the secrets of these URLs, to be removed from texts.
    """

    __slots__ = ("proxy", "redirected", "secrets", "stage")

    def __init__(self) -> None:
        self.stage = "uri"
        self.proxy = ""
        self.redirected = ""
        self.secrets: list[str] = []

    @property
    def route(self) -> str:
        """A description of redirect and proxy, for logs and errors; empty if there is neither."""
        redirected = f"redirected to {self.redirected}, without headers" if self.redirected else ""
        return ", ".join(filter(None, [redirected, f"through the proxy {self.proxy}" if self.proxy else ""]))


class Transport(Protocol):
    """Opens sockets. A fleet has one transport."""

    async def open(self, request: DialRequest, progress: Progress) -> Wire:
        """Connect and do the opening handshake. Raises ConnectFailed with the stage. Cancellation closes the socket."""

    async def aclose(self) -> None:
        """Release the resources for opening sockets, such as resolver threads."""


@runtime_checkable
class WithEndpoints(Protocol):
    """A transport for tests that names the fleet's endpoints in its errors."""

    def _set_endpoints(self, names: Collection[str]) -> None:
        """Called by the fleet: `names` are those of its endpoints, and follow its changes."""
