"""Calls from other threads: run on the fleet's loop, waited for in the thread that asks."""

from __future__ import annotations

import asyncio
import concurrent.futures
import inspect
import threading
from collections.abc import Awaitable, Callable
from typing import Any

from wsfleet.core.errors import FleetError
from wsfleet.fleet.lifecycle import Lifecycle

__all__ = ["ThreadCalls"]

Answer = concurrent.futures.Future[Any]


class ThreadCalls:
    """The calls of other threads. Those under way are the lifetime's `guests`: they end with it."""

    def __init__(self, lifecycle: Lifecycle) -> None:
        self._lifecycle = lifecycle

    def call(self, function: Callable[..., Any], args: tuple[Any, ...]) -> Any:
        """Call `function(*args)` on the loop and give back what comes of it; blocks the calling thread."""
        if inspect.iscoroutine(function):
            function.close()
            raise TypeError("from_thread(function, *args): give the function and its arguments, not the coroutine")
        loop = self._lifecycle.loop
        if loop is None or self._lifecycle.ended:
            raise FleetError("the fleet is not running")
        if threading.get_ident() == self._lifecycle.thread:
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
                # A loop that was stopped for good between the call and now will never answer.
                if answer.done():
                    return answer.result()  # it came as we looked away, or is a TimeoutError itself
                if loop.is_closed() or (self._lifecycle.ended and not loop.is_running()):
                    raise FleetError("the fleet has ended") from None

    def _begin(
        self, function: Callable[..., Any], args: tuple[Any, ...], answer: Answer, thread: threading.Thread
    ) -> None:
        if self._lifecycle.ended:
            answer.set_exception(FleetError("the fleet has ended"))
            return
        self._lifecycle.enter(thread)
        try:
            result = function(*args)
        except BaseException as exc:
            answer.set_exception(exc)
            return
        if not inspect.isawaitable(result):
            answer.set_result(result)
            return
        task = asyncio.get_running_loop().create_task(self._finish(result, answer), name="wsfleet-from-thread")
        self._lifecycle.thread_calls.add(task)
        task.add_done_callback(self._lifecycle.thread_calls.discard)

    async def _finish(self, result: Awaitable[Any], answer: Answer) -> None:
        try:
            answer.set_result(await result)
        except asyncio.CancelledError as exc:
            task = asyncio.current_task()
            ours = task is not None and task.cancelling() > 0
            answer.set_exception(FleetError("the fleet has ended") if ours else exc)
        except BaseException as exc:
            answer.set_exception(exc)
