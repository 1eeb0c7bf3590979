"""The table of metrics, which Prometheus and OpenTelemetry share.

Each column of a report's rows is exported twice: per row (`endpoint.losses`) and for the whole fleet (`losses`). Use
the latter for rates over a fleet: when endpoints are added and removed, counts move between rows, for example into
`$other` or `$retired`, and such a step would look like traffic or like a counter reset. The fleet's counters only
increase: they include the counts of workers that died. Subscriptions to `$` topics have rows but are not part of the
fleet's metrics, which are about its feeds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from wsfleet.core.message import State
from wsfleet.core.stats import about_feeds

__all__ = ["METRICS", "OTHER", "Figures", "Metric"]

OTHER = "$other"
"""Name of the row that sums all other rows. No endpoint or subscription can have this name."""

Row = dict[str, Any]
Values = Callable[["Figures"], Iterable[tuple[str, float]]]


class Figures:
    """A report prepared for metrics. Only the first `most` rows by name are exported; the others are summed."""

    def __init__(self, report: Row, most: int | None = None) -> None:
        self.report = report
        self.workers: Row = report.get("workers", {})
        self.lost: dict[str, float] = self.workers.get("lost", {})
        endpoints, subscriptions = report["endpoints"], report["subscriptions"]
        self.split = {"endpoint": _split(endpoints, most), "subscription": _split(subscriptions, most)}
        feeds = [row for row in subscriptions if about_feeds(row["pattern"])]
        self.whole = {"endpoint": endpoints, "subscription": feeds}


def _split(rows: list[Row], most: int | None) -> tuple[list[Row], list[Row]]:
    """Return the exported rows and the others. The choice depends only on the names, so that it is stable."""
    if most is None or len(rows) <= most:
        return rows, []
    ordered = sorted(rows, key=lambda row: str(row["name"]))
    return ordered[:most], ordered[most:]


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric. `values` yields pairs of a label's value and a number; the former is "" without a label."""

    name: str  #: OpenTelemetry's name, without the prefix "wsfleet."
    unit: str  #: UCUM unit
    text: str
    values: Values
    rises: bool = False
    label: str = ""


def _one(find: Callable[[Figures], float]) -> Values:
    return lambda figures: [("", find(figures))]


def _by_row(label: str, key: str) -> Values:
    def values(figures: Figures) -> Iterator[tuple[str, float]]:
        own, others = figures.split[label]
        for row in own:
            yield row["name"], row[key]
        if others:
            yield OTHER, sum([row[key] for row in others])

    return values


def _over_all(label: str, key: str, rises: bool) -> Values:
    # Only counters include the counts of dead workers: messages that were pending in them no longer are.
    return _one(
        lambda figures: sum([row[key] for row in figures.whole[label]], figures.lost.get(key, 0) if rises else 0)
    )


def _hub(key: str) -> Values:
    return _one(lambda figures: figures.report["hub"][key] + figures.lost.get(f"hub_{key}", 0))


def _blocked(key: str, lost: str) -> Values:
    return _one(lambda figures: (figures.report.get("blocked") or {}).get(key, 0) + figures.lost.get(lost, 0))


def _of_workers(find: Callable[[Row], float]) -> Values:
    return lambda figures: [("", find(figures.workers))] if figures.workers else []


def _states(figures: Figures) -> Iterator[tuple[str, float]]:
    for state in State:
        yield state.value, sum(row["state"] == state for row in figures.whole["endpoint"])


def _open(figures: Figures) -> Iterator[tuple[str, float]]:
    own, others = figures.split["endpoint"]
    for row in own:
        if row["state"]:  # the row of removed endpoints has no state
            yield row["name"], int(row["state"] == State.OPEN)
    if others:
        yield OTHER, sum(row["state"] == State.OPEN for row in others)


def _latency(figures: Figures) -> Iterator[tuple[str, float]]:
    own, others = figures.split["endpoint"]
    for row in own:
        if row["latency_s"] is not None:
            yield row["name"], row["latency_s"]
    known = [row["latency_s"] for row in others if row["latency_s"] is not None]
    if known:
        yield OTHER, max(known)


