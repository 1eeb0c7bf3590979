"""From start to end: the root task under which every task of a fleet lives, and who waits for what."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from wsfleet.core import call_scope
from wsfleet.core.accel import note_once
from wsfleet.core.errors import FleetError, NotOpen
from wsfleet.core.message import State
from wsfleet.endpoint.connection import Connection
from wsfleet.endpoint.pool import Pool
from wsfleet.endpoint.supervisor import Supervisor
from wsfleet.fleet.close_part import Part, endpoint_part, pool_part
from wsfleet.fleet.registry import Registry
from wsfleet.fleet.shutdown import Shutdown
from wsfleet.fleet.startup import open_parts, start_endpoints
from wsfleet.pipeline.mailbox import Mailbox
from wsfleet.pipeline.processor import Processor

__all__ = ["Lifecycle"]

_OVER = (State.CLOSED, State.FAILED)


class Lifecycle:
    """One run of one fleet. All of its tasks are children of one TaskGroup, which lives in one root task.

    So the fleet can be entered in one task and left in another, and whoever waits for it can be cancelled without
    tearing it apart.
    """

    def __init__(self, name: str, registry: Registry, drain_s: float) -> None:
        self.phase = "declared"
        self.loop: asyncio.AbstractEventLoop | None = None
        self.thread: int | None = None
        self.ended = False
        self._name = name
        self._registry = registry
        registry.keeper = self
        self._drain_s = drain_s
        self._shutdown = Shutdown(drain_s)
        self._tasks: asyncio.TaskGroup | None = None
        self._root: asyncio.Task[None] | None = None
        self._began_at: float | None = None
        self._ended_at: float | None = None
        self._had_endpoints = False
        # Set when the fleet is to end, or when there may be no endpoint left to wait for.
        self._close = asyncio.Event()
        self._news = asyncio.Event()
        self._kept_open = 0
        self._failure: BaseException | None = None
        self._body: asyncio.Task[Any] | None = None
        self._body_cancelled = False
        self._waiting: set[asyncio.Task[Any] | None] = set()
        self._closings: dict[Supervisor | Pool, asyncio.Task[None]] = {}
        self._until_end: set[asyncio.Task[Any] | None] = set()
        self.thread_calls: set[asyncio.Task[None]] = set()

    # What may be done when

    def check_thread(self) -> None:
        if self.thread is not None and threading.get_ident() != self.thread:
            raise FleetError("a fleet belongs to the thread of its loop; elsewhere use Fleet.from_thread")

    def check_open(self) -> None:
        self.check_thread()
        if self.ended:
            raise FleetError("the fleet has ended")
        self._registry.reap()

    def call_soon(self, function: Callable[[], None]) -> None:
        """Call `function` in the loop's next turn, from any thread; never, where no loop runs."""
        try:
            if self.loop is not None:
                self.loop.call_soon_threadsafe(function)
        except RuntimeError:  # it is closed
            pass

    def check_declaring(self) -> None:
        self.check_open()
        if self._close.is_set():
            raise FleetError("the fleet is ending")

    def check_startable(self) -> None:
        if self._root is not None or self.ended:
            raise FleetError("a fleet runs once")

    # Start

    async def start(self, body: asyncio.Task[Any] | None) -> None:
        """Start the root task, and wait until everything runs. Raises what opening a sink raises."""
        self.check_startable()
        self.loop = asyncio.get_running_loop()
        self.thread = threading.get_ident()
        self._body = body
        self.phase = "starting"
        started: asyncio.Future[None] = self.loop.create_future()
        self._root = self.loop.create_task(self._run(started), name=f"wsfleet-{self._name}")
        self._root.add_done_callback(lambda root: self._never_began(started))
        try:
            await asyncio.shield(started)
        except BaseException as exc:
            if not started.done():
                self._root.cancel()  # out of a sink that does not open
            await self.leave(exc)
            raise

    def _never_began(self, started: asyncio.Future[None]) -> None:
        # A task that is cancelled before its first step runs no line of its coroutine.
        if not self.ended:
            started.cancel()
            self._end_before_start()
            self.thread = None

    async def _run(self, started: asyncio.Future[None]) -> None:
        registry = self._registry
        loop = asyncio.get_running_loop()
        note_once()
        try:
            await open_parts(registry)
            async with asyncio.TaskGroup() as self._tasks:
                sweep = self._tasks.create_task(registry.sweep.run(), name="wsfleet-sweep")
                self._began_at = loop.time()
                self.phase = "running"
                registry.watchdog.start()
                for processor in list(registry.processors.values()):
                    registry.start_worker(processor, self._tasks)
                self._had_endpoints = self._had_endpoints or bool(registry.supervisors)
                await start_endpoints(registry, self._tasks)
                started.set_result(None)
                await self._close.wait()
                self.phase = "ending"
                await self._shutdown.run(
                    list(registry.supervisors.values()), lambda: list(registry.workers), registry.pulled(), registry.hub
                )
                sweep.cancel()
                for closing in self._closings.values():
                    closing.cancel()
        except asyncio.CancelledError:
            started.cancel()
            raise
        except BaseException as exc:
            if started.done():
                raise
            started.set_exception(exc)
        finally:
            await self._clean_up(loop)
            # What is over belongs to no thread: whoever waited for it may look at it.
            self.thread = None

    async def _clean_up(self, loop: asyncio.AbstractEventLoop) -> None:
        registry = self._registry
        self._tasks = None
        self.ended = True
        self.phase = "ended"
        self._ended_at = loop.time()
        self.ask_to_end()
        registry.watchdog.stop()
        registry.hub.close()
        for each in {**dict.fromkeys(registry.processors.values()), **dict.fromkeys(registry.unclosed)}:
            await each.close()
        if hasattr(registry, "transport"):
            await registry.transport.aclose()
        await registry.observers.stop()
        # Transports close their sockets in the loop's next turn.
        await asyncio.sleep(0)
        await self._dismiss_guests()

    async def _dismiss_guests(self) -> None:
        """Leave no call of another thread behind; those that wait for this very end have seen it in a moment."""
        thread_calls = self.thread_calls - self._until_end
        for guest in thread_calls:
            guest.cancel()
        if thread_calls:
            await asyncio.wait(thread_calls)

    def added(self, connection: Connection, supervisor: Supervisor, processor: Processor | None) -> Connection:
        """Start what was declared while the fleet runs."""
        if self._tasks is not None:
            if processor is not None:
                self._registry.start_worker(processor, self._tasks)
            self._had_endpoints = True
            supervisor.start(self._tasks)
        return connection

    def added_pool(self, pool: Pool, processor: Processor | None) -> Pool:
        """The same for a pool."""
        if processor is not None:
            self.started_processor(processor)
        for connection, supervisor in zip(pool.connections, pool.supervisors, strict=True):
            self.added(connection, supervisor, None)
        return pool

    def started_processor(self, processor: Processor) -> None:
        """The same for a processor."""
        if self._tasks is not None:
            self._registry.start_worker(processor, self._tasks)

    # Waiting and ending

    async def serve(self) -> None:
        try:
            await self._until_over()
        except BaseException:
            await self._finish(drain=False)
            raise
        await self._finish(drain=True)
        self._raise_failure()

    async def leave(self, error: BaseException | None) -> None:
        """The context's end: drains, or ends at once on an exception, which goes its way as it is."""
        if self._body_cancelled and self._body is not None:
            # We cancelled the body to get here; a cancellation that somebody else asked for still counts.
            self._body_cancelled = False
            ours = self._body.uncancel() == 0 and isinstance(error, asyncio.CancelledError)
            await self._finish(drain=False)
            if ours or error is None:
                self._raise_failure()
            return
        await self._finish(drain=error is None)
        if error is None:
            self._raise_failure()

    async def wait(self) -> None:
        if self._root is None and not self.ended:
            raise FleetError("the fleet has not started")
        task = asyncio.current_task()
        self._waiting.add(task)
        try:
            await self._until_over()
        finally:
            self._waiting.discard(task)
        if isinstance(self._failure, KeyboardInterrupt | SystemExit):
            await self._until_ended()  # it stops the loop on the spot
        self._raise_failure()

    async def close(self) -> None:
        if self._root is None:
            self._end_before_start()
            return
        self.ask_to_end()
        await self._until_ended()

    def ask_to_end(self) -> None:
        """Let the end begin."""
        self._close.set()
        self._news.set()

    def _end_before_start(self) -> None:
        self.ended = True
        self.phase = "ended"
        self._close.set()
        for supervisor in self._registry.supervisors.values():
            supervisor.let_go()
        self._registry.hub.close()

    async def _until_ended(self) -> None:
        """Wait for the end, where that does not wait for the caller in turn."""
        root = self._root
        if root is None or root.done() or call_scope.is_inside(self._registry):
            return
        task = asyncio.current_task()
        self._until_end.add(task)
        try:
            await asyncio.wait({root})
        finally:
            self._until_end.discard(task)

    def enter(self, thread: threading.Thread) -> None:
        """Where `thread` makes a processor's calls: its own call to the loop is inside the fleet, too."""
        if any(thread in p.threads for p in self._registry.workers):
            call_scope.enter(self._registry)

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise self._failure

    async def _until_over(self) -> None:
        """Wait until the fleet is to end, or every endpoint has ended."""
        while not self._close.is_set():
            states = [s.state for s in self._registry.supervisors.values()]
            if (
                self._had_endpoints
                and all(state in _OVER for state in states)
                and not (self._closings or self._kept_open)
            ):
                return
            self._news.clear()
            await self._news.wait()

    @contextmanager
    def kept_open(self) -> Iterator[None]:
        """Within it the fleet does not end because no endpoint is left: others are to come."""
        self._kept_open += 1
        try:
            yield
        finally:
            self._kept_open -= 1
            self._news.set()

    async def _finish(self, *, drain: bool) -> None:
        """End the fleet and wait for the root task, come what may; a cancellation meanwhile only makes it hurry."""
        if not drain:
            self._shutdown.hurry()
        self.ask_to_end()
        cancelled: asyncio.CancelledError | None = None
        root = self._root
        if root is None:
            return
        while not root.done():
            try:
                await asyncio.wait({root})
            except asyncio.CancelledError as exc:
                cancelled = exc
                self._shutdown.hurry()
        if cancelled is not None:
            raise cancelled
        if not root.cancelled():
            root.result()

    # What endpoints and connections ask

    def endpoint_ended(self, supervisor: Supervisor) -> None:
        if supervisor.state is State.FAILED and supervisor.endpoint.required and not self._close.is_set():
            self._end_with(supervisor.failure())
        self._news.set()

    def request_exit(self, wish: BaseException) -> None:
        """End at once, and let whoever waits for the fleet raise the KeyboardInterrupt or SystemExit."""
        self._end_with(wish)

    def _end_with(self, failure: BaseException) -> None:
        self._failure = failure
        self._shutdown.hurry()
        body = self._body
        if body is not None and not body.done() and body not in self._waiting and not self._close.is_set():
            self._body_cancelled = True
            body.cancel()
        self.ask_to_end()

    def open_loop(self, supervisor: Supervisor) -> Mailbox:
        mailbox = self._registry.open_loop(supervisor)
        if supervisor.state in _OVER:
            mailbox.finish()
        return mailbox

    @property
    def ending(self) -> bool:
        """Whether the end has begun, or is over."""
        return self._close.is_set()

    def abandon(self, mailbox: Mailbox) -> None:
        self._registry.abandon(mailbox)

    def restart_endpoint(self, supervisor: Supervisor) -> None:
        if self._close.is_set() or supervisor.state is State.CLOSED or supervisor.stopping:
            raise NotOpen(f"{supervisor.name} is closed")
        if supervisor.state is not State.FAILED:
            supervisor.restart()
            return
        supervisor.forgive()
        for mailbox in self._registry.own[supervisor]:
            mailbox.reopen()
        if self._tasks is not None:
            supervisor.start(self._tasks)

    async def close_endpoint(self, supervisor: Supervisor) -> None:
        await self._close_part(endpoint_part(self._registry, supervisor))

    async def close_pool(self, pool: Pool) -> None:
        await self._close_part(pool_part(self._registry, pool))

    async def _close_part(self, part: Part | None) -> None:
        """Close endpoints while the fleet goes on, and wait for it; whoever the fleet waits for only asks."""
        if part is None:
            return
        if self._close.is_set():
            await self._until_ended()
            return
        if self._tasks is None:  # not started yet
            part.let_go()
            return
        ending = self._closings.get(part.handle)
        if ending is None:
            ending = self._tasks.create_task(self._closing(part), name=f"wsfleet-{part.handle.name}-close")
            self._closings[part.handle] = ending
        if not call_scope.is_inside(self._registry):
            await asyncio.wait({ending})

    async def _closing(self, part: Part) -> None:
        try:
            await part.close(self._drain_s)
        finally:
            if not self._close.is_set():
                part.let_go()
            self._closings.pop(part.handle, None)
            self._news.set()

    # Looking

    @property
    def uptime_s(self) -> float:
        """For how long it has run, or ran."""
        if self.loop is None or self._began_at is None:
            return 0.0
        return (self.loop.time() if self._ended_at is None else self._ended_at) - self._began_at
