"""The report and the summary of a run that has ended, and its exit code."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from wsfleet.core.message import State
from wsfleet.core.stats import RETIRED, FleetStats, about_feeds
from wsfleet.runtime.loop import ENDED_WELL, FAILED

__all__ = ["check_report", "exit_code", "log_summary", "summary", "write_report"]

logger = logging.getLogger("wsfleet.run")


def exit_code(balanced: bool, states: Sequence[str]) -> int:
    """Return the exit code of a run without errors, by the balance and the last states of the endpoints."""
    failed = not balanced or (states and all(state == State.FAILED for state in states))
    return FAILED if failed else ENDED_WELL


def check_report(path: Path) -> str | None:
    """Return why no report can be written to `path`, or None: better known before the run than after it."""
    if path.is_dir():
        return f"{path} is a folder; name a file"
    if not path.parent.is_dir():
        return f"there is no folder {path.parent}; make it first"
    if not os.access(path.parent, os.W_OK):
        return f"the folder {path.parent} cannot be written to; name another"
    return None


def write_report(path: Path, report: Mapping[str, Any]) -> None:
    """Write `report` as JSON. Whoever waits for the file never sees half of it. Raises OSError."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


def _messages(stats: FleetStats, workers: Mapping[str, Any] | None) -> dict[str, int]:
    lost: Mapping[str, int] = {} if workers is None else workers["lost"]
    # Those of `$` topics would only blur what became of the feed.
    subscriptions = [row for row in stats.subscriptions if about_feeds(row.pattern)]
    counts = {
        "received": sum(row.received for row in stats.endpoints),
        "processed": sum(row.processed for row in subscriptions),
        "failed": sum(row.failed for row in subscriptions),
        "dropped": sum(row.dropped for row in subscriptions),
        "malformed": sum(row.malformed for row in stats.endpoints),
        "unrouted": stats.hub.unrouted + lost.get("hub_unrouted", 0),
    }
    return {what: count + lost.get(what, 0) for what, count in counts.items()}


def _endpoints(stats: FleetStats) -> tuple[int, int, list[str]]:
    """Return how many there are, how often they were connected again, and which have failed."""
    rows = [row for row in stats.endpoints if row.name != RETIRED]
    again = sum(max(row.connects - 1, 0) for row in rows)
    return len(rows), again, [row.name for row in rows if row.state == State.FAILED]


def summary(stats: FleetStats, workers: Mapping[str, Any] | None = None) -> Iterator[str]:
    """Yield what a person wants to know at the end of a run, line by line.

    `workers` is that part of the report; what those had counted that died is in the sums.
    """
    count, again, failed = _endpoints(stats)
    names = f" ({', '.join(failed[:5])}{', ...' if len(failed) > 5 else ''})" if failed else ""
    balance = "holds: every message is accounted for" if stats.balanced else "DOES NOT HOLD"
    yield f"{stats.name} ran for {stats.uptime_s:.1f} s"
    yield "  messages   " + ", ".join(f"{number:,} {what}" for what, number in _messages(stats, workers).items())
    yield f"  endpoints  {count:,}, {again:,} reconnects, {len(failed):,} failed{names}"
    if workers is not None:
        waited, restarts = _waited(workers), workers["restarts"]
        yield f"  workers    {workers['count']}, {restarts:,} started again, {waited:,} messages lost that waited there"
        if restarts or waited:
            balance += ", but for what was lost with a worker"
    yield f"  balance    {balance}"


def _waited(workers: Mapping[str, Any]) -> int:
    """Return how many messages waited in workers that died."""
    return int(workers["lost"]["pending"] + workers["lost"]["held"])


def log_summary(stats: FleetStats, workers: Mapping[str, Any] | None = None) -> None:
    """Log the same as one record with the numbers as fields; whatever the level, as the lines are printed."""
    count, again, failed = _endpoints(stats)
    told = {
        "event": "fleet.ended",
        "fleet": stats.name,
        "uptime_s": stats.uptime_s,
        **_messages(stats, workers),
        "endpoints": count,
        "reconnects": again,
        "endpoints_failed": len(failed),
        "balanced": stats.balanced,
    }
    if workers is not None:
        told |= {"workers": workers["count"], "restarts": workers["restarts"], "lost": _waited(workers)}
    text = f"{stats.name} ran for {stats.uptime_s:.1f} s"
    logger.handle(logger.makeRecord(logger.name, logging.INFO, __file__, 0, text, (), None, extra=told))
