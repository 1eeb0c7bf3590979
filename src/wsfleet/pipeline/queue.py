"""The code that runs for each message of a mailbox: the reference implementation in Python.

`_queue.pyx` is the same code in Cython, used if the extension was built. Both pass the same tests.
"""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from collections import deque
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar

from wsfleet.core.accel import fastest
from wsfleet.core.message import Message, T_co
from wsfleet.core.time_slice import SLICE_S

__all__ = ["BoundedQueue", "Dispatcher", "Fifo", "MessageIterator"]

B = TypeVar("B", bound="BoundedQueue")


class Fifo(deque[Message[Any]]):
    """The waiting messages, oldest first."""


class BoundedQueue:
    """Pending messages, and the counts of all messages that were offered.

    `plain`: a message that fits is appended without asking the policy. `watched`: call `left` when a message leaves.
    `closed`: no message is taken any more, and none is waiting. `finishing`: no more messages will come.
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
        self.idle_waiters: list[asyncio.Future[None]] = []
        # Bounds above sys.maxsize have no effect, and do not fit the C type of the compiled class.
        self.most = min(most, sys.maxsize)
        self.most_bytes = min(most_bytes, sys.maxsize)

    @property
    def pending(self) -> int:
        """The number of messages that are waiting, set aside or in hand."""
        return len(self.waiting) + self.set_aside + self.in_hand

    def append_all(self, messages: list[Message[Any]], nbytes: int) -> bool:
        """Take `messages` and count them offered if they stay below the bounds; else do nothing. Return whether taken.

        `nbytes` is the sum of their sizes.
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
        if self.waiters:
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
    """Delivers messages to mailboxes. Counts each message once, and each delivery."""

    def __init__(self) -> None:
        self.published = self.routed = self.unrouted = self.deliveries = 0

    def deliver(self, route: tuple[B, ...], messages: list[Message[Any]], nbytes: int) -> list[B] | None:
        """Call `append_all` of each mailbox in `route`; return the mailboxes that refused the messages, or None."""
        count = len(messages)
        self.published += count
        if not route:
            self.unrouted += count
            return None
        self.routed += count
        self.deliveries += count * len(route)
        return [each for each in route if not each.append_all(messages, nbytes)] or None


class MessageIterator(Generic[T_co]):
    """An asynchronous iterator that takes messages out of a mailbox, one at a time.

    A message that it takes is counted processed. With `_keeps` it is in hand instead, until the next message is
    requested, which counts it processed, or until `_give_back`. The next message comes from `_slow` if `_ready` is
    false, if no message is waiting, once each SLICE_S, and in a thread other than that of the event loop.
    """

    __slots__ = ("_bounded", "_keeps", "_message", "_ready", "_thread", "_until")

    def __init__(self, mailbox: BoundedQueue, keeps: bool = False) -> None:
        self._bounded = mailbox
        self._keeps = keeps
        self._ready = True
        self._until = 0.0
        self._thread = 0
        self._message: Message[T_co] | None = None

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Message[T_co]:
        if self._message is not None:
            message, self._message = self._message, None
            self._bounded.processed += 1
            self._bounded.settled(message)
        fast = self._ready and self._thread == threading.get_ident()
        if fast and self._bounded.waiting and time.perf_counter() <= self._until:
            return self._take()
        return await self._slow()

    def _take(self) -> Message[T_co]:
        """Take the next message. One must be waiting."""
        if self._keeps:
            self._message = self._bounded.begin()
            return self._message
        return self._bounded.hand_out()

    def _restart(self) -> None:
        """Start a new time slice, after the event loop has run."""
        self._until = time.perf_counter() + SLICE_S
        self._thread = threading.get_ident()

    async def _call_each(self, function: Callable[[Message[T_co]], Awaitable[Any]]) -> None:
        """Await `function(message)` for one message after the other, until no more will come.

        An exception of a call propagates; its message is still in hand.
        """
        async for message in self:
            await function(message)

    def _give_back(self) -> Message[T_co] | None:
        """Return the message in hand, or None. The caller counts it."""
        message, self._message = self._message, None
        return message

    def _interrupted(self) -> None:
        """Called when waiting for a message was cancelled."""

    async def _slow(self) -> Message[T_co]:
        """Return the next message, or raise StopAsyncIteration."""
        raise NotImplementedError


if not TYPE_CHECKING:
    _TWINS = (Fifo, BoundedQueue, Dispatcher, MessageIterator)
    Fifo, BoundedQueue, Dispatcher, MessageIterator = (fastest(each, "wsfleet.pipeline._queue") for each in _TWINS)
