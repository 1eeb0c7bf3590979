"""The life of a fleet, from start to end. It owns the tasks."""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from typing import Any

from wsfleet.core.accel import note_once
from wsfleet.core.errors import FleetError
from wsfleet.core.message import State
from wsfleet.core.observer import Observers
from wsfleet.endpoint.supervisor import Supervisor
from wsfleet.fleet.from_thread import ThreadCalls
from wsfleet.fleet.registry import Registry
from wsfleet.fleet.shutdown import Shutdown
from wsfleet.fleet.worker_tasks import WorkerTasks
from wsfleet.pipeline.processor import Processor
from wsfleet.transport import open_files

__all__ = ["Lifecycle"]

_OVER = (State.CLOSED, State.FAILED)

START = 50
"""Endpoints started in one iteration of the loop."""


class Lifecycle:
    """One run of one fleet. All its tasks are children of one TaskGroup, which lives in one root task.

    So a fleet can be entered in one task and left in another, and a task that waits for it can be cancelled without
    tearing it apart.
    """

    def __init__(self, name: str, registry: Registry, drain_s: float) -> None:
        self.phase = "declared"
        self.observers = Observers()
        self.workers = WorkerTasks(registry.context)
        self.thread_calls = ThreadCalls(registry.context, self.workers)
        self._name = name
        self._registry = registry
        self._context = registry.context
        self._context.on_exit(self._end_with)
        self._drain_s = drain_s
        self._shutdown = Shutdown(drain_s)
        self._tasks: asyncio.TaskGroup | None = None
        self._root: asyncio.Task[None] | None = None
        self._began_at: float | None = None
        self._ended_at: float | None = None
        self._had_endpoints = False
        # Set when the fleet is to end, or when there may be no endpoint left to wait for.
        self._changed = asyncio.Event()
        self._kept_open = 0
        self._failure: BaseException | None = None
        self._body: asyncio.Task[Any] | None = None
        self._body_cancelled = False
        self._waiting: set[asyncio.Task[Any] | None] = set()
        self._until_end: set[asyncio.Task[Any] | None] = set()
        self._helpers: set[asyncio.Task[None]] = set()

    # Preconditions

    def check_thread(self) -> None:
        """Raise FleetError in any thread but the loop's."""
        self._context.check_thread()

    def check_open(self) -> None:
        """Raise FleetError after the end."""
        self.check_thread()
        if self._context.ended:
            raise FleetError("the fleet has ended")
        self._registry.reap()

    def check_declaring(self) -> None:
        """Raise FleetError when nothing more can be declared."""
        self.check_open()
        if self.ending:
            raise FleetError("the fleet is ending")

    def check_startable(self) -> None:
        """Raise FleetError for a second start."""
        if self._root is not None or self._context.ended:
            raise FleetError("a fleet runs once")

    @property
    def ending(self) -> bool:
        """Whether the end has begun, or is over."""
        return self._context.ending.is_set()

    @property
    def uptime_s(self) -> float:
        """For how many seconds the fleet has run, or ran."""
        loop = self._context.loop
        if loop is None or self._began_at is None:
            return 0.0
        return (loop.time() if self._ended_at is None else self._ended_at) - self._began_at

    # Start

    async def start(self, body: asyncio.Task[Any] | None) -> None:
        """Start the root task, and wait until everything runs. Raises what opening a sink raises."""
        self.check_startable()
        self._context.bind()
        self._body = body
        self.phase = "starting"
        loop = asyncio.get_running_loop()
        started: asyncio.Future[None] = loop.create_future()
        self._root = loop.create_task(self._run(started), name=f"wsfleet-{self._name}")
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
        if not self._context.ended:
            started.cancel()
            self._end_before_start()
            self._context.unbind()

    async def _run(self, started: asyncio.Future[None]) -> None:
        registry = self._registry
        loop = asyncio.get_running_loop()
        note_once()
        try:
            await self._open_parts()
            async with asyncio.TaskGroup() as self._tasks:
                sweep = self._tasks.create_task(registry.services.sweep.run(), name="wsfleet-sweep")
                self._began_at = loop.time()
                self.phase = "running"
                registry.services.watchdog.start()
                for processor in list(registry.processors.values()):
                    self.workers.start(processor, self._tasks)
                self._had_endpoints = self._had_endpoints or bool(registry.supervisors)
                await self._start_endpoints(self._tasks)
                started.set_result(None)
                await self._context.ending.wait()
                self.phase = "ending"
                await self._shutdown.run(
                    list(registry.supervisors.values()),
                    lambda: list(self.workers.processors),
                    registry.pulled(),
                    registry.hub,
                )
                sweep.cancel()
                for helper in self._helpers:
                    helper.cancel()
        except asyncio.CancelledError:
            started.cancel()
            raise
        except BaseException as exc:
            if started.done():
                raise
            started.set_exception(exc)
        finally:
            await self._clean_up(loop)
            self._context.unbind()

    async def _open_parts(self) -> None:
        """Open what the endpoints need. Raises what opening a sink raises, or FleetError for an address in use."""
        registry = self._registry
        for processor in list(registry.processors.values()):
            processor.check_not_importing()
        if not registry.services.has_transport:
            # The adapter is a leaf, loaded by name.
            adapter = importlib.import_module("wsfleet.transport.websockets")
            registry.services.transport = adapter.WebSocketTransport()
            open_files.check(len(registry.supervisors))
        await self.observers.start()
        for processor in list(registry.processors.values()):
            await processor.open()

    async def _start_endpoints(self, tasks: asyncio.TaskGroup) -> None:
        """Start the endpoints that were declared before the start, a few at a time."""
        for number, supervisor in enumerate(list(self._registry.supervisors.values()), 1):
            # It may have been closed meanwhile.
            if supervisor.state not in _OVER and not supervisor.stopping:
                self._supervise(supervisor, tasks)
            if number % START == 0:
                await asyncio.sleep(0)

    async def _clean_up(self, loop: asyncio.AbstractEventLoop) -> None:
        registry = self._registry
        self._tasks = None
        self._context.ended = True
        self.phase = "ended"
        self._ended_at = loop.time()
        self.ask_to_end()
        registry.services.watchdog.stop()
        registry.hub.close()
        for each in {**dict.fromkeys(registry.processors.values()), **dict.fromkeys(self.workers.unclosed)}:
            await each.close()
        if registry.services.has_transport:
            await registry.services.transport.aclose()
        await self.observers.stop()
        # Transports close their sockets in the loop's next iteration.
        await asyncio.sleep(0)
        # A call that waits for this very end sees it in a moment.
        await self.thread_calls.cancel(keep=self._until_end)

    # Parts that are declared while the fleet runs

    def start_processor(self, processor: Processor) -> None:
        """Start a processor if the fleet runs."""
        if self._tasks is not None:
            self.workers.start(processor, self._tasks)

    def start_endpoint(self, supervisor: Supervisor) -> None:
        """Start an endpoint if the fleet runs."""
        if self._tasks is not None:
            self._had_endpoints = True
            self._supervise(supervisor, self._tasks)

    def start_helper(self, run: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None] | None:
        """Run a coroutine beside the endpoints; None if the fleet does not run. Until it is done the fleet stays open.

        The end of the fleet cancels it.
        """
        if self._tasks is None:
            run.close()
            return None
        task = self._tasks.create_task(run, name=name)
        self._helpers.add(task)
        task.add_done_callback(self._helper_done)
        return task

    def _helper_done(self, task: asyncio.Task[None]) -> None:
        self._helpers.discard(task)
        self._changed.set()

    def let_go(self, supervisor: Supervisor) -> None:
        """Make an endpoint CLOSED that has no task."""
        if supervisor.let_go():
            self._endpoint_ended(supervisor)

    def _supervise(self, supervisor: Supervisor, tasks: asyncio.TaskGroup) -> None:
        supervisor.start(tasks, self._endpoint_ended)

    def _endpoint_ended(self, supervisor: Supervisor) -> None:
        self._registry.finish_loops(supervisor)
        if supervisor.state is State.FAILED and supervisor.endpoint.required and not self.ending:
            self._end_with(supervisor.failure())
        self._changed.set()

    # Waiting and ending

    async def serve(self) -> None:
        """Wait until the fleet is to end, and end it."""
        try:
            await self._until_over()
        except BaseException:
            await self._finish(drain=False)
            raise
        await self._finish(drain=True)
        self._raise_failure()

    async def leave(self, error: BaseException | None) -> None:
        """End the context: drain, or on an exception, which is raised as it is, end at once."""
        if self._body_cancelled and self._body is not None:
            # We cancelled the body to get here; a cancellation by others still counts.
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
        """Wait until every endpoint has ended, or for the end of the fleet."""
        if self._root is None and not self._context.ended:
            raise FleetError("the fleet has not started")
        task = asyncio.current_task()
        self._waiting.add(task)
        try:
            await self._until_over()
        finally:
            self._waiting.discard(task)
        if isinstance(self._failure, KeyboardInterrupt | SystemExit):
            await self.until_ended()  # raised here, it stops the loop at once
        self._raise_failure()

    async def close(self) -> None:
        """Ask for the end, and wait for it."""
        if self._root is None:
            self._end_before_start()
            return
        self.ask_to_end()
        await self.until_ended()

    def ask_to_end(self) -> None:
        """Let the end begin."""
        self._context.ending.set()
        self._changed.set()

    def _end_before_start(self) -> None:
        self._context.ended = True
        self.phase = "ended"
        self._context.ending.set()
        for supervisor in self._registry.supervisors.values():
            self.let_go(supervisor)
        self._registry.hub.close()

    async def until_ended(self) -> None:
        """Wait for the end, unless the end waits for the caller."""
        root = self._root
        if root is None or root.done() or self._context.in_call:
            return
        task = asyncio.current_task()
        self._until_end.add(task)
        try:
            await asyncio.wait({root})
        finally:
            self._until_end.discard(task)

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise self._failure

    async def _until_over(self) -> None:
        """Wait until the fleet is to end, or every endpoint has ended."""
        while not self.ending:
            over = all(s.state in _OVER for s in self._registry.supervisors.values())
            if self._had_endpoints and over and not (self._helpers or self._kept_open):
                return
            self._changed.clear()
            await self._changed.wait()

    @contextmanager
    def kept_open(self) -> Iterator[None]:
        """Do not end the fleet meanwhile for lack of endpoints: others are to come."""
        self._kept_open += 1
        try:
            yield
        finally:
            self._kept_open -= 1
            self._changed.set()

    async def _finish(self, *, drain: bool) -> None:
        """End the fleet and wait for the root task in any case; being cancelled meanwhile only ends the drain."""
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

    def _end_with(self, failure: BaseException) -> None:
        """End at once, and raise `failure` in the tasks that wait for the fleet."""
        self._failure = failure
        self._shutdown.hurry()
        body = self._body
        if body is not None and not body.done() and body not in self._waiting and not self.ending:
            self._body_cancelled = True
            body.cancel()
        self.ask_to_end()
