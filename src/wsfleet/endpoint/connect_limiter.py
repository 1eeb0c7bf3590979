"""Limits connecting per host: concurrent handshakes, connects per second, Retry-After.

Each host has its own gate, so a slow host does not delay the others.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import Callable
from urllib.parse import urlsplit

from wsfleet.core.options import Limits
from wsfleet.endpoint.spread import SPREAD_S, Spread

__all__ = ["ConnectLimiter", "host_of"]

AT_ONCE = 4
"""Maximum number of attempts, over all hosts, that begin in one iteration of the event loop.

Attempts that begin together also continue together. Each takes some hundred microseconds of CPU time per iteration,
more with TLS, so 64 of them would block the loop again and again while a host is down.
"""

GATES = 1000
"""Number of gates above which idle gates are removed: a `uri` function may return ever new hosts."""

JITTER_S = 1.0
"""How long, in seconds, the attempts after a pause are spread beyond SPREAD_S: those that were refused come later."""

_Queue = OrderedDict[asyncio.Future[None], None]


def host_of(uri: str) -> str:
    """Return the host of a URI, in lower case, without the port."""
    return (urlsplit(uri).hostname or "").lower()


class _Pace:
    """Lets AT_ONCE attempts begin in each iteration of the event loop, and serves the waiting hosts in turn."""

    def __init__(self) -> None:
        self._begun = 0
        self._waiting: dict[_Gate, None] = {}  # a set that keeps its order

    def take(self) -> bool:
        """Return whether another attempt may begin in this iteration of the event loop."""
        if self._begun == AT_ONCE:
            return False
        if self._begun == 0:
            asyncio.get_running_loop().call_soon(self._turned)
        self._begun += 1
        return True

    def wait(self, gate: _Gate) -> None:
        """Call `gate.admit` in one of the next iterations, after the gates that wait already."""
        self._waiting[gate] = None

    def _turned(self) -> None:
        self._begun = 0
        while self._waiting and self._begun < AT_ONCE:
            gate = next(iter(self._waiting))
            del self._waiting[gate]
            gate.admit(1)


class _Gate:
    """The waiting attempts of one host, the number in flight, and the time of the next one.

    Reconnects and first connects have separate queues that are served in turn, so that neither waits behind thousands
    of the other.
    """

    def __init__(self, limits: Limits, pace: _Pace) -> None:
        self._pace = pace
        self._most = limits.handshakes
        self._interval_s = 1.0 / limits.connects_per_s if limits.connects_per_s else 0.0
        self._in_flight = 0
        self._next_at = 0.0
        self._closed_until = 0.0
        self._held = 0  # how often the host asked for the current pause
        self._spread: Spread | None = None  # for the attempts that begin after it
        self._spread_until = 0.0
        self._first: _Queue = OrderedDict()
        self._again: _Queue = OrderedDict()
        self._queues = deque((self._again, self._first))  # the next one to serve first
        self._timer: asyncio.TimerHandle | None = None

    async def enter(self, *, again: bool) -> None:
        """Wait for a turn. Safe to cancel."""
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        queue = self._again if again else self._first
        queue[turn] = None
        self.admit()
        try:
            await turn
        except asyncio.CancelledError:
            queue.pop(turn, None)
            if not turn.cancelled():  # it was admitted meanwhile
                self.leave()
            elif self._timer is not None and not any(self._queues):
                self._timer.cancel()
                self._timer = None
            raise

    def leave(self) -> None:
        """Return the place of a handshake that is over."""
        self._in_flight -= 1
        self.admit()

    def hold(self, seconds: float) -> None:
        """Admit no attempt for `seconds` from now, and then one after the other."""
        now = asyncio.get_running_loop().time()
        self._held = 1 if now >= self._spread_until else self._held + 1
        self._closed_until = max(self._closed_until, now + seconds)
        self._spread = None
        self._spread_until = self._closed_until + SPREAD_S + JITTER_S

    def admit(self, most: int = AT_ONCE) -> None:
        """Admit up to `most` attempts that may begin now. Schedule another call for the rest."""
        loop = asyncio.get_running_loop()
        while self._in_flight < self._most and any(self._queues):
            now = loop.time()
            when = self._admits_at(now)
            if when > now:
                if self._timer is None:
                    self._timer = loop.call_at(when, self._time_passed)
                return
            if most == 0 or not self._pace.take():
                self._pace.wait(self)
                return
            turn = self._pop()
            if turn.cancelled():  # its waiter has not yet removed it
                continue
            most -= 1
            # Reserved at once, before the next attempt asks.
            self._in_flight += 1
            self._next_at = max(self._next_at, now) + self._interval_s
            if self._spread is not None:
                self._spread.begin(now)
            turn.set_result(None)

    def _admits_at(self, now: float) -> float:
        """Return when the next attempt may begin."""
        if self._closed_until <= now < self._spread_until:
            if self._spread is None:
                # Those that were refused wait on their own, the others here.
                self._spread = Spread(now, self._held + len(self._first) + len(self._again))
            return max(self._next_at, self._spread.next_at)
        self._spread = None
        return max(self._next_at, self._closed_until)

    @property
    def is_idle(self) -> bool:
        """Whether no attempt is in flight or waits, and the next one is admitted at once, as by a new gate."""
        free_at = max(self._next_at, self._closed_until)
        return not self._in_flight and not any(self._queues) and free_at <= asyncio.get_running_loop().time()

    def _time_passed(self) -> None:
        self._timer = None
        self.admit()

    def _pop(self) -> asyncio.Future[None]:
        """Remove and return the next attempt. There must be one."""
        queue = self._queues[0] or self._queues[1]
        if queue is self._queues[0]:
            self._queues.rotate()
        return queue.popitem(last=False)[0]


class ConnectLimiter:
    """Gates for all hosts of a fleet."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._hosts = {host.lower(): own for host, own in limits.hosts.items()}
        self._gates: dict[str, _Gate] = {}
        self._look_at = GATES
        self._pace = _Pace()

    def _gate(self, host: str) -> _Gate:
        gate = self._gates.get(host)
        if gate is None:
            if len(self._gates) >= self._look_at:
                self._gates = {name: kept for name, kept in self._gates.items() if not kept.is_idle}
                self._look_at = max(GATES, 2 * len(self._gates))
            gate = self._gates[host] = _Gate(self._hosts.get(host, self._limits), self._pace)
        return gate

    async def enter(self, host: str, *, again: bool = False) -> Callable[[], None]:
        """Wait until an attempt to `host` may begin. Return a function to call when the handshake is over.

        `again` is true for a reconnect. Safe to cancel.
        """
        # Not a context manager: ten thousand waiting ones would be more work for the garbage collector.
        gate = self._gate(host)
        await gate.enter(again=again)
        return gate.leave

    def hold(self, host: str, seconds: float) -> None:
        """Admit no attempt to `host` for `seconds` from now, as it requested with Retry-After.

        The attempts after this pause are spread over a few seconds.
        """
        self._gate(host).hold(seconds)
