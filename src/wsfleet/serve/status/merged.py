"""Merges the reports of several workers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import fields
from typing import Any

import msgspec

from wsfleet.core.message import State
from wsfleet.core.stats import RETIRED, EndpointStats, FleetStats, SubscriptionStats, about_feeds, is_balanced

__all__ = ["absent", "as_stats", "counts", "merge"]

Report = dict[str, Any]
Row = dict[str, Any]

_NOT_SUMMED = ("name", "uri", "state", "pattern", "overflow", "paused_by", "last_error", "latency_s")
_ENDPOINT = [each.name for each in fields(EndpointStats) if each.name not in _NOT_SUMMED]
_SUBSCRIPTION = [each.name for each in fields(SubscriptionStats) if each.name not in _NOT_SUMMED]


def merge(reports: Sequence[Report]) -> Report:
    """Merge the workers' `reports` into the report of the fleet.

    The hub's counts are summed, the endpoints are concatenated, and subscriptions of the same name are one row. It is
    balanced if every report is and the sums are. `loop_lag_s` is the maximum, and `blocked` is that of the longest
    block, with the sums of `times` and `total_s`.
    """
    hub = {key: sum(report["hub"][key] for report in reports) for key in reports[0]["hub"]}
    merged = {
        "name": reports[0]["name"],
        "uptime_s": max(report["uptime_s"] for report in reports),
        "balanced": False,
        "accelerated": all(report["accelerated"] for report in reports),
        "loop_lag_s": max(report["loop_lag_s"] for report in reports),
        "hub": hub,
        "endpoints": _endpoints(reports),
        "subscriptions": _retired_last(_sum_by_name(row for report in reports for row in report["subscriptions"])),
        "blocked": _blocked(report["blocked"] for report in reports if report.get("blocked")),
    }
    stats = as_stats(merged)
    merged["balanced"] = all(report["balanced"] for report in reports) and is_balanced(
        stats.hub, stats.endpoints, stats.subscriptions
    )
    return merged


def as_stats(report: Report) -> FleetStats:
    """Convert `report` to a FleetStats."""
    return msgspec.convert(report, FleetStats)


def absent(report: Report, names: Iterable[str] | None = None, *, error: str | None = None) -> Report:
    """Return the report of a worker without a process: the rows of `report` with all counts 0.

    Its endpoints are in BACKOFF with `error`, or CONNECTING without. `names` selects endpoints; None selects all.
    """
    state = {"state": (State.CONNECTING if error is None else State.BACKOFF).value, "last_error": error}
    known = None if names is None else frozenset(names)
    rows = [row for row in report["endpoints"] if known is None or row["name"] in known]
    return {
        **report,
        "balanced": True,
        "loop_lag_s": 0.0,
        "blocked": None,
        "hub": dict.fromkeys(report["hub"], 0),
        "endpoints": [_zeroed(row) | state for row in rows if row["name"] != RETIRED],
        "subscriptions": [_zeroed(row) for row in report["subscriptions"] if row["name"] != RETIRED],
    }


def counts(report: Report) -> dict[str, float]:
    """Return a worker's counts, summed over all rows. Its `pending` and `held` messages are lost if it dies.

    The hub's counts have the prefix `hub_`, since `published` has another meaning for endpoints.
    """
    endpoints, blocked = report["endpoints"], report["blocked"] or {}
    subscriptions = [row for row in report["subscriptions"] if about_feeds(row["pattern"])]
    return {
        **{key: sum([row[key] for row in endpoints]) for key in _ENDPOINT},
        **{key: sum([row[key] for row in subscriptions]) for key in _SUBSCRIPTION},
        **{f"hub_{key}": count for key, count in report["hub"].items()},
        "blocks": blocked.get("times", 0),
        "blocked_s": blocked.get("total_s", 0),
    }


def _blocked(each: Iterable[Row]) -> Row | None:
    blocked = list(each)
    if not blocked:
        return None
    worst = max(blocked, key=lambda block: block["seconds"])
    return worst | {key: sum([block[key] for block in blocked]) for key in ("times", "total_s")}


def _zeroed(row: Row) -> Row:
    return {key: value if key in _NOT_SUMMED else type(value)(0) for key, value in row.items()} | (
        {"paused_by": [], "latency_s": None} if "paused_by" in row else {}
    )


def _endpoints(reports: Sequence[Report]) -> list[Row]:
    rows: dict[str, Row] = {}
    retired: list[Row] = []
    for worker, report in enumerate(reports):
        for row in report["endpoints"]:
            name = row["name"]
            if name == RETIRED:
                retired.append(row)
            elif name in rows:  # an endpoint that each worker declared while running: names must be unique
                rows[f"{name}@{worker}"] = row | {"name": f"{name}@{worker}"}
            else:
                rows[name] = row
    return [*rows.values(), *_sum_by_name(retired)]


def _sum_by_name(rows: Iterable[Row]) -> list[Row]:
    summed: dict[str, Row] = {}
    for row in rows:
        known = summed.get(row["name"])
        if known is None:
            summed[row["name"]] = row
        else:
            summed[row["name"]] = {
                key: value if key in _NOT_SUMMED else value + row[key] for key, value in known.items()
            }
    return list(summed.values())


def _retired_last(rows: list[Row]) -> list[Row]:
    return sorted(rows, key=lambda row: bool(row["name"] == RETIRED))
