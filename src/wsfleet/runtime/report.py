"""The report, the summary and the exit code of a run."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from wsfleet.core.message import State
from wsfleet.core.stats import RETIRED, FleetStats, about_feeds
from wsfleet.core.text import plural
from wsfleet.runtime.loop import ENDED_WELL, FAILED

__all__ = ["check_report", "exit_code", "log_summary", "summary", "write_report"]

logger = logging.getLogger("wsfleet.run")


def exit_code(balanced: bool, states: Sequence[str]) -> int:
    """Return the exit code of a run without errors, from the balance and the endpoints' last states."""
    failed = not balanced or (states and all(state == State.FAILED for state in states))
    return FAILED if failed else ENDED_WELL


def check_report(path: Path) -> str | None:
    """Return why the report cannot be written to `path`, or None. Called before the run, so that no report is lost."""
    if path.is_dir():
        return f"{path} is a directory; name a file"
    if not path.parent.is_dir():
        return f"no such directory: {path.parent}; create it first"
    if not os.access(path.parent, os.W_OK):
        return f"the directory {path.parent} is not writable; name another"
    return None


def write_report(path: Path, report: Mapping[str, Any]) -> None:
    """Write `report` as JSON, atomically: a reader never sees a partial file. Raises OSError."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


def _messages(stats: FleetStats, workers: Mapping[str, Any] | None) -> dict[str, int]:
    lost: Mapping[str, int] = {} if workers is None else workers["lost"]
    # Messages of `$` topics are events of the fleet, not of the feeds.
    subscriptions = [row for row in stats.subscriptions if about_feeds(row.pattern)]
    counts = {
        "received": sum(row.received for row in stats.endpoints),
        "processed": sum(row.processed for row in subscriptions),
        "failed": sum(row.failed for row in subscriptions),
        "dropped": sum(row.dropped for row in subscriptions),
        "malformed": sum(row.malformed for row in stats.endpoints),
        "unrouted": stats.hub.unrouted + lost.get("hub_unrouted", 0),
    }
    counts = {outcome: count + lost.get(outcome, 0) for outcome, count in counts.items()}
    # Nothing is pending after a shutdown, unless a handler was still running.
    pending = sum(row.pending for row in subscriptions)
    return {**counts, "pending": pending} if pending else counts


def _endpoints(stats: FleetStats) -> tuple[int, int, list[str]]:
    """Return the number of endpoints, the number of reconnects, and the names of the endpoints that failed."""
    rows = [row for row in stats.endpoints if row.name != RETIRED]
    reconnects = sum(max(row.connects - 1, 0) for row in rows)
    return len(rows), reconnects, [row.name for row in rows if row.state == State.FAILED]


def summary(stats: FleetStats, workers: Mapping[str, Any] | None = None) -> Iterator[str]:
    """Yield the lines of the summary that is printed at the end of a run.

    `workers` is the part of the report about worker processes; the sums include the counts of those that died.
    """
    count, reconnects, failed = _endpoints(stats)
    names = f" ({', '.join(failed[:5])}{', ...' if len(failed) > 5 else ''})" if failed else ""
    balance = "holds: every message is accounted for" if stats.balanced else "DOES NOT HOLD"
    yield f"{stats.name} ran for {stats.uptime_s:.1f} s"
    yield "  messages   " + ", ".join(f"{number:,} {outcome}" for outcome, number in _messages(stats, workers).items())
    yield f"  endpoints  {count:,}, {plural(reconnects, 'reconnect')}, {len(failed):,} failed{names}"
    if workers is not None:
        waited, restarts = _waited(workers), workers["restarts"]
        lost = f"{plural(waited, 'message')} lost in their queues"
        yield f"  workers    {workers['count']}, {plural(restarts, 'restart')}, {lost}"
        if restarts or waited:
            balance += ", except messages lost in workers that died"
    yield f"  balance    {balance}"


def _waited(workers: Mapping[str, Any]) -> int:
    """Return how many messages waited in workers that died."""
    return int(workers["lost"]["pending"] + workers["lost"]["held"])


def log_summary(stats: FleetStats, workers: Mapping[str, Any] | None = None) -> None:
    """Log the summary as one record with the numbers as fields. It ignores the log level, like the printed summary."""
    count, reconnects, failed = _endpoints(stats)
    fields = {
        "event": "fleet.ended",
        "fleet": stats.name,
        "uptime_s": stats.uptime_s,
        **_messages(stats, workers),
        "endpoints": count,
        "reconnects": reconnects,
        "endpoints_failed": len(failed),
        "balanced": stats.balanced,
    }
    if workers is not None:
        fields |= {"workers": workers["count"], "restarts": workers["restarts"], "lost": _waited(workers)}
    text = f"{stats.name} ran for {stats.uptime_s:.1f} s"
    logger.handle(logger.makeRecord(logger.name, logging.INFO, __file__, 0, text, (), None, extra=fields))
