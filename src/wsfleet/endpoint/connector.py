"""The way of one endpoint to an open socket: its turn at the host, its URI and headers, the connection."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from wsfleet.core import error_text, retry
from wsfleet.core.errors import ConnectionLost
from wsfleet.core.options import Endpoint
from wsfleet.core.redact import redact_uri
from wsfleet.endpoint.attempt import resolve_request, resolve_uri, secrets_in
from wsfleet.endpoint.connect_limiter import host_of
from wsfleet.endpoint.credentials import Uses
from wsfleet.endpoint.outages import PROOF_S
from wsfleet.endpoint.services import Services
from wsfleet.transport.base import Progress, Wire
from wsfleet.transport.cookies import Cookies

__all__ = ["Connector"]

STALE_S = 1.0
"""How long, in seconds, a URI from a function may wait for its turn. After that, the function is called again."""


class Connector:
    """Opens the sockets of one endpoint, one attempt at a time.

    `progress` is that of the last attempt. `host` is the host that answered, `shown_uri` the URI and `route` the
    proxies and redirects, without secrets; `secrets` are the secrets of the last attempt.
    """

    def __init__(self, endpoint: Endpoint, name: str, services: Services) -> None:
        self.progress = Progress()
        self.host = ""
        self._uri = endpoint.uri if isinstance(endpoint.uri, str) else ""
        self._shown = ("", "")  # the URI, and the same without secrets
        self.route = ""
        self.secrets: list[str] = []
        self._endpoint = endpoint
        self._name = name
        self._services = services
        self._began_at = 0.0
        self._opened_at = 0.0
        # Most endpoints have no function that may use credentials.
        functions = callable(endpoint.uri) or callable(endpoint.headers) or endpoint.on_open is not None
        self._uses = Uses() if functions else None
        self._cookies = Cookies() if endpoint.cookies else None

    @property
    def shown_uri(self) -> str:
        """The URI without secrets. Made on demand, because that takes long with ten thousand endpoints."""
        if self._uri != self._shown[0]:
            self._shown = (self._uri, redact_uri(self._uri))
        return self._shown[1]

    async def open(self, scope: asyncio.Timeout, *, again: bool) -> Wire:
        """Wait for a turn at the host, and connect. The deadline `scope` does not include that wait.

        `again` is true for a reconnect.
        """
        self.progress = progress = Progress()
        if self._uses is not None:
            self._uses.begin()
        uri, leave = await self._turn(scope, again)
        self._began_at = asyncio.get_running_loop().time()
        try:
            # Called as late as possible: a token must not expire while it waits for the turn.
            request = await resolve_request(self._endpoint, self._name, uri, self._cookies)
            self.secrets = progress.secrets
            self.secrets += secrets_in(request)
            self._uri = uri
            return await self._services.transport.open(request, progress)
        finally:
            leave()

    async def _turn(self, scope: asyncio.Timeout, again: bool) -> tuple[str, Callable[[], None]]:
        """Return the URI, and the function that gives the turn at its host back."""
        loop = asyncio.get_running_loop()
        uri = await resolve_uri(self._endpoint)
        while True:
            self.host = host_of(uri)
            made_at = loop.time()
            left = (scope.when() or 0.0) - made_at
            scope.reschedule(None)
            leave = await self._services.limiter.enter(self.host, again=again)
            try:
                if scope.when() is None:  # otherwise a restart has made it expire
                    scope.reschedule(loop.time() + left)
                if isinstance(self._endpoint.uri, str) or loop.time() - made_at <= STALE_S:
                    return uri, leave
                uri = await resolve_uri(self._endpoint)
            except BaseException:
                leave()
                raise
            if host_of(uri) == self.host:
                return uri, leave
            leave()

    def opened(self) -> str:
        """Note the route of an attempt that has succeeded. Return the origin that it was redirected to, or ""."""
        progress = self.progress
        self.route = f", {progress.route}" if progress.route else ""
        self._note_host()
        self._opened_at = asyncio.get_running_loop().time()
        self._services.outages.opened(self.host, self._name)
        return progress.redirected

    def closed(self) -> None:
        """Note that there is no connection."""
        self._services.outages.lost(self.host, self._name)

    def failed(
        self, exc: BaseException, lost: ConnectionLost | None, open_s: float | None, traffic: str = ""
    ) -> Exception:
        """Return the error of an attempt that ended with `exc`. See `error_text.attempt_failed`."""
        progress = self.progress
        self._note_host()
        return error_text.attempt_failed(exc, lost, progress.stage, open_s, self.secrets, progress.route, traffic)

    def _note_host(self) -> None:
        if self.progress.redirected:
            self.host = host_of(self.progress.redirected)

    def recovery(self, error: Exception) -> asyncio.Future[None]:
        """Return a future that is done when the host works again, if `error` is a failure of the host."""
        loop = asyncio.get_running_loop()
        closed_at_once = isinstance(error, ConnectionLost) and loop.time() - self._opened_at < PROOF_S
        if closed_at_once or retry.is_host_failure(error):
            return self._services.outages.failed(self.host, self._began_at)
        return loop.create_future()

    def refused(self) -> None:
        """Discard the shared credentials of the last attempt: the server has refused them."""
        if self._uses is not None:
            self._uses.expire()
