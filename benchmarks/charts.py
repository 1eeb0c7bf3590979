"""Draws the figures of the parts, as SVG. Requires the extra "bench"."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks import fairness, growth, scale
from benchmarks.storm import BINS_PER_S, SHARE

__all__ = ["draw"]

Data = Mapping[str, Any]

# Both are visible on white and on black.
TEXT = "#7d8590"
OURS, OTHERS = "#2f81f7", "#8b949e"
LIMIT = "#d29922"

STYLE: Any = {
    "font.family": "sans-serif",
    "font.size": 10,
    "svg.fonttype": "none",  # text stays text, in the reader's font
    "svg.hashsalt": "wsfleet",  # the same figures give the same file
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
}
for _part in ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"):
    STYLE[_part] = TEXT


def draw(found: Data, folder: Path) -> Iterator[Path]:
    """Draw every part of `found`, which `--json` wrote; yield the files created in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    with mpl.rc_context(STYLE):
        for part, drawing in DRAWINGS.items():
            for name, figure in drawing(found[part]) if part in found else ():
                path = folder / f"{name}.svg"
                figure.savefig(path, format="svg", transparent=True, bbox_inches="tight", metadata={"Date": None})
                yield path


def _throughput(data: Data) -> Iterator[tuple[str, Figure]]:
    """A chart for each load: a contender's cost as a multiple of wsfleet's, and the quartiles as a line."""
    for name, scenario in data["scenarios"].items():
        rows = scenario["contenders"]
        figure = Figure(figsize=(7.5, 0.8 + 0.32 * len(rows)))
        axes = figure.add_subplot()
        names = [_name(contender, row["beside"]) for contender, row in rows.items()]
        _bars(axes, names, list(rows.values()), "ratio", [each.startswith("fleet") for each in rows])
        axes.set_xlabel(f"CPU time per message, wsfleet = 1 (median of {data['rounds']} pairs, and quartiles)")
        load = scenario["load"]
        axes.set_title(f"{scenario['about']}: {load['connections']:,} x {load['size']:,} bytes", fontsize=11)
        yield name, figure


def _name(contender: str, beside: str) -> str:
    return contender if beside in ("fleet", contender) else f"{contender} (beside {beside})"


def _bars(axes: Axes, names: Sequence[str], rows: Sequence[Data], key: str, ours: Sequence[bool]) -> None:
    """Draw a bar for each row with its value; if there are a `_low` and a `_high`, a line between them."""
    values = [row[key] for row in rows]
    low, high = ([row.get(key + end, row[key]) for row in rows] for end in ("_low", "_high"))
    bars = axes.barh(names, values, color=[OURS if each else OTHERS for each in ours], height=0.7)
    if low != high:
        spread = [[value - end for value, end in zip(values, low, strict=True)],
                  [end - value for value, end in zip(values, high, strict=True)]]  # fmt: skip
        axes.errorbar(values, range(len(values)), xerr=spread, fmt="none", ecolor=TEXT, elinewidth=1, capsize=2)
    for bar, value, end in zip(bars, values, high, strict=True):
        place = (end, bar.get_y() + bar.get_height() / 2)
        axes.annotate(f"{value:,.2f}", place, (5, 0), textcoords="offset points", va="center")
    if not axes.yaxis_inverted():  # panels share their axis
        axes.invert_yaxis()
    axes.spines["left"].set_visible(False)
    axes.tick_params(axis="y", length=0)


def _scale(data: Data) -> Iterator[tuple[str, Figure]]:
    """For each program: the memory of a connection, the same after a flood, and the CPU time while idle."""
    costs = data["costs"]
    panels = {
        "memory_kib": "memory of a connection, KiB",
        "flooded_kib": "after a flood",
        "idle_cpu_s": f"CPU seconds in {data['idle_s']:g} s of idleness",
    }
    figure = Figure(figsize=(9, 1.8), layout="constrained")
    names = [scale.KINDS[cost["kind"]] for cost in costs]
    for axes, (key, title) in zip(figure.subplots(1, len(panels), sharey=True), panels.items(), strict=True):
        _bars(axes, names, costs, key, [cost["kind"] != "websockets" for cost in costs])
        axes.set_title(title)
        axes.set_xlim(right=1.25 * max(cost[key] for cost in costs) or 1.0)
    figure.suptitle(f"{data['connections']:,} connections in one process", x=0, ha="left", fontsize=11)
    yield "scale", figure