_WHOLE = (
    Metric("uptime", "s", "Time since the fleet started.", _one(lambda figures: figures.report["uptime_s"])),
    Metric("balanced", "1", "1 while every message is accounted for.", _one(lambda f: int(f.report["balanced"]))),
    Metric("loop.lag", "s", "Lag of the event loop.", _one(lambda figures: figures.report["loop_lag_s"])),
    Metric(
        "loop.blocked",
        "s",
        "Total time for which the event loop was blocked, for a third of a second or more at a time.",
        _blocked("total_s", "blocked_s"),
        rises=True,
    ),
    Metric(
        "loop.blocks",
        "{block}",
        "Blocks of the event loop.",
        _blocked("times", "blocks"),
        rises=True,
    ),
    Metric("endpoints", "{endpoint}", "Endpoints in each state.", _states, label="state"),
    Metric(
        "endpoints.paused",
        "{endpoint}",
        "Endpoints paused by full mailboxes.",
        _one(lambda figures: sum(bool(row["paused_by"]) for row in figures.whole["endpoint"])),
    ),
    Metric(
        "endpoint.open",
        "1",
        "1 while it is open; for $other, the number of open ones.",
        _open,
        label="endpoint",
    ),
    Metric("endpoint.latency", "s", "Round trip of the last answered ping.", _latency, label="endpoint"),
    Metric(
        "worker.restarts",
        "{restart}",
        "Restarts of workers that died.",
        _of_workers(lambda workers: workers["restarts"]),
        rises=True,
    ),
    Metric(
        "worker.lost",
        "{message}",
        "Messages queued in a worker when it died.",
        _of_workers(lambda workers: workers["lost"]["pending"] + workers["lost"]["held"]),
        rises=True,
    ),
)

_HUB = (
    ("published", "{message}", "Messages published to the hub."),
    ("injected", "{message}", "Messages published to the hub by publish() or on $ topics."),
    ("routed", "{message}", "Messages published to the hub that matched a subscription."),
    ("unrouted", "{message}", "Messages published to the hub that matched no subscription."),
    ("deliveries", "{delivery}", "Messages offered to subscriptions, counted once per subscription."),
)

# Key in the report, metric name, unit, description, and whether it is a counter.
_ENDPOINT = (
    ("connects", "connects", "{connect}", "Handshakes completed.", True),
    ("losses", "losses", "{loss}", "Open connections lost.", True),
    ("received", "received", "{message}", "Messages received.", True),
    ("received_bytes", "received.size", "By", "Bytes of payload received, after decompression.", True),
    ("sent", "sent", "{message}", "Messages sent.", True),
    ("malformed", "malformed", "{message}", "Messages that could not be decoded.", True),
    ("answered", "answered", "{message}", "Replies passed to the callers of request().", True),
    ("published", "published", "{message}", "Messages published to the hub.", True),
    ("discarded", "discarded", "{message}", "Messages discarded because on_open failed.", True),
    ("held", "held", "{message}", "Messages held until on_open is done.", False),
    ("paused_s", "paused", "s", "Time for which reading was paused by full mailboxes.", True),
)
_SUBSCRIPTION = (
    ("offered", "offered", "{message}", "Messages offered to the mailbox.", True),
    ("processed", "processed", "{message}", "Messages processed.", True),
    ("failed", "failed", "{message}", "Messages whose processing failed for good.", True),
    ("dropped", "dropped", "{message}", "Messages dropped.", True),
    ("pending", "pending", "{message}", "Messages waiting or being processed.", False),
    ("pending_bytes", "pending.size", "By", "Bytes of payload waiting or being processed.", False),
    ("pausing_s", "pausing", "s", "Time for which this mailbox paused endpoints.", True),
)


def _columns(label: str, which: str, columns: Sequence[tuple[str, str, str, str, bool]]) -> Iterator[Metric]:
    for key, name, unit, text, rises in columns:
        yield Metric(f"{label}.{name}", unit, text, _by_row(label, key), rises, label)
        over_all = f"{text[:-1]}, summed over all {which}, including removed ones."
        yield Metric(name, unit, over_all, _over_all(label, key, rises), rises)


METRICS = (
    *_WHOLE,
    *(Metric(f"hub.{key}", unit, text, _hub(key), rises=True) for key, unit, text in _HUB),
    *_columns("endpoint", "endpoints", _ENDPOINT),
    *_columns("subscription", "subscriptions except those to $ topics", _SUBSCRIPTION),
)
"""All metrics, in the order of the output."""
