"""The parts of one fleet: endpoints, pools, processors and subscriptions under their names.

It is passive: it adds, finds and removes parts and keeps the counts of those removed. It starts no task and knows
nothing of the fleet's life.
"""

from __future__ import annotations

import logging
import weakref
from collections import deque
from collections.abc import Iterator, Mapping

from wsfleet.core.context import Context
from wsfleet.core.message import State
from wsfleet.core.options import Buffer, Endpoint
from wsfleet.core.stats import EndpointStats, add_rows
from wsfleet.core.topics import compile_pattern
from wsfleet.endpoint.connection import Connection
from wsfleet.endpoint.decode import compile_factory
from wsfleet.endpoint.pool import Pool
from wsfleet.endpoint.services import Services
from wsfleet.endpoint.supervisor import Supervisor
from wsfleet.fleet.names import Names
from wsfleet.pipeline.handler import Function, Plan, Sink
from wsfleet.pipeline.mailbox import Mailbox
from wsfleet.pipeline.processor import Processor
from wsfleet.pipeline.subscription import Subscription

__all__ = ["Registry"]

log = logging.getLogger("wsfleet")


class _Subscriptions(Mapping[str, Subscription]):
    """Subscriptions by name. Those that the user loops over are held by the user alone."""

    def __init__(self) -> None:
        self.kept: dict[str, Subscription] = {}
        self.pulled: weakref.WeakValueDictionary[str, Subscription] = weakref.WeakValueDictionary()

    def __getitem__(self, name: str) -> Subscription:
        return self.kept[name] if name in self.kept else self.pulled[name]

    def __iter__(self) -> Iterator[str]:
        return iter([*self.kept, *self.pulled])

    def __len__(self) -> int:
        return len(self.kept) + len(self.pulled)


