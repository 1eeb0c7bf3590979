"""Closing one endpoint or pool while the fleet goes on."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from wsfleet.endpoint.pool import Pool
from wsfleet.endpoint.supervisor import Supervisor
from wsfleet.fleet.registry import Registry
from wsfleet.fleet.shutdown import close_sessions, finish_processor
from wsfleet.pipeline.mailbox import Mailbox

__all__ = ["Part", "endpoint_part", "pool_part"]


class Part:
    """What is closed together: the endpoints, and the processors that are theirs alone."""

    def __init__(
        self,
        handle: Supervisor | Pool,
        supervisors: list[Supervisor],
        own: Iterable[Mailbox],
        registry: Registry,
        forget: Callable[[], None],
    ) -> None:
        self.handle = handle
        self._supervisors = supervisors
        self._own = own
        self._registry = registry
        self._forget = forget

    def let_go(self) -> None:
        """Take it out of the fleet; its names are free again."""
        for supervisor in self._supervisors:
            supervisor.let_go()
        self._forget()

    async def close(self, drain_s: float) -> None:
        """Read no more, let its processors finish, and close the sockets."""
        for supervisor in self._supervisors:
            supervisor.stop()
            if supervisor.session is not None:
                supervisor.session.stop_reading()
        for mailbox in self._own:
            processor = self._registry.processors.get(mailbox)
            if processor is not None:
                await finish_processor(processor, drain_s)
                await processor.close()
        await close_sessions(self._supervisors, 1000)


def endpoint_part(registry: Registry, supervisor: Supervisor) -> Part | None:
    """Return what is closed with one endpoint; None where it has been closed."""
    if registry.supervisors.get(supervisor.name) is not supervisor:
        return None
    return Part(supervisor, [supervisor], registry.own[supervisor], registry, lambda: registry.forget(supervisor))


def pool_part(registry: Registry, pool: Pool) -> Part | None:
    """The same for a pool."""
    if registry.pools.get(pool.name) is not pool:
        return None
    own = [m for m in registry.hub.mailboxes() if m.name == pool.name]

    def forget() -> None:
        for mailbox in own:
            registry.remove(mailbox)
        registry.forget_pool(pool)

    return Part(pool, pool.supervisors, own, registry, forget)
