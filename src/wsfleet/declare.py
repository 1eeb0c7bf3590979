"""What has been declared: endpoints, processors and subscriptions, under their names."""

from __future__ import annotations

import asyncio
import logging
import math
import weakref
from collections import deque
from collections.abc import Iterator, Mapping
from typing import Any

from wsfleet.connection import Connection, Keeper
from wsfleet.decoding import compile_intake
from wsfleet.errors import ConfigError
from wsfleet.governor import Governor, host_of
from wsfleet.hub import Hub
from wsfleet.liveness import Sweep
from wsfleet.mailbox import Mailbox
from wsfleet.names import Names
from wsfleet.options import Buffer, Endpoint, EndpointOptions, Limits, Overflow, ProcessorOptions
from wsfleet.processor import Function, Processor, Sink, check_processor, default_name, is_sink
from wsfleet.stats import EndpointStats, add_rows
from wsfleet.subscription import Subscription
from wsfleet.supervisor import Services, Supervisor
from wsfleet.topics import check_pattern, check_topic
from wsfleet.wire.base import Transport

__all__ = ["Declarations", "check_fleet", "check_process_options", "not_yet"]

log = logging.getLogger("wsfleet")

_DEFAULTS: dict[str, Any] = {
    "concurrency": 1,
    "key": None,
    "batch": None,
    "retry": None,
    "timeout_s": None,
    "offload": None,
}


def not_yet(what: str) -> ConfigError:
    """Return the error for what the contract names and this version does not do."""
    return ConfigError(f"{what} is not supported yet", ((what, "is not supported yet"),))


def check_fleet(name: str, limits: Limits, drain_s: float) -> None:
    """Raise ConfigError where a fleet's own options cannot work."""
    if not isinstance(name, str) or not name:
        raise ConfigError(f"Fleet: name must be a str, not {name!r}", (("name", "must be a str"),))
    if not isinstance(limits, Limits):
        raise ConfigError(f"Fleet: limits must be Limits, not {limits!r}", (("limits", "must be Limits"),))
    number = isinstance(drain_s, int | float) and not isinstance(drain_s, bool) and math.isfinite(drain_s)
    if not number or drain_s < 0:
        fault = f"must be a number of seconds from 0, not {drain_s!r}"
        raise ConfigError(f"Fleet: drain_s {fault}", (("drain_s", fault),))


def check_process_options(options: dict[str, Any]) -> None:
    """Raise ConfigError for a processor's options that cannot work, or not yet."""
    _check_buffer(options.get("buffer", Buffer()))
    for name, default in _DEFAULTS.items():
        if options.get(name, default) != default:
            raise not_yet(name)


def _check_buffer(buffer: Buffer) -> None:
    if not isinstance(buffer, Buffer):
        raise ConfigError(f"buffer must be a Buffer, not {buffer!r}", (("buffer", "must be a Buffer"),))
    if buffer.overflow not in (Overflow.PAUSE, Overflow.DROP_OLDEST):
        raise not_yet(f"overflow = {buffer.overflow.value!r}")


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