def _storm(data: Data) -> Iterator[tuple[str, Figure]]:
    """Attempts in each 100 ms after the reset with the goal as a line, and concurrent handshakes with their limit."""
    figure = Figure(figsize=(7.5, 4), layout="constrained")
    attempts, flights = figure.subplots(2, 1, sharex=True)
    attempts.set_title(f"{data['connections']:,} connections reset at once: attempts in each 100 ms", fontsize=11)
    flights.set_title("handshakes in flight, at most")
    flights.set_xlabel("seconds since the reset")
    goal = SHARE * sum(data["histogram"])
    for axes, values, line, name in (
        (attempts, data["histogram"], goal, f"goal: at most {SHARE:.0%} of all"),
        (flights, data["in_flight"], data["handshakes"], "limit"),
    ):
        axes.bar(
            [number / BINS_PER_S for number in range(len(values))], values, 1 / BINS_PER_S, align="edge", color=OURS
        )
        axes.axhline(line, color=LIMIT, linewidth=1, label=name)
        axes.legend(loc="lower right", bbox_to_anchor=(1, 1), borderaxespad=0)
    yield "storm", figure


def _fairness(data: Data) -> Iterator[tuple[str, Figure]]:
    """p99 of the quiet connections, for each function of the flood; its scale is logarithmic."""
    cases = dict.fromkeys(row["flood"] for row in data["rows"])
    figure = Figure(figsize=(7.5, 2), layout="constrained")
    panels = figure.subplots(1, len(cases), sharex=True, sharey=True, squeeze=False)[0]
    for axes, case in zip(panels, cases, strict=True):
        rows = [{"ms": row["p99_us"] / 1000} | row for row in data["rows"] if row["flood"] == case]
        ours = [row["program"] == "fleet" for row in rows]
        _bars(axes, [PROGRAMS[row["program"]] for row in rows], rows, "ms", ours)
        axes.set_xscale("log")
        axes.set_xlim(left=1.0, right=3 * max(row["p99_us"] for row in data["rows"]) / 1000)
        axes.set_title(f"flood: {case}")
        axes.set_xlabel("ms (logarithmic)")
    title = f"{fairness.CONNECTIONS} quiet connections beside a flood: p99 of a message's age"
    figure.suptitle(title, x=0, ha="left", fontsize=11)
    yield "fairness", figure


def _latency(data: Data) -> Iterator[tuple[str, Figure]]:
    """p50 and p99 of the age of messages, in a panel each."""
    figure = Figure(figsize=(7.5, 1.6), layout="constrained")
    for axes, row in zip(figure.subplots(1, len(data["rows"])), data["rows"], strict=True):
        ages = [{"us": row[f"{program}_us"]} for program in ("fleet", "direct")]
        _bars(axes, [PROGRAMS["fleet"], PROGRAMS["direct"]], ages, "us", [True, False])
        axes.set_title(row["part"])
        axes.set_xlabel("µs")
    figure.suptitle("age of a message, 10,000 a second over 100 connections", x=0, ha="left", fontsize=11)
    yield "latency", figure


def _growth(data: Data) -> Iterator[tuple[str, Figure]]:
    """The cost of a message, of opening, and of memory, by the number of connections."""
    panels = {
        "us_per_message": ("CPU time of a message", "µs", 1.0),
        "us_to_open": ("CPU time of opening one", "µs", 1.0),
        "bytes_per_connection": ("memory of each one more", "KiB", 1024.0),
    }
    figure = Figure(figsize=(9, 2.8), layout="constrained")
    for axes, (key, (title, unit, divisor)) in zip(figure.subplots(1, len(panels)), panels.items(), strict=True):
        for program in growth.PROGRAMS:
            rows = [row for row in data["rows"] if row["program"] == program and row[key] is not None]
            colour = OURS if program == "fleet" else OTHERS
            sizes, values = [row["connections"] for row in rows], [row[key] / divisor for row in rows]
            axes.plot(sizes, values, marker="o", color=colour, label=PROGRAMS[program])
        axes.set_xscale("log")
        axes.set_ylim(bottom=0)
        axes.set_title(f"{title}, {unit}")
        axes.set_xlabel("connections")
        axes.legend()
    yield "growth", figure


PROGRAMS = {"fleet": "wsfleet", "direct": "loop by hand", "queue": "the same with a queue"}

DRAWINGS: Mapping[str, Callable[[Data], Iterator[tuple[str, Figure]]]] = {
    "throughput": _throughput,
    "scale": _scale,
    "storm": _storm,
    "fairness": _fairness,
    "latency": _latency,
    "growth": _growth,
}
