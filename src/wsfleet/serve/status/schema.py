"""What a fleet tells those who watch it over HTTP, as types; and what a screen needs of whoever brings it."""

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

# Everything has a default, and what is not known here is passed over: the fleet may be of another version.


class Blocked(msgspec.Struct, frozen=True):
    """Who held the loop up the last time, where, and for how long."""

    by: str = ""
    where: str = ""
    seconds: float = 0.0


class Latency(msgspec.Struct, frozen=True):
    """Round trips of the endpoints' pings, in seconds."""

    p50: float | None = None
    p99: float | None = None


class Totals(msgspec.Struct, frozen=True):
    """Sums over the whole fleet since its start; `pending` and `paused` are of this moment."""

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


class Overview(msgspec.Struct, frozen=True):
    """The fleet at a glance. `at` is the wall clock of its machine."""

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
    workers: int | None = None


class Sample(msgspec.Struct, frozen=True):
    """One second of the fleet's history; counters are totals."""

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


class Endpoints(msgspec.Struct, frozen=True):
    """A part of the table of endpoints: the rows from `offset` on, of `matched` ones, of `total` in all."""

    total: int
    matched: int
    offset: int
    rows: tuple[Endpoint, ...]


class Query(msgspec.Struct, frozen=True):
    """Which endpoints are wanted, in which order, and which rows of these."""

    search: str = ""
    state: str = ""
    sort: str = "name"
    order: str = "asc"
    offset: int = 0
    limit: int = 50


class StatusError(Exception):
    """The status of the fleet could not be read; with a headline and a text for the screen."""

    def __init__(self, headline: str, text: str) -> None:
        super().__init__(headline, text)
        self.headline = headline
        self.text = text


class View(Protocol):
    """Brings what a screen shows. All of it raises StatusError, and may be asked again then."""

    place: str
    """Where the fleet is, as a person would write it."""

    async def overview(self) -> Overview:
        """Return the fleet at a glance."""

    async def history(self) -> list[Sample]:
        """Return the last minutes, oldest first."""

    async def endpoints(self, query: Query) -> Endpoints:
        """Return the rows that `query` asks for."""

    def events(self) -> AsyncIterator[dict[str, Any]]:
        """Yield what happens from now on; `kind` says what it is."""

    async def close(self) -> None:
        """Let go of everything."""
