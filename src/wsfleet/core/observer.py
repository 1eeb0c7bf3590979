"""What watches a fleet from outside: begun when the fleet starts, ended when it has come to its end."""

from __future__ import annotations

import asyncio
import importlib
import logging
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

from wsfleet.core.error_text import describe
from wsfleet.core.errors import ConfigError

__all__ = ["Observer", "Observers", "load"]

log = logging.getLogger("wsfleet")


class Observer(Protocol):
    """A page, or whatever else looks at a fleet. `reload`, where it is set, reads the configuration again."""

    address: str
    reload: Callable[[], Awaitable[list[str]]] | None

    def bind(self) -> object:
        """Take the address. Idempotent; raises FleetError where it can't be had."""

    async def start(self) -> None:
        """Begin."""

    async def stop(self) -> None:
        """End, and leave nothing open. Idempotent."""


class Observers:
    """Those of one fleet."""

    def __init__(self) -> None:
        self.all: list[Observer] = []
        self._begun = False
        self._starting: set[asyncio.Task[None]] = set()

    def add(self, observer: Observer) -> None:
        """Have `observer` from now on, or from the fleet's start. Raises FleetError where its address is taken."""
        if self._begun:
            observer.bind()
            task = asyncio.get_running_loop().create_task(self._start(observer), name="wsfleet-observer")
            self._starting.add(task)
        self.all.append(observer)

    async def _start(self, observer: Observer) -> None:
        try:
            await observer.start()
        except Exception as exc:  # the fleet goes on, and may be ending
            log.error("%s: cannot begin: %s", observer.address, describe(exc))

    async def start(self) -> None:
        """Begin with the fleet. Raises FleetError where an address is taken."""
        self._begun = True
        for observer in list(self.all):
            observer.bind()
            await observer.start()

    async def stop(self) -> None:
        """End after the fleet, which was watched until then."""
        self._begun = False
        if self._starting:
            await asyncio.wait(self._starting)
        for observer in self.all:
            try:
                await observer.stop()
            except Exception as exc:
                log.error("%s: cannot end: %s", observer.address, describe(exc))


def load(module: str, extra: str) -> Any:
    """Return a module of `wsfleet.serve`, a leaf that is loaded by name. Raises ConfigError without its `extra`."""
    try:
        return importlib.import_module(f"wsfleet.serve.{module}")
    except ModuleNotFoundError as exc:
        raise ConfigError(f"{exc.name} is missing: install wsfleet[{extra}]") from exc
