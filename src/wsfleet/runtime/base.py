"""Base class for the run of one fleet and the run of several workers."""

from __future__ import annotations

import asyncio
import logging
from abc import ABC, abstractmethod

from wsfleet.fleet.reloading import Reloaded, reload_and_log
from wsfleet.runtime.systemd import DRAINING, Notifier

__all__ = ["BaseRun"]

logger = logging.getLogger("wsfleet.run")


class BaseRun(ABC):
    """A run that drains once, reloads on SIGHUP, and reports its status to the service manager.

    `running` is set after everything has started. With `logs_end=False` the shutdown is not logged: the parent of a
    worker logs it.
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
        """Return one status line for the service manager. Not called after draining has started."""

    @abstractmethod
    async def reload(self) -> Reloaded:
        """Reload the configuration file. Raises ConfigError and FleetError."""

    @abstractmethod
    def _begin_drain(self) -> None:
        """Start draining: received messages are processed, then the run ends."""

    def drain(self) -> None:
        """Drain and end the run. Further calls do nothing."""
        if not self._draining:
            self._draining = True
            self._notifier.stopping()
            self._begin_drain()

    def _drain_on_signal(self) -> None:
        if not self._draining and self._logs_end:
            logger.info("%s; signal again to stop at once", DRAINING, extra={"event": "run.draining"})
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
        return DRAINING if self._draining else self.status()
