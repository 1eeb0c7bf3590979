"""Resolves host names without blocking the loop, the resolution of other names, or the exit of the program.

`getaddrinfo` blocks and cannot be cancelled. In the loop's default executor, a few slow names would delay all other
users of the executor. Therefore each lookup runs in its own short-lived daemon thread, and concurrent requests for the
same name share a lookup. Results are not cached: addresses change, and the operating system has a cache.
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
"""Maximum number of concurrent lookups, so that a fleet of ten thousand hosts does not start ten thousand threads."""


def in_thread(function: Callable[[], T], name: str) -> asyncio.Future[T]:
    """Call `function` in a new daemon thread, and return a future for its result or exception.

    If the future is cancelled, the thread continues until the call returns. It does not delay the exit of the program.
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
            pass  # the loop has been closed

    try:
        threading.Thread(target=run, name=name, daemon=True).start()
    except RuntimeError as exc:
        # The limit of threads is reached: a temporary error, like a failed lookup.
        finish(None, OSError(str(exc)))
    return future


class Resolver:
    """Resolves host names to addresses, with one lookup at a time for each name."""

    def __init__(self) -> None:
        self._lookups: dict[tuple[str, int], asyncio.Future[list[AddrInfo]]] = {}
        self._waiting: deque[tuple[str, int]] = deque()
        self._running = 0

    async def resolve(self, host: str, port: int) -> list[AddrInfo]:
        """Return the addresses of `host`. Raises OSError. Safe to cancel; other callers are not affected."""
        try:
            address = ipaddress.ip_address(host)
        except ValueError:
            pass
        else:
            if "%" not in host:  # getaddrinfo converts the scope of fe80::1%eth0 to the number of the interface
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
            lookup.exception()  # all callers may have been cancelled: prevent "exception was never retrieved"
        self._start_waiting()

    async def aclose(self) -> None:
        """Wait up to 0.5 s for running lookups, and abandon the rest."""
        while self._waiting:
            self._lookups.pop(self._waiting.popleft()).cancel()
        if self._lookups:
            await asyncio.wait(list(self._lookups.values()), timeout=0.5)


def _getaddrinfo(host: str, port: int) -> list[AddrInfo]:
    return list(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP))
