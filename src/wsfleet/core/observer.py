"""Observers of a fleet, such as the status page: started with the fleet, and stopped after its end."""

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
    """A status page, or other code that watches a fleet. `reload`, if set, reloads the configuration."""

    address: str
    reload: Callable[[], Awaitable[list[str]]] | None

    def bind(self) -> object:
        """Bind to the address. Idempotent. Raises FleetError if this is not possible."""

    async def start(self) -> None:
        """Start to observe."""

    async def stop(self) -> None:
        """Stop, and close all resources. Idempotent."""


class Observers:
    """The observers of one fleet."""

    def __init__(self) -> None:
        self.all: list[Observer] = []
        self._begun = False
        self._starting: set[asyncio.Task[None]] = set()

    def add(self, observer: Observer) -> None:
        """Add `observer`, and start it if the fleet is running. Raises FleetError if its address is in use."""
        if self._begun:
            observer.bind()
            task = asyncio.get_running_loop().create_task(self._start(observer), name="wsfleet-observer")
            self._starting.add(task)
        self.all.append(observer)

    async def _start(self, observer: Observer) -> None:
        try:
            await observer.start()
        except Exception as exc:  # an observer must not stop the fleet
            log.error("%s: cannot start: %s", observer.address, describe(exc), extra={"event": "observer.failed"})

    async def start(self) -> None:
        """Start all observers. Raises FleetError if an address is in use."""
        self._begun = True
        for observer in list(self.all):
            observer.bind()
            await observer.start()

    async def stop(self) -> None:
        """Stop all observers, after the end of the fleet."""
        self._begun = False
        if self._starting:
            await asyncio.wait(self._starting)
        for observer in self.all:
            try:
                await observer.stop()
            except Exception as exc:
                log.error("%s: cannot stop: %s", observer.address, describe(exc), extra={"event": "observer.failed"})


def load(module: str, extra: str) -> Any:
    """Import a module of `wsfleet.serve`. Raises ConfigError if its dependencies, the `extra`, are not installed."""
    try:
        return importlib.import_module(f"wsfleet.serve.{module}")
    except ModuleNotFoundError as exc:
        raise ConfigError(f"{exc.name} is not installed: install wsfleet[{extra}]") from exc
