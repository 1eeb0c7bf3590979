"""The only queue in the program: bounded in messages and in bytes, closable, with a policy for when it is full.

What is `pending` waits, or is in hand: from the beginning of its first call until it is counted. The bounds are on
both together, and until its call begins a message can still be dropped or replaced. A mailbox knows nothing of topics
or functions; it is fed by `Source`s, which it may pause.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from wsfleet.core.message import Message
from wsfleet.core.options import Buffer, Overflow
from wsfleet.core.stats import Counted, SubscriptionStats
from wsfleet.pipeline.backpressure import Pausers, Source
from wsfleet.pipeline.overflow import OverflowQueue
from wsfleet.pipeline.queue import MessageIterator

__all__ = ["WORK", "Mailbox"]

WORK = 500
"""Messages that one mailbox can decide about, by its policy, in half a millisecond: what a batch may ask of all."""


class Mailbox(OverflowQueue):
    """Messages on their way to one subscription, from sources that are paused while it is full."""

    __slots__ = ("_half", "_half_bytes", "_pausers", "_retrying", "cost", "pattern")

    def __init__(
        self, name: str, pattern: str, buffer: Buffer, on_full: Callable[[Mailbox, Message[Any]], None]
    ) -> None:
        super().__init__(name, buffer, on_full)
        self.pattern = pattern
        # Of the WORK that a batch may ask for, for each message: all of it where the user's code has a say.
        self.cost = WORK if buffer.key is not None else 1
        self._half, self._half_bytes = buffer.messages // 2, buffer.bytes // 2
        self._pausers: Pausers[Mailbox] = Pausers(self)
        self._retrying = False

    # Putting in

    def put(self, messages: list[Message[Any]], nbytes: int, source: Source[Mailbox]) -> None:
        """Take messages that came over a socket of `source`; `nbytes` is the sum of their sizes."""
        if self.append_all(messages, nbytes):
            return
        self.offered += len(messages)
        if self._overflow is Overflow.PAUSE and not self.closed:
            # What has been read cannot be unread: the bound is soft by one read for each source.
            self.waiting.extend(messages)
            self.pending_bytes += nbytes
            self._pausers.hold(source)
            if self.overfull:
                source.overfull(self)
            self._became_full(messages[-1])
        else:
            for message in messages:
                self._offer(message)
            self._tell_overflow()
        if self.waiters:
            self.wake()

    def inject(self, message: Message[Any]) -> bool:
        """Take a message behind which no socket stands; return whether it was taken."""
        self.offered += 1
        if self._overflow is Overflow.PAUSE and not self.closed and not self._fits(message):
            self._became_full(message)
            if not self._stand_in(message):
                self.dropped += 1
                self._replayed_until += 1  # it left no place in front
                return False
            if self.watched:
                self.check_half()
        elif not self._offer(message):
            self._tell_overflow()
            return False
        if self.waiters:
            self.wake()
        return True

    def replay(self, messages: list[Message[Any]]) -> None:
        """Take kept messages, oldest first, into a new mailbox, as its policy has it.

        No socket stands behind them any more, so PAUSE lets the oldest go.
        """
        self.offered += len(messages)
        for message in messages:
            while self._overflow is Overflow.PAUSE and not self._fits(message) and self._drop_oldest():
                pass
            self._offer(message)
        self._replayed_until = self.processed + self.dropped + len(self.waiting)
        self._tell_overflow()

    # Taking out

    async def ready(self) -> bool:
        """Wait until a message waits; False when none will come any more. Safe to cancel."""
        while not self.waiting:
            if self.closed or self.finishing:
                return False
            await self.news()
        return True

    async def turn(self, taker: MessageIterator) -> bool:
        """Let the event loop have its turn, and wait for a message for `taker`; False when none will come any more.

        Nothing has been taken yet: safe to cancel.
        """
        if self.waiting:
            await asyncio.sleep(0)
        ready = await self.ready()
        taker._restart()
        return ready

    async def news(self) -> None:
        """Wait until something was put in, or the mailbox ends. Safe to cancel."""
        waiter = asyncio.get_running_loop().create_future()
        self.waiters.append(waiter)
        try:
            await waiter
        finally:
            if waiter in self.waiters:
                self.waiters.remove(waiter)

    def settled_aside(self, message: Message[Any]) -> None:
        """The same for one that was set aside, and whose call was made elsewhere."""
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
        """Nothing more will come: whoever takes out gets what waits, and then the end."""
        self.finishing = True
        self.wake()

    def reopen(self) -> None:
        """More will come after all."""
        self.finishing = False

    def close(self) -> None:
        """Drop what waits, release the sources, wake who waits. What is in hand goes on."""
        if self.closed:
            return
        self.closed = True
        self.plain = False
        while self._drop_oldest():
            pass
        self._pausers.release_all()
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
        """`source` is gone: hold it no longer."""
        self._pausers.release(source)

    def check_half(self) -> None:
        """Called when something left while `watched`: end the episode at half, and release sources in turn."""
        if self.pending > self._half or self.pending_bytes > self._half_bytes:
            return
        self.full = False
        if self._pausers and not self._retrying:
            self._pausers.release_some(self.most_bytes - self.pending_bytes)
            if self._pausers:
                # The released may have nothing to say; whoever still waits gets its turn all the same.
                self._retrying = True
                asyncio.get_running_loop().call_soon(self._next_step)
        self.watched = bool(self._pausers)

    def _next_step(self) -> None:
        self._retrying = False
        if not self.closed:
            self.check_half()

    def counted(self) -> Counted:
        """Return what the balance is made of, quickly."""
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
            pausing_s=self._pausers.seconds(),
        )
