"""The user's handle on one endpoint. It outlives the sockets."""

from __future__ import annotations

from typing import Any, Protocol

from wsfleet.core.errors import NotOpen
from wsfleet.core.message import State
from wsfleet.core.options import Buffer
from wsfleet.core.stats import EndpointStats
from wsfleet.endpoint.supervisor import Supervisor
from wsfleet.pipeline.mailbox import Mailbox
from wsfleet.pipeline.subscription import Loop, LoopGuard

__all__ = ["Connection"]

_BUFFER = Buffer()


class Owner(Protocol):
    """What a connection asks of its fleet."""

    def check_thread(self) -> None: ...
    def open_loop(self, supervisor: Supervisor, buffer: Buffer) -> Mailbox: ...
    def abandon(self, mailbox: Mailbox) -> None: ...
    def restart_endpoint(self, supervisor: Supervisor) -> None: ...
    async def close_endpoint(self, supervisor: Supervisor) -> None: ...


class Connection:
    """One endpoint of a fleet: send, wait, restart, close; and `async for message in connection`."""

    def __init__(self, supervisor: Supervisor, owner: Owner, buffer: Buffer = _BUFFER) -> None:
        self._supervisor = supervisor
        self._owner = owner
        self._guard = LoopGuard(supervisor.name)
        self._mailbox: Mailbox | None = None
        self._buffer = buffer

    def __repr__(self) -> str:
        s = self._supervisor
        return f"<Connection {s.name!r} {s.state.value}, session {s.session_count}, {s.ingest.received} received>"

    @property
    def name(self) -> str:
        """The endpoint's name."""
        return self._supervisor.name

    @property
    def state(self) -> State:
        """Where the endpoint stands now."""
        return self._supervisor.state

    @property
    def down_since(self) -> float | None:
        """Since when it has not been OPEN, in seconds of the loop's clock; None where it is, or has not begun."""
        return self._supervisor.down_since

    @property
    def required(self) -> bool:
        """Whether its failing for good ends the fleet."""
        return self._supervisor.endpoint.required

    @property
    def session_count(self) -> int:
        """How many times it has connected."""
        return self._supervisor.session_count

    def stats(self) -> EndpointStats:
        """Return its row of the fleet's stats: an immutable snapshot."""
        self._owner.check_thread()
        return self._supervisor.stats()

    async def send(self, data: Any) -> None:
        """Send one message: str as text, bytes as binary, anything else as JSON text.

        Waits for room in the write buffer, and for its turn where the endpoint has `sends_per_s`. Raises NotOpen at
        once where the endpoint is not OPEN; ConnectionLost where the connection is lost while waiting: whether the
        message arrived is then unknown. Cancelling it while it waits means that nothing was sent.
        """
        self._owner.check_thread()
        session = self._supervisor.session
        if session is None or self._supervisor.state is not State.OPEN:
            raise NotOpen(f"{self.name} is {self.state.value}")
        await session.send(data)

    async def wait_open(self) -> None:
        """Wait until the endpoint is OPEN. Safe to cancel. Raises EndpointFailed when FAILED, NotOpen when CLOSED."""
        self._owner.check_thread()
        await self._supervisor.wait_open()

    def restart(self) -> None:
        """Connect afresh at once, whatever the state: out of OPEN, a wait, an attempt, or FAILED.

        Raises NotOpen when the endpoint is CLOSED.
        """
        self._owner.check_thread()
        self._owner.restart_endpoint(self._supervisor)

    async def close(self) -> None:
        """Close the connection and let it go: its name is free again.

        Its own processor finishes what is pending, for at most the fleet's `drain_s`; then its subscription is
        removed. The closing handshake takes at most `close_s` more. Idempotent. Called by its own processor or
        `on_open`, it only asks and returns. Cancelling it only stops the waiting: it is closed all the same.
        """
        self._owner.check_thread()
        await self._owner.close_endpoint(self._supervisor)

    def __aiter__(self) -> Loop:
        """Loop over the messages of this endpoint.

        The first loop begins with the messages that came before it: a connection without a processor keeps up to its
        `buffer` of them, the newest, until this loop begins or another subscription takes a message of it. What there
        was no room for is counted as unrouted, and logged. Members of a pool keep none. Later loops go on where the
        last one ended.

        Raises Busy if another loop over the connection is running. After CLOSED it hands out what is pending and ends;
        after FAILED it does the same and raises EndpointFailed. Waiting for the next message is safe to cancel.
        """
        self._owner.check_thread()
        if self._mailbox is None or (self._mailbox.closed and self.state is not State.CLOSED):
            self._mailbox = self._owner.open_loop(self._supervisor, self._buffer)
        return Loop(self._mailbox, self._failure, self._guard, self._owner.check_thread)

    def __del__(self) -> None:
        # A closed connection that nobody holds: what waits for its next loop will never be asked for.
        if self._mailbox is not None:
            self._owner.abandon(self._mailbox)

    def _failure(self) -> BaseException | None:
        return self._supervisor.failure() if self._supervisor.state is State.FAILED else None
