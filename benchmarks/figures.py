"""The parts of the benchmarks, their figures, and the one table of all parts.

Every part is a module that can be run, with PART, `figures(data)`, and `main(arguments)`, which writes with `write`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from benchmarks.machine import machine

__all__ = ["Figure", "Part", "over", "table", "write"]

DOUBTFUL = "?"


@dataclass(frozen=True)
class Part:
    """A part, which is run in its own process. Its duration is an estimate: `pair_s` for each of `pairs` rounds."""

    name: str
    about: str
    once_s: float = 0.0
    pair_s: float = 0.0
    pairs: int = 0
    quick: str = ""
    """Arguments with which it takes a moment; its figures are then meaningless."""

    def seconds(self, pairs: int | None = None) -> float:
        return self.once_s + self.pair_s * (self.pairs if pairs is None else pairs)


@dataclass(frozen=True)
class Figure:
    """One ratio, measured in one run: the two things compared, and the goal."""

    what: str
    beside: str
    ratio: float | None
    """None if there was nothing to compare with."""
    goal: float | None = None
    better: Literal["more", "less"] = "more"
    doubtful: bool = False
    """The figure may be that of something else."""

    @property
    def reached(self) -> bool | None:
        """Whether the goal is reached; None if there is none, or the figure is doubtful."""
        if self.ratio is None or self.goal is None or self.doubtful:
            return None
        return self.ratio >= self.goal if self.better == "more" else self.ratio <= self.goal


def over(value: float, reference: float) -> float | None:
    """Return the ratio of the value to `reference`; None if it has no meaning."""
    return value / reference if reference > 0 else None


def write(file: Path | None, figures: Iterable[Figure], data: Mapping[str, Any]) -> None:
    """Write the figures of a part to `file`, if one is given."""
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        rows = [{**asdict(figure), "reached": figure.reached} for figure in figures]
        file.write_text(json.dumps({"machine": machine(), "figures": rows, **data}, indent=2) + "\n")


def table(parts: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the figures of all parts, as `write` wrote them."""
    lines = [("", "measured", "beside", "ratio", "goal", "reached")]
    for name, part in parts.items():
        heading = name
        for row in part["figures"]:
            lines.append((heading, row["what"], row["beside"], _number(row["ratio"]), _goal(row), _reached(row)))
            heading = ""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    aligned = ("<", "<", "<", ">", ">", "<")
    return "\n".join(
        "  ".join(f"{cell:{side}{width}}" for cell, side, width in zip(line, aligned, widths, strict=True)).rstrip()
        for line in lines
    )


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.3f}" if abs(value) < 0.1 else f"{value:,.2f}"


def _goal(row: Mapping[str, Any]) -> str:
    if row["goal"] is None:
        return ""
    return f"{'≥' if row['better'] == 'more' else '≤'} {_number(row['goal'])}"


def _reached(row: Mapping[str, Any]) -> str:
    if row["doubtful"]:
        return DOUBTFUL
    return {True: "yes", False: "no", None: ""}[row["reached"]]
