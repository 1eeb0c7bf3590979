"""The object that all parts of one fleet share: the event loop of the fleet, and the request to end it."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import logging
import threading
from collections.abc import Callable, Coroutine
from contextvars import ContextVar, copy_context
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar

from wsfleet.core.errors import FleetError

__all__ = ["Context", "loop_thread_only"]

log = logging.getLogger("wsfleet")

UNSTARTED_S = 5.0
"""Seconds until a loop over the messages of a fleet that has not been started is logged."""

P = ParamSpec("P")
T = TypeVar("T")

# The contexts of the fleets whose user functions the current task runs. A processor may run another fleet, so there
# can be several. Tasks that a call starts inherit them: `asyncio.wait_for` starts one up to Python 3.11.
_CALLS: ContextVar[tuple[Context, ...]] = ContextVar("wsfleet_calls", default=())


class _Checking(Protocol):
    def _check_thread(self) -> None: ...


C = TypeVar("C", bound=_Checking)


def loop_thread_only(
    method: Callable[Concatenate[C, P], Coroutine[Any, Any, T]],
) -> Callable[Concatenate[C, P], Coroutine[Any, Any, T]]:
    """Check the thread when a coroutine method is called.

    A check inside the coroutine would run when it is awaited. A plain function in another thread cannot await it, so
    its call would do nothing, silently.
    """

    @functools.wraps(method)
    def call(self: C, /, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, T]:
        self._check_thread()
        return method(self, *args, **kwargs)

    return call


def _ignore(error: BaseException) -> None:
    """Do nothing: no fleet is running."""


def _same(one: contextvars.Context, other: contextvars.Context) -> bool:
    """Return whether two contexts have the same objects as values."""
    return len(one) == len(other) and all(other.get(key, one) is value for key, value in one.items())


class Context:
    """State shared by the parts of one fleet. It owns no part and starts nothing."""

    def __init__(self) -> None:
        self.loop: asyncio.AbstractEventLoop | None = None
        self.thread: int | None = None
        self.ending = asyncio.Event()
        """Set when the fleet begins to end."""
        self.ended = False
        self._current: contextvars.Context | None = None
        self._marked = contextvars.Context()
        self._on_exit: Callable[[BaseException], None] = _ignore
        self._warns = False

    # The loop and its thread

    def bind(self) -> None:
        """Bind the fleet to the running loop and the current thread."""
        self.loop = asyncio.get_running_loop()
        self.thread = threading.get_ident()

    def unbind(self) -> None:
        """Remove the binding to a thread: after its end, a fleet can be read from any thread."""
        self.thread = None

    def check_thread(self) -> None:
        """Raise FleetError in a thread other than the loop's."""
        if self.thread is not None and threading.get_ident() != self.thread:
            raise FleetError("a fleet can only be used in the thread of its loop; use Fleet.from_thread")

    async def check_started(self, is_closed: Callable[[], bool]) -> None:
        """Raise FleetError if the fleet has not been started, unless the caller's part of it is closed."""
        if self.loop is None:
            await asyncio.sleep(0)  # under gather, the task that starts it may come next
        if self.loop is None and not is_closed():
            raise FleetError("the fleet has not been started, so nothing would open")

    async def check_loop(self, name: str, waits: Callable[[], bool]) -> None:
        """Raise FleetError if the loop `name` would wait for ever: the fleet has not been started and cannot be.

        Another task of the event loop may still start it, or publish. If there is one, a fleet that is not started
        within UNSTARTED_S is logged, once. `waits` returns whether the loop waits for a message.
        """
        loop = asyncio.get_running_loop()
        if len(asyncio.all_tasks(loop)) == 1:
            await asyncio.sleep(0)  # a callback may do it
            if self.loop is None and waits() and len(asyncio.all_tasks(loop)) == 1:
                raise FleetError(f"{name}: the fleet has not been started, so no message would come")
        if not self._warns:
            self._warns = True
            loop.call_later(UNSTARTED_S, self._warn_unstarted, name, waits)

    def _warn_unstarted(self, name: str, waits: Callable[[], bool]) -> None:
        self._warns = False
        if self.loop is None and waits():
            text = "%s: a loop waits for messages, but the fleet has not been started"
            log.warning(text, name, extra={"event": "fleet.not_started", "subscription": name})

    def call_soon(self, function: Callable[[], None]) -> None:
        """Call `function` in the next iteration of the loop. Thread-safe; does nothing without a loop."""
        try:
            if self.loop is not None:
                self.loop.call_soon_threadsafe(function)
        except RuntimeError:  # the loop is closed
            pass

    # The end

    def on_exit(self, handler: Callable[[BaseException], None]) -> None:
        """Set the `handler` to call with the exception if user code requests the exit of the program."""
        self._on_exit = handler

    def request_exit(self, error: BaseException) -> None:
        """End the fleet: user code raised `error`, a SystemExit or KeyboardInterrupt.

        Propagated from a task or callback, the exception would stop the loop at once and leave connections open.
        """
        self._on_exit(error)

    # Calls of user code

    def task_context(self) -> contextvars.Context:
        """Return a context for a task that calls user code: a copy of the current one, with the mark of `enter_call`.

        The mark is shared by tasks that are started one after the other: there may be ten thousand.
        """
        current = copy_context()
        if self._current is None or not _same(current, self._current):
            self._current, self._marked = current, current.copy()
            self._marked.run(self.enter_call)
        return self._marked.copy()

    def enter_call(self) -> None:
        """Mark the current task, and tasks that it starts, as a call of user code.

        The fleet waits for such calls at its end.
        """
        _CALLS.set((*_CALLS.get(), self))

    @property
    def in_call(self) -> bool:
        """Whether the caller runs in a call of user code. It must not wait for the fleet's end: a deadlock."""
        return any(each is self for each in _CALLS.get())
