"""A real WebSocket server on a loopback port, for testing programs that take in feeds."""

from __future__ import annotations

import asyncio
import functools
import http
import logging
import socket
import ssl as ssl_module
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Literal, Self, cast

import msgspec
from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.datastructures import Headers
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response
from websockets.protocol import State
from websockets.typing import Subprotocol

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

    `port=0` takes a free port, which stays the server's own until the end of the context, over `stop` and `start`.
    With an `ssl` context the `uri` is a wss one. Every path is served. `on_client(client)` is awaited for each new
    client, which is websockets' `ServerConnection`: it may log the client in with `client.recv()` and `client.send()`,
    and it is cancelled when that connection is lost; afterwards the server reads on by itself.

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
        self._refusal: _Refusal | None = None
        self._clients: dict[ServerConnection, None] = {}  # a set that keeps the order of connecting
        self._sockets: set[_Client] = set()  # in their handshake or closing, too
        self._closing: set[asyncio.Task[None]] = set()
        self._changed = asyncio.Event()
        self._keeper: socket.socket | None = None
        self._server: Server | None = None

    async def __aenter__(self) -> Self:
        self._keep_port()
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            await self.stop()
        finally:
            if self._keeper is not None:
                self._keeper.close()
                self._keeper = None

    @property
    def uri(self) -> str:
        """Where to connect; the same after a restart."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'wss' if self._ssl else 'ws'}://{host}:{self.port}"

    @property
    def clients(self) -> tuple[ServerConnection, ...]:
        """The connected clients, in the order of their connecting."""
        return tuple(self._clients)

    async def start(self) -> None:
        """Listen again after `stop`, on the same port. Raises OSError where the port is taken."""
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
            ping_interval=None,  # a test says what the server sends; whether clients are alive is not its concern
            close_timeout=CLOSE_S,
            max_size=self._max_size,
            max_queue=None,  # an `on_client` that never reads must not keep pings from being answered
            logger=logger,
            create_connection=cast(type[ServerConnection], functools.partial(_Client, self)),
            backlog=4096,
        )

    async def stop(self, code: int = 1001) -> None:
        """Stop listening and close all clients; connecting is then refused (ECONNREFUSED) until `start`.

        A client that does not answer the close frame is cut after a second. For an end without close frames call
        `drop` just before.
        """
        server, self._server = self._server, None
        if server is None:
            return
        server.close(code=code)
        for each in self._sockets:
            if each.state is State.CONNECTING:  # may never have asked for anything; close() would wait for it
                each.transport.abort()
        self._forget_clients()
        await server.wait_closed()
        if self._closing:
            await asyncio.wait(self._closing)

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
        """Wait until at least `n` clients are connected; with 0 until none is. Those dropped or closed don't count."""
        while len(self._clients) < n or (n == 0 and self._clients):
            await self._changed.wait()

    def drop(self) -> None:
        """Cut all connections without a close frame; a client sees 1006."""
        for client in self._clients:
            client.transport.abort()
        self._forget_clients()

    def close(self, code: int = 1000, reason: str = "") -> None:
        """Begin the closing handshake with all clients; those that do not answer are cut after a second.

        The server goes on listening. Raises websockets' ProtocolError for a code that no close frame may carry.
        """
        for client in self._clients:
            client.protocol.send_close(code, reason)
            client.send_data()
            # This close() finds the frame sent, and only sees to it that the answer does not take too long.
            task = asyncio.get_running_loop().create_task(client.close())
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)
        self._forget_clients()

    def refuse(self, status: int, headers: Mapping[str, str] | None = None, *, times: int | None = None) -> None:
        """Answer the following opening handshakes with `status` and `headers`, until `accept` or for so many `times`.

        Connected clients stay. Raises ValueError for a status below 200, which would not be an answer.
        """
        if not 200 <= status <= 599:
            raise ValueError(f"status must be from 200 to 599, not {status}")
        self._refusal = _Refusal(status, dict(headers or {}), times)

    def accept(self) -> None:
        """Accept handshakes again after `refuse`."""
        self._refusal = None

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

    def _answer(self, connection: ServerConnection, request: Request) -> Response | None:
        self.requests.append(request)
        refusal = self._refusal
        if refusal is None:
            return None
        if refusal.times is not None:
            refusal.times -= 1
            if refusal.times <= 0:
                self.accept()
        return refusal.response()

    def _select(self, connection: ServerConnection, offered: Sequence[Subprotocol]) -> Subprotocol | None:
        # websockets by itself would refuse a client that offers none of ours; whether that is good is the client's say.
        return next((name for name in self._subprotocols if name in offered), None)

    async def _serve_client(self, client: ServerConnection) -> None:
        self._clients[client] = None
        self._change()
        try:
            if self._on_client is not None:
                await cast(_Client, client).until_lost(self._on_client(client))
            async for _ in client:
                pass  # recv() has noted it
        except ConnectionClosed:
            pass
        finally:
            if client in self._clients:
                del self._clients[client]
                self._change()

    async def _send_to(self, client: ServerConnection, messages: Sequence[str | bytes]) -> None:
        try:
            for message in messages:
                await client.send(message)
        except ConnectionClosed:
            pass

    def _forget_clients(self) -> None:
        self._clients.clear()
        self._change()

    def _change(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()


@dataclass
class _Refusal:
    status: int
    headers: dict[str, str]
    times: int | None

    def response(self) -> Response:
        try:
            phrase = http.HTTPStatus(self.status).phrase
        except ValueError:
            phrase = "Refused"  # 499 or 520 are no standard, but servers send them
        headers = Headers(self.headers)
        headers.setdefault("Connection", "close")
        headers.setdefault("Content-Length", "0")
        return Response(self.status, phrase, headers, b"")


class _Client(ServerConnection):
    """A connection that notes what it receives, and that the server knows from its first byte on."""

    def __init__(self, feed: FeedServer, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._feed = feed
        self._hook: asyncio.Task[Any] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._feed._sockets.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._feed._sockets.discard(self)
        if self._hook is not None:
            self._hook.cancel()

    async def recv(self, decode: bool | None = None) -> Any:
        message = await super().recv(decode)
        self._feed.received.append(message)
        return message

    async def until_lost(self, hook: Awaitable[None]) -> None:
        """Await the hook in this task, which is cancelled when the connection is lost meanwhile."""
        self._hook = asyncio.current_task()
        try:
            await hook
        finally:
            self._hook = None
