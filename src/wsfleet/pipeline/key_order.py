"""Keeps the order of messages with the same key over several workers."""

from __future__ import annotations

import logging
import math
import time
from collections import deque
from collections.abc import Callable, Hashable, Iterator
from operator import itemgetter
from typing import Any, NamedTuple

from wsfleet.core.error_text import is_exit_request, shown
from wsfleet.core.loop_watchdog import calls_user_code
from wsfleet.core.message import Message
from wsfleet.core.time_slice import SLICE_S
from wsfleet.pipeline.mailbox import Mailbox

__all__ = ["KeyOrder", "Taken"]

log = logging.getLogger("wsfleet")

Entry = tuple[int, Message[Any]]
_age_of = itemgetter(0)


class Taken(NamedTuple):
    """Messages for one call, oldest first; their keys, busy until `KeyOrder.free`; and the age of the first message."""

    messages: list[Message[Any]]
    keys: set[Hashable]
    age: int


class _Lane:
    """Messages of one busy key, set aside so that others can pass. They can be dropped like waiting messages."""

    def __init__(self) -> None:
        self.messages: deque[Entry] = deque()

    @property
    def age(self) -> float:
        return self.messages[0][0] if self.messages else math.inf

    def drop_oldest(self) -> Message[Any] | None:
        return self.messages.popleft()[1] if self.messages else None

    def droppable(self) -> Iterator[Entry]:
        return iter(self.messages)

    def drop(self, message: Message[Any]) -> bool:
        place = next(place for place, (_, mine) in enumerate(self.messages) if mine is message)
        del self.messages[place]
        return True


class KeyOrder:
    """Hands out messages so that those of one key are processed one after the other.

    A message whose key is busy is set aside in the lane of that key. Messages set aside are older than
    waiting ones, so a lane whose key is free again goes first. Ages rise in the order in which messages left the queue.
    """

    def __init__(
        self,
        mailbox: Mailbox,
        key: Callable[[Message[Any]], Hashable] | None,
        request_exit: Callable[[BaseException], object] | None = None,
    ) -> None:
        self.more = False  # whether take() stopped before it had checked all messages
        self._mailbox = mailbox
        self._key = key
        self._request_exit = request_exit
        self._busy: set[Hashable] = set()
        self._lanes: dict[Hashable, _Lane] = {}
        self._free: deque[Hashable] = deque()
        self._failed = False
        self._count = 0

    @property
    def name(self) -> str:
        return self._mailbox.name

    def take(self, most: int) -> Taken:
        """Take up to `most` messages, and keep their keys busy until `free` is called with them.

        The caller counts them as in hand or set aside.
        """
        waiting = self._mailbox.waiting
        keys: set[Hashable] = set()
        if self._key is None:
            self._count += 1
            return Taken([waiting.popleft() for _ in range(min(most, len(waiting)))], keys, self._count)
        entries: list[Entry] = []
        self.more = False
        if self._mailbox.may_replace:
            self._from_latest(entries, keys, most)
        else:
            self._from_lanes(entries, keys, most)
            self._from_queue(entries, keys, most)
            # They may come from several lanes; within each key they are in order already.
            entries.sort(key=_age_of)
        return Taken([message for _, message in entries], keys, entries[0][0] if entries else 0)

    def free(self, keys: set[Hashable]) -> None:
        """Make `keys` available again: the calls for their messages have ended."""
        for key in keys:
            self._busy.discard(key)
            if key in self._lanes:
                self._free.append(key)

    def _from_lanes(self, entries: list[Entry], keys: set[Hashable], most: int) -> None:
        while self._free and len(entries) < most:
            key = self._free.popleft()
            lane = self._lanes[key]
            while lane.messages and len(entries) < most:
                entries.append(lane.messages.popleft())
                self._mailbox.set_aside -= 1
                keys.add(key)
            if key in keys:
                self._busy.add(key)
            if not lane.messages:
                del self._lanes[key], self._mailbox.aside[lane]

    def _from_queue(self, entries: list[Entry], keys: set[Hashable], most: int) -> None:
        mailbox = self._mailbox
        until = time.perf_counter() + SLICE_S
        while mailbox.waiting and len(entries) < most:
            if time.perf_counter() > until:  # calls the key function, maybe for many messages
                self.more = True
                return
            message = mailbox.waiting.popleft()
            key = self._key_of(message)
            self._count += 1
            if key in self._lanes or (key in self._busy and key not in keys):
                lane = self._lanes.get(key)
                if lane is None:
                    lane = self._lanes[key] = _Lane()
                    mailbox.aside[lane] = None
                lane.messages.append((self._count, message))
                mailbox.set_aside += 1
                continue
            self._busy.add(key)
            keys.add(key)
            entries.append((self._count, message))

    def _from_latest(self, entries: list[Entry], keys: set[Hashable], most: int) -> None:
        """Take messages with a free key. The others stay in the queue, so that newer messages can replace them."""
        waiting = self._mailbox.waiting
        for message in waiting:
            key = self._key_of(message)
            if key in self._busy and key not in keys:
                continue
            self._busy.add(key)
            keys.add(key)
            self._count += 1
            entries.append((self._count, message))
            if len(entries) == most:
                break
        for _, message in entries:
            waiting.remove(message)

    @calls_user_code("self")
    def _key_of(self, message: Message[Any]) -> Hashable:
        try:
            key = self._key(message) if self._key is not None else None
            hash(key)
        except BaseException as exc:
            # Nothing is awaited here: a CancelledError comes from the user's function.
            if is_exit_request(exc) and self._request_exit is not None:
                self._request_exit(exc)
            elif not self._failed:
                self._failed = True
                text = "%s: the key function failed; messages without a key are processed in order"
                fields = {"event": "key.failed", "subscription": self._mailbox.name}
                log.error(text, self._mailbox.name, exc_info=shown(exc), extra=fields)
            return None
        return key
