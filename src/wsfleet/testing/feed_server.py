"""A real WebSocket server on a loopback port, for testing programs that take in feeds."""

from __future__ import annotations

import asyncio
import functools
import itertools
import logging
import socket
import ssl as ssl_module
from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator, Mapping, Sequence
from types import TracebackType, UnionType
from typing import Literal, Self, cast

import msgspec
from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response
from websockets.protocol import State
from websockets.typing import Subprotocol

from wsfleet.testing.client import Client, Clients, ConnectionFault, Fault, HandshakeFault
from wsfleet.testing.faults import Close, Drop, Refuse
from wsfleet.testing.numbers import Audit, audit

__all__ = ["FeedServer"]

# A client that leaves a close frame unanswered keeps `stop` waiting for so long.
CLOSE_S = 1.0

logger = logging.getLogger("wsfleet.testing")


class FeedServer:
    """A feed to test against: it sends what the test says, notes what clients send, and fails on demand.

    ::

        async with FeedServer() as server, Fleet() as fleet:
            fleet.connect(server.uri, processor)
            await server.wait_clients(1)
            await server.send('{"price": 1}')
            server.drop()                       # the fleet comes back by itself
            await server.wait_clients(1)

    What else it can do wrong is in `wsfleet.testing.faults`: `script` says what each of the next attempts meets,
    `strike` does it to whoever is connected. Whether a fault cost more messages than it had to, `send_numbered` and
    `audit` tell.

    `port=0` takes a free port, which stays the server's own until the end of the context, over `stop` and `start`.
    With an `ssl` context the `uri` is a wss one. Every path is served. `on_client(client)` is awaited for each new
    client, which is websockets' `ServerConnection`: it may log the client in with `client.recv()` and `client.send()`,
    and it is cancelled when that connection is lost or a fault ends it; afterwards the server reads on by itself.

    `received` holds all messages of all clients as they came, text as str and binary as bytes; `requests` all opening
    handshakes, those that were refused too, with their `path` and `headers`.
    """

    def __init__(
        self,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        ssl: ssl_module.SSLContext | None = None,
        subprotocols: Sequence[str] = (),
        compression: Literal["deflate"] | None = None,
        max_size: int = 2**20,
        on_client: Callable[[ServerConnection], Awaitable[None]] | None = None,
    ) -> None:
        self.host = host
        self.port = port
        self.received: list[str | bytes] = []
        self.requests: list[Request] = []
        self._ssl = ssl
        self._subprotocols = [Subprotocol(name) for name in subprotocols]
        self._compression = compression
        self._max_size = max_size
        self._on_client = on_client
        self._script: Iterator[Fault] = iter(())
        self._script_error: Exception | None = None
        self._clients = Clients(lambda message: self.received.append(message))
        self._number = 0
        self._keeper: socket.socket | None = None
        self._server: Server | None = None

    async def __aenter__(self) -> Self:
        """Take the port, and listen. Raises OSError where it is taken. Cancelled as `start`."""
        self._keep_port()
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Stop, as `stop` does, and give the port back. Raises what a script's iterator has raised.

        Cancelled as `stop`; the port is given back all the same.
        """
        try:
            await self.stop()
        finally:
            if self._keeper is not None:
                self._keeper.close()
                self._keeper = None
        if self._script_error is not None and error is None:
            raise self._script_error

    @property
    def uri(self) -> str:
        """Where to connect; the same after a restart."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'wss' if self._ssl else 'ws'}://{host}:{self.port}"

    @property
    def clients(self) -> tuple[Client, ...]:
        """The connected clients, in the order of their connecting; without those that a fault has ended."""
        return tuple(self._clients.connected)

    async def start(self) -> None:
        """Listen again after `stop`, on the same port. Raises OSError where the port is taken.

        It waits for a turn of the loop and for nobody; cancelling it may leave it listening.
        """
        if self._server is not None:
            return
        self._server = await serve(
            self._serve_client,
            sock=self._listen(),
            ssl=self._ssl,
            subprotocols=self._subprotocols,
            select_subprotocol=self._select,
            compression=self._compression,
            process_request=self._answer,
            process_response=self._deliver,
            open_timeout=None,  # how long a handshake may take is the client's decision
            ping_interval=None,  # a test says what the server sends; whether clients are alive is not its concern
            close_timeout=CLOSE_S,
            max_size=self._max_size,
            max_queue=None,  # an `on_client` that never reads must not keep pings from being answered
            logger=logger,
            create_connection=cast(type[ServerConnection], functools.partial(Client, self._clients)),
            backlog=4096,
        )

    async def stop(self, code: int = 1001) -> None:
        """Stop listening and close all clients; connecting is then refused (ECONNREFUSED) until `start`.

        A client that does not answer the close frame is cut after a second. For an end without close frames call
        `drop` just before. Cancelling it only stops the waiting: all are closed.
        """
        server, self._server = self._server, None
        if server is None:
            return
        server.close(code=code)
        for each in self._clients.sockets:
            # Those may never have asked for anything, these never read what they are told; close() would wait for both.
            if each.state is State.CONNECTING or each._held:
                each.transport.abort()
        for client in self.clients:
            client._leave(Close(code))
        await server.wait_closed()
        if self._clients.closing:
            await asyncio.wait(self._clients.closing)

    async def send(self, *payloads: object) -> int:
        """Send to all clients, and return how many there were: str as text, bytes as binary, anything else as JSON.

        Waits while a client's TCP window is closed, but no longer than it is connected. Cancelling leaves a client
        with the first messages only, never with half a one.
        """
        messages = [p if isinstance(p, str | bytes) else msgspec.json.encode(p).decode() for p in payloads]
        clients = self.clients
        if len(clients) == 1:
            await self._send_to(clients[0], messages)
        else:
            await asyncio.gather(*(self._send_to(client, messages) for client in clients))
        return len(clients)

    async def wait_clients(self, n: int) -> None:
        """Wait until at least `n` clients are connected; with 0 until none is. Those dropped or closed don't count.

        Safe to cancel.
        """
        while len(self._clients.connected) < n or (n == 0 and self._clients.connected):
            await self._clients.changed()

    def drop(self) -> None:
        """Cut all connections without a close frame; a client sees 1006."""
        self.strike(Drop())

    def close(self, code: int = 1000, reason: str = "") -> None:
        """Begin the closing handshake with all clients; those that do not answer are cut after a second.

        The server goes on listening. The same as `strike(faults.Close(code, reason))`, forbidden codes included.
        """
        self.strike(Close(code, reason))

    def strike(self, fault: ConnectionFault, *clients: Client) -> None:
        """Let this happen to the given clients, or to all: at once, or where the fault says, some messages later.

        Raises TypeError for what is no `ConnectionFault`.
        """
        _check(fault, ConnectionFault, "faults.Drop()")
        for client in clients or self.clients:
            client._arm(fault)

    def script(self, steps: Iterable[Fault]) -> None:
        """Let each of the next attempts to connect meet the next step; with the last one the server is well again.

        The steps may be endless, as `itertools.cycle` makes them. They replace those that were left, and `refuse`.
        Raises TypeError for a step that is no fault: at once, or where an iterator makes the steps when they are
        wanted, on leaving the server's context, as it does whatever else the iterator raises.
        """
        if isinstance(steps, Collection):
            for step in steps:
                _check_step(step)
        self._script = iter(steps)

    def refuse(self, status: int, headers: Mapping[str, str] | None = None, *, times: int | None = None) -> None:
        """Answer the following opening handshakes with `status` and `headers`, until `accept` or for so many `times`.

        Connected clients stay. Raises ValueError for a status below 200, which would not be an answer.
        """
        fault = Refuse(status, dict(headers or {}))
        self.script(itertools.repeat(fault) if times is None else itertools.repeat(fault, times))

    def accept(self) -> None:
        """Accept handshakes again after `refuse`; a script ends, too."""
        self.script(())

    def heal(self) -> None:
        """Be well from now on: no script, no fault that waits for its moment, and nobody left hanging.

        What a fault holds (a connection that is silent, a handshake that never ends) is cut, so that the client comes
        back now rather than when it notices.
        """
        self.accept()
        for client in self._clients.sockets:
            client._disarm()
            if client._held or (client.state is State.CONNECTING and client.request is not None):
                client.transport.abort()

    async def send_numbered(self, count: int, make: Callable[[int], object] = lambda n: {"n": n}) -> None:
        """Send the next `count` numbers, each once, as the messages that `make` returns; by default `{"n": 1}`.

        Each goes to all who are connected at that moment, and while nobody is, it waits: so the numbers run on over
        reconnects, and `audit` can tell which are missing. Cancelled, it may not have sent the last number to
        everybody: to `audit` that one is lost.
        """
        for _ in range(count):
            await self.wait_clients(1)
            self._number += 1
            for client in self._clients.connected:
                client._trail.numbers.append(self._number)
            await self.send(make(self._number))
            await asyncio.sleep(0)  # whoever shares the loop is to keep up

    def audit(self, seen: Iterable[int], path: str | None = None) -> Audit:
        """Compare the numbers that one program has seen with those that were sent to it.

        With several connections at a time, give the path of the one that is meant.
        """
        return audit([trail for trail in self._clients.trails if path in (None, trail.path)], seen)

    def _keep_port(self) -> None:
        # Bound, but not listening: while the server is stopped nobody else gets the port, not even as the local port
        # of a client that redials it, which TCP would connect to itself.
        if hasattr(socket, "SO_REUSEPORT"):
            self._keeper = socket.socket(self._family)
            try:
                self._keeper.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
                self._keeper.bind((self.host, self.port))
            except OSError:
                self._keeper.close()
                raise
            self.port = self._keeper.getsockname()[1]

    def _listen(self) -> socket.socket:
        shared = self._keeper is not None
        listening = socket.create_server((self.host, self.port), family=self._family, reuse_port=shared)
        self.port = listening.getsockname()[1]
        return listening

    @property
    def _family(self) -> socket.AddressFamily:
        return socket.AF_INET6 if ":" in self.host else socket.AF_INET

    async def _answer(self, connection: ServerConnection, request: Request) -> Response | None:
        self.requests.append(request)
        client = cast(Client, connection)
        try:
            client._step = next(map(_check_step, self._script), None)
        except Exception as exc:
            self._script_error = exc  # who reads the log of a test that passes? this attempt is answered with a 500
            raise
        return await client._step.answer(client) if isinstance(client._step, HandshakeFault) else None

    async def _deliver(self, connection: ServerConnection, request: Request, response: Response) -> None:
        client = cast(Client, connection)
        if client._byte_s:
            await client._trickle(response.serialize())

    def _select(self, connection: ServerConnection, offered: Sequence[Subprotocol]) -> Subprotocol | None:
        # websockets by itself would refuse a client that offers none of ours; whether that is good is the client's say.
        return next((name for name in self._subprotocols if name in offered), None)

    async def _serve_client(self, connection: ServerConnection) -> None:
        client = cast(Client, connection)
        client._trail.path = client.request.path if client.request is not None else ""
        self._clients.add(client)
        if isinstance(client._step, ConnectionFault):
            client._arm(client._step)
        try:
            if self._on_client is not None and client._struck is None:
                await client._until_lost(self._on_client(client))
            async for _ in client:
                pass  # recv() has noted it
        except ConnectionClosed:
            pass
        finally:
            self._clients.remove(client)

    async def _send_to(self, client: Client, messages: Sequence[str | bytes]) -> None:
        try:
            for message in messages:
                if client._struck is not None:
                    return
                await client.send(message)
                client._count()
        except ConnectionClosed:
            pass


def _check_step(step: Fault) -> Fault:
    _check(step, Fault, "faults.Refuse(503)")
    return step


def _check(fault: object, kind: type | UnionType, example: str) -> None:
    """Raise TypeError for what is no such fault: a test with it would pass, and have tested nothing."""
    if not isinstance(fault, kind):
        shown = f"the class {fault.__name__}" if isinstance(fault, type) else repr(fault)
        raise TypeError(f"a fault such as {example}, not {shown}")
