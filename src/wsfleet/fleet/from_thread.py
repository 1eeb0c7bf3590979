"""Calls from other threads: they run on the fleet's loop while the calling thread waits."""

from __future__ import annotations

import asyncio
import concurrent.futures
import inspect
import threading
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

from wsfleet.core.context import Context
from wsfleet.core.errors import FleetError
from wsfleet.fleet.worker_tasks import WorkerTasks

__all__ = ["ThreadCalls"]

Answer = concurrent.futures.Future[Any]


class ThreadCalls:
    """The calls that other threads have made. The fleet's end cancels those still running."""

    def __init__(self, context: Context, workers: WorkerTasks) -> None:
        self.tasks: set[asyncio.Task[None]] = set()
        self._context = context
        self._workers = workers

    def call(self, function: Callable[..., Any], args: tuple[Any, ...]) -> Any:
        """Call `function(*args)` on the loop and return its result; blocks the calling thread."""
        if inspect.iscoroutine(function):
            function.close()
            raise TypeError("from_thread(function, *args): give the function and its arguments, not the coroutine")
        loop = self._context.loop
        if loop is None or self._context.ended:
            raise FleetError("the fleet is not running")
        if threading.get_ident() == self._context.thread:
            raise FleetError("from_thread is for other threads; in the fleet's own, call the function directly")
        answer: Answer = concurrent.futures.Future()
        try:
            loop.call_soon_threadsafe(self._begin, function, args, answer, threading.current_thread())
        except RuntimeError as exc:
            raise FleetError("the fleet has ended") from exc
        while True:
            try:
                return answer.result(timeout=1.0)
            except TimeoutError:
                # A loop that was stopped for good after the call will never answer.
                if answer.done():
                    return answer.result()  # it has just come, or is a TimeoutError itself
                if loop.is_closed() or (self._context.ended and not loop.is_running()):
                    raise FleetError("the fleet has ended") from None

    async def cancel(self, *, keep: Iterable[asyncio.Task[Any] | None]) -> None:
        """Cancel the calls that are running, but not those in `keep`, and wait for them."""
        tasks = self.tasks.difference(keep)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    def _begin(
        self, function: Callable[..., Any], args: tuple[Any, ...], answer: Answer, thread: threading.Thread
    ) -> None:
        if self._context.ended:
            answer.set_exception(FleetError("the fleet has ended"))
            return
        if self._workers.has_thread(thread):
            # The thread runs a processor's call, and so does this: the fleet's end waits for both.
            self._context.enter_call()
        try:
            result = function(*args)
        except BaseException as exc:
            answer.set_exception(exc)
            return
        if not inspect.isawaitable(result):
            answer.set_result(result)
            return
        task = asyncio.get_running_loop().create_task(self._finish(result, answer), name="wsfleet-from-thread")
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def _finish(self, result: Awaitable[Any], answer: Answer) -> None:
        try:
            answer.set_result(await result)
        except asyncio.CancelledError as exc:
            task = asyncio.current_task()
            ours = task is not None and task.cancelling() > 0
            answer.set_exception(FleetError("the fleet has ended") if ours else exc)
        except BaseException as exc:
            answer.set_exception(exc)
