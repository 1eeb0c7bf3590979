"""Logs the failures of a processor: the first of each class at once, repeated ones as a count."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import Any

from wsfleet.core.error_text import LINE, describe, shown
from wsfleet.core.message import Message
from wsfleet.core.text import one_line

__all__ = ["QUIET_S", "FailureLog", "log_sink"]

log = logging.getLogger("wsfleet")

QUIET_S = 10.0
"""Minimum time in seconds between two log records of a processor about the same class of error."""

KINDS = 16
"""Maximum number of error classes logged separately. All others share one record: a program may create classes."""


class FailureLog:
    """Logs the failures of one processor."""

    def __init__(self, name: str, *, of_sink: bool) -> None:
        self._name = name
        self._of_sink = of_sink
        self._kinds: dict[type[BaseException], tuple[float, int]] = {}  # time of the last record, failures since

    def report(self, error: BaseException, messages: Sequence[Message[Any]]) -> None:
        """Log `error`, raised by a call for `messages`, or count it if its class was logged less than QUIET_S ago."""
        now, kind = asyncio.get_running_loop().time(), type(error)
        if kind not in self._kinds and len(self._kinds) >= KINDS:
            kind = BaseException
        logged_at, unlogged = self._kinds.get(kind, (float("-inf"), 0))
        if now - logged_at < QUIET_S:
            self._kinds[kind] = (logged_at, unlogged + 1)
            return
        self._kinds[kind] = (now, 0)
        error = shown(error)  # only if it is logged: this takes longer than most calls
        more = f" ({unlogged} more since the last report)" if unlogged else ""
        fields = {"event": "message.failed", "subscription": self._name, "error": describe(error)}
        if isinstance(error, asyncio.CancelledError):
            log.warning("%s: a call was cancelled: %s%s", self._name, _which(messages), more, extra=fields)
        elif self._of_sink:
            log_sink(self._name, f"the sink could not write{more}", error)
        else:
            log.error("%s: a message failed: %s%s", self._name, _which(messages), more, exc_info=error, extra=fields)


def _which(messages: Sequence[Message[Any]]) -> str:
    """Describe the messages of one call by index, endpoint and topic. Published messages have no endpoint."""
    first = messages[0]
    topic = one_line(first.topic[:LINE]) + "..." * (len(first.topic) > LINE)  # a peer may have chosen it
    text = f"{first.index} of {first.endpoint} on {topic}" if first.endpoint else f"on {topic}"
    return text if len(messages) == 1 else f"{text}, and {len(messages) - 1} more in its batch"


def log_sink(name: str, failure: str, error: BaseException) -> None:
    """Log an error of a sink; for an OSError, such as a full disk, without a traceback."""
    fields = {"event": "sink.failed", "subscription": name, "error": describe(error)}
    if isinstance(error, OSError):
        reason = error.strerror or str(error) or type(error).__name__
        # A closed pipe is not an error of the program: `wsfleet run feeds.toml | head`.
        level = logging.WARNING if isinstance(error, BrokenPipeError) else logging.ERROR
        place = f"{error.filename}: " if error.filename else ""
        log.log(level, "%s: %s: %s%s", name, failure, place, reason, extra=fields)
    else:
        log.error("%s: %s", name, failure, exc_info=error, extra=fields)
