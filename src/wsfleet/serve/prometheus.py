"""A report as Prometheus metrics, written by Prometheus' own client library (extra `http`).

Names follow https://prometheus.io/docs/practices/naming/: base units, and counters that end in `_total`. Labels are
bounded: the first ROWS endpoints and subscriptions by name have rows of their own, all others are summed as `$other`,
so that sums over a metric stay true. An address is no label: there may be secrets in it, and it changes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, cast

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.openmetrics.exposition import ALLOWUTF8
from prometheus_client.registry import Collector

from wsfleet.serve import metrics

__all__ = ["ROWS", "exposition"]

ROWS = 1000
"""So many endpoints, and so many subscriptions, have rows of their own."""

_UNITS = {"{message}": "_messages", "By": "_bytes", "s": "_seconds"}
"""How the units of figures end names here."""


def exposition(report: dict[str, Any], *, accept: str = "", version: str = "") -> tuple[bytes, str]:
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
    def __init__(self, report: dict[str, Any], version: str) -> None:
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
        seen = metrics.Figures(report, ROWS)
        for metric in metrics.METRICS:
            make: Callable[..., Any] = CounterMetricFamily if metric.rises else GaugeMetricFamily
            family = make(_name(metric), metric.text, labels=[metric.label] if metric.label else [])
            for label, value in metric.values(seen):
                family.add_metric([label] if metric.label else [], value)
            yield family


def _name(metric: metrics.Metric) -> str:
    # OpenTelemetry says "size" where Prometheus names the unit.
    return f"wsfleet_{metric.name.removesuffix('.size').replace('.', '_')}{_UNITS.get(metric.unit, '')}"
