"""Runs the contenders in turn, round after round, and prints what they cost beside wsfleet as one table."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks import buffers
from benchmarks.feed import expected_total
from benchmarks.runner import machine, run_rounds
from benchmarks.scenarios import CONTENDERS, SCENARIOS, Scenario
from benchmarks.table import detailed, overview, summary

RESULTS = Path(__file__).parent / "results"


def parse(arguments: Sequence[str] | None) -> tuple[argparse.Namespace, dict[str, Scenario]]:
    """Return the options, and the scenarios that they ask for."""
    names = [each.name for each in CONTENDERS]
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    add = parser.add_argument
    add("--scenario", action="append", choices=SCENARIOS, help="may be given several times; by default the first")
    add("--all", action="store_true", help="all scenarios")
    add("--pairs", type=int, default=42, metavar="N", help="rounds; in each, every contender runs once")
    add("--only", action="append", choices=names, metavar="NAME", help="a contender; may be given several times")
    add("--messages", type=int, metavar="N", help="for each connection, in each round")
    add("--connections", type=int, metavar="N")
    add("--size", type=int, metavar="BYTES", help="of one message")
    add("--json", type=Path, metavar="FILE", help="write the figures of every round there")
    add("--charts", type=Path, metavar="FILE", nargs="?", const=RESULTS / "bench.json",
        help=f"run nothing; draw what such a file holds, by default {RESULTS.name}/bench.json")  # fmt: skip
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


def tell(scenario: str, text: str) -> None:
    """Show how far it is, where somebody looks."""
    if sys.stderr.isatty():
        print(f"{scenario} {text}".ljust(60), end="\r", file=sys.stderr, flush=True)


def main(arguments: Sequence[str] | None = None) -> None:
    options, scenarios = parse(arguments)
    if options.charts:
        from benchmarks.charts import draw

        for path in draw(json.loads(options.charts.read_text()), RESULTS):
            print(path)
        return
    about = machine()
    print(", ".join(f"{key} {value}" for key, value in about.items()))
    found: dict[str, dict[str, Any]] = {}
    for name, scenario in scenarios.items():
        load = scenario.load
        extra = " with TLS" * load.tls + " compressed" * load.deflate
        print(f"{name}: {load.connections} x {load.messages:,} messages x {load.size} bytes{extra}", flush=True)
        runs = run_rounds(load, scenario.among(options.only), options.pairs, partial(tell, name))
        rows = summary(runs, scenario.server_share)
        found[name] = {"about": scenario.about, "load": asdict(load), "contenders": rows}
    tell("", "")
    tables = {name: each["contenders"] for name, each in found.items()}
    print(f"CPU time per message, median of {options.pairs} rounds")
    print(detailed(next(iter(tables.values()))) if len(tables) == 1 else overview(tables))
    result: dict[str, Any] = {"machine": about, "rounds": options.pairs, "scenarios": found}
    if options.all:
        print()
        result["buffers"] = buffers.report(buffers.PAIRS, buffers.DELIVERIES)
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
