"""Notices the end of a host's outage, so that its endpoints do not wait out the backoff that the outage has grown.

An endpoint that waits because its host failed registers here. When an attempt at the host succeeds and its connection
stays open for a moment, the outage is over, and the waits end one after the other. The backoff of each endpoint stays
as it is, so a host that fails again meets longer waits.
"""

from __future__ import annotations

import asyncio

from wsfleet.endpoint.spread import Spread

__all__ = ["PROOF_S", "Outages"]

PROOF_S = 1.0
"""How long, in seconds, a connection must stay open to prove that an outage is over. Doubles with each proof."""

CALM_S = 60.0
"""The longest time of this kind, in seconds. After as long without an outage it is PROOF_S again."""

HOSTS = 1000
"""Number of hosts above which those without an outage are forgotten: a `uri` function may return ever new hosts."""


_Waits = dict[asyncio.Future[None], None]  # a set that keeps its order


class _Host:
    """The endpoints that wait for one host, and the connections that were opened since it failed."""

    __slots__ = ("_end_timer", "_ending", "_open", "_proof_s", "_proof_timer", "_proved_at", "_spread", "_waiting")

    def __init__(self) -> None:
        self._waiting: _Waits = {}
        self._ending: _Waits = {}  # the outage is over, and they wait for their turn
        self._open: dict[str, float] = {}  # since when, by the endpoint's name
        self._proof_s = PROOF_S
        self._proved_at = float("-inf")
        self._proof_timer: asyncio.TimerHandle | None = None
        self._end_timer: asyncio.TimerHandle | None = None
        self._spread = Spread(0.0, 0)

    @property
    def is_calm(self) -> bool:
        return not self._waiting and not self._ending and not self._open

    def failed(self, began_at: float) -> asyncio.Future[None]:
        end: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        end.add_done_callback(self._forget)
        if self._open and began_at < self._proved_at:
            # The attempt began before the outage was known to be over, so its failure is no news.
            self._ending[end] = None
            self._end_waits()
        else:
            self._waiting[end] = None
            self._await_proof()
        return end

    def _forget(self, end: asyncio.Future[None]) -> None:
        self._waiting.pop(end, None)
        self._ending.pop(end, None)

    def opened(self, name: str) -> None:
        if self._waiting or self._ending:
            self._open[name] = asyncio.get_running_loop().time()
            self._await_proof()

    def lost(self, name: str) -> None:
        if self._open.pop(name, None) is None or self._open:
            return
        # The host is down again.
        for timer in (self._proof_timer, self._end_timer):
            if timer is not None:
                timer.cancel()
        self._proof_timer = self._end_timer = None
        self._waiting, self._ending = self._ending | self._waiting, {}

    def _await_proof(self) -> None:
        """Look again when the oldest connection has been open for long enough."""
        if self._proof_timer is not None or not self._waiting or not self._open:
            return
        loop = asyncio.get_running_loop()
        if loop.time() - self._proved_at >= CALM_S + 2 * self._proof_s:
            self._proof_s = PROOF_S
        since = max(next(iter(self._open.values())), self._proved_at)
        self._proof_timer = loop.call_at(since + self._proof_s, self._prove, since)

    def _prove(self, since: float) -> None:
        """End the outage, unless the connection that should prove it was lost meanwhile."""
        self._proof_timer = None
        if next(iter(self._open.values())) > since:
            self._await_proof()
            return
        loop = asyncio.get_running_loop()
        self._proved_at = loop.time()
        self._proof_s = min(2 * self._proof_s, CALM_S)
        self._ending |= self._waiting
        self._waiting = {}
        self._spread = Spread(loop.time(), len(self._ending))
        self._end_waits()

    def _end_waits(self) -> None:
        """End the waits whose turn has come, and schedule the others."""
        loop = asyncio.get_running_loop()
        while self._ending and self._spread.next_at <= loop.time():
            end = next(iter(self._ending))
            del self._ending[end]
            if not end.done():
                self._spread.begin(loop.time())
                end.set_result(None)
        if self._end_timer is not None:
            self._end_timer.cancel()
        self._end_timer = loop.call_at(self._spread.next_at, self._end_waits) if self._ending else None


class Outages:
    """The hosts that have failed, by name."""

    def __init__(self) -> None:
        self._hosts: dict[str, _Host] = {}
        self._look_at = HOSTS

    def failed(self, host: str, began_at: float) -> asyncio.Future[None]:
        """Note that an attempt at `host`, begun at `began_at`, failed because of the host.

        Return a future that is done when the outage is over and the turn of this endpoint has come. Cancel it to stop
        waiting.
        """
        found = self._hosts.get(host)
        if found is None:
            if len(self._hosts) >= self._look_at:
                self._hosts = {name: kept for name, kept in self._hosts.items() if not kept.is_calm}
                self._look_at = max(HOSTS, 2 * len(self._hosts))
            found = self._hosts[host] = _Host()
        return found.failed(began_at)

    def opened(self, host: str, name: str) -> None:
        """Note that the endpoint `name` has an open connection to `host`."""
        if host in self._hosts:
            self._hosts[host].opened(name)

    def lost(self, host: str, name: str) -> None:
        """Note that this connection is lost."""
        if host in self._hosts:
            self._hosts[host].lost(name)
