"""Rounds in which every program runs once, and their results: medians, and ratios within each round."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from statistics import median
from typing import Any, TypeVar

from benchmarks.figures import Part
from benchmarks.listener import WARM_S

T = TypeVar("T")


def arguments(part: Part, *, seconds: float) -> argparse.ArgumentParser:
    """Return a parser with the common options of these benchmarks."""
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.{part.name}", description=part.about)
    parser.add_argument(
        "--pairs", type=int, default=part.pairs, metavar="N", help="rounds; in each, every program runs once"
    )
    parser.add_argument("--seconds", type=float, default=seconds, metavar="SECONDS", help="measured time of each run")
    parser.add_argument("--warm", type=float, default=WARM_S, metavar="SECONDS", help="warm-up before each measurement")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures to this file")
    return parser


def take_turns(names: Sequence[str], pairs: int, run: Callable[[str], T]) -> dict[str, list[T]]:
    """Run all programs once in each round; the first one changes from round to round."""
    results: dict[str, list[T]] = {name: [] for name in names}
    for round_ in range(pairs):
        first = round_ % len(names)
        for name in (*names[first:], *names[:first]):
            if sys.stderr.isatty():
                print(f"round {round_ + 1}: {name:24}", end="\r", file=sys.stderr, flush=True)
            results[name].append(run(name))
    return results


def compared(theirs: Iterable[float], ours: Iterable[float]) -> dict[str, float]:
    """Return the ratio of theirs to ours: the median over the rounds, the minimum, and the maximum."""
    ratios = [their / our for their, our in zip(theirs, ours, strict=True)]
    return {"ratio": median(ratios), "ratio_min": min(ratios), "ratio_max": max(ratios)}


def spread(row: dict[str, Any]) -> str:
    """Return the three as one cell."""
    return f"{row['ratio']:,.2f} ({row['ratio_min']:,.2f} - {row['ratio_max']:,.2f})"
