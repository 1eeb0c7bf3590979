"""Ten minutes of 2,000 connections, with random faults: `make soak`, or `python -m tools.soak`.

A server in its own process drops, resets, closes, falls silent, refuses and sends invalid data, as the seed determines;
the fleet has processors of every kind with every overflow policy, loops, and a pool with requests. At the end the
balance must be exact, the memory constant, and no object left. The report is a page with plots; if something fails, the
exit code is 1.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from tools.soak.page import mark, page, verdict
from tools.soak.run import soak
from wsfleet.runtime.loop import run_loop
from wsfleet.transport.open_files import ADVICE, SPARE, raise_limit


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tools.soak", description=(__doc__ or "").split("\n")[0])
    parser.add_argument(
        "--connections", type=int, default=2000, metavar="N", help="number of connections (default: 2,000)"
    )
    parser.add_argument("--seconds", type=float, default=600.0, metavar="S", help="duration (default: 600)")
    parser.add_argument("--seed", type=int, metavar="N", help="seed of the faults (default: random)")
    parser.add_argument(
        "--report", type=Path, default=Path("build/soak.html"), metavar="FILE", help="file of the report"
    )
    return parser.parse_args()


def main() -> int:
    args = arguments()
    limit, wanted = raise_limit(), args.connections + SPARE
    if limit is not None and limit < wanted:
        sys.exit(f"{args.connections:,} connections need {wanted:,} open files, and there are {limit:,}: {ADVICE}")
    try:
        from tools.soak.plots import draw
    except ImportError:
        sys.exit("the page's plots need matplotlib: pip install 'wsfleet[bench]'")
    seed = args.seed if args.seed is not None else int.from_bytes(os.urandom(4))
    print(f"{args.connections:,} connections for {args.seconds:g} s, seed {seed}", flush=True)
    report = soak(args.connections, args.seconds, seed, run_loop, lambda text: print(text, flush=True))
    for criterion in report.criteria:
        print(f"{mark(criterion):<10}  {criterion.name}: {criterion.found}; wanted: {criterion.wanted}")
    args.report.parent.mkdir(parents=True, exist_ok=True)
    args.report.write_text(page(report, draw(report.samples)), encoding="utf-8")
    print(f"{verdict(report)}. {args.report}")
    return 1 if report.failed else 0


if __name__ == "__main__":
    sys.exit(main())
