"""A server drops thousands of connections at once, refuses for a while, then accepts: how they reconnect.

    python -m benchmarks.storm [--connections N] [--refuse SECONDS] [--gc command|off] [--json FILE]

Attempts are counted when wsfleet asks for a socket. Meanwhile, healthy endpoints on another host, from a separate
server process, get one message per second each; their result is the time from sending a message to processing it,
before the reset and until all connections have returned.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import logging
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec
import uvloop

from benchmarks.figures import Figure, Part, over, write
from benchmarks.scale import SETTLE_S, check_open_files, limit_time
from benchmarks.talk import Child
from wsfleet import Connection, Fleet, Limits, Liveness, Message, State
from wsfleet.runtime.loop import SELDOM
from wsfleet.transport.base import DialRequest, Progress
from wsfleet.transport.websockets import WebSocketTransport, WebSocketWire

PART = Part(
    "storm",
    "all connections lost at once, refused, and back",
    once_s=40.0,
    quick="--connections 20 --refuse 0.3 --calm 1.5 --settle 0.1",
)

STORMY = "127.0.0.1"
HEALTHY = "127.0.0.2" if sys.platform == "linux" else "localhost"
HEALTHY_COUNT = 100
CALM_S = 10.0
BINS_PER_S = 10
COLLECTING: dict[str, Callable[[], object]] = {
    "untouched": lambda: None,
    "command": lambda: gc.set_threshold(*SELDOM),
    "off": gc.disable,
}
SHARE = 0.05
"""Goal: the maximum fraction of all attempts in 100 ms."""


class Watched(WebSocketTransport):
    """The usual transport, which also records when it was asked for a socket to the affected host."""

    def __init__(self) -> None:
        super().__init__()
        self.times: list[float] = []
        self.ends: list[float] = []
        self.in_flight = self.most_in_flight = 0

    async def open(self, target: DialRequest, progress: Progress) -> WebSocketWire:
        if urlsplit(target.uri).hostname != STORMY:
            return await super().open(target, progress)
        self.times.append(time.monotonic())
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            return await super().open(target, progress)
        finally:
            self.in_flight -= 1
            self.ends.append(time.monotonic())


class Tick(msgspec.Struct):
    """The server's message: when it was sent."""

    at: float


@dataclass
class Outcome:
    """The result of a storm. `histogram` counts the attempts of each 100 ms since the reset.

    `in_flight` has the maximum number of concurrent handshakes in each 100 ms.
    """

    connections: int
    back: int
    back_s: float
    handshakes: int
    most_in_flight: int
    healthy_losses: int
    histogram: list[int] = field(default_factory=list)
    in_flight: list[int] = field(default_factory=list)
    p99_before_ms: float = 0.0
    p99_during_ms: float = 0.0
    collector_s: float = 0.0
    longest_collection_ms: float = 0.0

    @property
    def largest_share(self) -> float:
        return max(self.histogram) / sum(self.histogram)

    def lines(self) -> list[str]:
        """Return the lines to print: a line for each second of the histogram, then the summary."""
        lines = ["second   attempts in each 100 ms"]
        for second in range(0, len(self.histogram), BINS_PER_S):
            counts = self.histogram[second : second + BINS_PER_S]
            lines.append(f"{second // BINS_PER_S:>6}   " + "".join(f"{count:>6}" for count in counts))
        ratio = over(self.p99_during_ms, self.p99_before_ms) or 0.0
        return [
            *lines,
            f"back: {self.back:,} of {self.connections:,}, the last after {self.back_s:.1f} s",
            f"attempts: {sum(self.histogram):,}; the fullest 100 ms holds {self.largest_share:.1%} (goal: at most 5 %)",
            f"handshakes in flight: {self.most_in_flight} at most (limit: {self.handshakes})",
            f"healthy host: {self.healthy_losses} losses, p99 {self.p99_during_ms:.1f} ms during the storm, "
            f"{ratio:.1f} of before",
            f"the garbage collector held the loop for {self.collector_s:.1f} s of it, for "
            f"{self.longest_collection_ms:.0f} ms at most",
        ]


class Collector:
    """Total time of the garbage collector, from now on."""

    def __init__(self) -> None:
        self.total_s = self.longest_s = self._began = 0.0
        gc.callbacks.append(self._on_phase)

    def _on_phase(self, phase: str, info: dict[str, int]) -> None:
        if phase == "start":
            self._began = time.monotonic()
        else:
            took_s = time.monotonic() - self._began
            self.total_s += took_s
            self.longest_s = max(self.longest_s, took_s)


