"""Draws the figures of a run as bars, one SVG for each scenario. The extra "bench" brings what that needs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

__all__ = ["draw"]

# Both are to be seen on white and on black.
TEXT = "#7d8590"
OURS, OTHERS = "#2f81f7", "#8b949e"

STYLE: Any = {
    "font.family": "sans-serif",
    "font.size": 10,
    "svg.fonttype": "none",  # text stays text, in the reader's font
    "svg.hashsalt": "wsfleet",  # the same figures make the same file
}
for _part in ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"):
    STYLE[_part] = TEXT


def draw(results: Mapping[str, Any], folder: Path) -> Iterator[Path]:
    """Draw every scenario of `results`, which is what `--json` wrote; yield the files made in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, scenario in results["scenarios"].items():
        with mpl.rc_context(STYLE):
            figure = _bars(scenario, results["rounds"])
            path = folder / f"{name}.svg"
            figure.savefig(path, format="svg", transparent=True, bbox_inches="tight", metadata={"Date": None})
        yield path


def _bars(scenario: Mapping[str, Any], rounds: int) -> Figure:
    """Return one bar for each contender: its cost as a multiple of wsfleet's, and the quartiles as a line."""
    rows = scenario["contenders"]
    names = list(rows)
    ratios = [row["ratio"] for row in rows.values()]
    spread = [
        [row["ratio"] - row["ratio_low"] for row in rows.values()],
        [row["ratio_high"] - row["ratio"] for row in rows.values()],
    ]
    figure = Figure(figsize=(7.5, 0.8 + 0.32 * len(names)))
    axes = figure.add_subplot()
    colours = [OURS if name.startswith("fleet") else OTHERS for name in names]
    bars = axes.barh([_label(name, row) for name, row in rows.items()], ratios, color=colours, height=0.7)
    axes.errorbar(ratios, range(len(names)), xerr=spread, fmt="none", ecolor=TEXT, elinewidth=1, capsize=2)
    room = max(row["ratio_high"] for row in rows.values()) * 0.01
    for bar, row in zip(bars, rows.values(), strict=True):
        axes.text(row["ratio_high"] + room, bar.get_y() + bar.get_height() / 2, f" {row['ratio']:.2f}", va="center")
    axes.invert_yaxis()
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel(f"CPU time per message, wsfleet = 1 (median of {rounds} pairs, and quartiles)")
    axes.set_title(_title(scenario), loc="left", fontsize=11)
    return figure


def _label(name: str, row: Mapping[str, Any]) -> str:
    beside = row["beside"]
    return name if beside in ("fleet", name) else f"{name} (beside {beside})"


def _title(scenario: Mapping[str, Any]) -> str:
    load = scenario["load"]
    return f"{scenario['about']}: {load['connections']:,} x {load['size']:,} bytes"
