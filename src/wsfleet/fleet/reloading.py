"""The result of a reload, the signal that requests one, and its log records."""

from __future__ import annotations

import asyncio
import logging
import signal
import threading
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from wsfleet.core.errors import ConfigError, FleetError

__all__ = ["Change", "Reloaded", "Reloader", "hangup", "reload_and_log", "reload_logged"]

R = TypeVar("R", bound=list[str])

logger = logging.getLogger("wsfleet.run")


@dataclass(frozen=True, slots=True)
class Change:
    """One entry of a file that was removed, changed or added."""

    section: str
    name: str
    what: str

    def __str__(self) -> str:
        return f"[[{self.section}]] {self.name}: {self.what}"


class Reloaded(list[str]):
    """The result of a reload: a line for each change, and the same as attributes.

    `restart` lists the changed sections that take effect only after a restart. `kept` has the unchanged endpoints, each
    with its session number. `faults` are errors in the file that worker processes found.
    """

    def __init__(
        self, changes: Sequence[Change], restart: Sequence[str], kept: Mapping[str, int], faults: Sequence[str] = ()
    ) -> None:
        self.changes = changes
        self.restart = restart
        self.kept = kept
        self.faults = faults
        super().__init__([*map(str, changes), *(_needs_restart(section) for section in restart), *faults])

    def to_dict(self) -> dict[str, Any]:
        """Return it for JSON."""
        found = {"faults": list(self.faults)} if self.faults else {}
        return {"changed": [str(each) for each in self.changes], "restart": self.restart, "kept": self.kept, **found}


def _needs_restart(section: str) -> str:
    return f"[{section}] has changed: takes effect after a restart"


class Reloader(Protocol):
    """Keeps a fleet in step with the file it was read from."""

    keeps: Callable[[str, str], bool]
    """`keeps(section, name)`: whether an entry of the file belongs to this process."""

    async def reload(self, fleet: Any) -> Reloaded:
        """Read the file again and apply what changed."""


@contextmanager
def hangup(reload: Callable[[], object]) -> Iterator[None]:
    """Call `reload` on the running loop for each SIGHUP. Does nothing outside the main thread."""
    if not hasattr(signal, "SIGHUP") or threading.current_thread() is not threading.main_thread():
        yield
        return
    loop = asyncio.get_running_loop()
    before = signal.signal(signal.SIGHUP, lambda number, frame: loop.call_soon_threadsafe(reload))
    try:
        yield
    finally:
        signal.signal(signal.SIGHUP, before)


async def reload_and_log(reload: Callable[[], Awaitable[Reloaded]]) -> None:
    """Call `reload`, and log the changes, or the reason why there are none."""
    try:
        await reload_logged(reload)
    except FleetError:
        pass


async def reload_logged(reload: Callable[[], Awaitable[R]]) -> R:
    """Return the result of `reload`, logged. Raises ConfigError and FleetError as it does, logged too."""
    try:
        done = await reload()
    except ConfigError as exc:
        for fault in str(exc).splitlines():
            logger.error("reload: %s", fault, extra={"event": "fleet.reload_refused"})
        logger.error("reload: failed; nothing was changed", extra={"event": "fleet.reload_refused"})
        raise
    except FleetError as exc:
        logger.warning("reload: %s", exc, extra={"event": "fleet.reload_refused"})
        raise
    if isinstance(done, Reloaded):
        _log(done)
    return done


def _log(done: Reloaded) -> None:
    if not done:
        logger.info("reload: the file is unchanged", extra={"event": "fleet.reload"})
    for change in done.changes:
        fields = {"event": "fleet.reload", "section": change.section, "entry": change.name, "change": change.what}
        logger.info("reload: %s", change, extra=fields)
    for section in done.restart:
        fields = {"event": "fleet.restart_needed", "section": section}
        logger.warning("reload: %s", _needs_restart(section), extra=fields)
    for fault in done.faults:
        logger.error("reload: %s", fault, extra={"event": "fleet.reload_refused"})
    kept = len(done.kept)
    endpoints = "endpoint" if kept == 1 else "endpoints"
    logger.info("reload: %d %s unchanged", kept, endpoints, extra={"event": "fleet.reload", "kept": kept})
