"""A real WebSocket server on a loopback port, for tests of programs that receive feeds."""

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

from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response
from websockets.protocol import State
from websockets.typing import Subprotocol

from wsfleet.core.encode import encode_payload
from wsfleet.core.text import plural
from wsfleet.testing.client import Client, Clients, ConnectionFault, Fault, HandshakeFault
from wsfleet.testing.faults import Close, Drop, Refuse
from wsfleet.testing.numbers import Audit, audit

__all__ = ["FeedServer"]

# Timeout for a client's answer to a close frame, in seconds.
CLOSE_S = 1.0

logger = logging.getLogger("wsfleet.testing")


class FeedServer:
    """A WebSocket server for tests: sends messages, records received messages, and fails on demand.

    ::

        async with FeedServer() as server, Fleet() as fleet:
            fleet.connect(server.uri, processor)
            await server.wait_clients(1)
            await server.send('{"price": 1}')
            server.drop()                       # the fleet reconnects
            await server.wait_clients(1)

    `wsfleet.testing.faults` has more faults: `script` sets those of the next attempts, and `strike` applies one to
    connected clients. `send_numbered` and `audit` find lost and repeated messages.

    `port=0` takes a free port, which stays reserved until the end of the context, over `stop` and `start`. With an
    `ssl` context, `uri` is a wss URI. The server accepts all paths. `on_client(client)` is awaited for each new client,
    a `ServerConnection` of websockets: it can do a login with `client.recv()` and `client.send()`. It is cancelled if
    the connection is lost or a fault ends it. After it, the server reads the client's messages itself.

    `received` lists the messages of all clients in the order of arrival, text as str and binary as bytes. `requests`
    lists all opening handshakes, including refused ones, with their `path` and `headers`.
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
        self._reserved: socket.socket | None = None
        self._server: Server | None = None

    async def __aenter__(self) -> Self:
        """Bind the port and listen. Raises OSError if the port is in use. Cancellation: see `start`."""
        self._reserve_port()
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Call `stop`, and release the port. Raises the exception of a script's iterator, if there was one.

        Cancellation: see `stop`; the port is released too.
        """
        try:
            await self.stop()
        finally:
            if self._reserved is not None:
                self._reserved.close()
                self._reserved = None
        if self._script_error is not None and error is None:
            raise self._script_error

    @property
    def uri(self) -> str:
        """The URI of the server. It does not change after a restart."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'wss' if self._ssl else 'ws'}://{host}:{self.port}"

    @property
    def clients(self) -> tuple[Client, ...]:
        """The connected clients, in the order of connection, without those that a fault has ended."""
        return tuple(self._clients.connected)

    async def start(self) -> None:
        """Listen again after `stop`, on the same port. Raises OSError if the port is in use.

        It does not wait for clients. After cancellation, the server may be listening.
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
            open_timeout=None,  # the client decides how long a handshake may take
            ping_interval=None,  # the server sends only messages of the test
            close_timeout=CLOSE_S,
            max_size=self._max_size,
            max_queue=None,  # an `on_client` that never reads must not delay pongs
            logger=logger,
            create_connection=cast(type[ServerConnection], functools.partial(Client, self._clients)),
            backlog=4096,
        )

    async def stop(self, code: int = 1001) -> None:
        """Stop listening and close all clients. New connections are refused (ECONNREFUSED) until `start`.

        A client that does not answer the close frame is cut after one second. To end without close frames, call `drop`
        before. Cancellation only ends the wait; all clients are closed.
        """
        server, self._server = self._server, None
        if server is None:
            return
        server.close(code=code)
        for each in self._clients.sockets:
            # A client in the handshake may never send a request, and a held one never answers: do not wait for them.
            if each.state is State.CONNECTING or each._held:
                each.transport.abort()
        for client in self.clients:
            client._detach(Close(code))
        await server.wait_closed()
        if self._clients.closing:
            await asyncio.wait(self._clients.closing)

    async def send(self, *payloads: object) -> int:
        """Send to all clients, and return their number. str is sent as text, bytes as binary, other objects as JSON.

        Waits while the write buffer of a client is full, until it disconnects. If cancelled, some messages may not have
        been sent; no message is sent in part.
        """
        messages = [encode_payload(payload) for payload in payloads]
        clients = self.clients
        if len(clients) == 1:
            await self._send_to(clients[0], messages)
        else:
            await asyncio.gather(*(self._send_to(client, messages) for client in clients))
        return len(clients)

    async def wait_clients(self, n: int, *, timeout_s: float | None = 60.0) -> None:
        """Wait until at least `n` clients are connected; with 0, until there are none. Safe to cancel.

        Clients that the server has dropped or closed do not count. Raises TimeoutError after `timeout_s` seconds, which
        names the number of clients. None sets no limit.
        """
        try:
            async with asyncio.timeout(timeout_s):
                while len(self._clients.connected) < n or (n == 0 and self._clients.connected):
                    await self._clients.changed()
        except TimeoutError:
            count = plural(len(self._clients.connected), "client")
            raise TimeoutError(f"{count} connected after {timeout_s:g} s, waited for {n}") from None

    def drop(self) -> None:
        """Cut all connections without a close frame. Clients see 1006."""
        self.strike(Drop())

    def close(self, code: int = 1000, reason: str = "") -> None:
        """Start the closing handshake with all clients. A client that does not answer is cut after one second.

        The server continues to listen. Equivalent to `strike(faults.Close(code, reason))`.
        """
        self.strike(Close(code, reason))

    def strike(self, fault: ConnectionFault, *clients: Client) -> None:
        """Apply a fault to the given clients, or to all: at once, or after the messages or seconds of the fault.

        Raises TypeError if `fault` is not a `ConnectionFault`.
        """
        _check(fault, ConnectionFault, "faults.Drop()")
        for client in clients or self.clients:
            client._arm(fault)

    def script(self, steps: Iterable[Fault]) -> None:
        """Apply one step to each of the following attempts to connect. After the last step, attempts succeed again.

        The steps may be endless, for example `itertools.cycle`. They replace a previous script and `refuse`. Raises
        TypeError for a step that is not a fault. If `steps` is an iterator, its exceptions and invalid steps are raised
        at the end of the server's context.
        """
        if isinstance(steps, Collection):
            for step in steps:
                _check_step(step)
        self._script = iter(steps)

    def refuse(self, status: int, headers: Mapping[str, str] | None = None, *, times: int | None = None) -> None:
        """Answer the next opening handshakes with `status` and `headers`, `times` times or until `accept`.

        Connected clients are not affected. Raises ValueError for a status outside 200 to 599.
        """
        fault = Refuse(status, dict(headers or {}))
        self.script(itertools.repeat(fault) if times is None else itertools.repeat(fault, times))

    def accept(self) -> None:
        """Accept handshakes again. Ends `refuse` and a script."""
        self.script(())

    def heal(self) -> None:
        """End all faults: the script, and scheduled faults.

        Connections and handshakes that a fault holds open are cut, so that clients reconnect at once.
        """
        self.accept()
        for client in self._clients.sockets:
            client._disarm()
            if client._held or (client.state is State.CONNECTING and client.request is not None):
                client.transport.abort()

    async def send_numbered(self, count: int, make: Callable[[int], object] = lambda n: {"n": n}) -> None:
        """Send the next `count` numbers, each once, as messages that `make` returns, by default `{"n": 1}`.

        Each number is sent to all clients that are connected at that time; without clients, the method waits. The
        numbers continue over reconnects, so that `audit` can find missing ones. If cancelled, the last number may not
        have been sent to all clients; `audit` counts it as lost.
        """
        for _ in range(count):
            await self.wait_clients(1, timeout_s=None)
            self._number += 1
            for client in self._clients.connected:
                client._trail.numbers.append(self._number)
            await self.send(make(self._number))
            await asyncio.sleep(0)  # let clients in the same loop receive

    def audit(self, seen: Iterable[int], path: str | None = None) -> Audit:
        """Compare the numbers that a program has received, `seen`, with those that were sent.

        If several connections were open at the same time, `path` selects the connections with this path.
        """
        return audit([trail for trail in self._clients.trails if path in (None, trail.path)], seen)

    def _reserve_port(self) -> None:
        # Bound, but not listening: reserves the port while the server is stopped. Otherwise a reconnecting client could
        # get it as its local port and connect to itself.
        if hasattr(socket, "SO_REUSEPORT"):
            self._reserved = socket.socket(self._family)
            try:
                self._reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
                self._reserved.bind((self.host, self.port))
            except OSError:
                self._reserved.close()
                raise
            self.port = self._reserved.getsockname()[1]

    def _listen(self) -> socket.socket:
        shared = self._reserved is not None
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
            self._script_error = exc  # raised again by __aexit__; websockets answers this attempt with a 500
            raise
        return await client._step.answer(client) if isinstance(client._step, HandshakeFault) else None

    async def _deliver(self, connection: ServerConnection, request: Request, response: Response) -> None:
        client = cast(Client, connection)
        if client._byte_s:
            await client._trickle(response.serialize())

    def _select(self, connection: ServerConnection, offered: Sequence[Subprotocol]) -> Subprotocol | None:
        # By default websockets refuses a client that offers none of our subprotocols. Here the client decides.
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
                pass  # recorded by recv()
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
    """Raise TypeError for an object that is not a fault. Without this check, the test would pass without a fault."""
    if not isinstance(fault, kind):
        shown = f"the class {fault.__name__}" if isinstance(fault, type) else repr(fault)
        raise TypeError(f"must be a fault such as {example}, not {shown}")
