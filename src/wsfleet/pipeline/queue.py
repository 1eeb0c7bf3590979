"""The code that runs for each message of a mailbox: the reference implementation in Python.

`_queue.pyx` is the same code in Cython, used if the extension was built. Both pass the same tests.
"""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from asyncio.tasks import _enter_task, _leave_task
from collections import deque
from collections.abc import Awaitable, Callable, Generator
from contextvars import Context
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar, cast

from wsfleet.core.accel import fastest
from wsfleet.core.message import Message, T_co
from wsfleet.core.time_slice import SLICE_S

__all__ = ["BoundedQueue", "Calls", "Dispatcher", "Fifo", "MessageIterator"]

B = TypeVar("B", bound="BoundedQueue")


class Fifo(deque[Message[Any]]):
    """The waiting messages, oldest first."""


class BoundedQueue:
    """Pending messages, and the counts of all messages that were offered.

    `plain`: a message that fits is appended without asking the policy. `watched`: call `left` when a message leaves.
    `closed`: no message is taken any more, and none is waiting. `finishing`: no more messages will come. `idle_calls`:
    the worker that waits for a message and may begin its call within the read that brings it.
    """

    def __init__(self, waiting: Any, most: int, most_bytes: int, *, plain: bool) -> None:
        self.waiting = waiting
        self.plain = plain
        self.watched = False
        self.closed = False
        self.finishing = False
        self.set_aside = 0
        self.in_hand = 0
        self.pending_bytes = 0
        self.offered = self.processed = self.failed = self.dropped = 0
        self.waiters: list[asyncio.Future[None]] = []
        self.idle_calls: Calls | None = None
        self.idle_waiters: list[asyncio.Future[None]] = []
        # Bounds above sys.maxsize have no effect, and do not fit the C type of the compiled class.
        self.most = min(most, sys.maxsize)
        self.most_bytes = min(most_bytes, sys.maxsize)

    @property
    def pending(self) -> int:
        """The number of messages that are waiting, set aside or in hand."""
        return len(self.waiting) + self.set_aside + self.in_hand

    def append_all(self, messages: list[Message[Any]], nbytes: int, wakes: bool = True) -> bool:
        """Take `messages` and count them offered if they stay below the bounds; else do nothing. Return whether taken.

        `nbytes` is the sum of their sizes. Unless it `wakes`, the caller wakes the waiting tasks.
        """
        count = len(messages)
        if (
            not self.plain
            or len(self.waiting) + self.set_aside + self.in_hand + count >= self.most
            or self.pending_bytes + nbytes >= self.most_bytes
        ):
            return False
        self.offered += count
        self.waiting.extend(messages)
        self.pending_bytes += nbytes
        if wakes and self.waiters:
            self.wake()
        return True

    def wake(self) -> None:
        """Wake all tasks that wait for a change."""
        for waiter in self.waiters:
            if not waiter.done():
                waiter.set_result(None)
        self.waiters.clear()

    def hand_out(self) -> Message[Any]:
        """Take the next waiting message and count it processed."""
        message: Message[Any] = self.waiting.popleft()
        self.pending_bytes -= message.size
        self.processed += 1
        if self.watched or self.idle_waiters:
            self.left()
        return message

    def begin(self) -> Message[Any]:
        """Take the next waiting message; it is in hand until `settled` is called."""
        message: Message[Any] = self.waiting.popleft()
        self.in_hand += 1
        return message

    def settled(self, message: Message[Any]) -> None:
        """Release a message that was in hand and has been counted processed or failed."""
        self.in_hand -= 1
        self.pending_bytes -= message.size
        if self.watched or self.idle_waiters:
            self.left()

    def left(self) -> None:
        """Called when a message left while `watched`, or while a task waits until nothing is pending."""
        raise NotImplementedError


