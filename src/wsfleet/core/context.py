"""The small object that every part of one fleet is given: which loop it belongs to, and how to ask for its end."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextvars import ContextVar

from wsfleet.core.errors import FleetError

__all__ = ["Context"]

# The contexts of the fleets whose calls the current task runs in. A processor may run a fleet of its own, so there can
# be several. A task that a call starts inherits them: `asyncio.wait_for` starts one up to Python 3.11.
_CALLS: ContextVar[tuple[Context, ...]] = ContextVar("wsfleet_calls", default=())


def _ignore(error: BaseException) -> None:
    """Without a running fleet there is nothing to end."""


class Context:
    """Shared by the parts of one fleet and passed down to them. It owns no part and starts nothing."""

    def __init__(self) -> None:
        self.loop: asyncio.AbstractEventLoop | None = None
        self.thread: int | None = None
        self.ending = asyncio.Event()
        """Set when the end of the fleet begins."""
        self.ended = False
        self._on_exit: Callable[[BaseException], None] = _ignore

    # The loop and its thread

    def bind(self) -> None:
        """Belong to the running loop and to the current thread from now on."""
        self.loop = asyncio.get_running_loop()
        self.thread = threading.get_ident()

    def unbind(self) -> None:
        """Belong to no thread any more: after its end a fleet may be read from anywhere."""
        self.thread = None

    def check_thread(self) -> None:
        """Raise FleetError in any thread but the loop's."""
        if self.thread is not None and threading.get_ident() != self.thread:
            raise FleetError("a fleet belongs to the thread of its loop; elsewhere use Fleet.from_thread")

    def call_soon(self, function: Callable[[], None]) -> None:
        """Call `function` in the next iteration of the loop. Callable from any thread; a no-op without a loop."""
        try:
            if self.loop is not None:
                self.loop.call_soon_threadsafe(function)
        except RuntimeError:  # the loop is closed
            pass

    # The end

    def on_exit(self, handler: Callable[[BaseException], None]) -> None:
        """Have `handler` called with the exception when user code asks the program to exit."""
        self._on_exit = handler

    def request_exit(self, error: BaseException) -> None:
        """End the fleet: user code raised `error`, a SystemExit or KeyboardInterrupt.

        Raised further inside a task or callback, it would stop the loop at once and leave everything open.
        """
        self._on_exit(error)

    # Calls of user code

    def enter_call(self) -> None:
        """Mark the current task, and the tasks it starts, as running a call that the fleet waits for at its end."""
        _CALLS.set((*_CALLS.get(), self))

    @property
    def in_call(self) -> bool:
        """Whether the caller runs in such a call. It must not wait for the end of the fleet, which waits for it."""
        return any(each is self for each in _CALLS.get())
