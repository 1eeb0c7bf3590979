"""The HTTP server of a fleet: Starlette on uvicorn's protocol, in the fleet's event loop."""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import socket
from collections.abc import Collection
from typing import TYPE_CHECKING, Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

from wsfleet.core.errors import FleetError
from wsfleet.serve.status.app import make_app, page_files
from wsfleet.serve.status.auth import SPARE, Guard, check_listen, is_loopback, split_listen
from wsfleet.serve.status.cache import SnapshotCache
from wsfleet.serve.status.fleet_source import FleetSource
from wsfleet.serve.status.source import Source

if TYPE_CHECKING:
    from wsfleet.fleet.fleet import Fleet

__all__ = ["HttpServer", "serve"]

# uvicorn's warnings are about bad requests of clients; its errors are about this server.
log = logging.getLogger("wsfleet.http")
log.addFilter(lambda record: record.levelno >= logging.ERROR)

CONNECTIONS = 128
"""Maximum number of open connections. More would use file descriptors that the fleet needs."""

PEER_CONNECTIONS = 64
"""Maximum number of open connections of one address, which leaves the others room."""

HEALTH_CONNECTIONS = 16
"""Connections beyond these limits, each for one health check: a fleet that is well must not be restarted."""

HEAD_S = 5.0
"""Time limit for receiving a request, in seconds."""

HEALTH_HEAD_S = 1.0
"""Time limit for receiving the request on a connection for a health check, in seconds."""

WRITE_S = 20.0
"""Time limit for the client to read what was written, in seconds."""

CLOSE_S = 1.0
"""Time limit for responses in progress at shutdown, in seconds."""

# A clock would not do: uvloop's has a resolution of a millisecond, and the connections are in a set.
_order = itertools.count(1)


def serve(fleet: Fleet, listen: str, token: str | None) -> HttpServer:
    """Return a server for `fleet`. The fleet starts and stops it."""
    return HttpServer(FleetSource(fleet), listen, token)


