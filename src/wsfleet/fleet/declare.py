"""Declares the parts of a fleet: checks arguments, takes names, makes the parts, and starts them if the fleet runs."""

from __future__ import annotations

from typing import Any

from wsfleet.core.errors import ConfigError
from wsfleet.core.options import Buffer, Endpoint
from wsfleet.endpoint.connect_limiter import host_of
from wsfleet.endpoint.connection import Connection
from wsfleet.endpoint.decode import compile_factory
from wsfleet.endpoint.early import EarlyMessages
from wsfleet.endpoint.pool import Identify, Pool, check_pool
from wsfleet.endpoint.requests import Match
from wsfleet.endpoint.supervisor import Supervisor
from wsfleet.fleet.checks import check_buffer, check_replay, check_subscribe_pattern, split_options
from wsfleet.fleet.lifecycle import Lifecycle
from wsfleet.fleet.owner import Owner
from wsfleet.fleet.registry import Registry
from wsfleet.pipeline.handler import Function, Plan, Sink, check_plan, check_processor, default_name, is_sink
from wsfleet.pipeline.subscription import Subscription

__all__ = ["Declarer"]

_BUFFER = Buffer()


class Declarer:
    """Adds parts to a registry, and hands them to the lifecycle to be started."""

    def __init__(self, registry: Registry, lifecycle: Lifecycle, owner: Owner) -> None:
        self._registry = registry
        self._lifecycle = lifecycle
        self._owner = owner

    def connect(self, endpoint: Endpoint | str, target: Function | Sink | None, options: dict[str, Any]) -> Connection:
        """Add an endpoint, and its own processor if there is one."""
        loop_buffer = options.pop("buffer", _BUFFER) if target is None else _BUFFER
        check_buffer(loop_buffer)
        endpoint, process = split_options(endpoint, target, options)
        buffer, plan = self._checked(target, process)
        compile_factory(endpoint, "x")  # a fault must be found before a name is taken
        name = self._registry.names.take(endpoint.name, _default_name(endpoint))
        connection, supervisor = self._add_endpoint(endpoint, name, None, loop_buffer)
        if target is None:
            supervisor.ingest.early = EarlyMessages(name, loop_buffer)
        self._add_own_processor((supervisor,), name, buffer, target, plan)
        self._lifecycle.start_endpoint(supervisor)
        return connection

    def pool(
        self,
        endpoint: Endpoint | str,
        size: int,
        target: Function | Sink | None,
        identify: Identify | None,
        match: Match | None,
        options: dict[str, Any],
    ) -> Pool:
        """Add a pool: its members, and the one processor for all of them."""
        if not isinstance(endpoint, Endpoint):
            options.setdefault("decode", "json")
        endpoint, process = split_options(endpoint, target, options)
        check_pool(endpoint, size, identify, match)
        buffer, plan = self._checked(target, process)
        compile_factory(endpoint, "x")
        name = self._registry.names.take_group(endpoint.name, _default_name(endpoint), size)
        members = [self._add_endpoint(endpoint, f"{name}-{number}", name) for number in range(1, size + 1)]
        pool = Pool(name, members, self._owner, identify, match)
        supervisors = tuple(supervisor for _, supervisor in members)
        self._registry.add_pool(pool, supervisors)
        self._add_own_processor(supervisors, name, buffer, target, plan)
        for supervisor in supervisors:
            self._lifecycle.start_endpoint(supervisor)
        return pool

    def process(self, pattern: str, target: Function | Sink, name: str | None, options: dict[str, Any]) -> Subscription:
        """Add a processor for a pattern that was checked."""
        buffer, plan = self._checked(target, dict(options), needed=True)
        name = self._registry.names.take(name, default_name(target))
        processor = self._registry.add_processor(name, pattern, buffer, target, plan)
        self._lifecycle.start_processor(processor)
        return self._registry.subscriptions[name]

    def sink(self, pattern: str, sink: Sink, name: str | None, options: dict[str, Any]) -> Subscription:
        """Add a sink for a pattern that was checked."""
        if not is_sink(sink):
            fault = f"must be a sink, not {sink!r}"
            raise ConfigError(f"sink {fault}", (("sink", fault),))
        return self.process(pattern, sink, name, options)

    def subscribe(self, pattern: str, name: str | None, buffer: Buffer, replay: str | None) -> Subscription:
        """Add a subscription that the user loops over."""
        check_subscribe_pattern(pattern)
        check_buffer(buffer)
        check_replay(replay)
        names = self._registry.names
        name = names.number("sub") if name is None else names.take(name, name)
        return self._registry.add_subscription(name, pattern, buffer, replay=replay is not None)

    def _checked(self, target: Any, process: dict[str, Any], *, needed: bool = False) -> tuple[Buffer, Plan]:
        buffer = process.pop("buffer", _BUFFER)
        plan = Plan(**process)
        check_plan(plan, buffer)
        if needed or target is not None:
            check_processor(target, plan)
            if is_sink(target) and self._registry.has_sink(target):
                fault = "has a subscription already; open another sink for this one"
                raise ConfigError(f"{target!r} {fault}", (("processor", fault),))
        return buffer, plan

    def _add_endpoint(
        self, endpoint: Endpoint, name: str, topic: str | None, loop_buffer: Buffer = _BUFFER
    ) -> tuple[Connection, Supervisor]:
        supervisor = self._registry.add_endpoint(endpoint, name, topic)
        connection = self._registry.connections[name] = Connection(supervisor, self._owner, loop_buffer)
        return connection, supervisor

    def _add_own_processor(
        self,
        supervisors: tuple[Supervisor, ...],
        name: str,
        buffer: Buffer,
        target: Function | Sink | None,
        plan: Plan,
    ) -> None:
        if target is not None:
            processor = self._registry.add_own_processor(supervisors, name, buffer, target, plan)
            self._lifecycle.start_processor(processor)


def _default_name(endpoint: Endpoint) -> str:
    return host_of(endpoint.uri) if isinstance(endpoint.uri, str) else "endpoint"
