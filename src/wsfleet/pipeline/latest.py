"""The queue of `Overflow.LATEST`: of what waits, the latest message for each key."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from typing import Any

from wsfleet.core.error_text import is_exit_request, shown
from wsfleet.core.loop_watchdog import calls_user_code
from wsfleet.core.message import Message

__all__ = ["Latest"]

log = logging.getLogger("wsfleet")


class Latest:
    """One message for each key, in the order in which the keys came.

    A newer message takes the place of the older one: were it sent to the end, a busy key would never have its turn.
    """

    def __init__(self, name: str, key: Callable[[Message[Any]], Any] | None) -> None:
        self.name = name
        self._key = key
        # A plain dict looks for its first item among all that were ever taken out before it.
        self._messages: OrderedDict[Hashable, Message[Any]] = OrderedDict()
        self._failed = False
        self.request_exit: Callable[[BaseException], object] | None = None

    def __len__(self) -> int:
        return len(self._messages)

    def __iter__(self) -> Iterator[Message[Any]]:
        return iter(self._messages.values())

    @calls_user_code("self")
    def key_of(self, message: Message[Any]) -> Hashable:
        """Return what the user's function says; where that is no good, the topic, as without a function."""
        if self._key is None:
            return message.topic
        try:
            key: Hashable = self._key(message)
            _ = key in self._messages  # its hash and its == are the user's code, too
        except BaseException as exc:
            # Nothing is awaited here: a CancelledError can only be the user's own.
            if is_exit_request(exc) and self.request_exit is not None:
                self.request_exit(exc)
            elif not self._failed:
                self._failed = True
                text = "%s: the key function of its buffer failed; the topic stands in"
                told = {"event": "key.failed", "subscription": self.name}
                log.error(text, self.name, exc_info=shown(exc), extra=told)
            return message.topic
        return key

    def get(self, key: Hashable) -> Message[Any] | None:
        return self._messages.get(key)

    def put(self, key: Hashable, message: Message[Any]) -> None:
        """Put `message` under `key`, in the place of the one that is there."""
        self._messages[key] = message

    def remove(self, message: Message[Any]) -> None:
        del self._messages[next(key for key, mine in self._messages.items() if mine is message)]

    def popleft(self) -> Message[Any]:
        return self._messages.popitem(last=False)[1]
