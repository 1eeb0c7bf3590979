"""Log records about the state of one endpoint: one for each new kind of error, not one for each attempt.

Without a logging configuration, Python shows only warnings. So the end of a condition that was logged as a warning is
logged as a warning too.
"""

from __future__ import annotations

import asyncio
import logging

from wsfleet.core.error_text import advice
from wsfleet.core.message import State

__all__ = ["StateLog"]

log = logging.getLogger("wsfleet")

REPORT_S = 300.0
"""Seconds until an endpoint that stays down is reported again. The interval doubles with each report.

An endpoint that is lost again and again is reported at this interval, which does not double: each loss is news.
"""

CHANGES = 3
"""Maximum number of changes logged between two such reports: the error may change with each attempt."""

QUIET = CHANGES + 1
"""The number of changes from which on only reports are logged. The last line before says so."""


class StateLog:
    """Logs the states that a supervisor reports. Times are those of the loop."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._trouble_since: float | None = None
        self._down_since: float | None = None
        self._attempts = 0
        self._opened = False  # since the first failure or the last report
        self._logged: tuple[object, ...] | None = None  # the kind of error logged last; None: open
        self._period = float("-inf")
        self._report_s = REPORT_S
        self._changes = 0
        self._settling: asyncio.TimerHandle | None = None

    def log_state(self, state: State, error: Exception | None, delay_s: float, uri: str) -> None:
        """Log the change to `state`, if it has to be logged."""
        if self._settling is not None:
            self._settling.cancel()
            self._settling = None
        if state is State.OPEN:
            loop = asyncio.get_running_loop()
            self.opened(uri, loop.time())
            if self._changes >= QUIET:
                self._settling = loop.call_later(REPORT_S, self.settled)
        elif state is State.FAILED:
            self.failed(error, asyncio.get_running_loop().time())
        elif state is State.BACKOFF and error is not None:
            self.waiting(error, delay_s, asyncio.get_running_loop().time())

    def opened(self, uri: str, now: float) -> None:
        """Log that the endpoint is OPEN."""
        if self._logged is None:
            # If the loss was not logged as a warning, neither is its end.
            level = logging.INFO if self._down_since is None else logging.DEBUG
            self._log(level, "endpoint.open", "%s: open (%s)", self._name, uri, state=State.OPEN)
        else:
            down_s = now - (now if self._down_since is None else self._down_since)
            text = "%s: open again after %s (%s)"
            fields = {"state": State.OPEN, "down_s": down_s, "attempts": self._attempts}
            self._log(logging.WARNING, "endpoint.open_again", text, self._name, _span(down_s), uri, **fields)
        self._opened = self._trouble_since is not None
        self._down_since = self._logged = None

    def settled(self) -> None:
        """Log that the endpoint, whose changes are not logged any more, has been OPEN for REPORT_S."""
        self._settling = None
        self._changes = 0
        text = "%s: open for %s without a loss, after %d attempts"
        fields = {"state": State.OPEN, "attempts": self._attempts}
        past = _span(REPORT_S)
        self._log(logging.WARNING, "endpoint.settled", text, self._name, past, self._attempts, **fields)

    def stable(self) -> None:
        """Treat the next loss as the first failure: the connection was open for `stable_s`."""
        self._trouble_since = None

    def waiting(self, error: Exception, delay_s: float, now: float) -> None:
        """Log that an attempt failed or the connection was lost, and when the next attempt is made."""
        again = self._trouble_since is not None
        if self._trouble_since is None:
            self._trouble_since, self._attempts, self._opened = now, 0, False
            self._report_s = REPORT_S
        if self._down_since is None:
            self._down_since = now
        self._attempts += 1
        is_due = now - self._period >= (REPORT_S if self._opened else self._report_s)
        if is_due:
            self._period, self._changes = now, 0
        kind = _kind(error)
        fields = {"state": State.BACKOFF, "error": error, "attempts": self._attempts, "delay_s": delay_s}
        if (is_due and again) or (kind != self._logged and self._changes == CHANGES):
            self._report(error, kind, now - self._trouble_since, is_due, fields)
            return
        level = logging.DEBUG
        if kind != self._logged and self._changes < CHANGES:
            self._changes, self._logged = self._changes + 1, kind
            level = logging.WARNING
        text = "%s: %s; next attempt in %.1f s"
        self._log(level, "endpoint.down", text, self._name, error, delay_s, **fields)

    def _report(
        self, error: Exception, kind: tuple[object, ...], past_s: float, is_due: bool, fields: dict[str, object]
    ) -> None:
        """Log how long this has lasted, and whether changes are not logged from now on."""
        state, ending = "still down", ""
        if is_due and not self._opened:
            self._changes, self._logged = 1, kind
            self._report_s *= 2
        else:
            self._changes, self._logged = QUIET, (None if self._opened else kind)
            ending = "; changes of the error are not logged until the next report"
        if self._opened:
            state = "lost again and again"
            ending = ending and f"; from now on reported every {_span(REPORT_S)}"
            self._report_s = REPORT_S
        self._opened = False
        text = "%s: %s for %s, %d attempts; last: %s%s"
        arguments = (self._name, state, _span(past_s), self._attempts, error, ending)
        self._log(logging.WARNING, "endpoint.still_down", text, *arguments, **fields)

    def lost_while_paused(self, error: Exception) -> None:
        """Log that the connection is lost, but messages that it has received wait for the end of a pause."""
        text = "%s: %s; reconnects when the messages that it has received are processed"
        self._log(logging.WARNING, "endpoint.lost_while_paused", text, self._name, error, error=error)

    def failed(self, error: Exception | None, now: float) -> None:
        """Log that the endpoint is FAILED."""
        self._logged = (error,)
        self._down_since = now if self._down_since is None else self._down_since
        hint = advice(error, "check the options headers and uri")
        text = "%s: failed for good: %s" if hint is None else "%s: failed for good: %s: %s"
        texts = (self._name, error) if hint is None else (self._name, error, hint)
        self._log(logging.ERROR, "endpoint.failed", text, *texts, state=State.FAILED, error=error)

    def crashed(self, fault: Exception) -> None:
        """Log an unexpected exception in the supervisor, with its traceback."""
        fields = {"event": "endpoint.failed", "endpoint": self._name, "error": fault}
        log.error("%s: the supervisor failed: %s", self._name, fault, exc_info=fault.__cause__, extra=fields)

    def redirected(self, origin: str) -> None:
        """Log a redirect to another origin: on_open logs in to a server that the program does not name."""
        text = "%s: redirected to another origin, %s: headers are not sent there, but messages of on_open are"
        self._log(logging.WARNING, "endpoint.redirected", text, self._name, origin)

    def _log(self, level: int, event: str, text: str, *arguments: object, **fields: object) -> None:
        log.log(level, text, *arguments, extra={"event": event, "endpoint": self._name, **fields})


def _kind(error: Exception) -> tuple[object, ...]:
    """Return the properties of an error that are the same in repeated attempts."""
    details = tuple(getattr(error, name, None) for name in ("stage", "status", "code"))
    return (type(error), *details, type(error.__cause__))


def _span(seconds: float) -> str:
    if seconds < 120.0:
        return f"{seconds:.0f} s" if seconds >= 10.0 else f"{seconds:.1f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200.0 else f"{seconds / 3600:.1f} h"
