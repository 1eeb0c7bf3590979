"""Runs a fleet as a whole program: in a loop of its own, with signals that drain."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from wsfleet.core.errors import FleetError

__all__ = ["run_blocking"]


def run_blocking(serve: Callable[[], Coroutine[Any, Any, None]], ask_to_end: Callable[[], None]) -> None:
    """Run `serve` in a new loop, uvloop's where it is installed.

    SIGINT and SIGTERM call `ask_to_end`; the second one cancels `serve`, and KeyboardInterrupt is raised.
    """
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        pass
    else:
        raise FleetError("run() is for programs without a loop; inside a running one, await serve()")
    try:
        import uvloop

        factory: Callable[[], asyncio.AbstractEventLoop] | None = uvloop.new_event_loop
    except ImportError:
        factory = None
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(_until_signal(serve, ask_to_end))


async def _until_signal(serve: Callable[[], Coroutine[Any, Any, None]], ask_to_end: Callable[[], None]) -> None:
    with _signals(ask_to_end) as came:
        try:
            await serve()
        except asyncio.CancelledError:
            if len(came) > 1:
                raise KeyboardInterrupt from None
            raise


@contextmanager
def _signals(ask_to_end: Callable[[], None]) -> Iterator[list[int]]:
    """While it lasts, list the signals that came."""
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    came: list[int] = []
    heard: list[int] = []

    def hear() -> None:
        heard.append(came[0])
        ask_to_end()

    # Not loop.add_signal_handler: that one is not there on Windows, forgets the handlers that were there before, and
    # hears nothing while a processor holds the loop.
    def on_signal(number: int, frame: FrameType | None) -> None:
        came.append(number)
        if len(came) == 1:
            loop.call_soon_threadsafe(hear)
        elif len(came) == 2 and heard and task is not None:
            loop.call_soon_threadsafe(task.cancel)
        else:
            raise KeyboardInterrupt  # out of whatever holds the loop

    before: dict[int, Any] = {}
    if threading.current_thread() is threading.main_thread():
        before = {number: signal.signal(number, on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield came
    finally:
        for number, previous in before.items():
            signal.signal(number, previous)
