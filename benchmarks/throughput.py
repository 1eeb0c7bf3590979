"""The cost of a message compared with other programs: they run in turn, round after round, with each of the loads.

python -m benchmarks.throughput [--scenario NAME | --all] [--only NAME]
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.feed import expected_total
from benchmarks.figures import Figure, Part, write
from benchmarks.machine import machine
from benchmarks.runner import run_rounds
from benchmarks.scenarios import CONTENDERS, SCENARIOS, Scenario
from benchmarks.table import detailed, overview, summary

PART = Part(
    "throughput",
    "CPU time per message, beside other programs",
    once_s=30.0,
    pair_s=12.0,
    pairs=42,
    quick="--pairs 1 --connections 2 --messages 20",
)


def parse(arguments: Sequence[str] | None) -> tuple[argparse.Namespace, dict[str, Scenario]]:
    """Return the options, and the selected scenarios."""
    names = [each.name for each in CONTENDERS]
    parser = argparse.ArgumentParser(prog="python -m benchmarks.throughput", description=PART.about)
    add = parser.add_argument
    add("--scenario", action="append", choices=SCENARIOS, help="can be repeated (default: the first)")
    add("--all", action="store_true", help="all scenarios")
    add("--pairs", type=int, default=PART.pairs, metavar="N", help="rounds; in each, every contender runs once")
    add("--only", action="append", choices=names, metavar="NAME", help="a contender; can be repeated")
    add("--messages", type=int, metavar="N", help="messages for each connection, in each round")
    add("--connections", type=int, metavar="N")
    add("--size", type=int, metavar="BYTES", help="size of a message")
    add("--json", type=Path, metavar="FILE", help="write the figures of every round to this file")
    options = parser.parse_args(arguments)
    chosen = list(SCENARIOS) if options.all else options.scenario or ["default"]
    own = {name: value for name in ("connections", "messages", "size") if (value := getattr(options, name)) is not None}
    scenarios = {name: replace(SCENARIOS[name], load=replace(SCENARIOS[name].load, **own)) for name in chosen}
    try:
        for scenario in scenarios.values():
            expected_total(scenario.load.messages, scenario.load.size)
    except ValueError as exc:
        parser.error(f"--size: {exc}")
    return options, scenarios


def progress(scenario: str, text: str) -> None:
    """Show the progress on a terminal."""
    if sys.stderr.isatty():
        print(f"{scenario} {text}".ljust(60), end="\r", file=sys.stderr, flush=True)


def figures(data: Mapping[str, Any]) -> list[Figure]:
    return [
        Figure(f"{name}, {scenario}", row["beside"], row["ratio"], row["goal"], doubtful=row["doubtful"])
        for scenario, each in data["scenarios"].items()
        for name, row in each["contenders"].items()
        if name != row["beside"]
    ]


def main(arguments: Sequence[str] | None = None) -> None:
    options, scenarios = parse(arguments)
    print(", ".join(f"{key} {value}" for key, value in machine().items()))
    found: dict[str, dict[str, Any]] = {}
    for name, scenario in scenarios.items():
        load = scenario.load
        extra = " with TLS" * load.tls + " compressed" * load.deflate + ", one a read" * load.single
        print(f"{name}: {load.connections} x {load.messages:,} messages x {load.size} bytes{extra}", flush=True)
        runs = run_rounds(load, scenario.among(options.only), options.pairs, partial(progress, name))
        rows = summary(runs, scenario.server_share)
        found[name] = {"about": scenario.about, "load": asdict(load), "contenders": rows}
    progress("", "")
    tables = {name: each["contenders"] for name, each in found.items()}
    print(f"CPU time per message, median of {options.pairs} rounds")
    print(detailed(next(iter(tables.values()))) if len(tables) == 1 else overview(tables))
    data = {"rounds": options.pairs, "scenarios": found}
    write(options.json, figures(data), data)


if __name__ == "__main__":
    main()
