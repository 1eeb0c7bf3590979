"""Ten thousand connections in one process: what each costs, beside bare `websockets` with the same pings.

    python -m benchmarks.scale [--connections N] [--idle SECONDS] [--json]

Each contender is a process of its own with a server of its own. All are open at the same time, so that they are idle in
the same seconds, as the machine's other work is shared. Memory is what is resident after garbage was collected, less
what was before connecting.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import time
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from types import FrameType

from benchmarks.talk import Child
from wsfleet.open_files import ADVICE, SPARE, raise_limit

KINDS = {
    "websockets": "websockets, a reader task each",
    "fleet": "wsfleet, one processor for all",
    "fleet-own": "wsfleet, a processor each",
}

PER_ADDRESS = 20_000
"""Connections from one address to another are bounded by the ports that systems give away, about 28,000."""

TICKING_S = 5.0
FLOOD = 200
SETTLE_S = 2.0


@dataclass
class Cost:
    """What one contender cost; memory and tasks for each connection, CPU time in all."""

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

    def fill(self) -> Cost:
        """Open the connections, send ticks, then a flood, and weigh the memory."""
        opened_s = self._client.ask("open")["seconds"]
        tasks = self._client.ask("count")["tasks"] / self._connections
        self._server.ask("tick")
        time.sleep(TICKING_S)
        memory = self._memory_kib()
        self._server.ask("quiet")
        time.sleep(SETTLE_S)
        ticks = self._client.ask("count")["received"]
        self._server.ask(f"flood {FLOOD}")
        while self._client.ask("count")["received"] < ticks + FLOOD * self._connections:
            time.sleep(0.25)
        return Cost(self.kind, opened_s, tasks, memory, self._memory_kib())

    def _memory_kib(self) -> float:
        return float(self._client.ask("cost")["rss"] - self._before) / self._connections / 1024

    def cpu_s(self) -> float:
        return float(self._client.ask("cost")["cpu_s"])


def measure(connections: int, idle_s: float) -> list[Cost]:
    """Run all contenders; their costs in the order of KINDS."""
    with ExitStack() as stack:
        contenders = [Contender(kind, connections, stack) for kind in KINDS]
        costs = [contender.fill() for contender in contenders]
        time.sleep(SETTLE_S)
        before = [contender.cpu_s() for contender in contenders]
        time.sleep(idle_s)
        for cost, contender, cpu_s in zip(costs, contenders, before, strict=True):
            cost.idle_cpu_s = contender.cpu_s() - cpu_s
        return costs


def table(costs: list[Cost], connections: int, idle_s: float) -> list[str]:
    """Return the lines to print: each contender beside bare websockets, which is the first."""
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


def limit_time(seconds: int) -> None:
    """Give up after so long: whatever hangs, the children end with this process."""

    def give_up(number: int, frame: FrameType | None) -> None:
        raise TimeoutError(f"not done within {seconds} s")

    signal.signal(signal.SIGALRM, give_up)
    signal.alarm(seconds)


def check_open_files(connections: int) -> None:
    """Exit where so many connections are not allowed; the children have this process's limit."""
    limit, wanted = raise_limit(), connections + SPARE
    if limit is not None and limit < wanted:
        sys.exit(f"{connections:,} connections need {wanted:,} open files, and this system allows {limit:,}: {ADVICE}")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scale", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--connections", type=int, default=10_000, metavar="N", help="how many (default: 10,000)")
    parser.add_argument("--idle", type=float, default=60.0, metavar="SECONDS", help="idle time (default: 60)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    args = parser.parse_args()
    check_open_files(args.connections)
    limit_time(300 + int(args.idle + args.connections / 50))
    costs = measure(args.connections, args.idle)
    if args.json:
        print(json.dumps({"connections": args.connections, "idle_s": args.idle, "costs": [asdict(c) for c in costs]}))
    else:
        print("\n".join(table(costs, args.connections, args.idle)))


if __name__ == "__main__":
    main()
