"""Draws a soak's series over time. Requires the extra "bench"."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.charts import STYLE
from tools.soak.samples import Samples

__all__ = ["draw"]

MIB = 2**20
MOST_TYPES = 8
COLOURS = ("#2f81f7", "#e3742f", "#3fa45b", "#c9539b", "#b08b1e", "#7d68d9", "#2aa3a3", "#8b949e")


def draw(samples: Samples) -> Iterator[tuple[str, str]]:
    """Yield a title and an SVG for each plot."""
    s, weighed = samples, samples.weighed_at
    memory = {"resident": [n / MIB for n in s.rss], "traced by Python": [n / MIB for n in s.traced]}
    yield "Memory, MiB, after garbage was collected", _lines(weighed, memory)
    largest = sorted(s.objects, key=lambda name: -max(s.objects[name], default=0))[:MOST_TYPES]
    yield "Objects by type", _lines(weighed, {name: s.objects[name] for name in largest})
    yield "Messages received per second", _lines(s.at[1:], {"messages/s": _rates(s.at, s.received)})
    yield "Connections by state", _stacked(s.at, {name: each for name, each in s.states.items() if any(each)})
    changes = {"lost/s": _rates(s.at, s.losses), "connected/s": _rates(s.at, s.connects)}
    yield "Connections lost, and opened", _lines(s.at[1:], changes)
    dropped = {name: _rates(s.at, each) for name, each in s.dropped.items()}
    yield "Messages dropped per second, by policy", _lines(s.at[1:], dropped)
    yield "Messages pending, and connections paused", _lines(s.at, {"pending": s.pending, "paused": s.paused})


def _rates(at: Sequence[float], counts: Sequence[float]) -> list[float]:
    # Removed subscriptions are summed up without their policy, so a sum over rows may decrease.
    return [max(0.0, counts[n] - counts[n - 1]) / (at[n] - at[n - 1]) for n in range(1, len(at))]


def _lines(at: Sequence[float], series: dict[str, Sequence[float]] | dict[str, list[float]]) -> str:
    figure, axes = _axes()
    for colour, (name, values) in zip(COLOURS, series.items(), strict=False):
        axes.plot(at, values, label=name, color=colour, linewidth=1.2)
    axes.set_ylim(bottom=0)
    return _svg(figure, axes)


def _stacked(at: Sequence[float], series: dict[str, list[int]]) -> str:
    figure, axes = _axes()
    axes.stackplot(at, list(series.values()), labels=list(series), colors=COLOURS)
    return _svg(figure, axes)


def _axes() -> tuple[Figure, Axes]:
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(9.0, 2.6))
        axes = figure.add_subplot()
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_xlabel("seconds")
        return figure, axes


def _svg(figure: Figure, axes: Axes) -> str:
    with mpl.rc_context(STYLE):
        axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False, fontsize=8)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", transparent=True, bbox_inches="tight", metadata={"Date": None})
        text = buffer.getvalue()
    return text[text.index("<svg") :]
