"""Exports a report as Prometheus metrics with the official client library (extra `http`).

Names follow https://prometheus.io/docs/practices/naming/: base units, and counters that end in `_total`. The number of
label values is bounded: only the first ROWS endpoints and subscriptions by name have their own values. The others are
summed as `$other`, so that sums over a metric stay correct. URIs are not used as labels, since they may contain secrets
and change.
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
"""Maximum number of endpoints, and of subscriptions, with their own label values."""

_UNITS = {"{message}": "_messages", "By": "_bytes", "s": "_seconds"}
"""Suffixes of metric names by unit."""


def exposition(report: dict[str, Any], *, accept: str = "", version: str = "") -> tuple[bytes, str]:
    """Return the metrics of `report`, a result of `FleetStats.to_dict()`, and their content type.

    The format is OpenMetrics if the header `accept` requests it, or else the text format.
    """
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Report(report, version))
    encode, content_type = choose_encoder(accept)
    # No name needs escaping. This mode skips the check of each character and takes a third of the time in OpenMetrics.
    return cast(Callable[..., bytes], encode)(registry, escaping=ALLOWUTF8), content_type


class _Report(Collector):
    def __init__(self, report: dict[str, Any], version: str) -> None:
        self._report = report
        self._version = version

    def describe(self) -> Iterable[Metric]:
        return ()  # there is no other collector in the registry

    def collect(self) -> Iterator[Metric]:
        report = self._report
        # A fleet's name is any string. If it is not valid UTF-8, Prometheus would reject the whole response.
        name = report["name"].encode(errors="replace").decode()
        info = {"name": name, "version": self._version, "accelerated": str(report["accelerated"]).lower()}
        yield InfoMetricFamily("wsfleet", "Name and version of the fleet.", value=info)
        seen = metrics.Figures(report, ROWS)
        for metric in metrics.METRICS:
            make: Callable[..., Any] = CounterMetricFamily if metric.rises else GaugeMetricFamily
            family = make(_name(metric), metric.text, labels=[metric.label] if metric.label else [])
            for label, value in metric.values(seen):
                family.add_metric([label] if metric.label else [], value)
            yield family


def _name(metric: metrics.Metric) -> str:
    # OpenTelemetry's names end in "size", Prometheus' names in the unit.
    return f"wsfleet_{metric.name.removesuffix('.size').replace('.', '_')}{_UNITS.get(metric.unit, '')}"
