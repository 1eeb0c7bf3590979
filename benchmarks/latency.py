"""The latency that wsfleet adds: 10,000 messages per second over 100 connections, compared with the bare loop.

    python -m benchmarks.latency

The messages are sent evenly, with random gaps, so that most of them are alone in their read: processing many at a time
has no advantage. The result is their age when they are processed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from statistics import median
from typing import Any

from benchmarks.figures import Figure, Part, write
from benchmarks.listener import Heard, hear
from benchmarks.rounds import arguments, compared, spread, take_turns

PART = Part(
    "latency",
    "the latency that wsfleet adds",
    pair_s=10.0,
    pairs=11,
    quick="--pairs 1 --seconds 0.2 --warm 0.1",
)

PROGRAMS = ("direct", "fleet")
GOAL = 1.15
"""Goal: the maximum ratio of wsfleet's p50 to that of the bare loop."""

CONNECTIONS = 100
RATE = 10_000.0


def row(heard: dict[str, list[Heard]], part: str) -> dict[str, Any]:
    ages = {name: [getattr(run, part) for run in each] for name, each in heard.items()}
    return {
        "part": part.removesuffix("_us"),
        **{f"{name}_us": median(each) for name, each in ages.items()},
        "goal": GOAL if part == "p50_us" else None,
        "rounds_us": ages,
        **compared(ages["fleet"], ages["direct"]),
    }


def line(row: dict[str, Any]) -> str:
    goal = "" if row["goal"] is None else f"{row['goal']:.2f}"
    return f"{row['part']:6}{row['direct_us']:12,.0f} us{row['fleet_us']:12,.0f} us{spread(row):>28}{goal:>7}"


def figures(data: Mapping[str, Any]) -> list[Figure]:
    return [Figure(f"{row['part']} of wsfleet", "bare loop", row["ratio"], row["goal"], "less") for row in data["rows"]]


def main(argv: Sequence[str] | None = None) -> None:
    options = arguments(PART, seconds=3.0).parse_args(argv)
    print(f"age of messages, {RATE:,.0f} per second over {CONNECTIONS} connections; median of {options.pairs} rounds")
    print(f"{'':6}{'bare loop':>15}{'wsfleet':>15}{'x bare (min - max)':>28}{'goal':>7}")
    run = partial(hear, connections=CONNECTIONS, seconds=options.seconds, rate=RATE, warm_s=options.warm)
    heard = take_turns(PROGRAMS, options.pairs, run)
    found = [row(heard, part) for part in ("p50_us", "p99_us")]
    for each in found:
        print(line(each))
    data = {"rounds": options.pairs, "rows": found}
    write(options.json, figures(data), data)


if __name__ == "__main__":
    main()