class Registry:
    """The parts of one fleet. See the module."""

    def __init__(self, context: Context, services: Services) -> None:
        self.context = context
        self.services = services
        self.hub = services.hub
        self.names = Names()
        self.connections: dict[str, Connection] = {}
        self.pools: dict[str, Pool] = {}
        self.members: dict[Pool, tuple[Supervisor, ...]] = {}
        self.supervisors: dict[str, Supervisor] = {}
        self.subscriptions = _Subscriptions()
        self.processors: dict[Mailbox, Processor] = {}
        self.own: dict[Supervisor, list[Mailbox]] = {}
        """For each endpoint, the mailboxes that take its messages and nothing else."""
        self.retired_endpoints: EndpointStats | None = None
        self._abandoned: deque[Mailbox] = deque()

    # Endpoints

    def add_endpoint(self, endpoint: Endpoint, name: str, topic: str | None) -> Supervisor:
        """Add an endpoint under a name that was taken."""
        supervisor = Supervisor(endpoint, compile_factory(endpoint, name, topic), self.services)
        self.supervisors[name] = supervisor
        self.own[supervisor] = []
        return supervisor

    def add_own_processor(
        self, supervisors: tuple[Supervisor, ...], name: str, buffer: Buffer, target: Function | Sink, plan: Plan
    ) -> Processor:
        """Add a processor for all messages of these endpoints."""
        return self._add_processor(self._own_mailbox(supervisors, name, buffer), target, plan)

    def open_loop(self, supervisor: Supervisor, buffer: Buffer) -> Mailbox:
        """Return a new mailbox for loops over one endpoint's messages, with those that were kept for the first."""
        name = self.names.take(None, f"{supervisor.name}-iter")
        if self.supervisors.get(supervisor.name) is not supervisor:
            self.names.free(name)
            ended = Mailbox(name, ">", Buffer(), lambda mailbox, message: None)
            ended.finish()
            return ended
        mailbox = self._own_mailbox((supervisor,), name, buffer)
        self.subscriptions.kept[name] = Subscription(mailbox, self, kept=True)
        supervisor.ingest.hand_over_early(mailbox)
        if supervisor.state in (State.CLOSED, State.FAILED):
            mailbox.finish()
        return mailbox

    def finish_loops(self, supervisor: Supervisor) -> None:
        """The endpoint is CLOSED or FAILED: end its loops after what is pending."""
        for mailbox in self.own.get(supervisor, ()):
            if mailbox not in self.processors:
                mailbox.finish()

    def reopen_loops(self, supervisor: Supervisor) -> None:
        """The endpoint leaves FAILED: its loops go on."""
        for mailbox in self.own[supervisor]:
            mailbox.reopen()

    def remove_endpoint(self, supervisor: Supervisor) -> None:
        """Remove an endpoint: its name is free again, its counts go into the retired row. Idempotent."""
        if self.supervisors.get(supervisor.name) is not supervisor:
            return
        for mailbox in self.own.pop(supervisor):
            self.remove(mailbox, drop=mailbox in self.processors)
        supervisor.ingest.release_early()
        del self.supervisors[supervisor.name], self.connections[supervisor.name]
        for mailbox in tuple(supervisor.ingest.paused_by):
            mailbox.forget(supervisor.ingest)
        self.hub.forget_endpoint(supervisor.name)
        self.hub.disown(supervisor.name)
        self.names.free(supervisor.name)
        self.retired_endpoints = add_rows(self.retired_endpoints, supervisor.stats())

    def add_pool(self, pool: Pool, members: tuple[Supervisor, ...]) -> None:
        """Add a pool, whose members were added before."""
        self.pools[pool.name] = pool
        self.members[pool] = members

    def remove_pool(self, pool: Pool) -> None:
        """Remove a pool, its members and its own processor."""
        for mailbox in self.pool_mailboxes(pool):
            self.remove(mailbox)
        for supervisor in self.members.pop(pool, ()):
            self.remove_endpoint(supervisor)
        if self.pools.get(pool.name) is pool:
            del self.pools[pool.name]
            self.names.free(pool.name)

    def pool_mailboxes(self, pool: Pool) -> list[Mailbox]:
        """Return the mailbox of the pool's own processor, if there is one."""
        return [mailbox for mailbox in self.hub.mailboxes() if mailbox.name == pool.name]

    def forget_unstarted(self) -> None:
        """Keep no rows of parts that were removed before the start: they have counted nothing."""
        self.retired_endpoints = None
        self.hub.forget_unused()

    # Processors and subscriptions

    def add_processor(self, name: str, pattern: str, buffer: Buffer, target: Function | Sink, plan: Plan) -> Processor:
        """Add a processor for a pattern that was checked, under a name that was taken."""
        return self._add_processor(self._mailbox(name, pattern, buffer), target, plan)

    def add_subscription(self, name: str, pattern: str, buffer: Buffer, *, replay: bool) -> Subscription:
        """Add a subscription that the user loops over; with `replay`, after the messages that endpoints have kept."""
        mailbox = self._mailbox(name, pattern, buffer)
        subscription = Subscription(mailbox, self)
        self.subscriptions.pulled[name] = subscription
        if replay:
            matches = compile_pattern(pattern)
            kept = [m for s in self.supervisors.values() for m in s.ingest.kept.values() if matches(m.topic)]
            self.hub.replay(mailbox, sorted(kept, key=lambda message: message.received_at))
        return subscription

    def has_sink(self, sink: object) -> bool:
        """Whether `sink` has a subscription already."""
        return any(processor.sink is sink for processor in self.processors.values())

    def remove(self, mailbox: Mailbox, *, drop: bool = True) -> None:
        """Remove a subscription. Idempotent; those that the fleet's own end has closed stay visible."""
        ended = self.context.ending.is_set() and mailbox.closed and mailbox.error is None
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
        # The own processor of an endpoint or pool has the name of that.
        if mailbox.name not in owners and mailbox.name not in self.pools:
            self.names.free(mailbox.name)

    def check_thread(self) -> None:
        """See `Context.check_thread`."""
        self.context.check_thread()

    def abandon(self, mailbox: Mailbox) -> None:
        """Remove soon a subscription that nobody holds any more.

        The garbage collector calls this, in any thread and in the middle of anything; so the removal waits for the
        next iteration of the loop, or for `reap`.
        """
        self._abandoned.append(mailbox)
        self.context.call_soon(self.reap)

    def reap(self) -> None:
        """Remove what was abandoned."""
        while self._abandoned:
            self.remove(self._abandoned.popleft())

    async def idle(self) -> None:
        """Wait until no message is pending in any mailbox. Safe to cancel."""
        # The last message of one processor may be published again for another: until all are idle at the same time.
        while busy := next((mailbox for mailbox in self.hub.mailboxes() if mailbox.pending), None):
            await busy.idle()

    def pulled(self) -> list[Mailbox]:
        """Return the mailboxes that no processor empties."""
        return [mailbox for mailbox in self.hub.mailboxes() if mailbox not in self.processors]

    def _own_mailbox(self, supervisors: tuple[Supervisor, ...], name: str, buffer: Buffer) -> Mailbox:
        mailbox = self.hub.add(name, ">", buffer, tuple(s.name for s in supervisors))
        mailbox.on_overflow = self.remove
        if len(supervisors) == 1:
            self.own[supervisors[0]].append(mailbox)
        return mailbox

    def _mailbox(self, name: str, pattern: str, buffer: Buffer) -> Mailbox:
        mailbox = self.hub.add(name, pattern, buffer)
        mailbox.on_overflow = self.remove
        return mailbox

    def _add_processor(self, mailbox: Mailbox, target: Function | Sink, plan: Plan) -> Processor:
        processor = self.processors[mailbox] = Processor(mailbox, target, plan, self.hub, self.remove)
        self.subscriptions.kept[mailbox.name] = Subscription(mailbox, self, pull=False, kept=True)
        return processor
