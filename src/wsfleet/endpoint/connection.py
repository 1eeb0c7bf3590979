"""The user's handle on one endpoint. It outlives the sockets."""

from __future__ import annotations

from typing import Any, Generic, Protocol

from wsfleet.core.context import Context, loop_thread_only
from wsfleet.core.errors import NotOpen
from wsfleet.core.headers import Headers
from wsfleet.core.message import State, T_co
from wsfleet.core.options import Buffer
from wsfleet.core.stats import EndpointStats
from wsfleet.endpoint.supervisor import Supervisor
from wsfleet.pipeline.mailbox import Mailbox
from wsfleet.pipeline.subscription import Loop, LoopGuard

__all__ = ["Connection"]

_BUFFER = Buffer()


class Owner(Protocol):
    """What a connection asks of its fleet."""

    context: Context

    def open_loop(self, supervisor: Supervisor, buffer: Buffer) -> Mailbox: ...
    def abandon(self, mailbox: Mailbox) -> None: ...
    def restart_endpoint(self, supervisor: Supervisor) -> None: ...
    async def close_endpoint(self, supervisor: Supervisor) -> None: ...


class Connection(Generic[T_co]):
    """One endpoint of a fleet: send, wait, restart, close; and `async for message in connection`.

    For type checkers, `Connection[T]` is a connection whose messages are `Message[T]`. `Fleet.connect` takes T from
    `decode`.
    """

    def __init__(self, supervisor: Supervisor, owner: Owner, buffer: Buffer = _BUFFER) -> None:
        self._supervisor = supervisor
        self._context = owner.context
        self._owner = owner
        self._guard = LoopGuard(supervisor.name)
        self._mailbox: Mailbox | None = None
        self._buffer = buffer

    def __repr__(self) -> str:
        s = self._supervisor
        number = s.continuity.sessions
        return f"<Connection {s.name!r} {s.state.value}, session {number}, {s.ingest.received} received>"

    @property
    def name(self) -> str:
        """The endpoint's name."""
        return self._supervisor.name

    @property
    def state(self) -> State:
        """The state of the endpoint."""
        return self._supervisor.state

    @property
    def down_since(self) -> float | None:
        """The loop's time at which it stopped being OPEN, or was started; None while OPEN and before the start."""
        return self._supervisor.continuity.down_since

    @property
    def required(self) -> bool:
        """Whether the fleet ends when this endpoint becomes FAILED."""
        return self._supervisor.endpoint.required

    @property
    def session_count(self) -> int:
        """The number of completed handshakes."""
        return self._supervisor.session_count

    @property
    def subprotocol(self) -> str | None:
        """The subprotocol that the server chose, or None; None without a connection."""
        session = self._supervisor.session
        return None if session is None else session.wire.subprotocol

    @property
    def request_headers(self) -> Headers:
        """The headers of the handshake request; empty without a connection."""
        session = self._supervisor.session
        return Headers() if session is None else session.wire.request_headers

    @property
    def response_headers(self) -> Headers:
        """The headers of the handshake response; empty without a connection."""
        session = self._supervisor.session
        return Headers() if session is None else session.wire.response_headers

    def stats(self) -> EndpointStats:
        """Return the endpoint's row of `Fleet.stats()`, an immutable snapshot."""
        self._context.check_thread()
        return self._supervisor.stats()

    @loop_thread_only
    async def send(self, data: Any) -> None:
        """Send one message: str as text, bytes as binary, anything else as JSON text.

        Waits for room in the write buffer, and with `sends_per_s` for its turn. Raises NotOpen at once if the endpoint
        is not OPEN. Raises ConnectionLost if the connection is lost while waiting; whether the message arrived is then
        unknown. Raises TypeError for data that JSON cannot express, and ValueError for NaN and infinity (RFC 8259,
        section 6). If cancelled while waiting, nothing was sent.
        """
        supervisor = self._supervisor
        session = supervisor.session
        if session is None or supervisor.state is not State.OPEN:
            raise NotOpen(f"{self.name} is {self.state.value}, not OPEN; nothing was sent")
        if not session.send_now(data):
            await session.send(data)

    @loop_thread_only
    async def wait_open(self) -> None:
        """Wait until the endpoint is OPEN, without a time limit. Safe to cancel.

        Raises EndpointFailed when it is FAILED, NotOpen when CLOSED, and FleetError if the fleet has not been started.
        For a limit, use `asyncio.timeout`.
        """
        await self._context.check_started(lambda: self.state is State.CLOSED)
        await self._supervisor.wait_open()

    def restart(self) -> None:
        """Connect again at once, from any state but CLOSED, also from FAILED.

        Raises NotOpen if the endpoint is CLOSED.
        """
        self._context.check_thread()
        self._owner.restart_endpoint(self._supervisor)

    @loop_thread_only
    async def close(self) -> None:
        """Close the connection and remove it from the fleet; its name is free again. Idempotent.

        Its own processor finishes the pending messages for at most the fleet's `drain_s` seconds; then its subscription
        is removed. The closing handshake takes at most `close_s` seconds more. Called by a processor or `on_open`, it
        returns at once and the connection closes afterwards. Cancelling it only stops the waiting.
        """
        await self._owner.close_endpoint(self._supervisor)

    def __aiter__(self) -> Loop[T_co]:
        """Loop over the messages of this endpoint.

        The first loop begins with the messages that arrived before it. Until then a connection without a processor
        keeps the newest ones, up to its `buffer`; if it is full, the oldest are counted as unrouted, which is logged
        once. It stops keeping messages when another subscription takes one of them. Members of a pool keep none.

        From the first loop on, messages wait in the mailbox `<name>-iter` also between loops, and a full mailbox pauses
        the connection: loop on, or close the connection. Raises Busy if another loop over the connection is running.
        When the endpoint is CLOSED, the loop ends after the pending messages; when it is FAILED, it then raises
        EndpointFailed. It raises FleetError if it would wait although the fleet has not been started and no other task
        can start it. Waiting for the next message is safe to cancel.
        """
        self._context.check_thread()
        if self._mailbox is None or (self._mailbox.closed and self.state is not State.CLOSED):
            self._mailbox = self._owner.open_loop(self._supervisor, self._buffer)
        return Loop(self._mailbox, self._failure, self._guard, self._context)

    def __del__(self) -> None:
        # Without a reference to the connection there will be no other loop: drop the messages that wait for one.
        if self._mailbox is not None:
            self._owner.abandon(self._mailbox)

    def _check_thread(self) -> None:
        self._context.check_thread()

    def _failure(self) -> BaseException | None:
        return self._supervisor.failure() if self._supervisor.state is State.FAILED else None
