"""What has been declared: endpoints, processors and subscriptions, under their names."""

from __future__ import annotations

import asyncio
import logging
import weakref
from collections import deque
from collections.abc import Iterator, Mapping
from typing import Any, Protocol

from wsfleet.core import call_scope
from wsfleet.core.accel import accelerated
from wsfleet.core.checks import check_seconds, refuse
from wsfleet.core.errors import ConfigError
from wsfleet.core.loop_watchdog import Watchdog
from wsfleet.core.observer import Observers
from wsfleet.core.options import Buffer, Endpoint, EndpointOptions, Limits, ProcessorOptions
from wsfleet.core.stats import EndpointStats, FleetStats, add_rows, is_balanced
from wsfleet.core.text import suggestion
from wsfleet.core.topics import check_pattern, check_topic, compile_pattern
from wsfleet.endpoint.connect_limiter import ConnectLimiter, host_of
from wsfleet.endpoint.connection import Connection, Keeper
from wsfleet.endpoint.decode import compile_factory
from wsfleet.endpoint.liveness import Sweep
from wsfleet.endpoint.pool import Identify, Pool, PoolKeeper, check_pool
from wsfleet.endpoint.requests import Match
from wsfleet.endpoint.supervisor import Services, Supervisor
from wsfleet.fleet.names import Names
from wsfleet.pipeline.handler import Function, Plan, Sink, check_plan, check_processor, default_name, is_sink
from wsfleet.pipeline.hub import Hub
from wsfleet.pipeline.mailbox import Mailbox
from wsfleet.pipeline.processor import Processor, Work
from wsfleet.pipeline.subscription import Subscription
from wsfleet.transport.base import Transport

__all__ = ["Registry", "check_fleet", "check_process_pattern"]

log = logging.getLogger("wsfleet")


def check_fleet(name: str, limits: Limits, drain_s: float) -> None:
    """Raise ConfigError where a fleet's own options cannot work."""
    if not isinstance(name, str) or not name:
        raise ConfigError(f"Fleet: name must be a str, not {name!r}", (("name", "must be a str"),))
    if not isinstance(limits, Limits):
        raise ConfigError(f"Fleet: limits must be Limits, not {limits!r}", (("limits", "must be Limits"),))
    refuse("Fleet", [("drain_s", check_seconds(drain_s, zero=True))])


def check_process_pattern(pattern: object) -> None:
    """Raise ConfigError for a bad pattern at once: the decorator it makes may never be given a function."""
    if callable(pattern) or is_sink(pattern):
        fault = 'write @fleet.process("pattern")'
        raise ConfigError(f"process() takes the pattern first: {fault}", (("pattern", fault),))
    _check_pattern(pattern)


def _check_buffer(buffer: Buffer) -> None:
    if not isinstance(buffer, Buffer):
        raise ConfigError(f"buffer must be a Buffer, not {buffer!r}", (("buffer", "must be a Buffer"),))


class _Subscriptions(Mapping[str, Subscription]):
    """By name; those that the user loops over are held by the user alone."""

    def __init__(self) -> None:
        self.kept: dict[str, Subscription] = {}
        self.pulled: weakref.WeakValueDictionary[str, Subscription] = weakref.WeakValueDictionary()

    def __getitem__(self, name: str) -> Subscription:
        return self.kept[name] if name in self.kept else self.pulled[name]

    def __iter__(self) -> Iterator[str]:
        return iter([*self.kept, *self.pulled])

    def __len__(self) -> int:
        return len(self.kept) + len(self.pulled)


class Keepers(Keeper, PoolKeeper, Protocol):
    """What connections and pools ask of their fleet."""


