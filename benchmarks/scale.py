"""Ten thousand connections in one process: the cost of each, compared with bare `websockets` with the same pings.

    python -m benchmarks.scale [--connections N] [--idle SECONDS] [--json FILE]

Each contender is a separate process with its own server. All are open at the same time, so that they are idle in
the same seconds, with the same load of the machine. Memory is the resident memory after a garbage collection, less
that before connecting.
"""

from __future__ import annotations

import argparse
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from benchmarks.figures import Figure, Part, over, write
from benchmarks.talk import Child
from wsfleet.transport.open_files import ADVICE, SPARE, raise_limit

PART = Part(
    "scale",
    "ten thousand connections in one process",
    once_s=140.0,
    quick="--connections 20 --idle 0.2 --ticking 0.2 --settle 0.1",
)

KINDS = {
    "websockets": "websockets, a reader task each",
    "fleet": "wsfleet, one processor for all",
    "fleet-own": "wsfleet, a processor each",
}

PER_ADDRESS = 20_000
"""Connections from one address to another are limited by the number of ephemeral ports, about 28,000."""

TICKING_S = 5.0
FLOOD = 200
SETTLE_S = 2.0

ABOVE_KIB = 4.0
TASKS = 2.0
"""Goals: the maximum memory above that of bare websockets, and the maximum number of tasks, of each connection."""


@dataclass
class Cost:
    """The cost of one contender; memory and tasks for each connection, CPU time in total."""

    kind: str
    opened_s: float
    tasks: float
    memory_kib: float
    flooded_kib: float
    idle_cpu_s: float = 0.0


class Contender:
    """One client and its server."""

    def __init__(self, kind: str, connections: int, stack: ExitStack) -> None:
        self.kind = kind
        self._connections = connections
        addresses = [f"127.0.0.{number}" for number in range(1, 2 + (connections - 1) // PER_ADDRESS)]
        self._server = stack.enter_context(Child("ticker", *addresses))
        uris = self._server.answer()
        self._client = stack.enter_context(Child("holder", kind, connections, *uris))
        self._before = self._client.ask("cost")["rss"]

    def fill(self, ticking_s: float, settle_s: float) -> Cost:
        """Open the connections, send ticks, then a flood, and measure the memory."""
        opened_s = self._client.ask("open")["seconds"]
        tasks = self._client.ask("count")["tasks"] / self._connections
        self._server.ask("tick")
        time.sleep(ticking_s)
        memory = self._memory_kib()
        self._server.ask("quiet")
        time.sleep(settle_s)
        ticks = self._client.ask("count")["received"]
        self._server.ask(f"flood {FLOOD}")
        while self._client.ask("count")["received"] < ticks + FLOOD * self._connections:
            time.sleep(0.25)
        return Cost(self.kind, opened_s, tasks, memory, self._memory_kib())

    def _memory_kib(self) -> float:
        return float(self._client.ask("cost")["rss"] - self._before) / self._connections / 1024

    def cpu_s(self) -> float:
        return float(self._client.ask("cost")["cpu_s"])


def measure(connections: int, idle_s: float, ticking_s: float, settle_s: float) -> list[Cost]:
    """Run all contenders; return their costs in the order of KINDS."""
    with ExitStack() as stack:
        contenders = [Contender(kind, connections, stack) for kind in KINDS]
        costs = [contender.fill(ticking_s, settle_s) for contender in contenders]
        time.sleep(settle_s)
        before = [contender.cpu_s() for contender in contenders]
        time.sleep(idle_s)
        for cost, contender, cpu_s in zip(costs, contenders, before, strict=True):
            cost.idle_cpu_s = contender.cpu_s() - cpu_s
        return costs


def table(costs: list[Cost], connections: int, idle_s: float) -> list[str]:
    """Return the lines to print: each contender compared with bare websockets, which is the first."""
    bare = costs[0]
    heading = ("memory, KiB", "above bare", "flooded", "above bare", "tasks", f"CPU in {idle_s:g} s", "of bare")
    lines = [f"{connections:,} connections, for each:", " " * 32 + "".join(f"{title:>14}" for title in heading)]
    for cost in costs:
        cells = (
            f"{cost.memory_kib:.1f}",
            f"{cost.memory_kib - bare.memory_kib:+.1f}",
            f"{cost.flooded_kib:.1f}",
            f"{cost.flooded_kib - bare.flooded_kib:+.1f}",
            f"{cost.tasks:.2f}",
            f"{cost.idle_cpu_s:.2f} s",
            f"{cost.idle_cpu_s / bare.idle_cpu_s:.2f}" if bare.idle_cpu_s else "",
        )
        lines.append(f"{KINDS[cost.kind]:<32}" + "".join(f"{cell:>14}" for cell in cells))
    return [*lines, "goals: at most 4 KiB above bare, also after a flood; at most 2 tasks; no more CPU than bare"]


def figures(data: Mapping[str, Any]) -> list[Figure]:
    bare, *others = data["costs"]
    made = []
    for cost in others:
        for what, key in (("memory", "memory_kib"), ("memory after a flood", "flooded_kib")):
            goal = over(bare[key] + ABOVE_KIB, bare[key])
            made.append(Figure(f"{cost['kind']}: {what}", "websockets", over(cost[key], bare[key]), goal, "less"))
        idle = over(cost["idle_cpu_s"], bare["idle_cpu_s"])
        made.append(Figure(f"{cost['kind']}: idle CPU", "websockets", idle, 1.0, "less"))
        # The few tasks of the fleet itself do not count.
        made.append(Figure(f"{cost['kind']}: tasks", "connections", round(cost["tasks"], 2), TASKS, "less"))
    return made


def limit_time(seconds: int) -> None:
    """Give up after this time: the children end with this process."""

    def give_up(number: int, frame: FrameType | None) -> None:
        raise TimeoutError(f"not done within {seconds} s")

    signal.signal(signal.SIGALRM, give_up)
    signal.alarm(seconds)


def check_open_files(connections: int) -> None:
    """Exit if the limit does not allow this number of connections; the children have this process's limit."""
    limit, wanted = raise_limit(), connections + SPARE
    if limit is not None and limit < wanted:
        sys.exit(f"{connections:,} connections need {wanted:,} open files, and this system allows {limit:,}: {ADVICE}")


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scale", description=PART.about)
    parser.add_argument(
        "--connections", type=int, default=10_000, metavar="N", help="number of connections (default: 10,000)"
    )
    parser.add_argument("--idle", type=float, default=60.0, metavar="SECONDS", help="idle time (default: 60)")
    parser.add_argument(
        "--ticking", type=float, default=TICKING_S, metavar="SECONDS", help="time with one message per second each"
    )
    parser.add_argument("--settle", type=float, default=SETTLE_S, metavar="SECONDS", help="pauses between the steps")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures to this file")
    args = parser.parse_args(argv)
    check_open_files(args.connections)
    limit_time(300 + int(args.idle + args.connections / 50))
    costs = measure(args.connections, args.idle, args.ticking, args.settle)
    print("\n".join(table(costs, args.connections, args.idle)))
    data = {"connections": args.connections, "idle_s": args.idle, "costs": [asdict(cost) for cost in costs]}
    write(args.json, figures(data), data)


if __name__ == "__main__":
    main()
