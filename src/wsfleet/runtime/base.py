"""What the run of one fleet and the run of several workers have in common."""

from __future__ import annotations

import asyncio
import logging
from abc import ABC, abstractmethod

from wsfleet.fleet.reloading import Reloaded, reload_and_log
from wsfleet.runtime.systemd import ENDING, Notifier

__all__ = ["BaseRun"]

logger = logging.getLogger("wsfleet.run")


class BaseRun(ABC):
    """A run that drains once, reloads on SIGHUP, and reports its status to the service manager.

    `running` is set when everything was started. A worker's run does not log its end: its parent does.
    """

    def __init__(self, *, logs_end: bool = True) -> None:
        self.running = asyncio.Event()
        self._logs_end = logs_end
        self._draining = False
        self._interrupted = False
        self._notifier = Notifier()
        self._reloads: set[asyncio.Task[None]] = set()

    @abstractmethod
    def status(self) -> str:
        """Return one line for the service manager, while the end has not begun."""

    @abstractmethod
    async def reload(self) -> Reloaded:
        """Read the file again. Raises ConfigError and FleetError."""

    @abstractmethod
    def _begin_drain(self) -> None:
        """Let what came in be processed, and then the run end."""

    def drain(self) -> None:
        """Begin the end, if it has not begun."""
        if not self._draining:
            self._draining = True
            self._notifier.stopping()
            self._begin_drain()

    def _drain_on_signal(self) -> None:
        if not self._draining and self._logs_end:
            logger.info("%s; once more to stop at once", ENDING)
        self.drain()

    def _reload_on_signal(self) -> None:
        self._reloads.add(asyncio.get_running_loop().create_task(self._reload_and_notify()))

    async def _reload_and_notify(self) -> None:
        self._notifier.reloading()
        await reload_and_log(self.reload)
        self._notifier.ready(self._status())

    async def _notify_manager(self) -> None:
        await self.running.wait()
        self._notifier.ready(self._status())
        await self._notifier.keep(self._status)

    def _status(self) -> str:
        return ENDING if self._draining else self.status()
