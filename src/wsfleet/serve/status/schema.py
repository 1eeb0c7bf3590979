"""Types of the HTTP interface's responses, and the `View` protocol from which a screen gets them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, Protocol

import msgspec

__all__ = [
    "Blocked",
    "Endpoint",
    "Endpoints",
    "Latency",
    "Overview",
    "Query",
    "Sample",
    "StatusError",
    "Subscription",
    "Totals",
    "View",
]

# Fields have defaults and unknown fields are ignored, because the fleet may be of another version.


class Blocked(msgspec.Struct, frozen=True):
    """The last block of the event loop: function, source line and duration."""

    by: str = ""
    where: str = ""
    seconds: float = 0.0


class Latency(msgspec.Struct, frozen=True):
    """Round trips of the endpoints' pings, in seconds."""

    p50: float | None = None
    p99: float | None = None


class Totals(msgspec.Struct, frozen=True):
    """Sums over the fleet since its start; `pending` and `paused` are current values."""

    received: int = 0
    malformed: int = 0
    dropped: int = 0
    failed: int = 0
    processed: int = 0
    pending: int = 0
    connects: int = 0
    losses: int = 0
    dead: int = 0
    paused: int = 0


class Subscription(msgspec.Struct, frozen=True):
    """A subscription's row."""

    name: str = ""
    pattern: str = ""
    processed: int = 0
    failed: int = 0
    dropped: int = 0
    pending: int = 0
    overflow: str = ""


class Down(msgspec.Struct, frozen=True):
    """An endpoint that is not OPEN."""

    name: str = ""
    state: str = ""
    error: str | None = None
    required: bool = False


class Flapping(msgspec.Struct, frozen=True):
    """An endpoint that is lost again and again. `losses` are those of the last minute."""

    name: str = ""
    losses: int = 0


class Overview(msgspec.Struct, frozen=True):
    """A summary of the fleet. `at` is the wall clock time of its machine."""

    states: dict[str, int]
    totals: Totals
    at: float
    name: str = ""
    uptime_s: float = 0.0
    balanced: bool = True
    loop_lag_s: float = 0.0
    blocked: Blocked | None = None
    latency: Latency = Latency()
    slowest: tuple[Subscription, ...] = ()
    down: tuple[Down, ...] = ()
    flapping: tuple[Flapping, ...] = ()
    flapping_count: int = 0
    workers: int | None = None


class Sample(msgspec.Struct, frozen=True):
    """One sample of the fleet's history; counters are totals."""

    at: float
    received: int = 0
    processed: int = 0
    dropped: int = 0
    failed: int = 0
    losses: int = 0
    connects: int = 0
    loop_lag_s: float = 0.0


class Endpoint(msgspec.Struct, frozen=True):
    """An endpoint's row."""

    name: str = ""
    uri: str = ""
    state: str = ""
    connects: int = 0
    losses: int = 0
    received: int = 0
    received_bytes: int = 0
    sent: int = 0
    malformed: int = 0
    held: int = 0
    paused_by: tuple[str, ...] = ()
    paused_s: float = 0.0
    last_error: str | None = None
    latency_s: float | None = None
    down_since: float | None = None
    recent_losses: int = 0
    next_at: float | None = None


class Endpoints(msgspec.Struct, frozen=True):
    """A part of the table of endpoints: rows from `offset` on. `matched` rows match the query, `total` exist."""

    total: int
    matched: int
    offset: int
    rows: tuple[Endpoint, ...]


class Query(msgspec.Struct, frozen=True):
    """A query for endpoints: filters, order, and the range of rows."""

    search: str = ""
    state: str = ""
    sort: str = "name"
    order: str = "asc"
    offset: int = 0
    limit: int = 50


class StatusError(Exception):
    """The status of the fleet could not be read. Has a headline and a text for the screen."""

    def __init__(self, headline: str, text: str) -> None:
        super().__init__(headline, text)
        self.headline = headline
        self.text = text


class View(Protocol):
    """Supplies the data of a screen. All methods may raise StatusError, and may be called again after it."""

    place: str
    """The fleet's address for display."""

    async def overview(self) -> Overview:
        """Return the summary of the fleet."""

    async def history(self) -> list[Sample]:
        """Return the samples of the last minutes, oldest first."""

    async def endpoints(self, query: Query) -> Endpoints:
        """Return the rows for `query`."""

    def events(self) -> AsyncIterator[dict[str, Any]]:
        """Yield events from now on; `kind` is an event's kind."""

    async def close(self) -> None:
        """Release all resources."""
