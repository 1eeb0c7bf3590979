"""Runs the contenders in turn, round after round, and prints what they cost beside wsfleet as one table."""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import wsfleet
from benchmarks.feed import expected_total

ROOT = Path(__file__).parents[1]
REFERENCE = "fleet"
GOALS: dict[str, float | None] = {"websockets_direct": 1.4, "websockets_queue": 1.6}
"""How many times wsfleet's cost each of the others is to have at least. They stand in the order of the runs."""

SERVER_SHARE = 0.35
"""A server that costs more than this part of its client could be what is measured."""


@dataclass(frozen=True)
class Run:
    """One contender in one round."""

    ns_per_message: float
    server_share: float


@dataclass(frozen=True)
class Load:
    """What every contender receives."""

    connections: int
    messages: int
    size: int


def run(name: str, load: Load, total: int) -> Run:
    """Start a fresh server and a fresh client, and return what the flow cost. Raises where a message is missing."""
    # A proxy from the environment must not stand between the two.
    environment = os.environ | {"no_proxy": "*", "NO_PROXY": "*"}
    server = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.feed", str(load.messages), str(load.size)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    with server:
        assert server.stdout is not None
        uri = server.stdout.readline().strip()
        client = subprocess.run(
            [sys.executable, "-m", "benchmarks.contender", name, uri, str(load.connections), str(load.messages)],
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env=environment,
        )
        report, _ = server.communicate()
    if client.returncode:
        raise SystemExit(f"{name} failed")
    got, server_cpu = json.loads(client.stdout), json.loads(report)["cpu_s"]
    count = load.connections * load.messages
    if (got["count"], got["total"]) != (count, total):
        raise SystemExit(f"{name} was sent {count} messages and handled {got}")
    share = server_cpu / got["cpu_s"]
    if share > SERVER_SHARE:
        raise SystemExit(f"{name}: the server took {share:.0%} of the client's CPU time, so it may be the bottleneck")
    return Run(got["cpu_s"] / count * 1e9, share)


def machine() -> dict[str, Any]:
    """Return what the figures depend on, apart from the code."""
    info = Path("/proc/cpuinfo")
    found = re.search(r"(?m)^model name\s*: (.*)", info.read_text()) if info.exists() else None
    versions = {name: importlib.metadata.version(name) for name in ("websockets", "uvloop", "msgspec")}
    return {
        "cpu": f"{os.cpu_count()} x {found[1] if found else platform.processor() or platform.machine()}",
        "system": f"{platform.system()} {platform.machine()}",
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        **versions,
        "wsfleet.accelerated": wsfleet.accelerated,
    }


def summary(runs: dict[str, list[Run]]) -> dict[str, dict[str, Any]]:
    """Return for every contender its median cost and, per round, how many times wsfleet's it is."""
    ours = [run.ns_per_message for run in runs.get(REFERENCE, [])]
    shown: dict[str, dict[str, Any]] = {}
    for name, each in runs.items():
        costs = [run.ns_per_message for run in each]
        ratios = [cost / reference for cost, reference in zip(costs, ours, strict=False)]
        shown[name] = {
            "ns_per_message": median(costs),
            "messages_per_cpu_s": 1e9 / median(costs),
            "server_share": median(run.server_share for run in each),
            "rounds_ns_per_message": costs,
        }
        if ratios:
            shown[name] |= {"ratio": median(ratios), "ratio_min": min(ratios), "ratio_max": max(ratios)}
            shown[name]["goal"] = GOALS.get(name)
    return shown


def table(rows: dict[str, dict[str, Any]]) -> str:
    heads = {"CPU/message": 12, "messages/CPU s": 16, "x wsfleet": 11, "(min - max)": 15, "goal": 6, "server": 8}
    lines = [" " * 18 + "".join(f"{head:>{width}}" for head, width in heads.items())]
    for name, row in rows.items():
        line = f"{name:18}{row['ns_per_message']:9.0f} ns{row['messages_per_cpu_s']:16,.0f}"
        if "ratio" in row:
            spread = f"({row['ratio_min']:.2f} - {row['ratio_max']:.2f})"
            goal = "" if row["goal"] is None else f"{row['goal']:.1f}"
            line += f"{row['ratio']:11.2f}{spread:>15}{goal:>6}"
        else:
            line += " " * 32
        lines.append(f"{line}{row['server_share']:8.0%}")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--pairs", type=int, default=7, metavar="N", help="rounds; in each, every contender runs once")
    parser.add_argument("--messages", type=int, default=50_000, metavar="N", help="for each connection")
    parser.add_argument("--connections", type=int, default=8, metavar="N")
    parser.add_argument("--size", type=int, default=128, metavar="BYTES", help="of one message")
    parser.add_argument("--only", action="append", metavar="NAME", help="a contender; may be given several times")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures of every round there")
    options = parser.parse_args(arguments)
    names = [name for name in (REFERENCE, *GOALS) if options.only is None or name in options.only]
    if not names or set(options.only or ()) - set(names):
        parser.error(f"--only takes {', '.join((REFERENCE, *GOALS))}")
    load = Load(options.connections, options.messages, options.size)
    try:
        total = load.connections * expected_total(load.messages, load.size)
    except ValueError as exc:
        parser.error(f"--size: {exc}")

    about = machine()
    print(", ".join(f"{key} {value}" for key, value in about.items()))
    print(f"{load.connections} connections x {load.messages:,} messages x {load.size} bytes; {options.pairs} rounds")
    runs: dict[str, list[Run]] = {name: [] for name in names}
    for round_ in range(1, options.pairs + 1):
        for name in names:
            if sys.stderr.isatty():
                print(f"round {round_}: {name:24}", end="\r", file=sys.stderr, flush=True)
            runs[name].append(run(name, load, total))
    rows = summary(runs)
    print(table(rows))
    if options.json:
        result = {"machine": about, "load": vars(load), "rounds": options.pairs, "contenders": rows}
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
