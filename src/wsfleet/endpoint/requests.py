"""The pending requests of one connection, and matching of its messages to them."""

from __future__ import annotations

import asyncio
import random
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any

from wsfleet.core.error_text import is_exit_request
from wsfleet.core.errors import RequestLost

__all__ = ["Match", "PendingRequests"]

Match = Callable[[Any], Hashable]

REMEMBERED = 10_000
"""Maximum number of finished requests remembered per socket, to recognise late replies. Applies to ids from `identify`;
wsfleet's own ids are consecutive, so all are recognised.
"""


def _random_start() -> int:
    # Far from the ids of servers and callers, and exact as a double (RFC 8259, section 6).
    return random.randrange(2**32 + 1, 2**52)


class PendingRequests:
    """Futures by id. `match(data)` gives the id that a message replies to, or None.

    `on_change` is called when the first request is added and when the last one is removed.
    """

    def __init__(self, match: Match, on_change: Callable[[], None]) -> None:
        self._match = match
        self._on_change = on_change
        self._waiting: dict[Hashable, asyncio.Future[Any]] = {}
        self._past: OrderedDict[Hashable, None] = OrderedDict()
        self._first = self._next = _random_start()

    def __len__(self) -> int:
        return len(self._waiting)

    def number(self) -> int:
        """Return the id of a new request. The ids of one socket are consecutive."""
        self._next += 1
        return self._next - 1

    def issue(self, number: Hashable) -> asyncio.Future[Any]:
        """Expect a reply to `number`. Raises ValueError if one is expected already."""
        if number is None:
            raise ValueError("a request needs an id, and None is no id")
        if number in self._waiting:
            raise ValueError(f"a request with the id {number!r} is under way already")
        self._past.pop(number, None)
        future = self._waiting[number] = asyncio.get_running_loop().create_future()
        if len(self._waiting) == 1:
            self._on_change()
        return future

    def forget(self, number: Hashable, future: asyncio.Future[Any]) -> None:
        """Stop waiting for a reply to `number`."""
        if self._waiting.get(number) is future:
            del self._waiting[number]
            self._remember(number)
            if not self._waiting:
                self._on_change()

    def take(self, data: Any) -> bool:
        """Pass `data` to the request it replies to. Return whether it is a reply, including a late one."""
        try:
            number = self._match(data)
            if number is None:
                return False
            future = self._waiting.get(number)
        except BaseException as exc:
            if is_exit_request(exc):
                raise
            return False  # `match` does not understand it, so it is not a reply
        if future is None:
            return self._is_past(number)
        del self._waiting[number]
        self._remember(number)
        if not future.done():
            future.set_result(data)
        if not self._waiting:
            self._on_change()
        return True

    def _is_past(self, number: Hashable) -> bool:
        return number in self._past or self._is_ours(number)

    def _is_ours(self, number: Hashable) -> bool:
        return isinstance(number, int) and self._first <= number < self._next

    def lose(self, why: str, *, socket_gone: bool, cause: BaseException | None = None) -> None:
        """Fail all pending requests, with `cause`. With `socket_gone`, forget the ids: a new socket has issued none."""
        waiting, self._waiting = self._waiting, {}
        for number, future in waiting.items():
            if not socket_gone:
                self._remember(number)
            if not future.done():
                error = RequestLost(why)
                error.__cause__ = cause
                future.set_exception(error)
        if socket_gone:
            self._past.clear()
            self._first = self._next = _random_start()
        if waiting:
            self._on_change()

    def _remember(self, number: Hashable) -> None:
        if self._is_ours(number):
            return
        self._past[number] = None
        if len(self._past) > REMEMBERED:
            self._past.popitem(last=False)
