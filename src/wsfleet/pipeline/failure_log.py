"""What is logged of a processor's failures: of each kind the first at once, the others as a count, now and then."""

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
"""A processor that fails for every message is logged once in so many seconds for each class of error, with a count."""

KINDS = 16
"""So many classes are told apart. All others are one kind: a program may make a class for each error."""


class FailureLog:
    """Logs the failures of one processor."""

    def __init__(self, name: str, *, of_sink: bool) -> None:
        self._name = name
        self._of_sink = of_sink
        self._kinds: dict[type[BaseException], tuple[float, int]] = {}  # when it was logged, and how many were not

    def tell(self, error: BaseException, messages: Sequence[Message[Any]]) -> None:
        """Log `error`, which a call for `messages` raised, or count it where another was logged just now."""
        now, kind = asyncio.get_running_loop().time(), type(error)
        if kind not in self._kinds and len(self._kinds) >= KINDS:
            kind = BaseException
        logged_at, unlogged = self._kinds.get(kind, (float("-inf"), 0))
        if now - logged_at < QUIET_S:
            self._kinds[kind] = (logged_at, unlogged + 1)
            return
        self._kinds[kind] = (now, 0)
        error = shown(error)  # not before: it takes longer than most calls
        more = f" ({unlogged} more since the last report)" if unlogged else ""
        told = {"event": "message.failed", "subscription": self._name, "error": describe(error)}
        if isinstance(error, asyncio.CancelledError):
            log.warning("%s: a call was cancelled: %s%s", self._name, _which(messages), more, extra=told)
        elif self._of_sink:
            log_sink(self._name, f"the sink could not write{more}", error)
        else:
            log.error("%s: a message failed: %s%s", self._name, _which(messages), more, exc_info=error, extra=told)


def _which(messages: Sequence[Message[Any]]) -> str:
    """Return how to find the messages of one call: what `publish` put in has no endpoint."""
    first = messages[0]
    topic = one_line(first.topic[:LINE]) + "..." * (len(first.topic) > LINE)  # it may be a peer's
    text = f"{first.index} of {first.endpoint} on {topic}" if first.endpoint else f"on {topic}"
    return text if len(messages) == 1 else f"{text}, and {len(messages) - 1} more in its batch"


def log_sink(name: str, what: str, error: BaseException) -> None:
    """Log what a sink raised. A full disk needs no traceback through code that is not the user's."""
    told = {"event": "sink.failed", "subscription": name, "error": describe(error)}
    if isinstance(error, OSError):
        reason = error.strerror or str(error) or type(error).__name__
        # A reader who has seen enough is no fault: `wsfleet run feeds.toml | head`.
        level = logging.WARNING if isinstance(error, BrokenPipeError) else logging.ERROR
        place = f"{error.filename}: " if error.filename else ""
        log.log(level, "%s: %s: %s%s", name, what, place, reason, extra=told)
    else:
        log.error("%s: %s", name, what, exc_info=error, extra=told)
