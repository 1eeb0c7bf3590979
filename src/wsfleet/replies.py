"""The requests that one connection has outstanding, and which of its messages are replies."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any

from wsfleet.errors import RequestLost
from wsfleet.message import Message

__all__ = ["Match", "Replies"]

Match = Callable[[Any], Hashable]

REMEMBERED = 10_000
"""Ids of answered or abandoned requests that are remembered for each socket, to know a late reply."""


class Replies:
    """Futures by id. `match(data)` gives the id that a message replies to, or None."""

    def __init__(self, match: Match, on_change: Callable[[], None]) -> None:
        self._match = match
        self._on_change = on_change
        self._waiting: dict[Hashable, asyncio.Future[Any]] = {}
        self._past: OrderedDict[Hashable, None] = OrderedDict()

    def __len__(self) -> int:
        return len(self._waiting)

    def issue(self, number: Hashable) -> asyncio.Future[Any]:
        """Expect a reply to `number`. Raises ValueError where one is expected already."""
        if number in self._waiting:
            raise ValueError(f"a request with the id {number!r} is under way already")
        self._past.pop(number, None)
        future = self._waiting[number] = asyncio.get_running_loop().create_future()
        self._on_change()
        return future

    def forget(self, number: Hashable, future: asyncio.Future[Any]) -> None:
        """Nobody awaits `number` any more."""
        if self._waiting.get(number) is future:
            del self._waiting[number]
            self._remember(number)
            self._on_change()

    def take(self, message: Message[Any]) -> bool:
        """Give `message` to whoever awaits it; True also for a late reply, False for what is no reply to us."""
        try:
            number = self._match(message.data)
            if number is None:
                return False
            future = self._waiting.get(number)
        except Exception:
            return False  # data that `match` does not understand is a message like any other
        if future is None:
            return number in self._past
        del self._waiting[number]
        self._remember(number)
        if not future.done():
            future.set_result(message.data)
        self._on_change()
        return True

    def lose(self, why: str, *, socket_gone: bool) -> None:
        """Fail all requests under way. A new socket has issued nothing yet."""
        waiting, self._waiting = self._waiting, {}
        for number, future in waiting.items():
            if not socket_gone:
                self._remember(number)
            if not future.done():
                future.set_exception(RequestLost(why))
        if socket_gone:
            self._past.clear()
        if waiting:
            self._on_change()

    def _remember(self, number: Hashable) -> None:
        self._past[number] = None
        if len(self._past) > REMEMBERED:
            self._past.popitem(last=False)
