"""The public object: declare connections and processors, run them, and read their counters."""

from __future__ import annotations

import asyncio
import importlib
import os
import types
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any

from wsfleet.core.context import Context, loop_thread_only
from wsfleet.core.errors import ConfigError, FleetError
from wsfleet.core.observer import Observer, load
from wsfleet.core.options import Limits
from wsfleet.core.stats import FleetStats, Totals
from wsfleet.core.topics import check_topic
from wsfleet.endpoint.connection import Connection
from wsfleet.endpoint.services import Services
from wsfleet.fleet.checks import check_fleet
from wsfleet.fleet.control import Control
from wsfleet.fleet.declarations import Declarations
from wsfleet.fleet.declare import Declarer
from wsfleet.fleet.lifecycle import Lifecycle
from wsfleet.fleet.owner import Owner
from wsfleet.fleet.registry import Registry
from wsfleet.fleet.run import run_blocking
from wsfleet.fleet.snapshot import build_stats, snapshot, totals
from wsfleet.pipeline.subscription import Subscription
from wsfleet.transport.base import Transport, WithEndpoints

if TYPE_CHECKING:
    from wsfleet.fleet.reloading import Reloaded

__all__ = ["Fleet", "control_of"]

_LIMITS = Limits()


class Fleet(Declarations):
    """Many WebSocket connections, kept alive in one event loop, and every message accounted for.

    Declare its parts with `connect`, `pool`, `process`, `sink` and `subscribe`, before it starts or while it runs. Run
    it with `run()`, with `await run_async()`, or as `async with fleet:`. A fleet runs once, and belongs to the thread
    of its loop.

    `limits` bounds the load on one host. `drain_s` is how many seconds processors may go on at the end. `transport`
    replaces the network in tests (`wsfleet.testing.FakeTransport`). Raises ConfigError for a bad value.
    """

    def __init__(
        self,
        *,
        name: str = "fleet",
        limits: Limits = _LIMITS,
        drain_s: float = 10.0,
        transport: Transport | None = None,
    ) -> None:
        check_fleet(name, limits, drain_s)
        self.name = name
        self.drain_s = drain_s
        context = Context()
        self._registry = Registry(context, Services(context, limits, transport))
        self._lifecycle = Lifecycle(name, self._registry, drain_s)
        owner = Owner(self._registry, self._lifecycle, drain_s)
        self._declarer = Declarer(self._registry, self._lifecycle, owner)
        self._control = Control(name, self._registry, self._lifecycle, owner, drain_s)
        self.connections: Mapping[str, Connection] = types.MappingProxyType(self._registry.connections)
        self.subscriptions: Mapping[str, Subscription] = self._registry.subscriptions
        if isinstance(transport, WithEndpoints):
            transport._set_endpoints(self.connections)

    def __repr__(self) -> str:
        return f"<Fleet {self.name!r} {self._lifecycle.phase}, {len(self.connections)} connections>"

    @classmethod
    def from_file(cls, path: str | os.PathLike[str]) -> Fleet:
        """Return the fleet that a TOML file describes. Raises ConfigError with every fault of the file, one a line.

        See `wsfleet.config.load`.
        """
        # Packages above this one are loaded by name.
        fleet: Fleet = importlib.import_module("wsfleet.config").load(path)
        return fleet

    def publish(self, topic: str, data: Any) -> int:
        """Publish `data` under `topic`, and return how many subscriptions took it.

        Raises ValueError for a topic with `$`, `*`, `>` or empty tokens, and FleetError once the fleet has ended.
        """
        self._lifecycle.check_open()
        fault = check_topic(topic)
        if fault:
            raise ValueError(fault)
        return self._registry.hub.inject(topic, data)

    # Observing

    def serve_http(self, listen: str = "127.0.0.1:9464", *, token: str | None = None) -> Observer:
        """Serve a status page, `/metrics`, `/healthz`, `/readyz` and reports while the fleet runs and ends.

        Needs the extra `http`. Clients must send `token` if `listen` is not a loopback address, and for every change.
        Port 0 picks a free port; the `address` of the returned object has it. Raises ConfigError for values that
        cannot work. Raises FleetError if the address is in use: here if the fleet runs, otherwise when it starts.
        """
        self._lifecycle.check_declaring()
        observer: Observer = load("status.http", "http").serve(self, listen, token)
        self._lifecycle.observers.add(observer)
        return observer

    @property
    def observers(self) -> tuple[Observer, ...]:
        """The status pages and other observers of this fleet."""
        return tuple(self._lifecycle.observers.all)

    # Running

    async def __aenter__(self) -> Fleet:
        """Start, and return when everything runs. The endpoints then connect by themselves.

        Raises FleetError if the fleet has run before or an address of its observers is in use, and the error of a sink
        that cannot be opened. If cancelled, it ends what it has started.
        """
        await self._lifecycle.start(body=asyncio.current_task())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Drain as `close` does, or end at once on an exception. Return when nothing of the fleet is left.

        Raises EndpointFailed as `run` does. If cancelled, it stops waiting for processors, ends the rest in order, and
        then raises the CancelledError.
        """
        self._lifecycle.check_thread()
        await self._lifecycle.leave(error)

    def run(self) -> None:
        """Run in a new loop until every endpoint has ended, `close()` is called, or a signal comes. Uses uvloop if
        it is installed.

        SIGINT and SIGTERM drain; a second one stops at once and raises KeyboardInterrupt. Raises EndpointFailed if a
        `required` endpoint fails, FleetError if the fleet has run before, and the error of a sink that cannot be
        opened.
        """
        self._lifecycle.check_startable()
        run_blocking(self.run_async, self._lifecycle.ask_to_end)

    async def run_async(self) -> None:
        """Run in the current loop until every endpoint has ended or `close()` is called; does not handle signals.

        For a TaskGroup or gather. Raises as `run`. Cancelling it ends the fleet in order, but without waiting for
        processors; the CancelledError is raised when nothing of the fleet is left.
        """
        await self._lifecycle.start(body=None)
        await self._lifecycle.serve()

    serve = run_async
    """The older name of `run_async`."""

    @loop_thread_only
    async def wait(self) -> None:
        """Wait until every endpoint has ended or `close()` is called. Safe to cancel.

        Raises EndpointFailed when a `required` endpoint fails, and FleetError before the start.
        """
        await self._lifecycle.wait()

    @loop_thread_only
    async def idle(self) -> None:
        """Wait until no message is pending: processors have finished, and loops have taken their messages.

        Mainly for tests. A message that `on_open` has not released is not pending yet. Raises FleetError in a
        processor, whose own message is pending. Safe to cancel.
        """
        if self._registry.context.in_call:
            raise FleetError("idle() was called by a processor or on_open of the fleet: it would wait for its caller")
        await self._registry.idle()

    @loop_thread_only
    async def close(self) -> None:
        """Drain, end the fleet, and wait for the end. Idempotent.

        The drain takes at most `drain_s` seconds, the closing handshakes at most the largest `close_s`. Called by a
        processor or `on_open`, it returns at once, since the end waits for its caller. Cancelling it only stops the
        waiting; the fleet still ends.
        """
        await self._lifecycle.close()

    def from_thread(self, function: Callable[..., Any], *args: Any) -> Any:
        """Call `function(*args)` on the fleet's loop from another thread, and return its result or raise its exception.

        An awaitable result is awaited. Raises FleetError once the fleet has ended, and in the fleet's own thread.
        """
        return self._lifecycle.thread_calls.call(function, args)

    @loop_thread_only
    async def reload(self) -> Reloaded:
        """Read the fleet's configuration file again, and apply what changed. See `wsfleet.config`.

        Endpoints, pools and processors whose entries are unchanged keep their sockets and their pending messages;
        others are opened, drained and closed, or both. Return a line for each change. Raises ConfigError, with nothing
        changed, for every fault of the file, or if the fleet is not from a file. Raises FleetError if another reload
        is running or the fleet does not run. If cancelled, it leaves the remaining changes undone; reload again.
        """
        if self._control.reloader is None:
            raise ConfigError("this fleet was not read from a file; restart its program instead")
        return await self._control.reloader.reload(self)

    # Looking

    def stats(self) -> FleetStats:
        """Return an immutable snapshot of everything that is counted."""
        self._lifecycle.check_thread()
        return build_stats(self._registry, self.name, self._lifecycle.uptime_s)

    @loop_thread_only
    async def snapshot(self) -> FleetStats:
        """Return the same as `stats`, without blocking the loop if there are thousands of endpoints.

        All counters are read at one moment; the rows are made over many iterations of the loop. With ten thousand
        endpoints, `stats` blocks the loop for about 0.1 s. Safe to cancel.
        """
        return await snapshot(self._registry, self.name, self._lifecycle.uptime_s)

    @loop_thread_only
    async def totals(self) -> Totals:
        """Return only the sums, added up over many iterations of the loop. Safe to cancel."""
        return await totals(self._registry)

    def _check_thread(self) -> None:
        self._lifecycle.check_thread()


def control_of(fleet: Fleet) -> Control:
    """Return the interface through which other packages of wsfleet drive `fleet`; not for user programs."""
    return fleet._control
