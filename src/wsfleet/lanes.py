"""Order per key over several workers: which message may be taken next, and which must wait for its key."""

from __future__ import annotations

import logging
import math
from collections import deque
from collections.abc import Callable, Hashable
from typing import Any

from wsfleet.mailbox import Mailbox
from wsfleet.message import Message

__all__ = ["Lanes"]

log = logging.getLogger("wsfleet")


class _Lane:
    """Messages of one busy key, taken out of the queue to let others by; still to be dropped like any that wait."""

    def __init__(self) -> None:
        self.messages: deque[tuple[int, Message[Any]]] = deque()

    @property
    def age(self) -> float:
        return self.messages[0][0] if self.messages else math.inf

    def lose(self) -> Message[Any] | None:
        return self.messages.popleft()[1] if self.messages else None


class Lanes:
    """Hands out messages so that those of one key are worked on one after the other.

    A message whose key is busy is set aside in the lane of that key. What is set aside is older than what waits, so
    a lane whose key is free again goes first.
    """

    def __init__(self, mailbox: Mailbox, key: Callable[[Message[Any]], Hashable] | None) -> None:
        self._mailbox = mailbox
        self._key = key
        self._busy: set[Hashable] = set()
        self._lanes: dict[Hashable, _Lane] = {}
        self._free: deque[Hashable] = deque()
        self._failed = False
        self._count = 0

    def take(self, most: int) -> tuple[list[Message[Any]], set[Hashable]]:
        """Take up to `most` messages out, and keep their keys busy until `free` is called with them.

        The caller counts what it took, in hand or set aside.
        """
        mailbox = self._mailbox
        taken: list[Message[Any]] = []
        keys: set[Hashable] = set()
        if self._key is None:
            while len(taken) < most and mailbox.waiting:
                taken.append(mailbox.waiting.popleft())
        else:
            self._from_lanes(taken, keys, most)
            self._from_queue(taken, keys, most)
        return taken, keys

    def free(self, keys: set[Hashable]) -> None:
        """These keys' messages are done with."""
        for key in keys:
            self._busy.discard(key)
            if key in self._lanes:
                self._free.append(key)

    def _from_lanes(self, taken: list[Message[Any]], keys: set[Hashable], most: int) -> None:
        while self._free and len(taken) < most:
            key = self._free.popleft()
            lane = self._lanes[key]
            while lane.messages and len(taken) < most:
                taken.append(lane.messages.popleft()[1])
                self._mailbox.set_aside -= 1
                keys.add(key)
            if key in keys:
                self._busy.add(key)
            if not lane.messages:
                del self._lanes[key], self._mailbox.aside[lane]

    def _from_queue(self, taken: list[Message[Any]], keys: set[Hashable], most: int) -> None:
        mailbox = self._mailbox
        while mailbox.waiting and len(taken) < most:
            message = mailbox.waiting.popleft()
            key = self._key_of(message)
            if key in self._lanes or (key in self._busy and key not in keys):
                lane = self._lanes.get(key)
                if lane is None:
                    lane = self._lanes[key] = _Lane()
                    mailbox.aside[lane] = None
                self._count += 1
                lane.messages.append((self._count, message))
                mailbox.set_aside += 1
                continue
            self._busy.add(key)
            keys.add(key)
            taken.append(message)

    def _key_of(self, message: Message[Any]) -> Hashable:
        try:
            key = self._key(message) if self._key is not None else None
            hash(key)
        except Exception:
            if not self._failed:
                self._failed = True
                log.exception("%s: the key function failed; such messages share one lane", self._mailbox.name)
            return None
        return key
