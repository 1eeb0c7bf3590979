"""What a command writes of the log: readable lines, or JSON. A library leaves this to the program.

wsfleet's records carry what they are about as attributes, by logging's `extra`, for filters and formatters:

| field | what it is |
|---|---|
| `event` | what happened: one token with dots, such as `endpoint.down`; it stays the same where the wording changes |
| `endpoint`, `subscription` | whose it is |
| `state` | the endpoint's new state |
| `error` | what went wrong, redacted |
| `attempts` | failed attempts since the trouble began |
| `delay_s` | seconds until the next attempt |
| `down_s` | seconds since it was open |
| `by`, `where`, `seconds` | who blocks the event loop, at which line, and for how long it did |
| `worker` | in which of several processes, from 0 |
| `section`, `entry`, `change`, `kept` | of a reload: where in the file, whose, what became of it; who was left alone |
| `fleet`, `uptime_s`, `endpoints`, `reconnects`, `endpoints_failed`, `balanced` | of a run that has ended |
| `received`, `processed`, `failed`, `dropped`, `malformed`, `unrouted` | the same: its messages |
| `workers`, `restarts`, `lost` | the same of several processes: how many, started again, messages that waited in them |
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
    """Set up a command's log on the standard error: lines for a person, or with `as_json` an object for each.

    With `worker` each of them says in which process it was written.
    """
    handler = logging.StreamHandler(sys.stderr)
    prefix = "" if worker is None else f"[{worker}] "
    # Who looks at a terminal knows the day; a file is read later.
    handler.setFormatter(JsonLines() if as_json else Lines(prefix, dated=not sys.stderr.isatty()))
    if worker is not None:
        handler.addFilter(lambda record: record.__dict__.setdefault("worker", worker) is not None)
    logging.basicConfig(level=level, handlers=[handler])


class Lines(logging.Formatter):
    """Shows what a peer wrote, and does not let the terminal obey it; and no secrets, which a traceback may have."""

    def __init__(self, prefix: str = "", *, dated: bool = False) -> None:
        time = "%Y-%m-%d %H:%M:%S" if dated else "%H:%M:%S"
        super().__init__(f"%(asctime)s %(levelname)-7s {prefix}%(message)s", time)

    def format(self, record: logging.LogRecord) -> str:
        return printable(redact_text(super().format(record)))

    def formatMessage(self, record: logging.LogRecord) -> str:
        return super().formatMessage(record).replace("\n", "\\n")  # nor forge a line


class JsonLines(logging.Formatter):
    """One JSON object a line: `time` (UTC, RFC 3339), `level`, `logger`, `message`, the record's own fields, and
    `traceback` where there is one. No secrets; what is no plain value is shown as text.
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
        return json.dumps(entry)  # control characters escaped, so a line stays a line


def _plain(value: object) -> object:
    if value is None or isinstance(value, bool | int) or (isinstance(value, float) and abs(value) < float("inf")):
        return value
    return redact_text(str(value))
