"""The queue of `Overflow.LATEST`: the latest waiting message for each key."""

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

    A newer message takes the place of the older one. At the end of the queue, a frequent key would never be processed.
    """

    def __init__(self, name: str, key: Callable[[Message[Any]], Any] | None) -> None:
        self.name = name
        self._key = key
        # To find its first item, a plain dict steps over the entries removed before it.
        self._messages: OrderedDict[Hashable, Message[Any]] = OrderedDict()
        self._failed = False
        self.request_exit: Callable[[BaseException], object] | None = None

    def __len__(self) -> int:
        return len(self._messages)

    def __iter__(self) -> Iterator[Message[Any]]:
        return iter(self._messages.values())

    @calls_user_code("self")
    def key_of(self, message: Message[Any]) -> Hashable:
        """Return the key of `message`: the result of the user's function, or the topic if it fails or there is none."""
        if self._key is None:
            return message.topic
        try:
            key: Hashable = self._key(message)
            _ = key in self._messages  # its __hash__ and __eq__ are user code, too
        except BaseException as exc:
            # Nothing is awaited here: a CancelledError comes from the user's function.
            if is_exit_request(exc) and self.request_exit is not None:
                self.request_exit(exc)
            elif not self._failed:
                self._failed = True
                text = "%s: the key function of the buffer failed; using the topic as the key"
                fields = {"event": "key.failed", "subscription": self.name}
                log.error(text, self.name, exc_info=shown(exc), extra=fields)
            return message.topic
        return key

    def get(self, key: Hashable) -> Message[Any] | None:
        return self._messages.get(key)

    def put(self, key: Hashable, message: Message[Any]) -> None:
        """Put `message` under `key`, replacing the present message of the key."""
        self._messages[key] = message

    def remove(self, message: Message[Any]) -> None:
        del self._messages[next(key for key, mine in self._messages.items() if mine is message)]

    def popleft(self) -> Message[Any]:
        return self._messages.popitem(last=False)[1]
