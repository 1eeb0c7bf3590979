"""What happens to every single message of a mailbox, and so exists twice: here, the reference, and compiled.

`_queue.pyx` is the same in Cython, for where a compiler was at hand. Both pass the same tests.
"""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from collections import deque
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Self, TypeVar

from wsfleet.core.accel import fastest
from wsfleet.core.message import Message
from wsfleet.core.time_slice import SLICE_S

__all__ = ["BoundedQueue", "Dispatcher", "Fifo", "MessageIterator"]

B = TypeVar("B", bound="BoundedQueue")


class Fifo(deque[Message[Any]]):
    """What waits, in its order."""


class BoundedQueue:
    """Messages that wait, and the counts of what became of all that were offered.

    `plain` says that a message that fits is simply appended. `watched` asks for `left` to be called when one leaves.
    Once `closed` nothing is taken any more, and nothing waits; once `finishing` nothing more comes.
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
        # As many as a list can have are no bound at all.
        self.most = min(most, sys.maxsize)
        self.most_bytes = min(most_bytes, sys.maxsize)

    @property
    def pending(self) -> int:
        """How many messages wait, or are in hand."""
        return len(self.waiting) + self.set_aside + self.in_hand

    def append_all(self, messages: list[Message[Any]], nbytes: int) -> bool:
        """Take `messages`, `nbytes` long in all, and count them offered, where they leave room; else do nothing."""
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
        """Let whoever waits for news look again."""
        for waiter in self.waiters:
            if not waiter.done():
                waiter.set_result(None)
        self.waiters.clear()

    def hand_out(self) -> Message[Any]:
        """Take the next waiting message and count it processed: what a loop gets is its own."""
        message: Message[Any] = self.waiting.popleft()
        self.pending_bytes -= message.size
        self.processed += 1
        if self.watched or self.idle_waiters:
            self.left()
        return message

    def begin(self) -> Message[Any]:
        """Take the next waiting message in hand, until it is `settled`."""
        message: Message[Any] = self.waiting.popleft()
        self.in_hand += 1
        return message

    def settled(self, message: Message[Any]) -> None:
        """A message that was in hand has been counted processed or failed."""
        self.in_hand -= 1
        self.pending_bytes -= message.size
        if self.watched or self.idle_waiters:
            self.left()

    def left(self) -> None:
        """Something left while `watched`, or while somebody waits for nothing to be pending."""
        raise NotImplementedError


class Dispatcher:
    """Hands messages to mailboxes, and counts each message once, and each hand-over."""

    def __init__(self) -> None:
        self.published = self.routed = self.unrouted = self.deliveries = 0

    def deliver(self, route: tuple[B, ...], messages: list[Message[Any]], nbytes: int) -> list[B] | None:
        """Let each of `route` take `messages` with `append_all`; return those that did not, or None."""
        count = len(messages)
        self.published += count
        if not route:
            self.unrouted += count
            return None
        self.routed += count
        self.deliveries += count * len(route)
        return [each for each in route if not each.append_all(messages, nbytes)] or None


class MessageIterator:
    """An asynchronous iterator that takes messages out of a mailbox, one at a time.

    What it takes is counted processed, or, where it `_keeps`, in hand: until the next one is asked for, which counts it
    processed, or `_give_back` takes it away. While `_ready` is false, while nothing waits, each SLICE_S, and in another
    thread than the loop's, `_slow` is awaited for the next message instead.
    """

    __slots__ = ("_bounded", "_keeps", "_message", "_ready", "_thread", "_until")

    def __init__(self, mailbox: BoundedQueue, keeps: bool = False) -> None:
        self._bounded = mailbox
        self._keeps = keeps
        self._ready = True
        self._until = 0.0
        self._thread = 0
        self._message: Message[Any] | None = None

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Message[Any]:
        if self._message is not None:
            message, self._message = self._message, None
            self._bounded.processed += 1
            self._bounded.settled(message)
        mine = self._ready and self._thread == threading.get_ident()
        if mine and self._bounded.waiting and time.perf_counter() <= self._until:
            return self._take()
        return await self._slow()

    def _take(self) -> Message[Any]:
        """Take the next message, which waits."""
        if self._keeps:
            self._message = self._bounded.begin()
            return self._message
        return self._bounded.hand_out()

    def _restart(self) -> None:
        """Begin a new slice of time: the event loop has had its turn."""
        self._until = time.perf_counter() + SLICE_S
        self._thread = threading.get_ident()

    async def _call_each(self, function: Callable[[Message[Any]], Awaitable[Any]]) -> None:
        """Call `function` for one message after the other, until no more will come.

        When a call raises, so does this; its message is in hand still.
        """
        async for message in self:
            await function(message)

    def _give_back(self) -> Message[Any] | None:
        """Return the message in hand, if there is one: it will be counted elsewhere."""
        message, self._message = self._message, None
        return message

    def _interrupted(self) -> None:
        """Called when waiting for a message was cancelled."""

    async def _slow(self) -> Message[Any]:
        """Return the next message, or raise StopAsyncIteration."""
        raise NotImplementedError


if not TYPE_CHECKING:
    _TWINS = (Fifo, BoundedQueue, Dispatcher, MessageIterator)
    Fifo, BoundedQueue, Dispatcher, MessageIterator = (fastest(each, "wsfleet.pipeline._queue") for each in _TWINS)
