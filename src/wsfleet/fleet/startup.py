"""How a fleet starts: first whatever can refuse, then the endpoints, a few in each turn of the loop."""

from __future__ import annotations

import asyncio
import importlib

from wsfleet.core.message import State
from wsfleet.fleet.registry import Registry
from wsfleet.transport import open_files

__all__ = ["open_parts", "start_endpoints"]

START = 50
"""Endpoints started in one turn of the loop."""


async def open_parts(registry: Registry) -> None:
    """Open what the endpoints will need. Raises what opening a sink raises, or an observer that has no address."""
    for processor in list(registry.processors.values()):
        processor.check_not_importing()
    if not registry.has_transport:
        # The adapter is a leaf, loaded by name.
        registry.transport = importlib.import_module("wsfleet.transport.websockets").WebSocketTransport()
        open_files.check(len(registry.supervisors))
    await registry.observers.start()
    for processor in list(registry.processors.values()):
        await processor.open()


async def start_endpoints(registry: Registry, tasks: asyncio.TaskGroup) -> None:
    """Start what was declared before the start, a few at a time: each begins with some work of its own."""
    for number, supervisor in enumerate(list(registry.supervisors.values()), 1):
        # Meanwhile one may have been closed.
        if supervisor.state not in (State.CLOSED, State.FAILED) and not supervisor.stopping:
            supervisor.start(tasks)
        if number % START == 0:
            await asyncio.sleep(0)
