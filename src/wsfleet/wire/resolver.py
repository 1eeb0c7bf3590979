"""Looks up host names without holding up the loop, the other hosts, or the program's end.

`getaddrinfo` blocks, and cannot be cancelled. On the loop's shared executor a few slow names hold up every other
user of it; so each name being looked up has a short-lived daemon thread of its own, shared by all who ask for it
meanwhile. There is no cache: names change, and the system has one.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import threading
from collections.abc import Callable
from typing import Any, TypeVar

__all__ = ["AddrInfo", "Resolver", "in_thread"]

AddrInfo = tuple[int, int, int, str, Any]
T = TypeVar("T")


def in_thread(function: Callable[[], T], name: str) -> asyncio.Future[T]:
    """Call `function` in a daemon thread of its own; the future gets its result or exception.

    Cancelling the future abandons the call: the thread ends when the call returns, and a program may end before.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def finish(result: Any, error: BaseException | None) -> None:
        if future.done():
            return
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(result)

    def run() -> None:
        result, error = None, None
        try:
            result = function()
        except BaseException as exc:
            error = exc
        try:
            loop.call_soon_threadsafe(finish, result, error)
        except RuntimeError:
            pass  # the loop was closed meanwhile: nobody waits any more

    threading.Thread(target=run, name=name, daemon=True).start()
    return future


class Resolver:
    """Host names to addresses; one lookup at a time for each name."""

    def __init__(self) -> None:
        self._lookups: dict[tuple[str, int], asyncio.Future[list[AddrInfo]]] = {}

    async def resolve(self, host: str, port: int) -> list[AddrInfo]:
        """Return the addresses of `host`. Raises OSError where there are none. Safe to cancel: others go on waiting."""
        try:
            address = ipaddress.ip_address(host)
        except ValueError:
            pass
        else:
            v6 = address.version == 6
            where = (str(address), port, 0, 0) if v6 else (str(address), port)
            return [(socket.AF_INET6 if v6 else socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", where)]
        key = (host, port)
        lookup = self._lookups.get(key)
        if lookup is None:
            lookup = in_thread(
                lambda: socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP),
                f"wsfleet-resolve-{host}",
            )
            self._lookups[key] = lookup
            lookup.add_done_callback(lambda done: self._finished(key, done))
        return await asyncio.shield(lookup)

    def _finished(self, key: tuple[str, int], lookup: asyncio.Future[list[AddrInfo]]) -> None:
        self._lookups.pop(key, None)
        if not lookup.cancelled():
            lookup.exception()  # whoever asked may have been cancelled: an unread exception is no news

    async def aclose(self) -> None:
        """Wait a moment for lookups under way, then leave them to end by themselves."""
        if self._lookups:
            await asyncio.wait(list(self._lookups.values()), timeout=0.5)