class Dispatcher:
    """Delivers messages to mailboxes. Counts each message once, and each delivery.

    `ready`: the mailboxes with an idle worker that was not woken. It may begin its call within the read, or is woken.
    `calling`: the mailbox whose worker makes a call within a read.
    """

    def __init__(self) -> None:
        self.published = self.routed = self.unrouted = self.deliveries = 0
        self.ready: list[Any] = []
        self.calling: Any = None

    def deliver(self, route: tuple[B, ...], messages: list[Message[Any]], nbytes: int) -> list[B] | None:
        """Call `append_all` of each mailbox in `route`; return the mailboxes that refused the messages, or None."""
        count = len(messages)
        self.published += count
        if not route:
            self.unrouted += count
            return None
        self.routed += count
        self.deliveries += count * len(route)
        refused = []
        for each in route:
            if not each.append_all(messages, nbytes, each.idle_calls is None):
                refused.append(each)
            elif each.idle_calls is not None:
                self.ready.append(each)
        return refused or None

    def begin_calls(self, until: float) -> None:
        """Let the idle workers of the `ready` mailboxes begin their calls now, until the time `until`.

        Those whose turn comes later are woken. So are those of messages that a call delivers: calls are not nested.
        """
        ready, self.ready = self.ready, []
        nested = self.calling is not None
        for number, mailbox in enumerate(ready):
            calls = mailbox.idle_calls
            if calls is None or nested or until == 0.0 or (number and time.perf_counter() > until):
                mailbox.wake()
                continue
            self.calling = mailbox
            try:
                calls.begin(until)
            finally:
                self.calling = None


class MessageIterator(Generic[T_co]):
    """An asynchronous iterator that takes messages out of a mailbox, one at a time. They are counted processed.

    The next message comes from `_slow` if `_ready` is false, if no message is waiting, once each SLICE_S, and in a
    thread other than that of the event loop.
    """

    __slots__ = ("_bounded", "_ready", "_thread", "_until")

    def __init__(self, mailbox: BoundedQueue) -> None:
        self._bounded = mailbox
        self._ready = True
        self._until = 0.0
        self._thread = 0

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Message[T_co]:
        fast = self._ready and self._thread == threading.get_ident()
        if fast and self._bounded.waiting and time.perf_counter() <= self._until:
            return self._bounded.hand_out()
        return await self._slow()

    def _take(self) -> Message[T_co]:
        """Take the next message. One must be waiting."""
        return self._bounded.hand_out()

    def _restart(self) -> None:
        """Start a new time slice, after the event loop has run."""
        self._until = time.perf_counter() + SLICE_S
        self._thread = threading.get_ident()

    def _interrupted(self) -> None:
        """Called when waiting for a message was cancelled."""

    async def _slow(self) -> Message[T_co]:
        """Return the next message, or raise StopAsyncIteration."""
        raise NotImplementedError