class Registry(Services):
    """The parts of a fleet, and how they come and go. Nothing here runs anything."""

    def __init__(self, limits: Limits, transport: Transport | None) -> None:
        self.hub = Hub()
        self.hub.request_exit = self.request_exit
        self.limiter = ConnectLimiter(limits)
        self.sweep = Sweep(self.hub.unread)
        self.watchdog = Watchdog()
        self.observers = Observers()
        if transport is not None:
            self.transport = transport
        self.has_transport = transport is not None
        self.names = Names()
        self.keeper: Keepers
        self.workers: dict[Processor, None] = {}  # in the order in which they began
        self.unclosed: set[Processor] = set()
        self.connections: dict[str, Connection] = {}
        self.subscriptions = _Subscriptions()
        self.supervisors: dict[str, Supervisor] = {}
        self.processors: dict[Mailbox, Processor] = {}
        self.own: dict[Supervisor, list[Mailbox]] = {}
        self.pools: dict[str, Pool] = {}
        self.retired_endpoints: EndpointStats | None = None
        self.abandoned: deque[Mailbox] = deque()

    # Endpoints

    def connect(
        self, endpoint: Endpoint | str, target: Function | Sink | None, options: dict[str, Any]
    ) -> tuple[Connection, Supervisor, Processor | None]:
        """Declare an endpoint, and its own processor where there is one."""
        endpoint, process = _split(endpoint, target, options)
        buffer, plan = self._checked(target, process)
        compile_factory(endpoint, "x")  # so that a fault costs no name
        name = self.names.take(endpoint.name, _default_name(endpoint))
        connection, supervisor = self._endpoint(endpoint, name, None)
        processor = None
        if target is not None:
            processor = self._processor(self._own_mailbox((supervisor,), name, buffer), target, plan)
        return connection, supervisor, processor

    def pool(
        self,
        endpoint: Endpoint | str,
        size: int,
        target: Function | Sink | None,
        identify: Identify | None,
        match: Match | None,
        options: dict[str, Any],
    ) -> tuple[Pool, Processor | None]:
        """Declare a pool: its members, and the one processor for all of them."""
        if not isinstance(endpoint, Endpoint):
            options.setdefault("decode", "json")
        endpoint, process = _split(endpoint, target, options)
        check_pool(endpoint, size, identify, match)
        buffer, plan = self._checked(target, process)
        compile_factory(endpoint, "x")
        name = self.names.take_group(endpoint.name, _default_name(endpoint), size)
        members = [self._endpoint(endpoint, f"{name}-{number}", name) for number in range(1, size + 1)]
        pool = self.pools[name] = Pool(name, members, self.keeper, identify, match)
        processor = None
        if target is not None:
            processor = self._processor(self._own_mailbox(tuple(pool.supervisors), name, buffer), target, plan)
        return pool, processor

    def _checked(self, target: Any, process: dict[str, Any], *, needed: bool = False) -> tuple[Buffer, Plan]:
        buffer = process.pop("buffer", Buffer())
        plan = Plan(**process)
        check_plan(plan, buffer)
        if needed or target is not None:
            self._check_target(target, plan)
        return buffer, plan

    def _endpoint(self, endpoint: Endpoint, name: str, topic: str | None) -> tuple[Connection, Supervisor]:
        supervisor = self.supervisors[name] = Supervisor(endpoint, compile_factory(endpoint, name, topic), self)
        connection = self.connections[name] = Connection(supervisor, self.keeper)
        self.own[supervisor] = []
        return connection, supervisor

    def _own_mailbox(self, supervisors: tuple[Supervisor, ...], name: str, buffer: Buffer) -> Mailbox:
        mailbox = self.hub.add(name, ">", buffer, tuple(s.name for s in supervisors))
        mailbox.on_overflow = self.remove
        if len(supervisors) == 1:
            self.own[supervisors[0]].append(mailbox)
        return mailbox

    def open_loop(self, supervisor: Supervisor) -> Mailbox:
        """Return a new mailbox for loops over one endpoint's messages."""
        name = self.names.take(None, f"{supervisor.name}-iter")
        if supervisor.name not in self.supervisors or self.supervisors[supervisor.name] is not supervisor:
            self.names.free(name)
            ended = Mailbox(name, ">", Buffer(), lambda mailbox, message: None)
            ended.finish()
            return ended
        mailbox = self._own_mailbox((supervisor,), name, Buffer())
        self.subscriptions.kept[name] = Subscription(mailbox, self, kept=True)
        return mailbox

    def forget_pool(self, pool: Pool) -> None:
        """A pool was closed while the fleet runs: all its names are free again."""
        for supervisor in pool.supervisors:
            self.forget(supervisor)
        if self.pools.get(pool.name) is pool:
            del self.pools[pool.name]
            self.names.free(pool.name)

    def forget(self, supervisor: Supervisor) -> None:
        """An endpoint was closed while the fleet runs: its name is free again, its counts stay."""
        if self.supervisors.get(supervisor.name) is not supervisor:
            return
        for mailbox in self.own.pop(supervisor):
            self.remove(mailbox, drop=mailbox in self.processors)
        del self.supervisors[supervisor.name], self.connections[supervisor.name]
        for mailbox in tuple(supervisor.ingest.paused_by):
            mailbox.forget(supervisor.ingest)
        self.hub.forget_endpoint(supervisor.name)
        self.hub.disown(supervisor.name)
        self.names.free(supervisor.name)
        self.retired_endpoints = add_rows(self.retired_endpoints, supervisor.stats())

    def forget_unstarted(self) -> None:
        """Before the start: what was closed so far has counted nothing, and leaves no row."""
        self.retired_endpoints = None
        self.hub.forget_unused()

    # Subscriptions

    def process(self, pattern: str, target: Any, name: str | None, options: dict[str, Any]) -> Processor:
        """Declare a processor over a pattern, which was checked."""
        buffer, plan = self._checked(target, dict(options), needed=True)
        name = self.names.take(name, default_name(target))
        return self._processor(self._mailbox(name, pattern, buffer), target, plan)

    def _mailbox(self, name: str, pattern: str, buffer: Buffer) -> Mailbox:
        mailbox = self.hub.add(name, pattern, buffer)
        mailbox.on_overflow = self.remove
        return mailbox

    def subscribe(self, pattern: str, name: str | None, buffer: Buffer, replay: str | None) -> Subscription:
        """Declare a subscription that the user loops over."""
        _check_pattern(pattern)
        _check_buffer(buffer)
        if replay not in (None, "last"):
            raise ConfigError(f"replay must be None or 'last', not {replay!r}", (("replay", "must be None or 'last'"),))
        name = self.names.number("sub") if name is None else self.names.take(name, name)
        mailbox = self._mailbox(name, pattern, buffer)
        subscription = Subscription(mailbox, self)
        self.subscriptions.pulled[name] = subscription
        if replay == "last":
            matches = compile_pattern(pattern)
            kept = [m for s in self.supervisors.values() for m in s.ingest.kept.values() if matches(m.topic)]
            self.hub.replay(mailbox, sorted(kept, key=lambda message: message.received_at))
        return subscription

    def _check_target(self, target: Any, plan: Plan) -> None:
        check_processor(target, plan)
        if is_sink(target) and any(processor.sink is target for processor in self.processors.values()):
            fault = "has a subscription already; open another sink for this one"
            raise ConfigError(f"{target!r} {fault}", (("processor", fault),))

    def _processor(self, mailbox: Mailbox, target: Function | Sink, plan: Plan) -> Processor:
        processor = self.processors[mailbox] = Processor(mailbox, target, plan, self.hub, self.remove)
        self.subscriptions.kept[mailbox.name] = Subscription(mailbox, self, pull=False, kept=True)
        return processor

    def remove(self, mailbox: Mailbox, *, drop: bool = True) -> None:
        """Take a subscription out. Idempotent; what the fleet's own end has closed stays to be seen."""
        ended = self.keeper.ending and mailbox.closed and mailbox.error is None
        if self.hub.closed or ended:
            return
        owners = self.hub.owners(mailbox)
        if not self.hub.remove(mailbox, drop=drop):
            return
        if mailbox.error is not None and mailbox in self.processors:
            log.error("%s", mailbox.error, extra={"event": "subscription.overflowed", "subscription": mailbox.name})
        self.subscriptions.kept.pop(mailbox.name, None)
        self.subscriptions.pulled.pop(mailbox.name, None)
        self.processors.pop(mailbox, None)
        for name in owners:
            supervisor = self.supervisors.get(name)
            if supervisor in self.own and mailbox in self.own[supervisor]:
                self.own[supervisor].remove(mailbox)
        # An endpoint's own processor has its name, and a pool's the pool's.
        if mailbox.name not in owners and mailbox.name not in self.pools:
            self.names.free(mailbox.name)

    def abandon(self, mailbox: Mailbox) -> None:
        """Take out a subscription that nobody holds any more.

        The garbage collector calls this: in whatever thread, and in the middle of whatever that is doing. So it is
        put off, to the loop's next turn or to whoever looks before.
        """
        self.abandoned.append(mailbox)
        self.keeper.call_soon(self.reap)

    def reap(self) -> None:
        """Take out what was abandoned."""
        while self.abandoned:
            self.remove(self.abandoned.popleft())

    def check_thread(self) -> None:
        self.keeper.check_thread()

    def request_exit(self, wish: BaseException) -> None:
        self.keeper.request_exit(wish)

    def endpoint_ended(self, supervisor: Supervisor) -> None:
        """An endpoint is CLOSED or FAILED: loops over it end when they have had what is pending."""
        for mailbox in self.own.get(supervisor, ()):
            if mailbox not in self.processors:
                mailbox.finish()
        self.keeper.endpoint_ended(supervisor)

    def start_worker(self, processor: Processor, tasks: asyncio.TaskGroup) -> None:
        """Set a processor to work. It is known until its last call is done, even when its subscription is gone."""
        for work in processor.work():
            self._start_work(processor, work, tasks)

    def _start_work(self, processor: Processor, work: Work, tasks: asyncio.TaskGroup) -> None:
        run = self._work(work)
        try:
            task = tasks.create_task(run, name=f"wsfleet-{processor.mailbox.name}-processor")
        except RuntimeError:  # everything is being cancelled
            run.close()
            processor.give_up()
            return
        processor.tasks.add(task)
        self.workers[processor] = None
        task.add_done_callback(lambda done: self._worker_ended(processor, done, tasks))

    async def _work(self, work: Work) -> None:
        call_scope.enter(self)
        try:
            await work()
        except (KeyboardInterrupt, SystemExit) as exc:
            # Raised on, it would stop the loop on the spot, and nobody would close what is open.
            self.request_exit(exc)

    def _worker_ended(self, processor: Processor, task: asyncio.Task[None], tasks: asyncio.TaskGroup) -> None:
        processor.tasks.discard(task)
        if task.cancelled() and not processor.mailbox.closed:
            # Not by the fleet, which closes the mailbox first. Without a worker it would be full for ever.
            log.warning("%s: its task was cancelled from outside; it goes on in another", processor.mailbox.name)
            self._start_work(processor, processor.another(), tasks)
        if not processor.tasks:
            self.workers.pop(processor, None)
            if processor.opened:
                self.unclosed.add(processor)

    def pulled(self) -> list[Mailbox]:
        """Return the mailboxes that no processor empties."""
        return [mailbox for mailbox in self.hub.mailboxes() if mailbox not in self.processors]

    def publish(self, topic: str, data: Any) -> int:
        """Publish what came over no socket."""
        fault = check_topic(topic)
        if fault:
            raise ValueError(fault)
        return self.hub.inject(topic, data)

    # Looking

    def stats(self, name: str, uptime_s: float) -> FleetStats:
        """Count everything; of endpoints that were closed there is one row, the last."""
        self.reap()
        endpoints = tuple(s.stats() for s in self.supervisors.values())
        if self.retired_endpoints is not None:
            endpoints = (*endpoints, self.retired_endpoints)
        hub, subscriptions = self.hub.stats(), self.hub.subscription_stats()
        return FleetStats(
            name=name,
            uptime_s=uptime_s,
            balanced=is_balanced(hub, endpoints, subscriptions),
            accelerated=accelerated(),
            loop_lag_s=self.sweep.lag_s,
            blocked=self.watchdog.stats(),
            hub=hub,
            endpoints=endpoints,
            subscriptions=subscriptions,
        )


