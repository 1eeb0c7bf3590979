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
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

__all__ = ["AddrInfo", "Resolver", "in_thread"]

AddrInfo = tuple[int, int, int, str, Any]
T = TypeVar("T")

MAX_THREADS = 256
"""Lookups at a time. A fleet of ten thousand hosts must not start with ten thousand threads; only past so many slow
names do others wait."""


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

    try:
        threading.Thread(target=run, name=name, daemon=True).start()
    except RuntimeError as exc:
        # The system has no more threads: a matter of the moment, like a lookup that fails.
        finish(None, OSError(str(exc)))
    return future


class Resolver:
    """Host names to addresses; one lookup at a time for each name."""

    def __init__(self) -> None:
        self._lookups: dict[tuple[str, int], asyncio.Future[list[AddrInfo]]] = {}
        self._waiting: deque[tuple[str, int]] = deque()
        self._running = 0

    async def resolve(self, host: str, port: int) -> list[AddrInfo]:
        """Return the addresses of `host`. Raises OSError where there are none. Safe to cancel: others go on waiting."""
        try:
            address = ipaddress.ip_address(host)
        except ValueError:
            pass
        else:
            if "%" not in host:  # fe80::1%eth0: the number of the interface is the system's to find
                v6 = address.version == 6
                where = (str(address), port, 0, 0) if v6 else (str(address), port)
                return [(socket.AF_INET6 if v6 else socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", where)]
        key = (host, port)
        lookup = self._lookups.get(key)
        if lookup is None:
            lookup = self._lookups[key] = asyncio.get_running_loop().create_future()
            self._waiting.append(key)
            self._start_waiting()
        return await asyncio.shield(lookup)

    def _start_waiting(self) -> None:
        while self._waiting and self._running < MAX_THREADS:
            key = self._waiting.popleft()
            self._running += 1
            call = in_thread(partial(_getaddrinfo, *key), f"wsfleet-resolve-{key[0]}")
            call.add_done_callback(partial(self._finished, key))

    def _finished(self, key: tuple[str, int], call: asyncio.Future[list[AddrInfo]]) -> None:
        self._running -= 1
        lookup = self._lookups.pop(key)
        error = call.exception()
        if error is None:
            lookup.set_result(call.result())
        else:
            lookup.set_exception(error)
            lookup.exception()  # whoever asked may have been cancelled: an unread exception is no news
        self._start_waiting()

    async def aclose(self) -> None:
        """Wait a moment for lookups under way, then leave them to end by themselves."""
        while self._waiting:
            self._lookups.pop(self._waiting.popleft()).cancel()
        if self._lookups:
            await asyncio.wait(list(self._lookups.values()), timeout=0.5)


def _getaddrinfo(host: str, port: int) -> list[AddrInfo]:
    return list(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP))
