"""The results of the rounds of a scenario, as figures and as text."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import median
from typing import Any

from benchmarks.runner import Runs
from benchmarks.scenarios import CONTENDERS, Contender

__all__ = ["detailed", "overview", "summary"]

Rows = dict[str, dict[str, Any]]

NAME = 26
BELOW = "*"
DOUBTFUL = "?"
LEGEND = f"""\
{BELOW} below its goal   {DOUBTFUL} the server cost so much that it may have been the bottleneck
Of the ceiling, the part that wsfleet reaches. picows_core is compared with fleet_text."""


def summary(runs: Mapping[str, Runs], server_share: float) -> Rows:
    """Return for every contender its median cost and its ratio to the reference's.

    It is doubtful if its server, or its reference's, cost more than `server_share` of its client.
    """
    shown: Rows = {}
    for contender in CONTENDERS:
        if contender.name not in runs:
            continue
        each = runs[contender.name]
        ratios = sorted(cost / reference for cost, reference in zip(each.costs, each.references, strict=True))
        shares = [median(runs[name].server_shares) for name in (contender.name, contender.beside)]
        shown[contender.name] = {
            "beside": contender.beside,
            "goal": contender.goal,
            "ratio": median(ratios),
            "ratio_low": ratios[len(ratios) // 4],
            "ratio_high": ratios[-1 - len(ratios) // 4],
            "ns_per_message": median(each.costs),
            "messages_per_cpu_s": 1e9 / median(each.costs),
            "server_share": shares[0],
            "doubtful": max(shares) > server_share,
            "rounds_ns_per_message": each.costs,
            "rounds_ns_per_message_beside": each.references,
        }
    return shown


def _mark(row: Mapping[str, Any]) -> str:
    """Return the mark of the row's ratio, one character."""
    if row["doubtful"]:
        return DOUBTFUL
    return BELOW if row["goal"] is not None and row["ratio"] < row["goal"] else ""


def detailed(rows: Rows) -> str:
    """Return one scenario with all results."""
    heads = {"CPU/message": 12, "messages/CPU s": 16, "x wsfleet": 11, "quartiles": 15, "goal": 6, "server": 8}
    lines = [" " * NAME + "".join(f"{head:>{width}}" for head, width in heads.items())]
    for name, row in rows.items():
        goal = "" if row["goal"] is None else f"{row['goal']:g}"
        lines.append(
            f"{name:{NAME}}{row['ns_per_message']:9.0f} ns{row['messages_per_cpu_s']:16,.0f}"
            f"{row['ratio']:11.2f}{_mark(row):1}{row['ratio_low']:8.2f} {row['ratio_high']:5.2f}{goal:>6}"
            f"{row['server_share']:8.0%}"
        )
    return "\n".join([*lines, LEGEND])


def overview(scenarios: Mapping[str, Rows]) -> str:
    """Return all scenarios side by side: wsfleet's cost, and the ratios of the others."""
    width = 11
    lines = [f"{'x wsfleet':{NAME}}{'goal':>6}" + "".join(f"{name:>{width - 1}} " for name in scenarios)]
    for contender in CONTENDERS:
        cells = [_cell(contender, rows.get(contender.name)) for rows in scenarios.values()]
        if any(cell.strip() for cell in cells):
            goal = "" if contender.goal is None else f"{contender.goal:g}"
            lines.append(f"{contender.name:{NAME}}{goal:>6}" + "".join(f"{cell:>{width}}" for cell in cells))
    return "\n".join([*lines, LEGEND])


def _cell(contender: Contender, row: Mapping[str, Any] | None) -> str:
    if row is None:
        return " "
    if contender.name == contender.beside:
        return f"{row['ns_per_message']:.0f} ns{_mark(row):1}"
    return f"{row['ratio']:.2f}{_mark(row):1}"
