"""What a report says in figures: one table of metrics, for Prometheus and for OpenTelemetry.

Each column of a report's rows is there twice, by row (`endpoint.losses`) and for the whole fleet (`losses`). Rates over
a fleet want the latter: when endpoints come and go while it runs, what they have counted moves from row to row, into
`$other` or `$retired`, and a row that steps up or down looks like traffic, or like a counter begun again. Over the
whole fleet a counter only rises: what workers counted that have died is in it. Subscriptions to `$` topics have rows,
but no part in what is said of the whole fleet: that is about its feeds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from wsfleet.core.message import State
from wsfleet.core.stats import about_feeds

__all__ = ["METRICS", "OTHER", "Figures", "Metric"]

OTHER = "$other"
"""The row of all others. No endpoint or subscription can have this name."""

Row = dict[str, Any]
Values = Callable[["Figures"], Iterable[tuple[str, float]]]


class Figures:
    """A report, as metrics look at it. Past `most` rows, in the order of their names, all others are one."""

    def __init__(self, report: Row, most: int | None = None) -> None:
        self.report = report
        self.workers: Row = report.get("workers", {})
        self.lost: dict[str, float] = self.workers.get("lost", {})
        endpoints, subscriptions = report["endpoints"], report["subscriptions"]
        self.split = {"endpoint": _split(endpoints, most), "subscription": _split(subscriptions, most)}
        feeds = [row for row in subscriptions if about_feeds(row["pattern"])]
        self.whole = {"endpoint": endpoints, "subscription": feeds}


def _split(rows: list[Row], most: int | None) -> tuple[list[Row], list[Row]]:
    """Return those with a row of their own, and all others: the same ones each time, as long as names stay."""
    if most is None or len(rows) <= most:
        return rows, []
    ordered = sorted(rows, key=lambda row: str(row["name"]))
    return ordered[:most], ordered[most:]


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric. `values` finds its values, each with what `label` is there; "" where it has none."""

    name: str  #: as OpenTelemetry has it, after "wsfleet."
    unit: str  #: as UCUM has it
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
    # What waited in a worker that died waits no more, so only counters go on with what it had.
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
        if row["state"]:  # those that were removed have none
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
    Metric("loop.lag", "s", "How late the event loop is.", _one(lambda figures: figures.report["loop_lag_s"])),
    Metric(
        "loop.blocked",
        "s",
        "Time for which something blocked the loop, a third of a second or more at a time.",
        _blocked("total_s", "blocked_s"),
        rises=True,
    ),
    Metric("loop.blocks", "{block}", "Times that something did.", _blocked("times", "blocks"), rises=True),
    Metric("endpoints", "{endpoint}", "Endpoints in each state.", _states, label="state"),
    Metric(
        "endpoints.paused",
        "{endpoint}",
        "Endpoints paused by full mailboxes.",
        _one(lambda figures: sum(bool(row["paused_by"]) for row in figures.whole["endpoint"])),
    ),
    Metric("endpoint.open", "1", "1 while it is open; for $other, how many are.", _open, label="endpoint"),
    Metric("endpoint.latency", "s", "Round trip of the last answered ping.", _latency, label="endpoint"),
    Metric(
        "worker.restarts",
        "{restart}",
        "Workers that died and were started again.",
        _of_workers(lambda workers: workers["restarts"]),
        rises=True,
    ),
    Metric(
        "worker.lost",
        "{message}",
        "Messages that waited in a worker when it died.",
        _of_workers(lambda workers: workers["lost"]["pending"] + workers["lost"]["held"]),
        rises=True,
    ),
)

_HUB = (
    ("published", "{message}", "Messages that came to the hub."),
    ("injected", "{message}", "Of these, those of publish() and of the $ topics."),
    ("routed", "{message}", "Of these, those that at least one subscription matched."),
    ("unrouted", "{message}", "Of these, those that nobody had subscribed to."),
    ("deliveries", "{delivery}", "Messages offered to subscriptions, once for each."),
)

# The key in the report, the metric, its unit, what it says, and whether it only goes up.
_ENDPOINT = (
    ("connects", "connects", "{connect}", "Handshakes completed.", True),
    ("losses", "losses", "{loss}", "Open connections lost.", True),
    ("received", "received", "{message}", "Messages received.", True),
    ("received_bytes", "received.size", "By", "Bytes of payload received, after decompression.", True),
    ("sent", "sent", "{message}", "Messages sent.", True),
    ("malformed", "malformed", "{message}", "Messages that could not be decoded.", True),
    ("answered", "answered", "{message}", "Replies that were handed to who asked.", True),
    ("published", "published", "{message}", "Messages that went to the hub.", True),
    ("discarded", "discarded", "{message}", "Messages of connects that failed while they logged in.", True),
    ("held", "held", "{message}", "Messages that wait until on_open is done.", False),
    ("paused_s", "paused", "s", "Time for which reading was paused by full mailboxes.", True),
)
_SUBSCRIPTION = (
    ("offered", "offered", "{message}", "Messages that came to the mailbox.", True),
    ("processed", "processed", "{message}", "Messages processed.", True),
    ("failed", "failed", "{message}", "Messages whose processing failed for good.", True),
    ("dropped", "dropped", "{message}", "Messages dropped.", True),
    ("pending", "pending", "{message}", "Messages waiting and in hand.", False),
    ("pending_bytes", "pending.size", "By", "Bytes of payload waiting and in hand.", False),
    ("pausing_s", "pausing", "s", "Time for which this mailbox paused endpoints.", True),
)


def _columns(label: str, which: str, columns: Sequence[tuple[str, str, str, str, bool]]) -> Iterator[Metric]:
    for key, name, unit, text, rises in columns:
        yield Metric(f"{label}.{name}", unit, text, _by_row(label, key), rises, label)
        over_all = f"{text[:-1]}, over all {which}, those included that were removed."
        yield Metric(name, unit, over_all, _over_all(label, key, rises), rises)


METRICS = (
    *_WHOLE,
    *(Metric(f"hub.{key}", unit, text, _hub(key), rises=True) for key, unit, text in _HUB),
    *_columns("endpoint", "endpoints", _ENDPOINT),
    *_columns("subscription", "subscriptions but those to $ topics", _SUBSCRIPTION),
)
"""All of them, in the order in which they are shown."""
