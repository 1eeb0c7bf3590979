"""Simulates thousands of fleets, each determined by its seed: `make simulate`, or `python -m tools.simulate`.

A failing seed is reported with the command that repeats its run; `--log` shows all events of it. By default
wsfleet runs in Python only: the time slices of the compiled parts depend on the machine's real clock, so with
`--compiled` a run is only mostly determined by its seed.
"""

from __future__ import annotations

import argparse
import gc
import itertools
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.simulation.lifetime import Outcome

LIVES = 5000
TOGETHER = 25
"""Runs of one process before it is replaced."""

SHOWN = 10
"""Number of failing seeds after which the simulation stops."""


def live(seeds: range) -> list[Outcome]:
    """Run the simulations of `seeds`; the logs of successful ones are discarded."""
    from tests.simulation.lifetime import simulate

    gc.freeze()  # imported objects stay anyway: each run ends with a garbage collection
    outcomes = [simulate(seed) for seed in seeds]
    for outcome in outcomes:
        if not outcome.faults:
            outcome.log = []
    return outcomes


def live_all(first: int, count: int, jobs: int | None) -> Iterator[Outcome]:
    """Run the simulations of `seeds` in this number of processes."""
    seeds = range(first, first + count)
    parts = [seeds[start : start + TOGETHER] for start in range(0, count, TOGETHER)]
    if jobs == 1:
        yield from itertools.chain.from_iterable(map(live, parts))
        return
    with ProcessPoolExecutor(jobs) as processes:
        try:
            yield from itertools.chain.from_iterable(processes.map(live, parts))
        finally:
            processes.shutdown(cancel_futures=True)


def summary(outcome: Outcome, *, compiled: bool) -> str:
    """Return the faults of a run, and the command to repeat it."""
    again = f"python -m tools.simulate --seed {outcome.seed} --log{' --compiled' if compiled else ''}"
    return "\n".join([f"seed {outcome.seed} failed; again: {again}", *(f"  {fault}" for fault in outcome.faults)])


def without_extensions() -> int:
    """Restart this program without the compiled parts, and with the same hash seed for strings each time."""
    environment = os.environ | {"WSFLEET_NO_EXTENSIONS": "1", "PYTHONHASHSEED": "0"}
    return subprocess.run([sys.executable, "-m", "tools.simulate", *sys.argv[1:]], env=environment).returncode


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tools.simulate", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--seed", type=int, metavar="N", help="run only this seed")
    parser.add_argument("--log", action="store_true", help="with --seed: print all events")
    parser.add_argument("--first", type=int, metavar="N", help="the first seed (default: random)")
    parser.add_argument("--lives", type=int, default=LIVES, metavar="N", help=f"number of runs (default: {LIVES:,})")
    parser.add_argument("--jobs", type=int, metavar="N", help="number of processes (default: one for each core)")
    parser.add_argument("--compiled", action="store_true", help="with the compiled parts, if they are built")
    return parser.parse_args()


def live_one(seed: int, *, log: bool) -> int:
    """Repeat one run, and report it."""
    from tests.simulation.lifetime import simulate

    outcome = simulate(seed)
    if log:
        print("\n".join(outcome.log))
    print("\n".join(outcome.faults) or "no faults")
    return 1 if outcome.faults else 0


def main() -> int:
    args = arguments()
    if not args.compiled and not os.environ.get("WSFLEET_NO_EXTENSIONS"):
        return without_extensions()
    if args.seed is not None:
        return live_one(args.seed, log=args.log)
    first = args.first if args.first is not None else int.from_bytes(os.urandom(4))
    print(f"{args.lives:,} runs, seeds from {first}", flush=True)
    began, failed, messages = time.monotonic(), 0, 0
    for outcome in live_all(first, args.lives, args.jobs):
        messages += outcome.messages
        if outcome.faults:
            failed += 1
            print(summary(outcome, compiled=args.compiled), flush=True)
            if failed == SHOWN:
                break
    seconds = time.monotonic() - began
    print(f"{failed} failed; {messages:,} messages reached processors and loops, in {seconds:.0f} s")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