class _Connection(H11Protocol):
    """uvicorn's protocol without access log, with limits on connections and on the times to send and to read.

    Over a limit, a connection that reads nothing or asks nothing is closed. If there is none, the new connection is a
    spare one, which answers one health check.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.logger = log
        self.access_log = False
        self._head: asyncio.TimerHandle | None = None
        self._unread: asyncio.TimerHandle | None = None
        self._quiet_from = 0  # its place in the order in which connections became quiet
        self._is_spare = False
        self._is_cut = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        # The transport reports all that the client has not read, not only more than 64 KiB.
        transport.set_write_buffer_limits(high=0)
        self._quiet_from = next(_order)
        self._admit()
        self._expect()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._expect()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._quiet_from = next(_order)
        self._unread = self.loop.call_later(WRITE_S, self.cut)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._unset_unread()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        # uvicorn cancels this timer only after a clean end of the connection.
        self._unset_keepalive_if_required()
        self._unset_head()
        self._unset_unread()

    def cut(self) -> None:
        """Close without waiting for the client."""
        self._is_cut = True
        self.transport.abort()

    def _admit(self) -> None:
        same_peer = [each for each in self._others() if each._peer == self._peer]
        if self._has_room(same_peer, PEER_CONNECTIONS) and self._has_room(self._others(), CONNECTIONS):
            return
        self._is_spare = True
        self.app_state = {SPARE: True}
        if not self._has_room(self._others(), HEALTH_CONNECTIONS):
            self.cut()

    def _others(self) -> list[_Connection]:
        """The other connections of this kind."""
        found = [each for each in self.connections if isinstance(each, _Connection) and each is not self]
        return [each for each in found if each._is_spare == self._is_spare and not each._is_cut]

    @staticmethod
    def _has_room(others: Collection[_Connection], most: int) -> bool:
        """Whether one more connection is within the limit, if need be after closing one of the others."""
        if len(others) < most:
            return True
        quiet = [each for each in others if each._unread is not None] or [each for each in others if each._is_idle]
        if not quiet:
            return False
        min(quiet, key=lambda each: each._quiet_from).cut()
        return True

    @property
    def _peer(self) -> str | None:
        return self.client and self.client[0]

    @property
    def _is_answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    @property
    def _is_idle(self) -> bool:
        return not self._is_answering and not self.transport.is_closing()

    def _expect(self) -> None:
        if self._is_answering:
            self._unset_head()
        elif self._head is None:
            self._head = self.loop.call_later(HEALTH_HEAD_S if self._is_spare else HEAD_S, self.cut)

    def _unset_head(self) -> None:
        if self._head is not None:
            self._head.cancel()
            self._head = None

    def _unset_unread(self) -> None:
        if self._unread is not None:
            self._unread.cancel()
            self._unread = None


class HttpServer:
    """One server for one source, which it starts and stops.

    Raises ConfigError if `listen` or `token` is not valid.
    """

    def __init__(self, source: Source, listen: str = "127.0.0.1:9464", token: str | None = None) -> None:
        check_listen(listen, token)
        self.source = source
        self._host, self._port = split_listen(listen)
        self._token = token
        self._cache = SnapshotCache(source)
        self._socket: socket.socket | None = None
        self._server: asyncio.Server | None = None
        self._state = ServerState()

    def __repr__(self) -> str:
        return f"<HttpServer on {self.address}{', with a token' if self._token else ''}>"

    def __str__(self) -> str:
        access = "read-only without a token"
        if self._token:
            access = "changes require the token" if is_loopback(self._host) else "all requests require the token"
        return f"http://{self.address}, {access}"

    @property
    def address(self) -> str:
        """The listen address, for example `127.0.0.1:9464`. A port of 0 is replaced when the server is bound."""
        return f"[{self._host}]:{self._port}" if ":" in self._host else f"{self._host}:{self._port}"

    def over(self, source: Source) -> HttpServer:
        """Return a server with the same address and token for another source, which stands for all workers."""
        return HttpServer(source, self.address, self._token)

    def bind(self) -> socket.socket:
        """Bind the address. Idempotent. Raises FleetError if it cannot be bound."""
        if self._socket is not None:
            return self._socket
        family = socket.AF_INET6 if ":" in self._host else socket.AF_INET
        both = self._host == "::" and socket.has_dualstack_ipv6()
        try:
            self._socket = socket.create_server((self._host, self._port), family=family, dualstack_ipv6=both)
        except OSError as exc:
            reason = os.strerror(exc.errno) if exc.errno else str(exc)
            raise FleetError(f"cannot listen on {self.address}: {reason}") from exc
        self._port = self._socket.getsockname()[1]
        return self._socket

    async def start(self) -> None:
        """Start the source and the server. Raises FleetError if the address cannot be bound."""
        listening = self.bind()
        await self.source.start()
        app = Guard(
            make_app(self.source, self._cache),
            token=self._token,
            loopback=is_loopback(self._host),
            open_paths=page_files(),
        )
        # Without uvicorn's logging configuration, which is process-wide, its signal handlers, and the lifespan.
        config = uvicorn.Config(
            app, loop="none", ws="none", lifespan="off", log_config=None, proxy_headers=False, date_header=False
        )
        config.load()
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(
            lambda: _Connection(config=config, server_state=self._state, app_state={}), sock=listening
        )
        # Not by `log`, which passes errors only.
        fields = {"event": "http.listening"}
        logging.getLogger("wsfleet").info("serving %s", self, extra=fields)

    async def stop(self) -> None:
        """Wait up to CLOSE_S for responses in progress, then close everything. Idempotent."""
        if self._server is not None:
            self._server.close()
        elif self._socket is not None:
            self._socket.close()
        await self.source.stop()
        for connection in list(self._state.connections):
            connection.shutdown()
        await self._answered()
        for connection in list(self._state.connections):
            connection.transport.abort()
        await self._answered()
        for task in self._state.tasks:
            task.cancel()
        await self._answered()
        await self._cache.stop()

    async def _answered(self) -> None:
        if self._state.tasks:
            await asyncio.wait(set(self._state.tasks), timeout=CLOSE_S)