def _default_name(endpoint: Endpoint) -> str:
    return host_of(endpoint.uri) if isinstance(endpoint.uri, str) else "endpoint"


def _check_pattern(pattern: Any) -> None:
    fault = check_pattern(pattern)
    if fault:
        raise ConfigError(fault, (("pattern", fault),))


def _split(
    endpoint: Endpoint | str, target: Function | Sink | None, options: dict[str, Any]
) -> tuple[Endpoint, dict[str, Any]]:
    """Tell the endpoint's options from the processor's, and refuse what has no place."""
    fields, keywords = EndpointOptions.__annotations__, ProcessorOptions.__annotations__
    unknown = [name for name in options if name not in fields and name not in keywords]
    if unknown:
        known = [*fields, *keywords]
        raise TypeError("; ".join(f"unknown option {name!r}{suggestion(name, known)}" for name in unknown))
    mine = {name: value for name, value in options.items() if name in fields}
    process = {name: value for name, value in options.items() if name in keywords}
    if process and target is None:
        raise TypeError(f"{next(iter(process))!r} is an option of a processor, and none is given")
    if isinstance(endpoint, Endpoint):
        if mine:
            raise TypeError(f"{next(iter(mine))!r} is a field of Endpoint; set it on the one that is given")
        return endpoint, process
    return Endpoint(endpoint, **mine), process
