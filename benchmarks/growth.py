"""The cost of a message and of a connection, from 10 connections to 10,000: wsfleet compared with the bare loop.

    python -m benchmarks.growth

The number of messages per second is the same for any number of connections, one message at a time, so that only that
number differs: CPU time for each message, CPU time for opening each connection, and the memory of each connection more
than in the previous line. None of it may grow with the number. `growth` is a message's cost as a multiple of the first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from statistics import median
from typing import Any

from benchmarks.figures import Figure, Part, over, write
from benchmarks.listener import Heard, hear
from benchmarks.rounds import arguments, spread, take_turns

PART = Part(
    "growth",
    "from 10 connections to 10,000",
    pair_s=75.0,
    pairs=3,
    quick="--pairs 1 --seconds 0.2 --warm 0.1 --most 100",
)

PROGRAMS = ("fleet", "direct")
SIZES = (10, 100, 1_000, 10_000)
RATE = 10_000.0
NOISE = 1.25

Row = dict[str, Any]


def row(program: str, connections: int, runs: list[Heard], fewest: list[Heard], before: Row | None) -> Row:
    costs = [run.cpu_s / run.count for run in runs]
    ratios = [cost / (first.cpu_s / first.count) for cost, first in zip(costs, fewest, strict=True)]
    rss = median(run.rss for run in runs)
    return {
        "program": program,
        "connections": connections,
        "us_per_message": median(costs) * 1e6,
        "ratio": median(ratios),
        "ratio_min": min(ratios),
        "ratio_max": max(ratios),
        "us_to_open": median(run.open_cpu_s for run in runs) / connections * 1e6,
        "rss": rss,
        "bytes_per_connection": None
        if before is None
        else (rss - before["rss"]) / (connections - before["connections"]),
    }


def line(row: Row) -> str:
    memory = row["bytes_per_connection"]
    shown = "" if memory is None else f"{memory / 1024:,.1f} KiB"
    return (
        f"{row['program']:8}{row['connections']:12,}{row['us_per_message']:12,.1f} us{spread(row):>24}"
        f"{row['us_to_open']:12,.0f} us{row['rss'] / 2**20:10,.0f} MiB{shown:>16}"
    )


COSTS = {"us_per_message": "a message", "us_to_open": "opening one", "bytes_per_connection": "memory of one"}


def figures(data: Mapping[str, Any]) -> list[Figure]:
    """The growth of the costs from few connections to the most, and wsfleet's growth compared with the bare loop's.

    Nothing may be superlinear: caches and the garbage collector have their own effects, so the bare loop
    shows the unavoidable part, and a quarter is allowed for noise: over a thousand times as many connections, a cost
    that grows with the logarithm of their number would grow fourfold. A message is compared with the fewest
    connections. Opening and memory are compared with the size before the last, because with fewer, most of it is the
    cost of starting.
    """
    made = []
    for cost, what in COSTS.items():
        growth: dict[str, float | None] = {}
        for program in PROGRAMS:
            rows = [row for row in data["rows"] if row["program"] == program]
            last, first = rows[-1], rows[0 if cost == "us_per_message" else max(len(rows) - 2, 0)]
            growth[program] = over(last[cost], first[cost] or 0.0)
            name = "wsfleet" if program == "fleet" else "bare loop"
            most, few = (f"{row['connections']:,}" for row in (last, first))
            made.append(Figure(f"{name}, {what} of {most}", f"of {few}", growth[program]))
        ratio = over(growth["fleet"] or 0.0, growth["direct"] or 0.0)
        made.append(Figure(f"wsfleet's growth, {what}", "bare loop's growth", ratio, NOISE, "less"))
    return made


def main(argv: Sequence[str] | None = None) -> None:
    parser = arguments(PART, seconds=5.0)
    parser.add_argument("--most", type=int, default=SIZES[-1], metavar="N", help="maximum number of connections")
    options = parser.parse_args(argv)
    sizes = [size for size in SIZES if size <= options.most]
    run = partial(hear, seconds=options.seconds, rate=RATE, warm_s=options.warm)
    heard = {size: take_turns(PROGRAMS, options.pairs, partial(run, connections=size)) for size in sizes}
    print(f"{RATE:,.0f} messages per second in total; median of {options.pairs} rounds")
    print(
        f"{'':8}{'connections':>12}{'CPU/message':>15}{'growth (min - max)':>24}{'CPU to open':>15}{'memory':>14}"
        f"{'a connection':>16}"
    )
    found: list[Row] = []
    for program in PROGRAMS:
        before = None
        for size in sizes:
            before = row(program, size, heard[size][program], heard[sizes[0]][program], before)
            found.append(before)
            print(line(before))
    data = {"rounds": options.pairs, "rows": found}
    write(options.json, figures(data), data)


if __name__ == "__main__":
    main()
