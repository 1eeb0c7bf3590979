"""The soak's report: one self-contained page of HTML."""

from __future__ import annotations

import platform
from collections.abc import Iterable, Mapping
from html import escape

from tools.soak.run import Report
from tools.soak.verdict import Criterion
from wsfleet import accelerated

__all__ = ["page", "verdict"]

_STYLE = """
:root { color-scheme: light dark; }
body { font: 15px/1.5 sans-serif; max-width: 66em; margin: 2em auto; padding: 0 1em; }
table { border-collapse: collapse; margin: 1em 0; }
th, td { text-align: left; padding: .25em 1.2em .25em 0; border-bottom: 1px solid #8884; vertical-align: top; }
svg { max-width: 100%; height: auto; }
.yes { color: #3fa45b; } .no { color: #e5534b; font-weight: bold; } .open { color: #b08b1e; }
"""


def mark(criterion: Criterion) -> str:
    return "not judged" if criterion.holds is None else "holds" if criterion.holds else "FAILS"


def verdict(report: Report) -> str:
    """Return the verdict in a sentence."""
    if report.failed:
        return f"{len(report.failed)} of {len(report.criteria)} criteria fail"
    unjudged = sum(each.holds is None for each in report.criteria)
    return "All criteria hold" + (f"; {unjudged} could not be judged in so short a time" if unjudged else "")


def page(report: Report, plots: Iterable[tuple[str, str]]) -> str:
    """Return the page; `plots` are titles, each with its SVG."""
    samples = report.samples
    command = f"python -m tools.soak --connections {report.connections} --seconds {report.seconds:g}"
    facts = {
        "Again": f"{command} --seed {report.seed}",
        "Python": f"{platform.python_version()} on {platform.system()}, wsfleet "
        + ("with all compiled parts" if accelerated else "in Python alone"),
        "Received": f"{samples.received[-1]:,} messages",
        "Lost and opened": f"{samples.losses[-1]:,} connections lost, {samples.connects[-1]:,} opened",
    }
    drawn = "".join(f"<h2>{escape(title)}</h2>\n{svg}\n" for title, svg in plots)
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<title>wsfleet: soak, seed {report.seed}</title><style>{_STYLE}</style></head>
<body>
<h1>Soak of {report.connections:,} connections, {report.seconds:g} seconds, seed {report.seed}</h1>
<p class="{"no" if report.failed else "yes"}">{escape(verdict(report))}.</p>
{_criteria(report.criteria)}
{_table(facts)}
{drawn}<h2>Faults of the server</h2>
{_table(report.faults)}
<h2>Actions of the program</h2>
{_table(report.end.asked)}
</body></html>
"""


def _criteria(criteria: Iterable[Criterion]) -> str:
    kinds = {True: "yes", False: "no", None: "open"}
    rows = "".join(
        f'<tr><td>{escape(each.name)}</td><td class="{kinds[each.holds]}">{mark(each)}</td>'
        f"<td>{escape(each.found)}</td><td>{escape(each.wanted)}</td></tr>\n"
        for each in criteria
    )
    return f"<table><tr><th>Criterion</th><th></th><th>Found</th><th>Wanted</th></tr>\n{rows}</table>"


def _table(facts: Mapping[str, object]) -> str:
    rows = (
        f"<tr><td>{escape(name)}</td><td>{escape(f'{value:,}' if isinstance(value, int) else str(value))}</td></tr>\n"
        for name, value in facts.items()
    )
    return f"<table>{''.join(rows)}</table>"