class Declarations(Services):
    """The parts of a fleet, and how they come and go. Nothing here runs anything."""

    def __init__(self, limits: Limits, transport: Transport | None) -> None:
        self.hub = Hub()
        self.governor = Governor(limits)
        self.sweep = Sweep()
        if transport is not None:
            self.transport = transport
        self.has_transport = transport is not None
        self.names = Names()
        self.keeper: Keeper
        self.workers: set[Processor] = set()
        self.unclosed: set[Processor] = set()
        self.connections: dict[str, Connection] = {}
        self.subscriptions = _Subscriptions()
        self.supervisors: dict[str, Supervisor] = {}
        self.processors: dict[Mailbox, Processor] = {}
        self.own: dict[Supervisor, list[Mailbox]] = {}
        self.retired_endpoints: EndpointStats | None = None
        self.abandoned: deque[Mailbox] = deque()

    # Endpoints

    def connect(
        self, endpoint: Endpoint | str, target: Function | Sink | None, options: dict[str, Any]
    ) -> tuple[Connection, Supervisor, Processor | None]:
        """Declare an endpoint, and its own processor where there is one."""
        endpoint, process = _split(endpoint, target, options)
        if endpoint.keep_last:
            raise not_yet("keep_last")
        if target is not None:
            self._check_target(target)
            check_process_options(process)
        compile_intake(endpoint, "x")  # so that a fault costs no name
        default = host_of(endpoint.uri) if isinstance(endpoint.uri, str) else "endpoint"
        name = self.names.take(endpoint.name, default)
        supervisor = Supervisor(endpoint, compile_intake(endpoint, name), self)
        connection = Connection(supervisor, self.keeper)
        self.supervisors[name] = supervisor
        self.connections[name] = connection
        self.own[supervisor] = []
        processor = None
        if target is not None:
            mailbox = self.hub.add(name, ">", process.get("buffer", Buffer()), endpoint=name)
            self.own[supervisor].append(mailbox)
            processor = self._processor(mailbox, target)
        return connection, supervisor, processor

    def open_loop(self, supervisor: Supervisor) -> Mailbox:
        """Return a new mailbox for loops over one endpoint's messages."""
        name = self.names.take(None, f"{supervisor.name}-iter")
        if supervisor.name not in self.supervisors or self.supervisors[supervisor.name] is not supervisor:
            self.names.free(name)
            ended = Mailbox(name, ">", Buffer(), lambda mailbox, message: None)
            ended.finish()
            return ended
        mailbox = self.hub.add(name, ">", Buffer(), endpoint=supervisor.name)
        self.own[supervisor].append(mailbox)
        self.subscriptions.kept[name] = Subscription(mailbox, self, kept=True)
        return mailbox

    def forget(self, supervisor: Supervisor) -> None:
        """An endpoint was closed while the fleet runs: its name is free again, its counts stay."""
        if self.supervisors.get(supervisor.name) is not supervisor:
            return
        for mailbox in self.own.pop(supervisor):
            self.remove(mailbox, drop=mailbox in self.processors)
        del self.supervisors[supervisor.name], self.connections[supervisor.name]
        for mailbox in tuple(supervisor.feed.paused_by):
            mailbox.forget(supervisor.feed)
        self.hub.forget_endpoint(supervisor.name)
        self.names.free(supervisor.name)
        self.retired_endpoints = add_rows(self.retired_endpoints, supervisor.stats())

    # Subscriptions

    def process(self, pattern: str, target: Any, name: str | None, options: dict[str, Any]) -> Processor:
        """Declare a processor over a pattern."""
        _check_pattern(pattern)
        self._check_target(target)
        name = self.names.take(name, default_name(target))
        return self._processor(self.hub.add(name, pattern, options["buffer"]), target)

    def subscribe(self, pattern: str, name: str | None, buffer: Buffer, replay: str | None) -> Subscription:
        """Declare a subscription that the user loops over."""
        _check_pattern(pattern)
        _check_buffer(buffer)
        if replay is not None:
            raise not_yet("replay")
        name = self.names.number("sub") if name is None else self.names.take(name, name)
        subscription = Subscription(self.hub.add(name, pattern, buffer), self)
        self.subscriptions.pulled[name] = subscription
        return subscription

    def _check_target(self, target: Any) -> None:
        check_processor(target)
        if is_sink(target) and any(processor.sink is target for processor in self.processors.values()):
            raise ConfigError(f"{target!r} has a subscription already; open another sink for this one")

    def _processor(self, mailbox: Mailbox, target: Function | Sink) -> Processor:
        processor = self.processors[mailbox] = Processor(mailbox, target, self.hub, self.remove)
        self.subscriptions.kept[mailbox.name] = Subscription(mailbox, self, pull=False, kept=True)
        return processor

    def remove(self, mailbox: Mailbox, *, drop: bool = True) -> None:
        """Take a subscription out. Idempotent; what the fleet's own end has closed stays to be seen."""
        if mailbox.closed and self.keeper.ending:
            return
        endpoint = self.hub.owner(mailbox)
        if not self.hub.remove(mailbox, drop=drop):
            return
        self.subscriptions.kept.pop(mailbox.name, None)
        self.subscriptions.pulled.pop(mailbox.name, None)
        self.processors.pop(mailbox, None)
        supervisor = self.supervisors.get(endpoint or "")
        if supervisor in self.own:
            self.own[supervisor].remove(mailbox)
        # An endpoint's own processor has its name.
        if mailbox.name != endpoint:
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

    def exit_asked(self, wish: BaseException) -> None:
        self.keeper.exit_asked(wish)

    def endpoint_ended(self, supervisor: Supervisor) -> None:
        """An endpoint is CLOSED or FAILED: loops over it end when they have had what is pending."""
        for mailbox in self.own.get(supervisor, ()):
            if mailbox not in self.processors:
                mailbox.finish()
        self.keeper.endpoint_ended(supervisor)

    def start_worker(self, processor: Processor, tasks: asyncio.TaskGroup) -> None:
        """Set a processor to work. It is known until its last call is done, even when its subscription is gone."""
        run = self._work(processor)
        try:
            processor.task = tasks.create_task(run, name=f"wsfleet-{processor.mailbox.name}-processor")
        except RuntimeError:  # everything is being cancelled
            run.close()
            return
        self.workers.add(processor)
        processor.task.add_done_callback(lambda task: self._worker_ended(processor, task, tasks))

    async def _work(self, processor: Processor) -> None:
        try:
            await processor.run()
        except (KeyboardInterrupt, SystemExit) as exc:
            # Raised on, it would stop the loop on the spot, and nobody would close what is open.
            self.exit_asked(exc)

    def _worker_ended(self, processor: Processor, task: asyncio.Task[None], tasks: asyncio.TaskGroup) -> None:
        self.workers.discard(processor)
        if task.cancelled() and not processor.mailbox.closed:
            # Not by the fleet, which closes the mailbox first. Without a worker it would be full for ever.
            log.warning("%s: its task was cancelled from outside; it goes on in another", processor.mailbox.name)
            self.start_worker(processor, tasks)
        elif processor.opened:
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


def _check_pattern(pattern: str) -> None:
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
        raise TypeError(f"unknown option {unknown[0]!r}")
    mine = {name: value for name, value in options.items() if name in fields}
    process = {name: value for name, value in options.items() if name in keywords}
    if process and target is None:
        raise TypeError(f"{next(iter(process))!r} is an option of a processor, and none is given")
    if isinstance(endpoint, Endpoint):
        if mine:
            raise TypeError(f"{next(iter(mine))!r} is a field of Endpoint; set it on the one that is given")
        return endpoint, process
    return Endpoint(endpoint, **mine), process
