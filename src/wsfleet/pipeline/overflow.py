"""A bounded queue with an overflow policy, which decides whether a message is taken and which one is dropped for it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from heapq import merge
from typing import Any, Protocol

from wsfleet.core.errors import Overflowed
from wsfleet.core.message import Message
from wsfleet.core.options import Buffer, Overflow
from wsfleet.pipeline.latest import Latest
from wsfleet.pipeline.queue import BoundedQueue, Fifo

__all__ = ["OverflowQueue", "Prefetched"]


class Prefetched(Protocol):
    """Messages that a processor has taken out of the queue before their call starts. They can still be dropped."""

    @property
    def age(self) -> float:
        """A sequence number: lower for messages that were set aside earlier; infinity if none can be dropped."""

    def drop_oldest(self) -> Message[Any] | None:
        """Drop and return the oldest message; None if there is none or its call has started."""

    def droppable(self) -> Iterator[tuple[int, Message[Any]]]:
        """Return the messages that can be dropped, oldest first, each with its age."""

    def drop(self, message: Message[Any]) -> bool:
        """Drop `message` unless its call has started; return whether it was dropped."""


class OverflowQueue(BoundedQueue):
    """Takes single messages according to the policy of `buffer`. A subclass may pause the sources of messages."""

    __slots__ = (
        "_overflow",
        "_replayed_until",
        "aside",
        "buffer",
        "error",
        "full",
        "name",
        "on_full",
        "on_overflow",
    )

    def __init__(self, name: str, buffer: Buffer, on_full: Callable[[Any, Message[Any]], None]) -> None:
        latest = buffer.overflow is Overflow.LATEST
        waiting: Any = Latest(name, buffer.key) if latest else Fifo()
        super().__init__(waiting, buffer.messages, buffer.bytes, plain=not latest)
        self.name = name
        self.buffer = buffer
        self.on_full = on_full
        self.on_overflow: Callable[[Any], None] | None = None
        self.aside: dict[Prefetched, None] = {}
        self.full = False
        self.error: Overflowed | None = None
        self._overflow = buffer.overflow
        self._replayed_until = 0

    @property
    def may_replace(self) -> bool:
        """Whether a message may be replaced until its call starts."""
        return self._overflow is Overflow.LATEST

    @property
    def overfull(self) -> bool:
        """Whether twice the bound is pending: more than one read of a source can add."""
        return self.pending >= 2 * self.most or self.pending_bytes >= 2 * self.most_bytes

    def check_half(self) -> None:
        """End the full state if half of the buffer is free. Called when a message leaves while `watched`."""
        raise NotImplementedError

    def close(self) -> None:
        """Drop the waiting messages, and take no more."""
        raise NotImplementedError

    def _fits(self, message: Message[Any]) -> bool:
        pending = self.pending
        return pending == 0 or (pending < self.most and self.pending_bytes + message.size <= self.most_bytes)

    def _offer(self, message: Message[Any]) -> bool:
        """Take one message according to the policy; return whether it was taken."""
        key = None
        if self._overflow is Overflow.LATEST:
            # Call the user's function first: it may change this queue, or close it.
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
        """LATEST: replace the waiting message of this key by `message`; return whether `message` was taken."""
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
            self.check_half()  # it may have replaced much larger messages

    def _drop_oldest(self) -> bool:
        """Drop the oldest message whose call has not started; return whether there was one."""
        while self.set_aside:
            oldest = min(self.aside, key=lambda entry: entry.age)
            if oldest.age == math.inf:
                break
            dropped = oldest.drop_oldest()
            if dropped is not None:
                self.set_aside -= 1
                self._drop(dropped)
                return True
        if self.waiting:
            self._drop(self.waiting.popleft())
            return True
        return False

    def _drop(self, message: Message[Any]) -> None:
        self.pending_bytes -= message.size
        self.dropped += 1

    def _fail(self) -> None:
        bound = f"{self.most} messages or {self.most_bytes} bytes"
        self.error = Overflowed(f"subscription {self.name!r} received more than its buffer holds ({bound})")
        self.close()

    def _report_overflow(self) -> None:
        # Called when all offered messages are counted: `on_overflow` removes the mailbox with its counts.
        if self.error is not None and self.on_overflow is not None:
            on_overflow, self.on_overflow = self.on_overflow, None
            on_overflow(self)

    def _became_full(self, message: Message[Any]) -> None:
        """Enter the full state, which ends when half of the buffer is free. Report it once."""
        self.watched = True
        if not self.full:
            self.full = True
            self.on_full(self, message)

    # Messages that did not come from a socket

    def _make_room(self, message: Message[Any]) -> bool:
        """Put `message` in the place of the oldest messages that did not come from a socket; return whether it was put.

        No source can be paused for it. Messages from a socket are not dropped for it. If it cannot be put, no message
        is dropped.
        """
        freed, found = 0, []
        replayed = self._replayed
        for place, aside, old in self._droppable():
            if old.session == 0 or place < replayed:
                found.append((place, aside, old))
                freed += old.size
                if freed >= message.size or self.pending_bytes - freed + message.size <= self.most_bytes:
                    break
        else:
            if len(found) < self.pending:
                return False
        # In reverse order: deleting an entry shifts the places after it.
        for place, aside, old in reversed(found):
            if aside is None:
                # By place, not by value: comparing messages would call __eq__ of the user's data.
                del self.waiting[place]
            elif aside.drop(old):
                self.set_aside -= 1
            else:
                return False  # a thread has started its call in the meantime
            self._drop(old)
        self.waiting.append(message)
        self.pending_bytes += message.size
        return True

    def _droppable(self) -> Iterator[tuple[int, Prefetched | None, Message[Any]]]:
        """Iterate over pending messages whose call has not started, oldest first: set aside, then waiting."""
        if self.set_aside:
            each = [[(age, aside, old) for age, old in aside.droppable()] for aside in self.aside]
            yield from merge(*each, key=lambda entry: entry[0])
        for place, old in enumerate(self.waiting):
            yield place, None, old

    @property
    def _replayed(self) -> int:
        """The number of replayed messages at the front. Only subscriptions with a loop have any; none is set aside."""
        return self._replayed_until - self.processed - self.dropped
