"""The limit of open files of this process, and therefore of connections."""

from __future__ import annotations

import logging

__all__ = ["ADVICE", "SPARE", "check", "raise_limit"]

log = logging.getLogger("wsfleet")

SPARE = 64
"""Open files in addition to the connections: libraries, pipes, logs, sinks."""

ADVICE = "raise the hard limit (ulimit -n, or LimitNOFILE= of a systemd service)"

FALLBACKS = (2**20, 10_240)
"""Soft limits to try if there is no hard limit. macOS rejects values that its hard limit allows."""


def raise_limit() -> int | None:
    """Raise the soft limit of open files to the hard limit. Return the new soft limit, or None if there is none.

    The default soft limit is low for programs that use select(), which event loops do not use.
    """
    try:
        import resource
    except ImportError:  # Windows has no limit
        return None
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    unlimited = resource.RLIM_INFINITY
    for limit in (hard, *FALLBACKS) if hard == unlimited else (hard,):
        if soft == unlimited or (limit != unlimited and limit <= soft):
            break
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
        except (ValueError, OSError):
            continue
        soft = limit
        break
    return None if soft == unlimited else soft


def check(endpoints: int) -> None:
    """Raise the limit for a fleet of `endpoints`, and log a warning if it is still too low."""
    limit = raise_limit()
    needed = endpoints + SPARE
    if limit is not None and limit < needed:
        log.warning(
            "%s endpoints need about %s open files, but the limit is %s: %s",
            *(f"{endpoints:,}", f"{needed:,}", f"{limit:,}", ADVICE),
            extra={"event": "open_files.limit"},
        )
