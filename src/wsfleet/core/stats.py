"""Immutable snapshots of the counters, and the balance of these counters that must always hold."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, TypeVar

__all__ = [
    "BlockStats",
    "Counted",
    "EndpointStats",
    "FleetStats",
    "HubStats",
    "SubscriptionStats",
    "Totals",
    "about_feeds",
    "add_rows",
    "is_balanced",
    "is_endpoint_balanced",
    "is_hub_balanced",
    "is_subscription_balanced",
    "plain_rows",
]

Counted = tuple[int, ...]
"""The counters of one row that the balance is computed from, read at the same time."""

RETIRED = "$retired"
"""The name of the rows with the sums of the endpoints and subscriptions that were removed while the fleet ran."""


@dataclass(frozen=True, slots=True)
class HubStats:
    """The counters of the hub."""

    published: int = 0  #: all published messages, including `injected`
    injected: int = 0  #: messages of `Fleet.publish` and of the `$` topics
    routed: int = 0  #: messages that matched at least one subscription
    unrouted: int = 0  #: messages that matched no subscription
    deliveries: int = 0  #: deliveries of messages to mailboxes


@dataclass(frozen=True, slots=True)
class EndpointStats:
    """The counters and the state of one endpoint."""

    name: str  #: the endpoint's name
    uri: str  #: the URI without secrets; "" before the first call of a function that returns it
    state: str  #: its `State`
    connects: int  #: completed handshakes
    losses: int  #: lost connections
    received: int  #: received messages
    received_bytes: int  #: size of their payloads, after decompression
    sent: int  #: sent messages
    malformed: int  #: messages that could not be decoded
    answered: int  #: replies to requests, and messages returned by `Session.recv`
    published: int  #: messages published to the hub
    held: int  #: messages that wait for the end of `on_open`
    discarded: int  #: messages that were held when `on_open` failed or the connection ended
    paused_by: tuple[str, ...]  #: the full mailboxes that pause reading now
    paused_s: float  #: total time that reading was paused, in seconds
    last_error: str | None  #: the last error, without secrets
    latency_s: float | None  #: round trip time of the last ping, in seconds; None before the first pong


@dataclass(frozen=True, slots=True)
class SubscriptionStats:
    """The counters of one subscription's mailbox."""

    name: str  #: the subscription's name
    pattern: str  #: the pattern of its topics; `>` for an endpoint's own processor
    offered: int  #: messages delivered to its mailbox
    processed: int  #: messages whose call returned, or that a loop received
    failed: int  #: messages whose call raised or timed out, after all retries
    dropped: int  #: messages dropped by the overflow policy, or at the end
    pending: int  #: messages that wait or are being processed
    pending_bytes: int  #: size of their payloads, in bytes
    overflow: str  #: the overflow policy
    pausing_s: float  #: total time that it has paused endpoints, in seconds


def about_feeds(pattern: str) -> bool:
    """Return whether a subscription to `pattern` counts in totals.

    Subscriptions to `$` topics do not, because these messages do not come from feeds.
    """
    return not pattern.startswith("$")


Row = TypeVar("Row", EndpointStats, SubscriptionStats)


def add_rows(total: Row | None, row: Row) -> Row:
    """Add `row` to `total`, the sum of the removed rows, and return the new sum. It contains only numbers."""
    summed: dict[str, Any] = {}
    for each in fields(row):
        mine = getattr(row, each.name)
        if each.name == "name":
            summed["name"] = RETIRED
        elif isinstance(mine, int | float):
            summed[each.name] = mine + (getattr(total, each.name) if total is not None else 0)
        else:
            summed[each.name] = () if isinstance(mine, tuple) else "" if isinstance(mine, str) else None
    if "latency_s" in summed:
        summed["latency_s"] = summed["last_error"] = None
    return replace(row, **summed)


def is_balanced(
    hub: HubStats, endpoints: tuple[EndpointStats, ...], subscriptions: tuple[SubscriptionStats, ...]
) -> bool:
    """Return whether all messages are accounted for: at the endpoints, in the hub, and in the subscriptions."""
    published, offered = sum(e.published for e in endpoints), sum(s.offered for s in subscriptions)
    return (
        is_hub_balanced(hub, published, offered)
        and all(map(is_endpoint_balanced, endpoints))
        and all(map(is_subscription_balanced, subscriptions))
    )


def is_hub_balanced(hub: HubStats, published: int, offered: int) -> bool:
    """Return whether the hub balances with the sums of `published` of endpoints and `offered` of subscriptions."""
    return (
        hub.published == published + hub.injected
        and hub.published == hub.unrouted + hub.routed
        and hub.deliveries == offered
    )


def is_endpoint_balanced(e: EndpointStats) -> bool:
    """Return whether the endpoint's counters balance."""
    return e.received == e.malformed + e.answered + e.published + e.held + e.discarded


def is_subscription_balanced(s: SubscriptionStats) -> bool:
    """Return whether the subscription's counters balance."""
    return s.offered == s.processed + s.failed + s.dropped + s.pending


@dataclass(frozen=True, slots=True)
class Totals:
    """Sums over all endpoints and subscriptions, and percentiles of the ping latency (None before the first pong)."""

    received: int
    processed: int
    dropped: int
    failed: int
    losses: int
    connects: int
    open: int
    pending: int
    loop_lag_s: float
    latency_p50: float | None
    latency_p99: float | None


@dataclass(frozen=True, slots=True)
class BlockStats:
    """The last block of the event loop, and the totals of all blocks."""

    by: str  #: the processor or function that blocked the loop
    where: str  #: file and line
    seconds: float  #: duration of the last block
    times: int = 0  #: number of blocks that have ended
    total_s: float = 0.0  #: their total duration, in seconds


@dataclass(frozen=True, slots=True)
class FleetStats:
    """An immutable snapshot of a fleet's counters."""

    name: str  #: the fleet's name
    uptime_s: float  #: seconds since the start
    balanced: bool  #: whether all messages are accounted for
    accelerated: bool  #: whether all compiled modules are in use
    loop_lag_s: float  #: delay of the event loop, in seconds
    hub: HubStats  #: the counters of the hub
    endpoints: tuple[EndpointStats, ...]  #: a row for each endpoint, and `$retired`
    subscriptions: tuple[SubscriptionStats, ...]  #: a row for each subscription, and `$retired`
    blocked: BlockStats | None = None  #: the last block of the event loop

    def to_dict(self) -> dict[str, Any]:
        """Return the snapshot as plain data, ready for JSON."""
        shown = asdict(replace(self, endpoints=(), subscriptions=()))
        shown["endpoints"] = plain_rows(self.endpoints)
        shown["subscriptions"] = plain_rows(self.subscriptions)
        return shown


def plain_rows(rows: Iterable[EndpointStats | SubscriptionStats]) -> list[dict[str, Any]]:
    """Return rows as plain data, ready for JSON."""
    # asdict takes twenty times as long, and there may be ten thousand rows.
    plain = [{name: getattr(row, name) for name in row.__slots__} for row in rows]
    for each in plain:
        if "paused_by" in each:
            each["paused_by"] = list(each["paused_by"])
    return plain
