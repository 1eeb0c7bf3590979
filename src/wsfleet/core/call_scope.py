"""Whether code runs inside a call that a fleet makes, and waits for at its end."""

from __future__ import annotations

from contextvars import ContextVar

__all__ = ["enter", "is_inside"]

_FLEETS: ContextVar[tuple[object, ...]] = ContextVar("wsfleet_fleets", default=())
# A processor may run a fleet of its own, so there can be several. What a call starts as a task is inside, too:
# `asyncio.wait_for` does that up to Python 3.11, and whoever calls it awaits it.


def enter(fleet: object) -> None:
    """From here on, the current task and those that it starts are inside `fleet`."""
    _FLEETS.set((*_FLEETS.get(), fleet))


def is_inside(fleet: object) -> bool:
    """Tell whether the fleet would wait for the caller, so that the caller must not wait for its end."""
    return any(each is fleet for each in _FLEETS.get())
