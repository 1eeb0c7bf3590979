"""`Fleet.run`: a new event loop, and signals that drain."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from wsfleet.core.errors import FleetError

__all__ = ["run_blocking", "uvloop_factory"]


def uvloop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """Return the factory of uvloop's event loops, or None if uvloop is not installed."""
    try:
        from uvloop import new_event_loop
    except ImportError:
        return None
    return new_event_loop


def run_blocking(serve: Callable[[], Coroutine[Any, Any, None]], ask_to_end: Callable[[], None]) -> None:
    """Run `serve` in a new loop, on uvloop if it is installed.

    SIGINT and SIGTERM call `ask_to_end`; the second one cancels `serve`, and KeyboardInterrupt is raised.
    """
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        pass
    else:
        raise FleetError("run() cannot be called while an event loop is running; await run_async() instead")
    with asyncio.Runner(loop_factory=uvloop_factory()) as runner:
        runner.run(_until_signal(serve, ask_to_end))


async def _until_signal(serve: Callable[[], Coroutine[Any, Any, None]], ask_to_end: Callable[[], None]) -> None:
    with _signals(ask_to_end) as received:
        try:
            await serve()
        except asyncio.CancelledError:
            if len(received) > 1:
                raise KeyboardInterrupt from None
            raise


@contextmanager
def _signals(ask_to_end: Callable[[], None]) -> Iterator[list[int]]:
    """Handle SIGINT and SIGTERM meanwhile; yield the list of the signals received."""
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    received: list[int] = []
    draining = False

    def drain() -> None:
        nonlocal draining
        draining = True
        ask_to_end()

    # Not loop.add_signal_handler: it does not exist on Windows, does not restore the previous handlers, and does not
    # run while a processor blocks the loop.
    def on_signal(number: int, frame: FrameType | None) -> None:
        received.append(number)
        if len(received) == 1:
            loop.call_soon_threadsafe(drain)
        elif len(received) == 2 and draining and task is not None:
            loop.call_soon_threadsafe(task.cancel)
        else:
            raise KeyboardInterrupt  # out of the code that blocks the loop

    before: dict[int, Any] = {}
    if threading.current_thread() is threading.main_thread():
        before = {number: signal.signal(number, on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for number, previous in before.items():
            signal.signal(number, previous)
