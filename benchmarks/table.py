"""What the rounds of a scenario come to, as figures and as text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from benchmarks.runner import Run
from benchmarks.scenarios import CONTENDERS, Contender

__all__ = ["detailed", "overview", "summary"]

Rows = dict[str, dict[str, Any]]

NAME = 26
BELOW = "*"
DOUBTFUL = "?"
LEGEND = f"""\
{BELOW} below its goal   {DOUBTFUL} the server cost so much that it may be what was measured
Of the ceiling, the part that wsfleet reaches. picows_core is compared with fleet_text."""


def summary(runs: Mapping[str, Sequence[Run]], server_share: float) -> Rows:
    """Return for every contender its median cost and, per round, how many times wsfleet's it is.

    It is in doubt where its server, or wsfleet's, cost more than `server_share` of its client.
    """
    shown: Rows = {}
    for contender in CONTENDERS:
        if contender.name not in runs:
            continue
        each = runs[contender.name]
        costs = [run.ns_per_message for run in each]
        share = median(run.server_share for run in each)
        doubtful = share > server_share or (contender.beside in shown and shown[contender.beside]["doubtful"])
        row = shown[contender.name] = {
            "ns_per_message": median(costs),
            "messages_per_cpu_s": 1e9 / median(costs),
            "server_share": share,
            "doubtful": doubtful,
            "rounds_ns_per_message": costs,
        }
        ours = [run.ns_per_message for run in runs.get(contender.beside, [])]
        if ours:
            ratios = [cost / reference for cost, reference in zip(costs, ours, strict=True)]
            row |= {"beside": contender.beside, "ratio": median(ratios), "goal": contender.goal}
            row |= {"ratio_min": min(ratios), "ratio_max": max(ratios)}
    return shown


def _mark(row: Mapping[str, Any]) -> str:
    """Return what is to be said of the row's ratio, in one character."""
    if row["doubtful"]:
        return DOUBTFUL
    return BELOW if row["goal"] is not None and row["ratio"] < row["goal"] else ""


def detailed(rows: Rows) -> str:
    """Return one scenario with all that was found."""
    heads = {"CPU/message": 12, "messages/CPU s": 16, "x wsfleet": 11, "(min - max)": 15, "goal": 6, "server": 8}
    lines = [" " * NAME + "".join(f"{head:>{width}}" for head, width in heads.items())]
    for name, row in rows.items():
        line = f"{name:{NAME}}{row['ns_per_message']:9.0f} ns{row['messages_per_cpu_s']:16,.0f}"
        if "ratio" in row:
            spread = f"({row['ratio_min']:.2f} - {row['ratio_max']:.2f})"
            goal = "" if row["goal"] is None else f"{row['goal']:g}"
            line += f"{row['ratio']:11.2f}{_mark(row):1}{spread:>14}{goal:>6}"
        else:
            line += " " * 32
        lines.append(f"{line}{row['server_share']:8.0%}")
    return "\n".join([*lines, LEGEND])


def overview(scenarios: Mapping[str, Rows]) -> str:
    """Return all scenarios side by side: what wsfleet costs, and how many times that the others do."""
    width = 11
    lines = [f"{'x wsfleet':{NAME}}{'goal':>6}" + "".join(f"{name:>{width - 1}} " for name in scenarios)]
    for contender in CONTENDERS:
        cells = [_cell(contender, rows.get(contender.name)) for rows in scenarios.values()]
        if any(cell.strip() for cell in cells):
            goal = "" if contender.goal is None else f"{contender.goal:g}"
            lines.append(f"{contender.name:{NAME}}{goal:>6}" + "".join(f"{cell:>{width}}" for cell in cells))
    return "\n".join([*lines, LEGEND])


def _cell(contender: Contender, row: Mapping[str, Any] | None) -> str:
    if row is None or "ratio" not in row:
        return " "
    if contender.name == contender.beside:
        return f"{row['ns_per_message']:.0f} ns{_mark(row):1}"
    return f"{row['ratio']:.2f}{_mark(row):1}"
