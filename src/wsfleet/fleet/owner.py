"""What connections and pools ask of their fleet: restart an endpoint, close a part of the fleet, loop over messages."""

from __future__ import annotations

import asyncio

from wsfleet.core.errors import NotOpen
from wsfleet.core.message import State
from wsfleet.core.options import Buffer
from wsfleet.endpoint.pool import Pool
from wsfleet.endpoint.supervisor import Supervisor
from wsfleet.fleet.lifecycle import Lifecycle
from wsfleet.fleet.registry import Registry
from wsfleet.fleet.shutdown import Closing
from wsfleet.pipeline.mailbox import Mailbox

__all__ = ["Owner"]


class Owner:
    """Acts for the handles of one fleet. See `endpoint.connection.Owner` and `endpoint.pool.PoolOwner`."""

    def __init__(self, registry: Registry, lifecycle: Lifecycle, drain_s: float) -> None:
        self._registry = registry
        self.context = registry.context
        self._lifecycle = lifecycle
        self._drain_s = drain_s
        self._closings: dict[Supervisor | Pool, asyncio.Task[None]] = {}

    def open_loop(self, supervisor: Supervisor, buffer: Buffer) -> Mailbox:
        """See `Registry.open_loop`."""
        return self._registry.open_loop(supervisor, buffer)

    def abandon(self, mailbox: Mailbox) -> None:
        """See `Registry.abandon`."""
        self._registry.abandon(mailbox)

    def restart_endpoint(self, supervisor: Supervisor) -> None:
        """Connect afresh at once. Raises NotOpen when the endpoint is closed."""
        if self._lifecycle.ending or supervisor.state is State.CLOSED or supervisor.stopping:
            raise NotOpen(f"{supervisor.name} is closed")
        if supervisor.state is not State.FAILED:
            supervisor.restart()
            return
        supervisor.reset()
        self._registry.reopen_loops(supervisor)
        self._lifecycle.start_endpoint(supervisor)

    async def close_endpoint(self, supervisor: Supervisor) -> None:
        """Close one endpoint while the fleet goes on, and wait for that."""
        registry = self._registry
        if registry.supervisors.get(supervisor.name) is supervisor:
            await self._close(supervisor, Closing((supervisor,), registry.own[supervisor], registry.processors))

    async def close_pool(self, pool: Pool) -> None:
        """Close the members of a pool while the fleet goes on, and wait for that."""
        registry = self._registry
        if registry.pools.get(pool.name) is pool:
            await self._close(pool, Closing(registry.members[pool], registry.pool_mailboxes(pool), registry.processors))

    def remove(self, part: Supervisor | Pool) -> None:
        """Remove an endpoint or pool that has ended, or never began: its names are free again."""
        for supervisor in self._registry.members[part] if isinstance(part, Pool) else (part,):
            self._lifecycle.let_go(supervisor)
        if isinstance(part, Pool):
            self._registry.remove_pool(part)
        else:
            self._registry.remove_endpoint(part)

    async def _close(self, part: Supervisor | Pool, closing: Closing) -> None:
        """Close and wait; a caller that the fleet's end waits for only asks."""
        if self._lifecycle.ending:
            await self._lifecycle.until_ended()
            return
        task = self._closings.get(part)
        if task is None:
            task = self._lifecycle.start_helper(self._run(part, closing), f"wsfleet-{part.name}-close")
        if task is None:  # the fleet has not started
            self.remove(part)
            return
        self._closings[part] = task
        if not self._registry.context.in_call:
            await asyncio.wait({task})

    async def _run(self, part: Supervisor | Pool, closing: Closing) -> None:
        try:
            await closing.run(self._drain_s)
        finally:
            if not self._lifecycle.ending:
                self.remove(part)
            self._closings.pop(part, None)
