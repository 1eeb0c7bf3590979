"""How many files this process may have open, and so how many connections."""

from __future__ import annotations

import logging

__all__ = ["ADVICE", "SPARE", "check", "raise_limit"]

log = logging.getLogger("wsfleet")

SPARE = 64
"""Files open beside the connections: libraries, pipes, logs, sinks."""

ADVICE = "raise the hard limit (ulimit -n, or LimitNOFILE= of a systemd service)"

CAUTIOUS = (2**20, 10_240)
"""What to ask for where the system has no hard limit, or gives less than it promises, as macOS does."""


def raise_limit() -> int | None:
    """Raise the soft limit of open files to the hard one; return what it is now, None where there is none.

    The soft one is low for the sake of programs that use select(), which event loops do not.
    """
    try:
        import resource
    except ImportError:  # Windows has no such limit
        return None
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    endless = resource.RLIM_INFINITY
    for limit in (hard, *CAUTIOUS) if hard == endless else (hard,):
        if soft == endless or (limit != endless and limit <= soft):
            break
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
        except (ValueError, OSError):
            continue
        soft = limit
        break
    return None if soft == endless else soft


def check(endpoints: int) -> None:
    """Raise the limit for a fleet of `endpoints`; log a line where even so it is too low for them."""
    limit = raise_limit()
    wanted = endpoints + SPARE
    if limit is not None and limit < wanted:
        log.warning(
            "%s endpoints need about %s open files, and this process may have %s: %s",
            *(f"{endpoints:,}", f"{wanted:,}", f"{limit:,}", ADVICE),
        )
