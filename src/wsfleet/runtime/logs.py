"""Log formatters of the commands: text lines or JSON. A program that uses the library configures its own handlers.

wsfleet's records have these attributes (logging's `extra`) for filters and formatters:

| field | meaning |
|---|---|
| `event` | the event's name, for example `endpoint.down`; it does not change when the message text changes |
| `endpoint`, `subscription` | the name of the endpoint or subscription |
| `state` | the endpoint's new state |
| `error` | the error, redacted |
| `attempts` | failed attempts since the connection was lost |
| `delay_s` | seconds until the next attempt |
| `down_s` | seconds since the connection was last open |
| `by`, `where`, `seconds` | the function that blocks the event loop, its source line, and the duration |
| `worker` | index of the worker process, from 0 |
| `section`, `entry`, `change`, `kept` | reload: an entry's section, name and change; number of kept endpoints |
| `fleet`, `uptime_s`, `endpoints`, `reconnects`, `endpoints_failed`, `balanced` | `fleet.ended`: totals of the run |
| `received`, `processed`, `failed`, `dropped`, `malformed`, `unrouted` | `fleet.ended`: messages by outcome |
| `pending` | `fleet.ended`, `run.stopped`, `run.shutdown_timeout`: messages lost because a function was still running |
| `workers`, `restarts`, `lost` | `fleet.ended`: worker processes, their restarts, messages lost in their queues |

Events of a command's own run are `run.draining`, `run.failed`, `run.shutdown_timeout`, `run.stopped`, `worker.died`,
`worker.unresponsive`, `worker.failed` and `systemd.notify_failed`.
"""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Any

from wsfleet.core.redact import redact_text
from wsfleet.core.text import printable

__all__ = ["JsonLines", "Lines", "log_to_stderr"]

_USUAL = {*vars(logging.makeLogRecord({})), "message", "asctime", "taskName", "color_message"}


def log_to_stderr(level: int = logging.INFO, *, as_json: bool = False, worker: int | None = None) -> None:
    """Configure a command's log on standard error: text lines, or one JSON object per line with `as_json`.

    `worker` is the index of this worker process; it is added to each record.
    """
    handler = logging.StreamHandler(sys.stderr)
    prefix = "" if worker is None else f"[{worker}] "
    # A terminal is read at once, a file later: only a file needs the date.
    handler.setFormatter(JsonLines() if as_json else Lines(prefix, dated=not sys.stderr.isatty()))
    if worker is not None:
        handler.addFilter(lambda record: record.__dict__.setdefault("worker", worker) is not None)
    logging.basicConfig(level=level, handlers=[handler])


class Lines(logging.Formatter):
    """Formats text lines. Secrets are redacted, also in tracebacks, and a peer's control characters are escaped."""

    def __init__(self, prefix: str = "", *, dated: bool = False) -> None:
        time = "%Y-%m-%d %H:%M:%S" if dated else "%H:%M:%S"
        super().__init__(f"%(asctime)s %(levelname)-7s {prefix}%(message)s", time)

    def format(self, record: logging.LogRecord) -> str:
        return printable(redact_text(super().format(record)))

    def formatMessage(self, record: logging.LogRecord) -> str:
        return super().formatMessage(record).replace("\n", "\\n")  # a peer's text cannot forge a line


class JsonLines(logging.Formatter):
    """Formats one JSON object per line: `time` (UTC, RFC 3339), `level`, `logger`, `message`, the record's fields, and
    `traceback` if there is one. Secrets are redacted; values that JSON does not have are converted to text.
    """

    def format(self, record: logging.LogRecord) -> str:
        entry: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": redact_text(record.getMessage()),
        }
        for key, value in vars(record).items():
            if key not in _USUAL and key not in entry:
                entry[key] = _plain(value)
        if record.exc_info:
            entry["traceback"] = redact_text(self.formatException(record.exc_info))
        return json.dumps(entry)  # escapes control characters, so one record is one line


def _plain(value: object) -> object:
    if value is None or isinstance(value, bool | int) or (isinstance(value, float) and abs(value) < float("inf")):
        return value
    return redact_text(str(value))
