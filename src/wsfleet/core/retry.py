"""Retry decisions: how long to wait, when to give up, which errors are fatal.

Pure functions and classes: no asyncio, no clock, no global random numbers. Time and random numbers are arguments.
"""

from __future__ import annotations

import datetime
import email.utils
import ssl
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from wsfleet.core.errors import ConfigError, ConnectFailed, ConnectionLost, Fatal, HandshakeRejected

__all__ = [
    "PROXY_AUTHENTICATION",
    "Backoff",
    "BackoffPlan",
    "RestartBudget",
    "Verdict",
    "classify",
    "close_code",
    "is_fatal",
    "is_host_failure",
    "may_be_timeout",
    "retry_after_s",
]

FATAL_STATUS = frozenset({401, 403, 404, 407, 410})
"""Statuses that a retry does not change: wrong credentials or a wrong address (RFC 9110, section 15.5)."""

PROXY_AUTHENTICATION = 407
"""Of the statuses of a proxy only this one is fatal. Repeated attempts with a wrong password may lock the account.

The same status stands for a SOCKS proxy that refuses the user name and password, or requires them (RFC 1929).
"""


class BackoffPlan(Protocol):
    """The fields of `Reconnect` that determine the delays."""

    @property
    def initial_s(self) -> float: ...
    @property
    def max_s(self) -> float: ...
    @property
    def factor(self) -> float: ...
    @property
    def jitter(self) -> float: ...


class Backoff:
    """Exponential backoff with jitter: each delay is drawn between `(1 - jitter) * bound` and `bound`.

    The bound grows by `factor` from `initial_s` to `max_s`. With `jitter=1.0` this is the "full jitter" of
    https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/, which spreads simultaneous retries best.
    """

    def __init__(self, plan: BackoffPlan, random: Callable[[], float]) -> None:
        self._plan = plan
        self._random = random
        self._bound = plan.initial_s

    def next(self) -> float:
        """Return the next delay in seconds, and increase the bound."""
        plan = self._plan
        bound = min(self._bound, plan.max_s)
        self._bound = min(bound * plan.factor, plan.max_s)
        return bound * (1.0 - plan.jitter * self._random())

    def reset(self) -> None:
        """Reset the bound to `initial_s`."""
        self._bound = self._plan.initial_s


class RestartBudget:
    """At most `max_restarts` restarts within any `window_s` seconds, like the restart intensity of OTP supervisors."""

    def __init__(self, max_restarts: int | None, window_s: float) -> None:
        self._max = max_restarts
        self._window_s = window_s
        self._restarts: deque[float] | None = None  # created on first use: an empty deque takes 760 bytes

    def spend(self, now: float) -> bool:
        """Record a restart at `now`. Return False if it exceeds the limit."""
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
    """Return whether another attempt after `error` would not help. This is the default of `Reconnect.fatal`.

    True for the status 401, 403, 404, 407 or 410 of the server, 407 of a proxy, an invalid URI and an invalid
    certificate. False for all other errors, and for every close code.
    """
    if isinstance(error, HandshakeRejected):
        return error.status in FATAL_STATUS
    if isinstance(error, ConnectFailed):
        cause = error.__cause__
        is_invalid_uri = error.stage == "uri" and isinstance(cause, ConfigError)
        wrong_password = error.status == PROXY_AUTHENTICATION
        return is_invalid_uri or wrong_password or isinstance(cause, ssl.SSLCertVerificationError)
    return False


def close_code(error: Exception) -> int | None:
    """Return the close code of a lost connection, or of one that was lost while `on_open` ran; otherwise None."""
    lost = error if isinstance(error, ConnectionLost) else error.__cause__
    return lost.code if isinstance(lost, ConnectionLost) else None


def is_host_failure(error: Exception) -> bool:
    """Return whether a failed attempt would probably have failed for every endpoint of the host.

    True for the stages dns, tcp, proxy and tls, for a handshake without an answer or with a status from 500 on, and if
    the connection was lost while `on_open` ran.
    """
    if not isinstance(error, ConnectFailed):
        return False
    if error.stage == "on_open":
        return isinstance(error.__cause__, ConnectionLost)
    return error.stage in ("dns", "tcp", "proxy", "tls", "http") and (error.status is None or error.status >= 500)


def may_be_timeout(code: int) -> bool:
    """Return whether a peer may use this close code after a timeout: 1006, 1008, 1011, 1013, or from 3000 on."""
    return code in (1006, 1008, 1011, 1013) or code >= 3000


@dataclass(frozen=True, slots=True)
class Verdict:
    """The decision about an error: give up, or retry after at least `hold_s` seconds, for all endpoints of the host."""

    fatal: bool
    hold_s: float = 0.0


MAX_HOLD_S = 3600.0
"""The longest Retry-After that is respected, in seconds. Longer values are reduced to it."""


def classify(
    error: Exception,
    fatal: Callable[[Exception], bool | None],
    *,
    fatal_codes: Sequence[int] = (),
    fresh_credentials: bool,
    rejections: int,
) -> Verdict:
    """Decide how to react to an error of an attempt or a connection. All such decisions are made here.

    `fresh_credentials`: the endpoint computes its URI or headers for each attempt, so a single 401 or 403 may be caused
    by an expired token. `rejections` is the number of consecutive 401 and 403 responses, including this one.
    """
    if isinstance(error, Fatal) or isinstance(error.__cause__, Fatal) or close_code(error) in fatal_codes:
        return Verdict(fatal=True)
    hold_s = 0.0
    if isinstance(error, HandshakeRejected):
        if error.status in (401, 403) and fresh_credentials and rejections <= 1:
            return Verdict(fatal=False)
        # Mostly with 429 and 503, but some servers send Retry-After with other statuses.
        hold_s = min(max(error.retry_after_s or 0.0, 0.0), MAX_HOLD_S)
    decision = fatal(error)
    if decision is None:
        decision = is_fatal(error)
    return Verdict(fatal=True) if decision else Verdict(fatal=False, hold_s=hold_s)


def retry_after_s(value: str | None, now: float) -> float | None:
    """Parse a Retry-After header, a number or a date (RFC 9110, section 10.2.3), and return the delay in seconds.

    `now` is the wall clock time. Returns None for an invalid value.
    """
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
