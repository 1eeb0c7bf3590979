"""Sends the messages of one connection, in the order of the calls."""

from __future__ import annotations

import asyncio
from typing import Any

from wsfleet.core.encode import encode_payload
from wsfleet.core.errors import ConnectionLost, NotOpen
from wsfleet.core.options import Endpoint
from wsfleet.endpoint.ingest import Ingest
from wsfleet.transport.base import Wire

__all__ = ["Sending"]


class Sending:
    """The part of a session that sends messages and heartbeats."""

    def __init__(self, endpoint: Endpoint, ingest: Ingest, wire: Wire) -> None:
        self.options = endpoint
        self.ended: asyncio.Future[ConnectionLost] = asyncio.get_running_loop().create_future()
        self._ingest = ingest
        self._wire = wire
        self._loop = asyncio.get_running_loop()
        self._error: ConnectionLost | None = None
        self._refused = False
        self._send_lock: asyncio.Lock | None = None
        self._senders = 0
        # Whether a message can be sent at once: there is no limit, no loss, and no other sender waits.
        self._direct = endpoint.sends_per_s is None
        self._next_send = 0.0

    @property
    def endpoint(self) -> str:
        """The endpoint's name; in a pool the member's."""
        return self._ingest.factory.name

    @property
    def can_send(self) -> bool:
        """Whether sending may succeed. A close that has begun is noticed when sending fails."""
        return self._error is None and not self._refused

    def send_now(self, data: Any) -> bool:
        """Send one message if it needs no wait. Return whether it was sent. Raises the same errors as `send`."""
        if not self._direct or not self._wire.writable:
            return False
        self._write(data if type(data) is str else encode_payload(data))
        return True

    async def send(self, data: Any) -> None:
        """See `Session.send`."""
        payload = encode_payload(data)
        if not self.can_send:
            raise NotOpen(f"{self.endpoint}: the connection is closing or lost")
        if self.send_now(payload):
            return
        if self._send_lock is None:
            self._send_lock = asyncio.Lock()
        self._direct = False
        self._senders += 1
        try:
            await self._send_in_turn(payload, self._send_lock)
        finally:
            self._senders -= 1
            self._direct = not self._senders and self.can_send and self.options.sends_per_s is None

    async def _send_in_turn(self, payload: str | bytes, lock: asyncio.Lock) -> None:
        # The lock is fair, so that messages go out in the order of their calls.
        async with lock:
            await self._wait_turn()
            while not self._wire.writable and self._error is None:
                await self._wire.wait_writable()
                if not self._wire.writable:
                    # The socket is closed; the loss is reported after the data received before it. A paused one waits
                    # for its processors, which may be waiting here.
                    if not self._ingest.reading:
                        raise ConnectionLost(1006, "the connection was lost while its reading was paused")
                    await asyncio.sleep(0)
            if self._error is not None:
                raise ConnectionLost(self._error.code, self._error.reason) from self._error
            self._write(payload)

    def _refuse(self) -> None:
        """Refuse further messages: the connection is closing or lost."""
        self._refused, self._direct = True, False

    def _write(self, payload: str | bytes) -> None:
        try:
            self._wire.write(payload)
        except NotOpen:
            self._refuse()
            raise
        self._ingest.sent += 1
        rate = self.options.sends_per_s
        if rate is not None:
            self._next_send = max(self._next_send, self._loop.time()) + 1.0 / rate

    async def _wait_turn(self) -> None:
        # A turn is used when the message is written, so a cancelled send delays no other. A heartbeat may use it first.
        turn = 0.0
        while self._error is None and self._next_send > turn:
            turn = self._next_send
            wait_s = turn - self._loop.time()
            if wait_s > 0.0:
                await asyncio.wait([self.ended], timeout=wait_s)

    def beat(self, payload: str | bytes) -> None:
        """Send a heartbeat if there is room in the write buffer; do not wait."""
        if self._wire.writable and self._error is None:
            try:
                self._write(payload)
            except NotOpen:
                pass  # the connection is closing
