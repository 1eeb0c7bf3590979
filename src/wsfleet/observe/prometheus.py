"""A report as Prometheus metrics, written by Prometheus' own client library (extra `http`).

Names follow https://prometheus.io/docs/practices/naming/: base units, and counters that end in `_total`. Labels are
bounded: the first ROWS endpoints and subscriptions by name have rows of their own, all others are summed as `$other`,
so that sums over a metric stay true. An address is no label: there may be secrets in it, and it changes.

Each column is there twice, by row (`wsfleet_endpoint_losses_total`) and for the whole fleet (`wsfleet_losses_total`).
Rates over a fleet want the latter: when endpoints come and go while it runs, what they have counted moves from row to
row, into `$other` or `$retired`, and a row that steps up or down looks like traffic, or like a counter begun again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, cast

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.openmetrics.exposition import ALLOWUTF8
from prometheus_client.registry import Collector

from wsfleet.message import State

__all__ = ["ROWS", "exposition"]

ROWS = 1000
"""So many endpoints, and so many subscriptions, have rows of their own."""

OTHER = "$other"
"""The row of all others. No endpoint or subscription can have this name."""

Row = dict[str, Any]

_HUB = {
    "published": "Messages that came to the hub.",
    "injected": "Of these, those of publish() and of the $ topics.",
    "routed": "Of these, those that at least one subscription matched.",
    "unrouted": "Of these, those that nobody had subscribed to.",
    "deliveries": "Messages offered to subscriptions, once for each.",
}

# The metric, the key in the report, what it says, and whether it only goes up.
_ENDPOINT = (
    ("connects", "connects", "Handshakes completed.", True),
    ("losses", "losses", "Open connections lost.", True),
    ("received_messages", "received", "Messages received.", True),
    ("received_bytes", "received_bytes", "Bytes of payload received, after decompression.", True),
    ("sent_messages", "sent", "Messages sent.", True),
    ("malformed", "malformed", "Messages that could not be decoded.", True),
    ("answered", "answered", "Replies that were handed to who asked.", True),
    ("published", "published", "Messages that went to the hub.", True),
    ("discarded", "discarded", "Messages of connects that failed while they logged in.", True),
    ("held", "held", "Messages that wait until on_open is done.", False),
    ("paused_seconds", "paused_s", "Time for which reading was paused by full mailboxes.", True),
)
_SUBSCRIPTION = (
    ("offered", "offered", "Messages that came to the mailbox.", True),
    ("processed", "processed", "Messages processed.", True),
    ("failed", "failed", "Messages whose processing failed for good.", True),
    ("dropped", "dropped", "Messages dropped.", True),
    ("pending", "pending", "Messages waiting and in hand.", False),
    ("pending_bytes", "pending_bytes", "Bytes of payload waiting and in hand.", False),
    ("pausing_seconds", "pausing_s", "Time for which this mailbox paused endpoints.", True),
)


def exposition(report: Row, *, accept: str = "", version: str = "") -> tuple[bytes, str]:
    """Return the metrics of `report`, which is `FleetStats.to_dict()`, and their content type.

    In the text format, or in OpenMetrics where the header `accept` asks for that.
    """
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Report(report, version))
    encode, content_type = choose_encoder(accept)
    # No name here needs escaping, whichever way of it was asked for; this one does not look at each letter, and takes
    # a third of the time in OpenMetrics.
    return cast(Callable[..., bytes], encode)(registry, escaping=ALLOWUTF8), content_type


class _Report(Collector):
    def __init__(self, report: Row, version: str) -> None:
        self._report = report
        self._version = version

    def describe(self) -> Iterable[Metric]:
        return ()  # nobody else is in the registry

    def collect(self) -> Iterator[Metric]:
        report = self._report
        # A fleet may have any name at all; one that is no UTF-8 would make Prometheus refuse everything.
        name = report["name"].encode(errors="replace").decode()
        info = {"name": name, "version": self._version, "accelerated": str(report["accelerated"]).lower()}
        yield InfoMetricFamily("wsfleet", "Which fleet this is, and what runs it.", value=info)
        yield GaugeMetricFamily("wsfleet_uptime_seconds", "Time since the fleet started.", value=report["uptime_s"])
        yield GaugeMetricFamily(
            "wsfleet_balanced", "1 while every message is accounted for.", value=float(report["balanced"])
        )
        yield GaugeMetricFamily("wsfleet_loop_lag_seconds", "How late the event loop is.", value=report["loop_lag_s"])
        for key, text in _HUB.items():
            yield CounterMetricFamily(f"wsfleet_hub_{key}", text, value=report["hub"][key])
        yield from self._endpoints(report["endpoints"])
        yield from _table("subscription", _SUBSCRIPTION, report["subscriptions"])

    def _endpoints(self, rows: list[Row]) -> Iterator[Metric]:
        states = GaugeMetricFamily("wsfleet_endpoints", "Endpoints in each state.", labels=["state"])
        for state in State:
            states.add_metric([state], sum(row["state"] == state for row in rows))
        yield states
        paused = sum(bool(row["paused_by"]) for row in rows)
        yield GaugeMetricFamily("wsfleet_endpoints_paused", "Endpoints paused by full mailboxes.", value=paused)
        own, others = _split(rows)
        is_open = GaugeMetricFamily(
            "wsfleet_endpoint_open", "1 while it is open; for $other, how many are.", labels=["endpoint"]
        )
        latency = GaugeMetricFamily(
            "wsfleet_endpoint_latency_seconds", "Round trip of the last answered ping.", labels=["endpoint"]
        )
        for row in own:
            if row["state"]:  # those that were removed have none
                is_open.add_metric([row["name"]], float(row["state"] == State.OPEN))
            if row["latency_s"] is not None:
                latency.add_metric([row["name"]], row["latency_s"])
        if others:
            is_open.add_metric([OTHER], sum(row["state"] == State.OPEN for row in others))
            known = [row["latency_s"] for row in others if row["latency_s"] is not None]
            if known:
                latency.add_metric([OTHER], max(known))
        yield is_open
        yield latency
        yield from _table("endpoint", _ENDPOINT, rows)


def _split(rows: list[Row]) -> tuple[list[Row], list[Row]]:
    """Return those with a row of their own, and all others: the same ones at each scrape, as long as names stay."""
    ordered = sorted(rows, key=lambda row: str(row["name"])) if len(rows) > ROWS else rows
    return ordered[:ROWS], ordered[ROWS:]


def _table(label: str, columns: Sequence[tuple[str, str, str, bool]], rows: list[Row]) -> Iterator[Metric]:
    own, others = _split(rows)
    for metric, key, text, rises in columns:
        make: Callable[..., Any] = CounterMetricFamily if rises else GaugeMetricFamily
        family = make(f"wsfleet_{label}_{metric}", text, labels=[label])
        total = 0
        for row in own:
            family.add_metric([row["name"]], row[key])
            total += row[key]
        if others:
            rest = sum(row[key] for row in others)
            family.add_metric([OTHER], rest)
            total += rest
        yield family
        yield make(
            f"wsfleet_{metric}", f"{text[:-1]}, over all {label}s, those included that were removed.", value=total
        )
