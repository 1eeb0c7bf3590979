"""The clients of a `FeedServer`, and the base classes of the faults that can happen to them."""

from __future__ import annotations

import asyncio
import math
import os
import socket
import struct
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, ClassVar, cast

from websockets.asyncio.server import ServerConnection
from websockets.http11 import Response
from websockets.protocol import State

from wsfleet.testing.numbers import Trail

__all__ = ["Client", "Clients", "ConnectionFault", "Fault", "HandshakeFault", "check_number"]


def check_number(
    name: str, value: object, least: int, most: float = math.inf, *, kind: type | tuple[type, ...] = int
) -> None:
    """Raise ValueError where `value` is no number of this kind, or out of bounds."""
    if not isinstance(value, kind) or isinstance(value, bool) or not least <= cast(float, value) <= most:
        bounds = f"from {least} to {most}" if most < math.inf else f"of at least {least}"
        raise ValueError(f"{name} must be a number {bounds}, not {value!r}")


class HandshakeFault(ABC):
    """Goes wrong before the connection is open."""

    @abstractmethod
    async def answer(self, client: Client) -> Response | None:
        """Return what to answer the handshake with, or None to go on with it."""


@dataclass(frozen=True, kw_only=True)
class ConnectionFault(ABC):
    """Goes wrong on an open connection, `after` so many messages or `after_s` seconds; by default at once."""

    after: int = 0
    after_s: float = 0.0

    spares: ClassVar[bool] = False
    """Whether the connection is still good afterwards."""

    destroys: ClassVar[bool] = False
    """Whether messages that were sent before it may get lost with it."""

    def __post_init__(self) -> None:
        check_number("after", self.after, 0)
        check_number("after_s", self.after_s, 0, kind=(int, float))

    @abstractmethod
    def strike(self, client: Client) -> None:
        """Do it to this client, now."""


Fault = HandshakeFault | ConnectionFault
"""What one attempt to connect may meet: a step of `FeedServer.script`."""


