"""The only queue in the program: bounded in messages and in bytes, closable, with a policy for when it is full.

What is `pending` either waits, or is in hand: from the beginning of its first call until it is counted. The bounds
are on both together. A mailbox knows nothing of topics or functions; it is fed by `Source`s, which it may pause.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

from wsfleet.message import Message
from wsfleet.options import Buffer, Overflow
from wsfleet.stats import SubscriptionStats

__all__ = ["Mailbox", "Source"]

READ_BYTES = 2**16
"""What a released endpoint may bring with its next read, and so the room that it needs."""


class Source(Protocol):
    """What stands behind messages and can be told to wait: an endpoint."""

    def hold(self, mailbox: Mailbox) -> None:
        """Bring nothing more on behalf of `mailbox`, beyond what has been read already."""

    def release(self, mailbox: Mailbox) -> None:
        """`mailbox` has room again."""


class Mailbox:
    """Messages on their way to one subscription.

    Hot paths read and write `waiting`, `in_hand`, `pending_bytes` and the counters directly; the rules are here.
    """

    __slots__ = (
        "_half",
        "_half_bytes",
        "_idle_waiters",
        "_most",
        "_most_bytes",
        "_paused",
        "_pausing_s",
        "_pausing_since",
        "_retrying",
        "_waiters",
        "buffer",
        "closed",
        "dropped",
        "failed",
        "finishing",
        "full",
        "in_hand",
        "name",
        "offered",
        "on_full",
        "pattern",
        "pending_bytes",
        "processed",
        "waiting",
        "watched",
    )

    def __init__(
        self, name: str, pattern: str, buffer: Buffer, on_full: Callable[[Mailbox, Message[Any]], None]
    ) -> None:
        self.name = name
        self.pattern = pattern
        self.buffer = buffer
        self.on_full = on_full
        self.waiting: deque[Message[Any]] = deque()
        self.in_hand = 0
        self.pending_bytes = 0
        self.offered = self.processed = self.failed = self.dropped = 0
        self.closed = False
        self.finishing = False
        self.full = False
        self.watched = False
        self._most, self._most_bytes = buffer.messages, buffer.bytes
        self._half, self._half_bytes = buffer.messages // 2, buffer.bytes // 2
        # An insertion-ordered set: sources are released in the order in which they were paused.
        self._paused: dict[Source, None] = {}
        self._pausing_s = 0.0
        self._pausing_since: float | None = None
        self._retrying = False
        self._waiters: list[asyncio.Future[None]] = []
        self._idle_waiters: list[asyncio.Future[None]] = []

    @property
    def pending(self) -> int:
        return len(self.waiting) + self.in_hand

    # Putting in

    def put(self, messages: list[Message[Any]], nbytes: int, source: Source) -> None:
        """Take messages that came over a socket of `source`; `nbytes` is the sum of their sizes."""
        self.offered += len(messages)
        waiting = self.waiting
        if (
            len(waiting) + self.in_hand + len(messages) < self._most
            and self.pending_bytes + nbytes < self._most_bytes
            and not self.closed
        ):
            waiting.extend(messages)
            self.pending_bytes += nbytes
        elif self.closed:
            self.dropped += len(messages)
            return
        elif self.buffer.overflow is Overflow.PAUSE:
            # What has been read cannot be unread: the bound is soft by one read for each source.
            waiting.extend(messages)
            self.pending_bytes += nbytes
            self._hold(source)
            self._became_full(messages[-1])
        else:
            for message in messages:
                self._make_room_and_add(message)
        if self._waiters:
            self._wake()

    def inject(self, message: Message[Any]) -> bool:
        """Take a message behind which no socket stands; return whether it was taken."""
        self.offered += 1
        if self.closed:
            self.dropped += 1
            return False
        if self.buffer.overflow is Overflow.PAUSE and not self._fits(message):
            self._became_full(message)
            if not self._replace(message):
                self.dropped += 1
                return False
        elif not self._make_room_and_add(message):
            return False
        if self._waiters:
            self._wake()
        return True

    def _replace(self, message: Message[Any]) -> bool:
        """Put `message` in the place of the oldest ones behind which no socket stands either; return whether it went.

        Nobody can be paused for it, and what came over a socket is not given up for it. Nothing is given up in vain.
        """
        freed, places = 0, []
        for place, waiting in enumerate(self.waiting):
            if waiting.session == 0:
                places.append(place)
                freed += waiting.size
                if freed >= message.size or self.pending_bytes - freed + message.size <= self._most_bytes:
                    break
        else:
            if len(places) < self.pending:
                return False
        # By place, not by value: what a user's data says to == is nobody's business here.
        for place in reversed(places):
            self._drop(self.waiting[place])
            del self.waiting[place]
        self.waiting.append(message)
        self.pending_bytes += message.size
        return True

    def _fits(self, message: Message[Any]) -> bool:
        pending = len(self.waiting) + self.in_hand
        return pending == 0 or (pending < self._most and self.pending_bytes + message.size <= self._most_bytes)

    def _make_room_and_add(self, message: Message[Any]) -> bool:
        # DROP_OLDEST. What is in hand stays; a message over the bound of bytes is taken when it is alone.
        while self.waiting and not self._fits(message):
            self._drop(self.waiting.popleft())
            self._became_full(message)
        if not self._fits(message):
            self.dropped += 1
            self._became_full(message)
            return False
        self.waiting.append(message)
        self.pending_bytes += message.size
        if len(self.waiting) + self.in_hand >= self._most or self.pending_bytes >= self._most_bytes:
            self._became_full(message)
        return True

    def _drop(self, message: Message[Any]) -> None:
        self.pending_bytes -= message.size
        self.dropped += 1

    def _became_full(self, message: Message[Any]) -> None:
        """Begin an episode of being full, which ends at half; it is reported once."""
        self.watched = True
        if not self.full:
            self.full = True
            self.on_full(self, message)

    # Taking out

    async def ready(self) -> bool:
        """Wait until a message waits; False when none will come any more. Safe to cancel."""
        while not self.waiting:
            if self.closed or self.finishing:
                return False
            waiter = asyncio.get_running_loop().create_future()
            self._waiters.append(waiter)
            try:
                await waiter
            finally:
                if waiter in self._waiters:
                    self._waiters.remove(waiter)
        return True

    def hand_out(self) -> Message[Any]:
        """Take the next waiting message and count it processed: what a loop gets is its own."""
        message = self.waiting.popleft()
        self.pending_bytes -= message.size
        self.processed += 1
        if self.watched:
            self.check_half()
        return message

    def settled(self, message: Message[Any]) -> None:
        """A message that was in hand has been counted processed or failed."""
        self.in_hand -= 1
        self.pending_bytes -= message.size
        if self.watched:
            self.check_half()
        if self._idle_waiters and not self.waiting and not self.in_hand:
            self._resolve(self._idle_waiters)

    async def idle(self) -> None:
        """Wait until nothing is pending. Safe to cancel."""
        while self.waiting or self.in_hand:
            waiter = asyncio.get_running_loop().create_future()
            self._idle_waiters.append(waiter)
            await waiter

    def finish(self) -> None:
        """Nothing more will come: whoever takes out gets what waits, and then the end."""
        self.finishing = True
        self._wake()

    def reopen(self) -> None:
        """More will come after all."""
        self.finishing = False

    def close(self) -> None:
        """Drop what waits, release the sources, wake who waits. What is in hand goes on."""
        if self.closed:
            return
        self.closed = True
        while self.waiting:
            self._drop(self.waiting.popleft())
        for source in list(self._paused):
            self._release(source)
        self._wake()
        if not self.in_hand:
            self._resolve(self._idle_waiters)

    def _wake(self) -> None:
        self._resolve(self._waiters)

    @staticmethod
    def _resolve(waiters: list[asyncio.Future[None]]) -> None:
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)
        waiters.clear()

    # Pausing

    def _hold(self, source: Source) -> None:
        if source not in self._paused:
            self._paused[source] = None
            source.hold(self)
            if self._pausing_since is None:
                self._pausing_since = asyncio.get_running_loop().time()

    def _release(self, source: Source) -> None:
        del self._paused[source]
        if not self._paused and self._pausing_since is not None:
            self._pausing_s += asyncio.get_running_loop().time() - self._pausing_since
            self._pausing_since = None
        source.release(self)

    def forget(self, source: Source) -> None:
        """`source` is gone: hold it no longer."""
        if source in self._paused:
            self._release(source)

    def check_half(self) -> None:
        """Called when something left while `watched`: end the episode at half, and release sources in turn.

        As many at a step as the free room holds reads, at least one: released all at once, a thousand sources would
        fill the mailbox a thousand times over.
        """
        if len(self.waiting) + self.in_hand > self._half or self.pending_bytes > self._half_bytes:
            return
        self.full = False
        self.watched = bool(self._paused)
        if not self._paused or self._retrying:
            return
        room = max(1, (self._most_bytes - self.pending_bytes) // READ_BYTES)
        for source in list(self._paused)[:room]:
            self._release(source)
        self.watched = bool(self._paused)
        if self._paused:
            # The released may have nothing to say; whoever still waits gets its turn all the same.
            self._retrying = True
            asyncio.get_running_loop().call_soon(self._next_step)

    def _next_step(self) -> None:
        self._retrying = False
        if not self.closed:
            self.check_half()

    def stats(self) -> SubscriptionStats:
        pausing_s = self._pausing_s
        if self._pausing_since is not None:
            pausing_s += asyncio.get_running_loop().time() - self._pausing_since
        return SubscriptionStats(
            name=self.name,
            pattern=self.pattern,
            offered=self.offered,
            processed=self.processed,
            failed=self.failed,
            dropped=self.dropped,
            pending=self.pending,
            pending_bytes=self.pending_bytes,
            overflow=self.buffer.overflow.value,
            pausing_s=pausing_s,
        )