def p99(values: list[float]) -> float:
    return sorted(values)[len(values) * 99 // 100] if values else 0.0


def most_at_a_time(begins: list[float], ends: list[float], since: float) -> list[int]:
    """Return the maximum number of concurrent handshakes in each 100 ms."""
    changes = sorted([(at, 1) for at in begins] + [(at, -1) for at in ends])
    most: list[int] = []
    now = 0
    for at, change in changes:
        while len(most) <= int((at - since) * BINS_PER_S):
            most.append(now)
        now += change
        most[-1] = max(most[-1], now)
    return most


def figures(data: Mapping[str, Any]) -> list[Figure]:
    attempts = data["histogram"]
    before, during = data["p99_before_ms"], data["p99_during_ms"]
    spared = 1 - data["healthy_losses"] / HEALTHY_COUNT
    return [
        Figure("connections back", "lost", data["back"] / data["connections"], 1.0),
        Figure("handshakes in flight", "the limit", data["most_in_flight"] / data["handshakes"], 1.0, "less"),
        Figure("the fullest 100 ms", "all attempts", max(attempts) / sum(attempts), SHARE, "less"),
        Figure("healthy endpoints without a loss", "all of them", spared, 1.0),
        Figure("p99 of healthy endpoints, during", "before", over(during, before)),
    ]


class Storm:
    """The fleet, and the observations of it."""

    def __init__(self, connections: int, stormy: Child, healthy: Child) -> None:
        self._stormy, self._healthy = stormy, healthy
        self._transport = Watched()
        self._limits = Limits()
        self._latencies: list[float] = []
        self._fleet = Fleet(limits=self._limits, transport=self._transport, drain_s=1.0)
        self._fleet.process("healthy")(self._take)
        self._fleet.process("stormy")(self._ignore)
        stormy_uri, healthy_uri = stormy.answer()[0], healthy.answer()[0]
        liveness = Liveness(ping_s=20.0)
        self._crowd = [
            self._fleet.connect(stormy_uri, name=f"stormy-{number}", topic="stormy", decode=Tick, liveness=liveness)
            for number in range(connections)
        ]
        self._others = [
            self._fleet.connect(healthy_uri, name=f"healthy-{number}", topic="healthy", decode=Tick)
            for number in range(HEALTHY_COUNT)
        ]

    async def _take(self, message: Message[Tick]) -> None:
        self._latencies.append(time.monotonic() - message.data.at)

    async def _ignore(self, message: Message[Tick]) -> None:
        """The messages of the affected endpoints are only load."""

    def _latency_ms(self) -> float:
        values, self._latencies = self._latencies, []
        return p99(values) * 1000

    async def run(self, refuse_s: float, collecting: Callable[[], object], calm_s: float, settle_s: float) -> Outcome:
        collecting()
        async with self._fleet:
            for connection in (*self._others, *self._crowd):
                await connection.wait_open()
            for server in (self._stormy, self._healthy):
                await asyncio.to_thread(server.ask, "tick")
            await asyncio.sleep(settle_s)
            self._latency_ms()
            await asyncio.sleep(calm_s)
            before_ms = self._latency_ms()
            collector = Collector()
            outcome = await self._reset(refuse_s)
            outcome.p99_before_ms = before_ms
            outcome.collector_s, outcome.longest_collection_ms = collector.total_s, collector.longest_s * 1000
            return outcome

    async def _reset(self, refuse_s: float) -> Outcome:
        transport = self._transport
        transport.times.clear()
        transport.ends.clear()
        transport.most_in_flight = 0
        began = time.monotonic()
        await asyncio.to_thread(self._stormy.ask, "reset")
        await asyncio.sleep(refuse_s)
        await asyncio.to_thread(self._stormy.ask, "accept")
        away = self._crowd
        while (away := self._away(away)) and time.monotonic() < began + refuse_s + 120.0:  # noqa: ASYNC110
            await asyncio.sleep(0.25)
        back_s = time.monotonic() - began
        during_ms = self._latency_ms()
        histogram = [0] * (1 + int((transport.times[-1] - began) * BINS_PER_S))
        for at in transport.times:
            histogram[int((at - began) * BINS_PER_S)] += 1
        return Outcome(
            connections=len(self._crowd),
            back=len(self._crowd) - len(away),
            back_s=back_s,
            handshakes=self._limits.handshakes,
            most_in_flight=transport.most_in_flight,
            healthy_losses=sum(connection.stats().losses for connection in self._others),
            histogram=histogram,
            in_flight=most_at_a_time(transport.times, transport.ends, began)[: len(histogram)],
            p99_during_ms=during_ms,
        )

    def _away(self, crowd: list[Connection]) -> list[Connection]:
        """Return those that have not returned yet: checking all of them repeatedly would block the loop itself."""
        return [each for each in crowd if each.state is not State.OPEN or each.session_count == 1]


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.storm", description=PART.about)
    parser.add_argument(
        "--connections", type=int, default=10_000, metavar="N", help="number of connections (default: 10,000)"
    )
    parser.add_argument("--refuse", type=float, default=10.0, metavar="SECONDS", help="time of refusing (default: 10)")
    parser.add_argument(
        "--gc",
        choices=COLLECTING,
        default="untouched",
        help="garbage collector: unchanged (default), as `wsfleet run` configures it, or off, to measure its share",
    )
    parser.add_argument(
        "--calm", type=float, default=CALM_S, metavar="SECONDS", help="time before the reset (default: 10)"
    )
    parser.add_argument(
        "--settle", type=float, default=SETTLE_S, metavar="SECONDS", help="time between opening and --calm (default: 2)"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures to this file")
    args = parser.parse_args(argv)
    check_open_files(args.connections + HEALTHY_COUNT)
    limit_time(300 + int(args.refuse + args.connections / 50))
    logging.getLogger("wsfleet").setLevel(logging.ERROR)  # a line for each loss would be too much here
    with ExitStack() as stack:
        servers = [stack.enter_context(Child("ticker", address)) for address in (STORMY, HEALTHY)]
        storm = Storm(args.connections, *servers)
        outcome = uvloop.run(storm.run(args.refuse, COLLECTING[args.gc], args.calm, args.settle))
    print("\n".join(outcome.lines()))
    data = asdict(outcome)
    write(args.json, figures(data), data)


if __name__ == "__main__":
    main()