class Clients:
    """All clients of one server; `received` is called with each message of any of them."""

    def __init__(self, received: Callable[[str | bytes], object]) -> None:
        self.connected: dict[Client, None] = {}  # a set that keeps the order of connecting
        self.sockets: set[Client] = set()  # in their handshake or closing, too
        self.trails: list[Trail] = []
        self.received = received
        self.closing: set[asyncio.Task[None]] = set()
        self._changed = asyncio.Event()

    def add(self, client: Client) -> None:
        """Its handshake is done."""
        self.connected[client] = None
        self.trails.append(client._trail)
        self._change()

    def remove(self, client: Client) -> None:
        """It is gone, or ended by a fault."""
        if client in self.connected:
            del self.connected[client]
            self._change()

    async def changed(self) -> None:
        """Wait until one is added or removed. Safe to cancel."""
        await self._changed.wait()

    def close(self, client: Client) -> None:
        """Limit the time of a closing handshake, of which the close frame is written already."""
        task = asyncio.get_running_loop().create_task(client.close())
        self.closing.add(task)
        task.add_done_callback(self.closing.discard)

    def _change(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()


@dataclass(eq=False)
class _Armed:
    """A fault that waits for its moment."""

    fault: ConnectionFault
    at: int | None
    timer: asyncio.TimerHandle | None = None


class Client(ServerConnection):
    """A connection that notes what it receives, and that the server knows from its first byte on.

    For faults of your own: `write` puts bytes on the wire as they are, `reset` and `transport.abort()` end the
    connection, and `transport.pause_reading()` lets it go deaf.
    """

    def __init__(self, clients: Clients, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._sent = 0
        """How many messages the server's `send` has written to this client."""
        self._struck: ConnectionFault | None = None
        """The fault that took this client from the server's care, if one has."""
        self._held = False
        """Whether it was left hanging, and nothing but the server will end it."""
        self._trail = Trail()
        self._step: Fault | None = None
        """What the server's script has for this attempt."""
        self._byte_s = 0.0
        """How long each byte of the answer to the handshake takes."""
        self._clients = clients
        self._hook: asyncio.Task[Any] | None = None
        self._armed: list[_Armed] = []
        self._told = False

    # For faults

    def write(self, data: bytes) -> None:
        """Put these bytes on the wire, frames or not."""
        if not self.transport.is_closing():
            self.transport.write(data)

    def reset(self) -> None:
        """End the connection with a RST: what is not sent yet never will be (SO_LINGER with a time of zero)."""
        # By a socket of our own over the same descriptor, as uvloop's has no options.
        with socket.socket(fileno=os.dup(self.transport.get_extra_info("socket").fileno())) as own:
            own.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.transport.abort()

    def hold(self, for_s: float | None) -> None:
        """Leave the connection as it is, and cut it after `for_s` seconds, or when the server ends."""
        self._held = True
        if for_s is not None:
            self.loop.call_later(for_s, self.transport.abort)

    def hang_up(self) -> None:
        """Limit the time of a closing handshake that has begun."""
        self._clients.close(self)

    # For the server

    def _arm(self, fault: ConnectionFault) -> None:
        """Let the fault happen, now or when its time has come."""
        if not fault.after and not fault.after_s:
            self._suffer(fault)
            return
        armed = _Armed(fault, self._sent + fault.after if fault.after else None)
        if fault.after_s:
            armed.timer = self.loop.call_later(fault.after_s, self._fire, armed)
        self._armed.append(armed)

    def _disarm(self) -> None:
        """Forget the faults that have not happened yet."""
        for armed in self._armed:
            if armed.timer is not None:
                armed.timer.cancel()
        self._armed.clear()

    def _count(self) -> None:
        """Note that one more message was sent, and let happen what was to happen after it."""
        self._sent += 1
        for armed in [each for each in self._armed if each.at == self._sent]:
            if armed in self._armed:
                self._fire(armed)

    def _suffer(self, fault: ConnectionFault) -> None:
        """Let the fault happen now; it happens to no client twice that one ends it."""
        if self._struck is not None or self.state is not State.OPEN or self.transport.is_closing():
            return
        fault.strike(self)
        if not fault.spares:
            self._leave(fault)

    def _leave(self, fault: ConnectionFault) -> None:
        """Count as gone, whatever the socket still does."""
        self._struck = fault
        self._trail.destroyed = fault.destroys
        self._disarm()
        self._clients.remove(self)
        if self._hook is not None:
            self._hook.cancel()

    async def _until_lost(self, hook: Awaitable[None]) -> None:
        """Await the hook in this task; it is cancelled when the connection is lost, or a fault takes it over."""
        task = self._hook = asyncio.current_task()
        try:
            await hook
        except asyncio.CancelledError:
            if task is None or self._struck is None:
                raise
            task.uncancel()
        finally:
            self._hook = None

    async def _trickle(self, answer: bytes) -> None:
        """Write the answer to the handshake a byte at a time, but for the last one, which websockets writes."""
        for place in range(len(answer) - 1):
            self.write(answer[place : place + 1])
            done, _ = await asyncio.wait([self.connection_lost_waiter], timeout=self._byte_s)
            if done:
                return
        self._told = True

    def _fire(self, armed: _Armed) -> None:
        self._armed.remove(armed)
        if armed.timer is not None:
            armed.timer.cancel()
        self._suffer(armed.fault)

    # See websockets

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._clients.sockets.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._clients.sockets.discard(self)
        self._disarm()
        if self._struck is None:
            self._trail.destroyed = True  # the client went, and may have left something unread
        if self._hook is not None:
            self._hook.cancel()

    def send_data(self) -> None:
        if self._told:
            self._told = False
            self.write(b"".join(self.protocol.data_to_send())[-1:])
        else:
            super().send_data()

    async def recv(self, decode: bool | None = None) -> Any:
        message = await super().recv(decode)
        self._clients.received(message)
        return message
