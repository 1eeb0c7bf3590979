"""How long messages of 100 quiet connections wait while another one floods: wsfleet compared with hand-written loops.

    python -m benchmarks.fairness

Each quiet connection gets ten messages per second. The flood is sent as fast as it is read; its function does almost
nothing, or uses 1 ms of CPU time for each message. The result is the age of the quiet messages when they are
processed.
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
    "fairness",
    "quiet connections beside one that floods",
    pair_s=39.0,
    pairs=7,
    quick="--pairs 1 --seconds 0.2 --warm 0.1 --flood cheap",
)

PROGRAMS = ("fleet", "queue", "direct")
CASES = {"cheap": 0.0, "1 ms": 0.001}
GOALS = {("cheap", "queue"): 1.0, ("cheap", "direct"): 1.0, ("1 ms", "queue"): 5.0}
"""Goal: the minimum ratio of the others' p99 to wsfleet's, by the flood's function."""

CONNECTIONS = 100
RATE = 1000.0


def rows(case: str, heard: dict[str, list[Heard]]) -> list[dict[str, Any]]:
    made = []
    for name, each in heard.items():
        row = {
            "flood": case,
            "program": name,
            "p50_us": median(run.p50_us for run in each),
            "p99_us": median(run.p99_us for run in each),
            "rounds_p99_us": [run.p99_us for run in each],
            "flood_messages_per_cpu_s": median(run.flooded / run.cpu_s for run in each),
            "goal": GOALS.get((case, name)),
        }
        made.append(row | compared((run.p99_us for run in each), (run.p99_us for run in heard["fleet"])))
    return made


def line(row: dict[str, Any]) -> str:
    goal = "" if row["goal"] is None else f"{row['goal']:.1f}"
    ratio = "" if row["program"] == "fleet" else spread(row)
    return (
        f"{row['flood']:8}{row['program']:8}{row['p50_us'] / 1000:12,.2f} ms{row['p99_us'] / 1000:12,.2f} ms"
        f"{row['flood_messages_per_cpu_s']:16,.0f}{ratio:>34}{goal:>6}"
    )


def figures(data: Mapping[str, Any]) -> list[Figure]:
    return [
        Figure(f"{row['program']} loop: p99, flood {row['flood']}", "wsfleet", row["ratio"], row["goal"])
        for row in data["rows"]
        if row["program"] != "fleet"
    ]


def main(argv: Sequence[str] | None = None) -> None:
    parser = arguments(PART, seconds=3.0)
    parser.add_argument("--flood", choices=CASES, help="run only this one")
    options = parser.parse_args(argv)
    print(f"age of {CONNECTIONS} quiet connections' messages while one floods; median of {options.pairs} rounds")
    print(f"{'flood':8}{'':8}{'p50':>15}{'p99':>15}{'flood/CPU s':>16}{'p99 x wsfleet (min - max)':>34}{'goal':>6}")
    found = []
    for case in [options.flood] if options.flood else CASES:
        length = {"seconds": options.seconds, "warm_s": options.warm}
        run = partial(hear, connections=CONNECTIONS, rate=RATE, flood=CASES[case], **length)
        for row in rows(case, take_turns(PROGRAMS, options.pairs, run)):
            found.append(row)
            print(line(row), flush=True)
    data = {"rounds": options.pairs, "rows": found}
    write(options.json, figures(data), data)


if __name__ == "__main__":
    main()