class Calls:
    """The calls of one worker, for one message after the other, until no more will come. Awaited by the worker's task.

    The message of a call is in hand until it is counted processed. An exception of a call is raised with the message
    still in hand; `give_back` returns it, and the object can be awaited again.

    With `context`, the one of the worker's task, an idle worker's calls can also begin within the read that brings the
    messages: see `begin`. They run in this context and with the task as the current one, so they cannot notice it. A
    call that has to wait is continued by the task.
    """

    __slots__ = (
        "__weakref__",
        "_awaited",
        "_begun",
        "_bounded",
        "_call",
        "_called",
        "_context",
        "_error",
        "_function",
        "_loop",
        "_message",
        "_task",
        "_until",
        "_waiter",
    )

    def __init__(
        self,
        mailbox: BoundedQueue,
        function: Callable[[Message[Any]], Awaitable[Any] | Any],
        context: Context | None = None,
    ) -> None:
        self._bounded = mailbox
        self._function = function
        self._context = context
        # The end of the time slice of the task, and whether a call has been made in it.
        self._until = 0.0
        self._called = False
        self._message: Message[Any] | None = None
        self._waiter: asyncio.Future[None] | None = None
        # Of a call that began within a read: its iterator, the object that it waits for, and its error.
        self._begun = False
        self._call: Any = None
        self._awaited: Any = None
        self._error: BaseException | None = None

    def __await__(self) -> Generator[Any, Any, None]:
        bounded = self._bounded
        self._loop, self._task = asyncio.get_running_loop(), cast("asyncio.Task[Any]", asyncio.current_task())
        self._begin_slice()
        while True:
            if not bounded.waiting:
                if bounded.closed or bounded.finishing:
                    return
                yield from self._wait()
            elif time.perf_counter() > self._until:
                yield
                self._begin_slice()
            else:
                yield from self._start()
                self._end()

    def begin(self, until: float) -> None:
        """Make calls for the waiting messages, until the time `until`, or until a call has to wait.

        Called within a read. The worker's task is woken if there is more for it to do. Exceptions are raised there.
        """
        waiter, bounded, context = self._waiter, self._bounded, self._context
        if waiter is None or context is None or waiter.done():
            return
        bounded.idle_calls = None  # a message that a call publishes here wakes the task
        context.run(self._call_in_read, until)
        if waiter.done():
            return
        if self._begun or self._error is not None or bounded.waiting:
            bounded.wake()
        elif time.perf_counter() <= until:
            bounded.idle_calls = self
        # Otherwise the next call begins in the task: a function that blocks must not run twice in an iteration of the
        # loop, in the read and in the task, because everything else would wait twice as long.

    def give_back(self) -> tuple[Message[Any] | None, BaseException | None]:
        """Return the message in hand, or None, and the error of its call if that began within a read.

        The caller counts the message.
        """
        message, self._message = self._message, None
        error, self._error = self._error, None
        return message, error

    def _begin_slice(self) -> None:
        self._until, self._called = time.perf_counter() + SLICE_S, False

    def _start(self) -> Any:
        """Call the function for the next message; return the iterator of its awaitable."""
        self._message = message = self._bounded.begin()
        call: Any = self._function(message)
        return (call if asyncio.iscoroutine(call) else _awaited(call)).__await__()

    def _end(self) -> None:
        """Count the message in hand as processed."""
        message, self._message = self._message, None
        self._called = True
        if message is not None:
            self._bounded.processed += 1
            self._bounded.settled(message)

    def _call_in_read(self, until: float) -> None:
        loop, task, bounded, outer = self._loop, self._task, self._bounded, asyncio.current_task()
        if outer is not None:  # a test feeds the messages from its task
            _leave_task(loop, outer)
        _enter_task(loop, task)
        try:
            while bounded.waiting:
                call = self._start()
                try:
                    self._awaited = call.send(None)
                except StopIteration:
                    self._end()
                else:
                    self._call, self._begun = call, True
                    break
                if time.perf_counter() > until:
                    break
        except BaseException as exc:
            self._error = exc
        finally:
            _leave_task(loop, task)
            if outer is not None:
                _enter_task(loop, outer)

    def _wait(self) -> Generator[Any, Any, None]:
        """Wait for a message, or for a call that began within a read and is to be continued."""
        bounded = self._bounded
        waiter = self._waiter = self._loop.create_future()
        bounded.waiters.append(waiter)
        is_late = self._called and time.perf_counter() > self._until
        if self._context is not None and not is_late:
            bounded.idle_calls = self
        thrown: BaseException | None = None
        try:
            yield from waiter
        except BaseException as exc:
            thrown = exc
        self._waiter = None
        if bounded.idle_calls is self:
            bounded.idle_calls = None
        if waiter in bounded.waiters:
            bounded.waiters.remove(waiter)
        self._begin_slice()
        if self._begun:
            self._begun = False
            call, awaited = self._call, self._awaited
            self._call = self._awaited = None
            yield from _continued(call, awaited, thrown)
            self._end()
        elif thrown is not None:
            raise thrown
        elif self._error is not None:
            raise self._error


def _continued(call: Any, awaited: Any, thrown: BaseException | None) -> Generator[Any, Any, None]:
    """Continue a call in a task. It began outside, waits for `awaited`, and gets the exception `thrown`, if any."""
    while awaited is not None or thrown is not None:
        if thrown is not None and not (isinstance(thrown, asyncio.CancelledError) and _cancel(awaited)):
            try:
                awaited, thrown = call.throw(thrown), None
            except StopIteration:
                return
        else:
            # If the task was cancelled, so is its future, and the call gets the exception from there.
            try:
                yield awaited
            except BaseException as exc:
                thrown = exc
            else:
                awaited = thrown = None
    yield from call


def _cancel(awaited: Any) -> bool:
    return asyncio.isfuture(awaited) and awaited.cancel()


async def _awaited(call: Awaitable[Any]) -> Any:
    return await call


if not TYPE_CHECKING:
    _TWINS = (Fifo, BoundedQueue, Dispatcher, MessageIterator, Calls)
    Fifo, BoundedQueue, Dispatcher, MessageIterator, Calls = (
        fastest(each, "wsfleet.pipeline._queue") for each in _TWINS
    )
