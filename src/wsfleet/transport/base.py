"""Who may call what across the seam to the wire library.

A `Transport` opens sockets; an open one is a `Wire`; what comes in goes to a `Receiver`, in batches. Everything
happens on the loop's thread. A receiver's methods are called from the loop's callbacks: they return soon and do
not raise. After `lost` nothing more is called.
"""

from __future__ import annotations

import ssl
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

from wsfleet.core.errors import ConnectionLost

__all__ = ["DialRequest", "Payload", "Progress", "Receiver", "Transport", "Wire"]

Payload = str | bytes


@dataclass(frozen=True, slots=True)
class DialRequest:
    """Where one attempt goes, with the functions of an `Endpoint` already called."""

    # What may hold a credential is not in the repr: others log what they were called with.
    name: str
    uri: str = field(repr=False)
    headers: Mapping[str, str] = field(repr=False)
    subprotocols: Sequence[str] = field(default=(), repr=False)
    compression: Literal["deflate"] | None = None
    ssl: ssl.SSLContext | None = None
    proxy: str | Literal[False] | None = field(default=None, repr=False)
    max_size: int = 2**20
    max_fragments: int | None = None
    close_s: float = 2.0


class Receiver(Protocol):
    """What a wire hands its messages to: the session."""

    as_text: bool
    """Whether text frames are to be handed over as str; else as bytes that are valid UTF-8."""

    chunk: int
    """At most so many messages in one call of `received`: the wire looks at the clock between calls."""

    def received(self, payloads: list[Payload], at: float) -> None:
        """Take whole messages in their order; `at` is the wall clock of the read that brought them."""

    def lost(self, error: ConnectionLost) -> None:
        """The socket is gone. Called once, after everything that had been read was handed over."""


class Wire(Protocol):
    """One open socket.

    `last_frame` is `loop.time()` of the last read that brought anything from the peer, `connected_at` that of the
    handshake's end, `latency_s` the last ping's round trip or None. `ping_sent` is when the ping that still waits
    for its pong was sent, or None.
    """

    @property
    def request_headers(self) -> Mapping[str, str]: ...
    @property
    def response_headers(self) -> Mapping[str, str]: ...
    @property
    def subprotocol(self) -> str | None: ...
    @property
    def connected_at(self) -> float: ...
    @property
    def last_frame(self) -> float: ...
    @property
    def ping_sent(self) -> float | None: ...
    @property
    def latency_s(self) -> float | None: ...

    def start(self, receiver: Receiver) -> None:
        """Begin to hand over; what came since the handshake is handed over first."""

    def pause(self) -> None:
        """Stop reading the socket, so that the sender's TCP window closes, and hand over nothing after this batch.

        What has been read waits in the wire: it is handed over on `resume`, or when the socket is gone.
        """

    def resume(self) -> None:
        """Read again."""

    @property
    def writable(self) -> bool:
        """Whether the write buffer has room."""

    async def wait_writable(self) -> None:
        """Wait for room in the write buffer, or until the socket is gone. Safe to cancel."""

    def write(self, payload: Payload) -> None:
        """Send one message, str as text and bytes as binary; raises NotOpen once the close began."""

    def ping(self) -> None:
        """Send a ping; its answer sets `latency_s`. Does nothing once the close began."""

    def close(self, code: int, reason: str = "") -> None:
        """Begin the closing handshake (RFC 6455, section 7.1.2), reading and discarding; `lost` within `close_s`."""

    def abort(self, reason: str = "") -> None:
        """Drop the socket at once, and what was read but not handed over; `lost` follows, with `reason` where the peer
        gave none."""


class Progress:
    """How far an attempt has come and which way, for the one who has to say at what stage it failed.

    `proxy` is the one that it goes through, `redirected` the other origin that it was led to; both are redacted, and
    empty where there is none. `secrets` are what must be seen of neither, nor of what the attempt began with.
    """

    __slots__ = ("proxy", "redirected", "secrets", "stage")

    def __init__(self) -> None:
        self.stage = "uri"
        self.proxy = ""
        self.redirected = ""
        self.secrets: list[str] = []

    @property
    def way(self) -> str:
        """What is to be said of the way, behind the endpoint's own URI or in an error."""
        redirected = f"redirected to {self.redirected}, where no headers go" if self.redirected else ""
        return ", ".join(filter(None, [redirected, f"through the proxy {self.proxy}" if self.proxy else ""]))


class Transport(Protocol):
    """Opens sockets. One for a fleet."""

    async def open(self, request: DialRequest, progress: Progress) -> Wire:
        """Connect and shake hands. Raises ConnectFailed with the stage; cancelling leaves nothing open."""

    async def aclose(self) -> None:
        """Release what opening needed: resolver threads and the like."""
