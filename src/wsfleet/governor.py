"""How much connecting one host is asked to bear: handshakes in flight, connections per second, Retry-After.

Every host has its own gate, so a host that is slow, or asks for patience, delays no other.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

from wsfleet.options import Limits

__all__ = ["Governor", "host_of"]


def host_of(uri: str) -> str:
    """Return the host of a URI, in lower case, without the port."""
    return (urlsplit(uri).hostname or "").lower()


class _Gate:
    """One host's: a fair semaphore, a pace, and a time before which nobody goes."""

    def __init__(self, limits: Limits) -> None:
        self.slots = asyncio.Semaphore(limits.handshakes)
        self.interval_s = 1.0 / limits.connects_per_s if limits.connects_per_s else 0.0
        self.next_at = 0.0
        self.closed_until = 0.0

    async def wait_turn(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            mine = max(self.next_at, self.closed_until, loop.time())
            # Reserved at once: whoever asks next sees it taken.
            self.next_at = mine + self.interval_s if self.interval_s else 0.0
            await _sleep_until(mine)
            if mine >= self.closed_until:
                return


async def _sleep_until(when: float) -> None:
    delay = when - asyncio.get_running_loop().time()
    if delay > 0:
        await asyncio.sleep(delay)


class Governor:
    """Gates for all hosts of a fleet."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._hosts = {host.lower(): own for host, own in limits.hosts.items()}
        self._gates: dict[str, _Gate] = {}

    def _gate(self, host: str) -> _Gate:
        gate = self._gates.get(host)
        if gate is None:
            gate = self._gates[host] = _Gate(self._hosts.get(host, self._limits))
        return gate

    @asynccontextmanager
    async def slot(self, host: str) -> AsyncIterator[None]:
        """Wait for a turn at `host`, and keep a place among its handshakes in flight meanwhile. Safe to cancel."""
        gate = self._gate(host)
        async with gate.slots:
            await gate.wait_turn()
            yield

    def hold(self, host: str, seconds: float) -> None:
        """Let nobody connect to `host` for `seconds` from now: it asked for that."""
        gate = self._gate(host)
        gate.closed_until = max(gate.closed_until, asyncio.get_running_loop().time() + seconds)
