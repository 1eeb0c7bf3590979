"""The clients of a `FeedServer`, and the base classes of faults."""

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
    """Raise ValueError if `value` is not a number of this type, or is out of bounds."""
    if not isinstance(value, kind) or isinstance(value, bool) or not least <= cast(float, value) <= most:
        bounds = f"from {least} to {most}" if most < math.inf else f"of at least {least}"
        raise ValueError(f"{name} must be a number {bounds}, not {value!r}")


class HandshakeFault(ABC):
    """A fault before the connection is open."""

    @abstractmethod
    async def answer(self, client: Client) -> Response | None:
        """Return the response to the handshake, or None to continue the handshake."""


@dataclass(frozen=True, kw_only=True)
class ConnectionFault(ABC):
    """A fault of an open connection, `after` a number of messages or `after_s` seconds; by default at once."""

    after: int = 0
    after_s: float = 0.0

    spares: ClassVar[bool] = False
    """Whether the connection remains usable."""

    destroys: ClassVar[bool] = False
    """Whether messages that were sent before the fault may be lost."""

    def __post_init__(self) -> None:
        check_number("after", self.after, 0)
        check_number("after_s", self.after_s, 0, kind=(int, float))

    @abstractmethod
    def strike(self, client: Client) -> None:
        """Apply the fault to this client, now."""


Fault = HandshakeFault | ConnectionFault
"""A step of `FeedServer.script`: the fault of one attempt to connect."""


class Clients:
    """All clients of one server. `received` is called with each message of a client."""

    def __init__(self, received: Callable[[str | bytes], object]) -> None:
        self.connected: dict[Client, None] = {}  # an ordered set, in the order of connection
        self.sockets: set[Client] = set()  # also clients in the opening or closing handshake
        self.trails: list[Trail] = []
        self.received = received
        self.closing: set[asyncio.Task[None]] = set()
        self._changed = asyncio.Event()

    def add(self, client: Client) -> None:
        """Add a client after its opening handshake."""
        self.connected[client] = None
        self.trails.append(client._trail)
        self._change()

    def remove(self, client: Client) -> None:
        """Remove a client whose connection was lost or ended by a fault. Idempotent."""
        if client in self.connected:
            del self.connected[client]
            self._change()

    async def changed(self) -> None:
        """Wait until a client is added or removed. Safe to cancel."""
        await self._changed.wait()

    def close(self, client: Client) -> None:
        """Start a task that limits the time of a closing handshake. The close frame must have been sent."""
        task = asyncio.get_running_loop().create_task(client.close())
        self.closing.add(task)
        task.add_done_callback(self.closing.discard)

    def _change(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()


@dataclass(eq=False)
class _Armed:
    """A fault that has been scheduled for a client."""

    fault: ConnectionFault
    at: int | None
    timer: asyncio.TimerHandle | None = None


class Client(ServerConnection):
    """A connection of a `FeedServer`, which records the messages that it receives.

    For user-defined faults: `write` sends raw bytes, `reset` and `transport.abort()` end the connection, and
    `transport.pause_reading()` stops reading.
    """

    def __init__(self, clients: Clients, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._sent = 0
        """Number of messages that `FeedServer.send` has written to this client."""
        self._struck: ConnectionFault | None = None
        """The fault that ended the use of this connection, or None."""
        self._held = False
        """Whether a fault left the connection open but unusable; only the server ends it."""
        self._trail = Trail()
        self._step: Fault | None = None
        """The step of the server's script for this attempt."""
        self._byte_s = 0.0
        """Delay before each byte of the handshake response, in seconds."""
        self._clients = clients
        self._hook: asyncio.Task[Any] | None = None
        self._armed: list[_Armed] = []
        self._trickled = False

    # Methods for faults

    def write(self, data: bytes) -> None:
        """Send raw bytes, which need not be valid frames."""
        if not self.transport.is_closing():
            self.transport.write(data)

    def reset(self) -> None:
        """End the connection with a TCP RST. Unsent data is lost (SO_LINGER with a timeout of zero)."""
        # Through a duplicate of the descriptor, because uvloop's socket object does not support setsockopt.
        with socket.socket(fileno=os.dup(self.transport.get_extra_info("socket").fileno())) as own:
            own.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.transport.abort()

    def hold(self, for_s: float | None) -> None:
        """Leave the connection open, and cut it after `for_s` seconds, or at the end of the server."""
        self._held = True
        if for_s is not None:
            self.loop.call_later(for_s, self.transport.abort)

    def hang_up(self) -> None:
        """Cut the connection if a closing handshake that has begun does not end within the timeout."""
        self._clients.close(self)

    # Methods for the server

    def _arm(self, fault: ConnectionFault) -> None:
        """Apply the fault now, or schedule it."""
        if not fault.after and not fault.after_s:
            self._apply(fault)
            return
        armed = _Armed(fault, self._sent + fault.after if fault.after else None)
        if fault.after_s:
            armed.timer = self.loop.call_later(fault.after_s, self._fire, armed)
        self._armed.append(armed)

    def _disarm(self) -> None:
        """Cancel all scheduled faults."""
        for armed in self._armed:
            if armed.timer is not None:
                armed.timer.cancel()
        self._armed.clear()

    def _count(self) -> None:
        """Count a sent message, and apply the faults that are scheduled after it."""
        self._sent += 1
        for armed in [each for each in self._armed if each.at == self._sent]:
            if armed in self._armed:
                self._fire(armed)

    def _apply(self, fault: ConnectionFault) -> None:
        """Apply the fault now, unless the connection has ended or a fault has ended its use."""
        if self._struck is not None or self.state is not State.OPEN or self.transport.is_closing():
            return
        fault.strike(self)
        if not fault.spares:
            self._detach(fault)

    def _detach(self, fault: ConnectionFault) -> None:
        """Remove the client from the connected clients, although its socket may still be open."""
        self._struck = fault
        self._trail.destroyed = fault.destroys
        self._disarm()
        self._clients.remove(self)
        if self._hook is not None:
            self._hook.cancel()

    async def _until_lost(self, hook: Awaitable[None]) -> None:
        """Await the hook. It is cancelled if the connection is lost or a fault ends its use."""
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
        """Write the handshake response byte by byte, except the last byte, which `send_data` writes."""
        for place in range(len(answer) - 1):
            self.write(answer[place : place + 1])
            done, _ = await asyncio.wait([self.connection_lost_waiter], timeout=self._byte_s)
            if done:
                return
        self._trickled = True

    def _fire(self, armed: _Armed) -> None:
        self._armed.remove(armed)
        if armed.timer is not None:
            armed.timer.cancel()
        self._apply(armed.fault)

    # Overridden methods of websockets

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._clients.sockets.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._clients.sockets.discard(self)
        self._disarm()
        if self._struck is None:
            self._trail.destroyed = True  # the client disconnected, perhaps with unread messages
        if self._hook is not None:
            self._hook.cancel()

    def send_data(self) -> None:
        if self._trickled:
            self._trickled = False
            self.write(b"".join(self.protocol.data_to_send())[-1:])
        else:
            super().send_data()

    async def recv(self, decode: bool | None = None) -> Any:
        message = await super().recv(decode)
        self._clients.received(message)
        return message
