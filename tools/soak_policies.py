"""A flood for each overflow policy, a minute each: `make soak-policies`, or `python -m tools.soak_policies [SECONDS]`.

A server sends at full speed, and a processor needs a millisecond for each message. Prints a table, and the faults.
"""

import asyncio
import logging
import sys

from tests.support.soaking import MIB, Kind, Outcome, soak
from wsfleet import Overflow

KINDS = [*map(Kind, Overflow), Kind(Overflow.PAUSE, threads=True), Kind(Overflow.DROP_OLDEST, threads=True)]

HEADINGS = ("policy", "received", "processed", "dropped", "unrouted", "paused_s", "RSS start", "max", "end, MiB")
LINE = "{:<17}{:>11}{:>11}{:>11}{:>11}{:>10}{:>11}{:>9}{:>10}"


def line(outcome: Outcome) -> str:
    """One row of the table."""
    stats = outcome.stats
    endpoint, row = stats.endpoints[0], stats.subscriptions[0]
    sizes = (f"{size / MIB:.1f}" for size in (outcome.rss_start, outcome.rss_max, outcome.rss_end))
    counts = (endpoint.received, row.processed, row.dropped, stats.hub.unrouted)
    return LINE.format(outcome.kind.name, *counts, f"{endpoint.paused_s:.1f}", *sizes)


def main() -> int:
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 60.0
    logging.disable()  # messages that wait at the end of each flood are dropped intentionally
    print(f"{seconds:g} s each")
    print(LINE.format(*HEADINGS), flush=True)
    faults = []
    for kind in KINDS:
        outcome = asyncio.run(soak(kind, seconds))
        print(line(outcome), flush=True)
        faults += [f"{kind.name}: {fault}" for fault in outcome.faults()]
    print("\n".join(faults) or "every message was accounted for and in order at any time; the memory did not grow")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
