"""Data about endpoints that only events have: losses of the last minute, and the time of the next attempt."""

from __future__ import annotations

from typing import Any

from wsfleet.core.message import State

__all__ = ["FLAPPING", "RECENT_S", "Recent"]

RECENT_S = 60
FLAPPING = 3
"""An endpoint with so many losses in the last minute is shown as a problem, also while it is OPEN."""


class Recent:
    """Counts each endpoint's losses by the second. Times are wall clock times in seconds."""

    def __init__(self) -> None:
        self._losses: dict[str, dict[int, int]] = {}
        self._next: dict[str, float] = {}
        self._cleared_at = 0.0

    def note(self, event: dict[str, Any]) -> None:
        """Note an event of a `$state` topic, as plain data."""
        name, at = event["endpoint"], event["at"]
        if event["state"] == State.BACKOFF:
            self._next[name] = at + event["delay_s"]
        else:
            self._next.pop(name, None)
        if event["previous"] == State.OPEN and event["error"] is not None:
            if not 0.0 <= at - self._cleared_at < RECENT_S:  # names may come and go although nobody reads the losses
                self._cleared_at = at
                self.losses(at)
            losses = self._losses.setdefault(name, {})
            losses[int(at)] = losses.get(int(at), 0) + 1

    def next_attempt(self, name: str) -> float | None:
        """Return when an endpoint in BACKOFF will be connected again; None if it is not in BACKOFF."""
        return self._next.get(name)

    def losses(self, now: float) -> dict[str, int]:
        """Return the losses of the last minute by name, of the endpoints that have any."""
        for name, losses in list(self._losses.items()):
            _forget(losses, now)
            if not losses:
                del self._losses[name]
        return {name: sum(losses.values()) for name, losses in self._losses.items()}


def _forget(losses: dict[int, int], now: float) -> None:
    for second in [second for second in losses if second <= now - RECENT_S]:
        del losses[second]
