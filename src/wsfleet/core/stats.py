"""Counters and their immutable snapshots; the balance that every message must keep."""

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
"""The numbers of one row that the balance is made of, taken down at one moment."""

RETIRED = "$retired"
"""The name of the rows that sum up what was removed while the fleet ran."""


@dataclass(frozen=True, slots=True)
class HubStats:
    """What went through the hub."""

    published: int = 0  #: all messages that were published, `injected` among them
    injected: int = 0  #: those of `Fleet.publish` and the `$` topics
    routed: int = 0  #: those that at least one subscription matched
    unrouted: int = 0  #: those that none did
    deliveries: int = 0  #: how often a message was given to a mailbox


@dataclass(frozen=True, slots=True)
class EndpointStats:
    """One endpoint. `latency_s` is the round trip of the last answered ping, None before the first."""

    name: str  #: the endpoint's name
    uri: str  #: where it connects to, without secrets; "" until a function has said it
    state: str  #: its `State`
    connects: int  #: handshakes that were completed
    losses: int  #: connections that were lost
    received: int  #: messages that came in whole
    received_bytes: int  #: their payloads, after decompression
    sent: int  #: messages that were sent
    malformed: int  #: could not be decoded
    answered: int  #: replies to requests, and what `Session.recv` took
    published: int  #: given to the hub
    held: int  #: wait for `on_open` to be done
    discarded: int  #: were held when `on_open` failed, or the connection ended
    paused_by: tuple[str, ...]  #: the full mailboxes for which it is not read now
    paused_s: float  #: how long it was not read, in seconds
    last_error: str | None  #: the last error, without secrets
    latency_s: float | None  #: seconds; None before the first pong


@dataclass(frozen=True, slots=True)
class SubscriptionStats:
    """One subscription's mailbox. `pending` is what waits plus what is in hand."""

    name: str  #: the subscription's name
    pattern: str  #: the topics it takes; `>` for an endpoint's own processor
    offered: int  #: messages that came to its mailbox
    processed: int  #: the function returned, or a loop was handed it
    failed: int  #: the function raised, or took too long, for good
    dropped: int  #: thrown away by the policy, or at the end
    pending: int  #: waiting, and in hand
    pending_bytes: int  #: their payloads, in bytes
    overflow: str  #: its policy
    pausing_s: float  #: how long it has paused endpoints, in seconds


def about_feeds(pattern: str) -> bool:
    """Whether a subscription to `pattern` has a part in totals.

    Those of `$` topics, an observer's own among them, would only blur what became of the feeds.
    """
    return not pattern.startswith("$")


Row = TypeVar("Row", EndpointStats, SubscriptionStats)


def add_rows(total: Row | None, row: Row) -> Row:
    """Return `row` added to the sum of the rows that were removed, which says nothing but numbers."""
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
    """Tell whether every message is accounted for: at the endpoints, in the hub, in every subscription."""
    published, offered = sum(e.published for e in endpoints), sum(s.offered for s in subscriptions)
    return (
        is_hub_balanced(hub, published, offered)
        and all(map(is_endpoint_balanced, endpoints))
        and all(map(is_subscription_balanced, subscriptions))
    )


def is_hub_balanced(hub: HubStats, published: int, offered: int) -> bool:
    """The hub's part: what the endpoints have published in all, and what the subscriptions were offered."""
    return (
        hub.published == published + hub.injected
        and hub.published == hub.unrouted + hub.routed
        and hub.deliveries == offered
    )


def is_endpoint_balanced(e: EndpointStats) -> bool:
    """One endpoint's part."""
    return e.received == e.malformed + e.answered + e.published + e.held + e.discarded


def is_subscription_balanced(s: SubscriptionStats) -> bool:
    """One subscription's part."""
    return s.offered == s.processed + s.failed + s.dropped + s.pending


@dataclass(frozen=True, slots=True)
class Totals:
    """Sums over all endpoints and subscriptions, and how long pings take; None before the first is answered."""

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
    """The last time that something blocked the loop: whose call, at which line, for how long."""

    by: str  #: whose call: a processor, or what else is known
    where: str  #: file and line
    seconds: float  #: for how long
    times: int = 0  #: how often the loop was blocked until now, and is not any more
    total_s: float = 0.0  #: for how long in all


@dataclass(frozen=True, slots=True)
class FleetStats:
    """A snapshot of a fleet. Nothing in it changes afterwards; `balanced` says that no message is unaccounted for."""

    name: str  #: the fleet's name
    uptime_s: float  #: seconds since it started
    balanced: bool  #: no message is unaccounted for
    accelerated: bool  #: all compiled parts are in use
    loop_lag_s: float  #: seconds that the event loop is late
    hub: HubStats  #: what went through the hub
    endpoints: tuple[EndpointStats, ...]  #: a row for each, and `$retired`
    subscriptions: tuple[SubscriptionStats, ...]  #: a row for each, and `$retired`
    blocked: BlockStats | None = None  #: the last time that something blocked the loop

    def to_dict(self) -> dict[str, Any]:
        """Return the snapshot as plain data, ready for JSON."""
        shown = asdict(replace(self, endpoints=(), subscriptions=()))
        shown["endpoints"] = plain_rows(self.endpoints)
        shown["subscriptions"] = plain_rows(self.subscriptions)
        return shown


def plain_rows(rows: Iterable[EndpointStats | SubscriptionStats]) -> list[dict[str, Any]]:
    """Return rows as plain data, ready for JSON."""
    # Not asdict, which takes twenty times as long: there may be ten thousand of them.
    plain = [{name: getattr(row, name) for name in row.__slots__} for row in rows]
    for each in plain:
        if "paused_by" in each:
            each["paused_by"] = list(each["paused_by"])
    return plain
