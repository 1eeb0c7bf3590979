"""The interface through which other packages of wsfleet drive a fleet. User programs have `Fleet` alone."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import AbstractContextManager

from wsfleet.core.errors import FleetError
from wsfleet.core.message import State
from wsfleet.core.observer import Observer
from wsfleet.core.stats import FleetStats
from wsfleet.core.time_slice import in_slices
from wsfleet.endpoint.continuity import History
from wsfleet.endpoint.pool import Pool
from wsfleet.endpoint.supervisor import Supervisor
from wsfleet.fleet.lifecycle import Lifecycle
from wsfleet.fleet.owner import Owner
from wsfleet.fleet.registry import Registry
from wsfleet.fleet.reloading import Reloader
from wsfleet.fleet.shutdown import finish_processor
from wsfleet.fleet.snapshot import build_stats
from wsfleet.pipeline.processor import Processor

__all__ = ["Control"]


class Control:
    """Made by each `Fleet`; `wsfleet.fleet.fleet.control_of(fleet)` returns it."""

    def __init__(self, name: str, registry: Registry, lifecycle: Lifecycle, owner: Owner, drain_s: float) -> None:
        self._name = name
        self._registry = registry
        self._lifecycle = lifecycle
        self._owner = owner
        self._drain_s = drain_s
        self.reloader: Reloader | None = None
        """Set by `wsfleet.config` for a fleet that was read from a file."""

    # Looking

    def unchecked_stats(self) -> FleetStats:
        """Return the stats in whatever thread: for a process that exits although its loop does not answer."""
        return build_stats(self._registry, self._name, self._lifecycle.uptime_s)

    def pool_members(self) -> dict[str, set[str]]:
        """Return the names of the pools, each with those of its members."""
        return {
            name: {connection.name for connection in pool.connections} for name, pool in self._registry.pools.items()
        }

    def endpoint_topics(self) -> list[str] | None:
        """Return the topics of its endpoints, as declared; None if functions make some of them."""
        found: list[str] = []
        for name, default in self.deciding_names():
            topic = self._registry.supervisors[name].endpoint.topic
            if callable(topic):
                return None
            found += [topic or default, default]  # messages without a field of the topic have the default
        return found

    def closing_limit_s(self) -> float:
        """Return the largest `close_s` of its endpoints, in seconds."""
        return max((each.endpoint.close_s for each in self._registry.supervisors.values()), default=0.0)

    # Before the start

    def keep_connections(self, keep: Callable[[str], bool]) -> None:
        """Remove the endpoints and pools whose names `keep` does not accept; a pool counts by its own name.

        Their own processors go with them and leave no row; processors of a pattern stay.
        """
        registry = self._registry
        members = {supervisor for supervisors in registry.members.values() for supervisor in supervisors}
        parts: list[Supervisor | Pool] = [pool for pool in registry.pools.values() if not keep(pool.name)]
        parts += [s for name, s in registry.supervisors.items() if s not in members and not keep(name)]
        for part in parts:
            self._owner.remove(part)
        registry.forget_unstarted()

    def keep_observers(self, keep: Callable[[Observer], bool]) -> None:
        """Remove the observers that `keep` does not accept."""
        observers = self._lifecycle.observers.all
        observers[:] = [observer for observer in observers if keep(observer)]

    # Reloading

    def check_reloadable(self) -> None:
        """Raise FleetError unless the fleet runs."""
        if self._lifecycle.phase != "running":
            raise FleetError(f"the fleet is {self._lifecycle.phase}; only one that runs can be reloaded")

    def kept_open(self) -> AbstractContextManager[None]:
        """Do not end the fleet meanwhile for lack of endpoints."""
        return self._lifecycle.kept_open()

    async def close(self, name: str) -> dict[str, History]:
        """Close the pool or else the connection `name`, if there is one. Return the histories of its endpoints."""
        registry = self._registry
        part = registry.pools.get(name) or registry.connections.get(name)
        if part is None:
            return {}
        closed = registry.members[part] if isinstance(part, Pool) else (registry.supervisors[name],)
        await part.close()
        return {supervisor.name: _history(supervisor) for supervisor in closed}

    async def histories(self) -> dict[str, History]:
        """Return the histories of the endpoints that were connected, made over several iterations of the loop."""
        found: dict[str, History] = {}
        async for supervisors in in_slices(list(self._registry.supervisors.values())):
            found |= {each.name: _history(each) for each in supervisors if each.continuity.sessions}
        return found

    def go_on(self, histories: Mapping[str, History]) -> None:
        """Let endpoints that have not connected yet go on from these histories. Other names are ignored."""
        for name, history in histories.items():
            supervisor = self._registry.supervisors.get(name)
            if supervisor is not None:
                supervisor.continuity.go_on(history)

    def detach_processor(self, name: str) -> Awaitable[None] | None:
        """Give a processor no more messages. Its name is free at once; awaiting the result lets it finish the rest.

        None if there is no such processor.
        """
        for processor in self._registry.processors.values():
            if processor.mailbox.name == name:
                self._registry.remove(processor.mailbox, drop=False)
                return _finish(processor, self._drain_s)
        return None

    def session_counts(self) -> dict[str, int]:
        """Return for each connection the number of its session."""
        return {name: each.continuity.sessions for name, each in self._registry.supervisors.items()}

    def deciding_names(self) -> Iterable[tuple[str, str]]:
        """Yield each connection's name and the name that decides where it runs: a pool's members stay together."""
        pool_of = {member: pool for pool, members in self.pool_members().items() for member in members}
        for name in self._registry.connections:
            yield name, pool_of.get(name, name)


def _history(supervisor: Supervisor) -> History:
    session = supervisor.session if supervisor.state is State.OPEN else None
    return supervisor.continuity.history(session)


async def _finish(processor: Processor, drain_s: float) -> None:
    await finish_processor(processor, drain_s)
    await processor.close()
