"""A bounded queue with a policy for when it is full: which message is taken, and which one makes room for it."""

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


class OverflowQueue(BoundedQueue):
    """Takes one message at a time, as the policy of `buffer` says. A subclass may pause the sources of messages."""

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
        """Whether a message may be replaced as long as its call has not begun."""
        return self._overflow is Overflow.LATEST

    @property
    def overfull(self) -> bool:
        """Whether it has taken as much again as its bound: more than any source may bring beyond its read."""
        return self.pending >= 2 * self.most or self.pending_bytes >= 2 * self.most_bytes

    def check_half(self) -> None:
        """Called when something left while `watched`."""
        raise NotImplementedError

    def close(self) -> None:
        """Drop what waits, and take nothing more."""
        raise NotImplementedError

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

    # Messages behind which no socket stands

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

    @property
    def _replayed(self) -> int:
        """How many of those in front were replayed. They came first, and only loops have any: none is set aside."""
        return self._replayed_until - self.processed - self.dropped
