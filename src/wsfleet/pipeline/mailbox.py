"""The only queue in the program: bounded in messages and in bytes, closable, with a policy for when it is full.

What is `pending` waits, or is in hand: from the beginning of its first call until it is counted. The bounds are on
both together, and until its call begins a message can still be dropped or replaced. A mailbox knows nothing of topics
or functions; it is fed by `Source`s, which it may pause.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Iterator
from heapq import merge
from typing import Any, Protocol

from wsfleet.core.errors import Overflowed
from wsfleet.core.message import Message
from wsfleet.core.options import Buffer, Overflow
from wsfleet.core.stats import Counted, SubscriptionStats
from wsfleet.pipeline.backpressure import Pausers, Source
from wsfleet.pipeline.latest import Latest
from wsfleet.pipeline.queue import BoundedQueue, Fifo, MessageIterator

__all__ = ["WORK", "Mailbox", "Prefetched"]

WORK = 500
"""Messages that one mailbox can decide about, by its policy, in half a millisecond: what a batch may ask of all."""


class Prefetched(Protocol):
    """Messages that a processor has taken out of the queue although their call has not begun."""

    @property
    def age(self) -> float:
        """Rises in the order in which messages were set aside; infinity where there is nothing to give up."""

    def lose(self) -> Message[Any] | None:
        """Give up the oldest message, unless its call has begun; None where there is none to give up."""

    def could_go(self) -> Iterator[tuple[int, Message[Any]]]:
        """What can be given up, oldest first, each with the number that tells its age."""

    def give_up(self, message: Message[Any]) -> bool:
        """Give up this one, unless its call has begun; return whether it went."""


class Mailbox(BoundedQueue):
    """Messages on their way to one subscription. `BoundedQueue` does what every message costs; the rules are here."""

    __slots__ = (
        "_half",
        "_half_bytes",
        "_overflow",
        "_pausers",
        "_replayed_until",
        "_retrying",
        "aside",
        "buffer",
        "cost",
        "error",
        "full",
        "name",
        "on_full",
        "on_overflow",
        "pattern",
    )

    def __init__(
        self, name: str, pattern: str, buffer: Buffer, on_full: Callable[[Mailbox, Message[Any]], None]
    ) -> None:
        latest = buffer.overflow is Overflow.LATEST
        waiting: Any = Latest(name, buffer.key) if latest else Fifo()
        super().__init__(waiting, buffer.messages, buffer.bytes, plain=not latest)
        self.name = name
        self.pattern = pattern
        self.buffer = buffer
        # Of the WORK that a batch may ask for, for each message: all of it where the user's code has a say.
        self.cost = WORK if buffer.key is not None else 1
        self.on_full = on_full
        self.on_overflow: Callable[[Mailbox], None] | None = None
        self.aside: dict[Prefetched, None] = {}
        self.full = False
        self.error: Overflowed | None = None
        self._overflow = buffer.overflow
        self._half, self._half_bytes = buffer.messages // 2, buffer.bytes // 2
        self._pausers: Pausers[Mailbox] = Pausers(self)
        self._retrying = False
        self._replayed_until = 0

    @property
    def may_replace(self) -> bool:
        """Whether a message may be replaced as long as its call has not begun."""
        return self._overflow is Overflow.LATEST

    @property
    def overfull(self) -> bool:
        """Whether it has taken as much again as its bound: more than any source may bring beyond its read."""
        return self.pending >= 2 * self.most or self.pending_bytes >= 2 * self.most_bytes

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

    def _stand_in(self, message: Message[Any]) -> bool:
        """Put `message` in the place of the oldest ones behind which no socket stands either; return whether it went.

        Nobody can be paused for it, and what came over a socket is not given up for it. Nothing is given up in vain.
        """
        freed, found = 0, []
        replayed = self._replayed
        for place, aside, old in self._could_go():
            if old.session == 0 or place < replayed:
                found.append((place, aside, old))
                freed += old.size
                if freed >= message.size or self.pending_bytes - freed + message.size <= self.most_bytes:
                    break
        else:
            if len(found) < self.pending:
                return False
        # From the last to the first, as places shift.
        for place, aside, old in reversed(found):
            if aside is None:
                # By place, not by value: what a user's data says to == is nobody's business here.
                del self.waiting[place]
            elif aside.give_up(old):
                self.set_aside -= 1
            else:
                return False  # its call has begun meanwhile, in a thread; enough time has passed for room, too
            self._drop(old)
        self.waiting.append(message)
        self.pending_bytes += message.size
        return True

    def _could_go(self) -> Iterator[tuple[int, Prefetched | None, Message[Any]]]:
        """Go through what is pending and has not begun, oldest first: what was set aside is older than what waits."""
        if self.set_aside:
            each = [[(age, aside, old) for age, old in aside.could_go()] for aside in self.aside]
            yield from merge(*each, key=lambda entry: entry[0])
        for place, old in enumerate(self.waiting):
            yield place, None, old

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

    @property
    def _replayed(self) -> int:
        """How many of those in front were replayed. They came first, and only loops have any: none is set aside."""
        return self._replayed_until - self.processed - self.dropped

    def _fits(self, message: Message[Any]) -> bool:
        pending = self.pending
        return pending == 0 or (pending < self.most and self.pending_bytes + message.size <= self.most_bytes)

    def _offer(self, message: Message[Any]) -> bool:
        """Take one message as the policy has it; return whether it was taken."""
        key = None
        if self._overflow is Overflow.LATEST:
            # The user's function, which may do anything, so before anything is looked at.
            key = self.waiting.key_of(message)
            if not self.closed and self._replace(key, message):
                return True
        if not (self.closed or self._fits(message)):
            self._became_full(message)
            if self._overflow is Overflow.FAIL:
                self._fail()
            elif self._overflow is not Overflow.DROP_NEWEST:
                while not self._fits(message) and self._drop_oldest():
                    pass
        if self.closed or not self._fits(message):
            self.dropped += 1
            return False
        if self._overflow is Overflow.LATEST:
            self.waiting.put(key, message)
        else:
            self.waiting.append(message)
        self._added(message)
        return True

    def _replace(self, key: Any, message: Message[Any]) -> bool:
        """LATEST: let `message` stand in for the waiting one of its key; return whether that was all it needed."""
        old = self.waiting.get(key)
        if old is None:
            return False
        self._drop(old)
        if self.pending_bytes + message.size > self.most_bytes:
            self.waiting.remove(old)
            return False
        self.waiting.put(key, message)
        self._added(message)
        return True

    def _added(self, message: Message[Any]) -> None:
        self.pending_bytes += message.size
        if self.pending >= self.most or self.pending_bytes >= self.most_bytes:
            self._became_full(message)
        elif self.watched and self._overflow in (Overflow.LATEST, Overflow.DROP_OLDEST):
            self.check_half()  # it may have taken the place of much larger ones

    def _drop_oldest(self) -> bool:
        """Drop the oldest message whose call has not begun; return whether there was one."""
        while self.set_aside:
            oldest = min(self.aside, key=lambda entry: entry.age)
            if oldest.age == math.inf:
                break
            lost = oldest.lose()
            if lost is not None:
                self.set_aside -= 1
                self._drop(lost)
                return True
        if self.waiting:
            self._drop(self.waiting.popleft())
            return True
        return False

    def _drop(self, message: Message[Any]) -> None:
        self.pending_bytes -= message.size
        self.dropped += 1

    def _fail(self) -> None:
        most = f"{self.most} messages or {self.most_bytes} bytes"
        self.error = Overflowed(f"subscription {self.name!r} received more than its buffer holds ({most})")
        self.close()

    def _tell_overflow(self) -> None:
        # Only when all that was offered is counted: whoever is told takes the counts away.
        if self.error is not None and self.on_overflow is not None:
            tell, self.on_overflow = self.on_overflow, None
            tell(self)

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
