"""The queue of a subscription: bounded in messages and in bytes, closable, with an overflow policy.

A pending message is waiting, set aside or in hand. It is in hand from the start of its first call until it is counted.
The bounds apply to all pending messages. A message can be dropped or replaced until its call starts. A mailbox does
not depend on topics or functions. It is fed by `Source` objects, which it may pause.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from wsfleet.core.message import Message
from wsfleet.core.options import Buffer, Overflow
from wsfleet.core.stats import Counted, SubscriptionStats
from wsfleet.pipeline.backpressure import PausedSources, Source
from wsfleet.pipeline.overflow import OverflowQueue
from wsfleet.pipeline.queue import MessageIterator

__all__ = ["WORK", "Mailbox"]

WORK = 500
"""Work limit of a batch: the number of messages that one mailbox can check against its policy in 0.5 ms."""


class Mailbox(OverflowQueue):
    """The pending messages of one subscription. With the policy PAUSE, its sources are paused while it is full."""

    __slots__ = ("_half", "_half_bytes", "_paused_sources", "_retry_scheduled", "cost", "pattern")

    def __init__(
        self, name: str, pattern: str, buffer: Buffer, on_full: Callable[[Mailbox, Message[Any]], None]
    ) -> None:
        super().__init__(name, buffer, on_full)
        self.pattern = pattern
        # Cost of one message, in units of WORK. A key function is user code, so one message takes the whole limit.
        self.cost = WORK if buffer.key is not None else 1
        self._half, self._half_bytes = buffer.messages // 2, buffer.bytes // 2
        self._paused_sources: PausedSources[Mailbox] = PausedSources(self)
        self._retry_scheduled = False

    # Putting in

    def put(self, messages: list[Message[Any]], nbytes: int, source: Source[Mailbox]) -> None:
        """Take messages read from a socket of `source`. `nbytes` is the sum of their sizes."""
        if self.append_all(messages, nbytes):
            return
        self.offered += len(messages)
        if self._overflow is Overflow.PAUSE and not self.closed:
            # These messages have been read already: each source may exceed the bound by one read.
            self.waiting.extend(messages)
            self.pending_bytes += nbytes
            self._paused_sources.hold(source)
            if self.overfull:
                source.overfull(self)
            self._became_full(messages[-1])
        else:
            for message in messages:
                self._offer(message)
            self._report_overflow()
        if self.waiters:
            self.wake()

    def inject(self, message: Message[Any]) -> bool:
        """Take a message that did not come from a socket; return whether it was taken."""
        self.offered += 1
        if self._overflow is Overflow.PAUSE and not self.closed and not self._fits(message):
            self._became_full(message)
            if not self._make_room(message):
                self.dropped += 1
                self._replayed_until += 1  # the drop did not remove a replayed message
                return False
            if self.watched:
                self.check_half()
        elif not self._offer(message):
            self._report_overflow()
            return False
        if self.waiters:
            self.wake()
        return True

    def replay(self, messages: list[Message[Any]]) -> None:
        """Take kept messages, oldest first, into a new mailbox, according to its policy.

        No source can be paused for them, so PAUSE drops the oldest.
        """
        self.offered += len(messages)
        for message in messages:
            while self._overflow is Overflow.PAUSE and not self._fits(message) and self._drop_oldest():
                pass
            self._offer(message)
        self._replayed_until = self.processed + self.dropped + len(self.waiting)
        self._report_overflow()

    # Taking out

    def would_wait(self) -> bool:
        """Whether no message is available, and more may come."""
        return not self.waiting and not self.closed and not self.finishing

    async def ready(self) -> bool:
        """Wait until a message is available; return False if no more will come. Safe to cancel."""
        while not self.waiting:
            if self.closed or self.finishing:
                return False
            await self.news()
        return True

    async def turn(self, taker: MessageIterator) -> bool:
        """Yield to the event loop, and wait for a message for `taker`; return False if no more will come.

        Safe to cancel: no message has been taken.
        """
        if self.waiting:
            await asyncio.sleep(0)
        ready = await self.ready()
        taker._restart()
        return ready

    async def news(self) -> None:
        """Wait until `wake` is called: a message was put in, or the mailbox ends. Safe to cancel."""
        waiter = asyncio.get_running_loop().create_future()
        self.waiters.append(waiter)
        try:
            await waiter
        finally:
            if waiter in self.waiters:
                self.waiters.remove(waiter)

    def settled_aside(self, message: Message[Any]) -> None:
        """Release a message that was set aside and has been counted processed or failed."""
        self.set_aside -= 1
        self.pending_bytes -= message.size
        self.left()

    def left(self) -> None:
        if self.watched:
            self.check_half()
        if self.idle_waiters and not self.pending:
            self._resolve(self.idle_waiters)

    async def idle(self) -> None:
        """Wait until nothing is pending. Safe to cancel."""
        while self.pending:
            waiter = asyncio.get_running_loop().create_future()
            self.idle_waiters.append(waiter)
            await waiter

    def finish(self) -> None:
        """Expect no more messages: consumers get the waiting messages, and then the end."""
        self.finishing = True
        self.wake()

    def reopen(self) -> None:
        """Undo `finish`: more messages may come."""
        self.finishing = False

    def close(self) -> None:
        """Drop the waiting messages, release the sources and wake all waiters. Messages in hand are not affected."""
        if self.closed:
            return
        self.closed = True
        self.plain = False
        while self._drop_oldest():
            pass
        self._paused_sources.release_all()
        self.wake()
        if not self.pending:
            self._resolve(self.idle_waiters)

    @staticmethod
    def _resolve(waiters: list[asyncio.Future[None]]) -> None:
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)
        waiters.clear()

    # Pausing

    def forget(self, source: Source[Mailbox]) -> None:
        """Stop holding `source`, which was removed."""
        self._paused_sources.release(source)

    def check_half(self) -> None:
        """Once half of the buffer is free, end the full state and release paused sources, oldest first.

        Called when a message leaves while `watched`.
        """
        if self.pending > self._half or self.pending_bytes > self._half_bytes:
            return
        self.full = False
        if self._paused_sources and not self._retry_scheduled:
            self._paused_sources.release_some(self.most_bytes - self.pending_bytes)
            if self._paused_sources:
                # The released sources may bring nothing, so the others are released in the next loop iteration.
                self._retry_scheduled = True
                asyncio.get_running_loop().call_soon(self._retry)
        self.watched = bool(self._paused_sources)

    def _retry(self) -> None:
        self._retry_scheduled = False
        if not self.closed:
            self.check_half()

    def counted(self) -> Counted:
        """Return the counts of the balance without building a row."""
        return (self.offered, self.processed, self.failed, self.dropped, self.pending, self.pending_bytes)

    def stats(self, counted: Counted | None = None) -> SubscriptionStats:
        offered, processed, failed, dropped, pending, pending_bytes = counted or self.counted()
        return SubscriptionStats(
            name=self.name,
            pattern=self.pattern,
            offered=offered,
            processed=processed,
            failed=failed,
            dropped=dropped,
            pending=pending,
            pending_bytes=pending_bytes,
            overflow=self.buffer.overflow.value,
            pausing_s=self._paused_sources.seconds(),
        )
