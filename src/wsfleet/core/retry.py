"""What decides, and nothing else: how long to wait, when to give up, which errors are for good.

Pure: no asyncio, no clock, no global randomness. Time and random numbers are passed in.
"""

from __future__ import annotations

import datetime
import email.utils
import ssl
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from wsfleet.core.errors import ConfigError, ConnectFailed, Fatal, HandshakeRejected

__all__ = [
    "Backoff",
    "BackoffPlan",
    "RestartBudget",
    "Verdict",
    "classify",
    "is_fatal",
    "is_impatience",
    "retry_after_s",
]

FATAL_STATUS = frozenset({401, 403, 404, 410})
"""Answers that will not change by asking again: the credentials, or the address, are wrong (RFC 9110, section 15.5)."""


class BackoffPlan(Protocol):
    """The part of `Reconnect` that the delays depend on."""

    @property
    def initial_s(self) -> float: ...
    @property
    def max_s(self) -> float: ...
    @property
    def factor(self) -> float: ...
    @property
    def jitter(self) -> float: ...


class Backoff:
    """Exponential backoff with jitter: the n-th delay lies between `(1 - jitter)` of its bound and its bound.

    The bound grows by `factor` from `initial_s` to `max_s`. With `jitter=1.0` this is the "full jitter" of
    https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/, which spreads a crowd best.
    """

    def __init__(self, plan: BackoffPlan, random: Callable[[], float]) -> None:
        self._plan = plan
        self._random = random
        self._bound = plan.initial_s

    def next(self) -> float:
        """Return the next delay in seconds, and let the bound grow."""
        plan = self._plan
        bound = min(self._bound, plan.max_s)
        self._bound = min(bound * plan.factor, plan.max_s)
        return bound * (1.0 - plan.jitter * self._random())

    def reset(self) -> None:
        """Start afresh: the connection was stable."""
        self._bound = self._plan.initial_s


class RestartBudget:
    """At most `max_restarts` restarts within any `window_s` seconds, as an OTP supervisor's intensity."""

    def __init__(self, max_restarts: int | None, window_s: float) -> None:
        self._max = max_restarts
        self._window_s = window_s
        self._restarts: deque[float] | None = None  # made when needed: one that is empty takes half a KiB

    def spend(self, now: float) -> bool:
        """Record a restart at `now`; return False when it is one too many."""
        if self._max is None:
            return True
        if self._restarts is None:
            self._restarts = deque()
        while self._restarts and now - self._restarts[0] >= self._window_s:
            self._restarts.popleft()
        if len(self._restarts) >= self._max:
            return False
        self._restarts.append(now)
        return True


def is_fatal(error: Exception) -> bool:
    """The default of `Reconnect.fatal`: 401, 403, 404, 410, a bad URI, a bad certificate. No close code is fatal."""
    if isinstance(error, HandshakeRejected):
        return error.status in FATAL_STATUS
    if isinstance(error, ConnectFailed):
        cause = error.__cause__
        return (error.stage == "uri" and isinstance(cause, ConfigError)) or isinstance(
            cause, ssl.SSLCertVerificationError
        )
    return False


def is_impatience(code: int) -> bool:
    """Whether a peer that waited for us in vain closes like this: cut off, 1008, 1011, 1013, or its own codes."""
    return code in (1006, 1008, 1011, 1013) or code >= 3000


@dataclass(frozen=True, slots=True)
class Verdict:
    """What to do about an error: give up, or try again no sooner than `hold_s` from now, on the whole host."""

    fatal: bool
    hold_s: float = 0.0


MAX_HOLD_S = 3600.0
"""A server may ask for patience, not for ever: a Retry-After beyond this is cut, and the server is asked again."""


def classify(
    error: Exception, fatal: Callable[[Exception], bool], *, fresh_credentials: bool, rejections: int
) -> Verdict:
    """Decide about one error; the only table of its kind.

    `fresh_credentials`: the endpoint makes its URI or headers anew for every attempt, so that one 401 or 403 may be
    no more than an expired token; `rejections` counts these in a row, this one included.
    """
    if isinstance(error, Fatal) or isinstance(error.__cause__, Fatal):
        return Verdict(fatal=True)
    hold_s = 0.0
    if isinstance(error, HandshakeRejected):
        if error.status in (401, 403) and fresh_credentials and rejections <= 1:
            return Verdict(fatal=False)
        # Mostly with 429 and 503, but servers also ask for patience with statuses of their own.
        hold_s = min(max(error.retry_after_s or 0.0, 0.0), MAX_HOLD_S)
    return Verdict(fatal=True) if fatal(error) else Verdict(fatal=False, hold_s=hold_s)


def retry_after_s(value: str | None, now: float) -> float | None:
    """Return a Retry-After's wait in seconds at wall clock `now`: a number or a date (RFC 9110, section 10.2.3)."""
    if value is None:
        return None
    value = value.strip()
    if value.isascii() and value.isdigit():
        return float(value[:10])
    try:
        when = email.utils.parsedate_to_datetime(value)
    except (ValueError, OverflowError):
        return None
    if when.tzinfo is None:
        when = when.replace(tzinfo=datetime.UTC)
    return max(0.0, when.timestamp() - now)
