"""The scenarios: the contenders with their goals, and the loads that each of them receives."""

from __future__ import annotations

import ssl
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

__all__ = ["CONTENDERS", "SCENARIOS", "Contender", "Load", "Scenario", "Target"]


@dataclass(frozen=True)
class Load:
    """The load of every contender; `messages` is for each connection in each round."""

    connections: int = 8
    messages: int = 2_000
    size: int = 128
    tls: bool = False
    deflate: bool = False
    single: bool = False
    """One message a read: each connection gets one at a time, at an even pace."""


@dataclass(frozen=True)
class Target:
    """The address and options of a contender's connections. `authority` is the file with the certificate to trust."""

    uri: str
    load: Load
    authority: str | None = None

    @property
    def ssl(self) -> ssl.SSLContext | None:
        """The context for connecting; None without TLS. Create one for all connections."""
        return ssl.create_default_context(cafile=self.authority) if self.load.tls else None


@dataclass(frozen=True)
class Contender:
    """A module in `peers`, and the goal: the minimum ratio of its cost to that of the contender `beside` it."""

    name: str
    goal: float | None = None
    beside: str = "fleet"
    counts: bool = False
    """It counts texts and does not decode."""
    inflates: bool = True


CONTENDERS = (
    Contender("fleet"),
    Contender("websockets_direct", 6.0),
    Contender("websockets_queue", 7.0),
    Contender("websockets_batched"),
    Contender("picows_websockets_direct", 1.3),
    Contender("picows_websockets_queue", 2.0),
    Contender("picows_core_direct", inflates=False),
    Contender("picows_core_batched", inflates=False),
    Contender("aiohttp_direct"),
    Contender("aiohttp_queue", 2.5),
    Contender("ceiling", 0.55),
    Contender("fleet_text", beside="fleet_text", counts=True),
    Contender("picows_core", 1.3, beside="fleet_text", counts=True, inflates=False),
)
"""In the order of the runs and of the table."""


@dataclass(frozen=True)
class Scenario:
    """One load. If a server costs more than `server_share` of its client, the figure may be that of the server.

    If bytes or sockets cost more than messages do, a server cannot be much cheaper than a client that only counts.
    Below 1 it is still faster than its client, which therefore finds full buffers to read.
    """

    load: Load
    about: str
    server_share: float = 0.9
    goals: Mapping[str, float] | None = None
    """The goals with this load, instead of those of the contenders."""

    def among(self, names: Collection[str] | None) -> list[Contender]:
        """Return those of `names` that can take part in it, by default all, and the ones they are compared with."""
        able = [each for each in CONTENDERS if each.inflates or not self.load.deflate]
        if self.goals is not None:
            able = [replace(each, goal=self.goals.get(each.name)) for each in able]
        chosen = [each for each in able if names is None or each.name in names]
        return [each for each in able if each in chosen or any(other.beside == each.name for other in chosen)]


SCENARIOS = {
    "default": Scenario(
        Load(),
        "few connections, short messages",
        server_share=0.35,
        goals={
            "websockets_direct": 7.0,
            "aiohttp_direct": 2.7,
            "picows_websockets_direct": 1.5,
            "ceiling": 0.55,
            "picows_core": 1.3,
        },
    ),
    "many": Scenario(
        Load(connections=1000, messages=32),
        "many connections",
        goals={"websockets_direct": 5.0, "aiohttp_direct": 1.9, "picows_websockets_direct": 1.2},
    ),
    # Writing a message costs as much as receiving it; the pace is even, so the server is not the bottleneck.
    "single": Scenario(
        Load(connections=1000, messages=10, single=True),
        "many connections, one message a read",
        server_share=2.0,
        goals={"websockets_direct": 1.9, "aiohttp_direct": 1.2, "picows_websockets_direct": 1.1},
    ),
    "1k": Scenario(Load(messages=1_200, size=1024), "longer messages"),
    "8k": Scenario(Load(messages=320, size=8192), "long messages"),
    "tls": Scenario(Load(tls=True), "with TLS"),
    "deflate": Scenario(Load(deflate=True), "with compression"),
}
