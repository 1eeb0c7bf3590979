"""The panels of the screen, except the table of endpoints. Each function renders one panel as Textual content.

The content is built without markup, so that text from a peer cannot change its style.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from textual.content import Content

from wsfleet.cli.top.picture import Picture, Verdict, count, duration
from wsfleet.core.text import one_line

__all__ = [
    "STATE_STYLES",
    "clean",
    "connections",
    "down_since",
    "events",
    "health",
    "messages",
    "slowest",
    "title",
    "verdict",
]

STATE_STYLES = {
    "OPEN": "$text-success",
    "CONNECTING": "$text-accent",
    "BACKOFF": "$text-warning",
    "FAILED": "$text-error",
    "CLOSED": "$foreground-muted",
}

_EIGHTHS = " ▁▂▃▄▅▆▇█"
_LEVELS = {"good": "$text-success", "warn": "$text-warning", "bad": "$text-error", "none": "$foreground-muted"}
_DIM = "$foreground-muted"

Part = str | tuple[str, str]


def clean(text: object) -> str:
    """Return a peer's or the fleet's text as one line, with control characters escaped."""
    return one_line(str(text)).replace("\t", " ")


def title(picture: Picture, width: int) -> Content:
    """Draw the fleet's name, its address, and its uptime."""
    parts: list[Part] = [("wsfleet top", "bold"), "  "]
    overview = picture.overview
    right = ""
    if overview is not None:
        parts += [(clean(overview.name), "bold $text-primary"), "  "]
        workers = f"{overview.workers} workers, " if overview.workers else ""
        right = f"{workers}up {duration(overview.uptime_s)}"
    left = Content.assemble(*parts, (clean(picture.place), _DIM))
    return left.truncate(max(0, width - len(right) - 2), ellipsis=True, pad=True).append("  ") + Content.styled(
        right, _DIM
    )


def verdict(picture: Picture) -> Content:
    """Draw the verdict and its reasons."""
    found: Verdict = picture.verdict()
    style = _LEVELS[found.level]
    parts: list[Part] = [(f" {found.word} ", f"bold reverse {style}"), " ", (clean(found.text), style)]
    if picture.error is not None and picture.since is not None:
        old = " The values below are old." if picture.overview is not None else ""
        parts.append((f". Since {_clock(picture.since)}; retrying.{old}", _DIM))
    return Content.assemble(*parts)


def connections(picture: Picture, width: int) -> Content:
    """Draw the number of endpoints in each state."""
    overview = picture.overview
    if overview is None:
        return Content()
    total = sum(overview.states.values())
    lines = []
    for state, style in STATE_STYLES.items():
        number = overview.states.get(state, 0)
        quiet = style if number else _DIM
        bar = _bar(number, total, width - 22)
        lines.append(Content.assemble((f"{state:<11}", quiet), f"{count(number):>9}  ", (bar, style)))
    paused = overview.totals.paused
    lines.append(
        Content.assemble((f"{'paused':<11}", _DIM), (f"{count(paused):>9}", "$text-warning" if paused else ""))
    )
    return Content("\n").join(lines)


def messages(picture: Picture, width: int) -> Content:
    """Draw the counts of messages by outcome, their rates, and charts."""
    overview = picture.overview
    if overview is None:
        return Content()
    totals, chart_width = overview.totals, width - 27
    charts = _chart(picture.rates("received"), chart_width)
    dropped = _spark(picture.rates("dropped"), chart_width)
    rows: tuple[tuple[str, str, int, str, str], ...] = (
        ("received", _rate(picture.rate("received")), totals.received, charts[0], "$text-primary"),
        ("processed", _rate(picture.rate("processed")), totals.processed, charts[1], "$text-primary"),
        ("dropped", count(totals.dropped), totals.dropped, dropped, "$text-warning"),
        ("dead letters", count(totals.dead), totals.dead, "", "$text-error"),
        ("malformed", count(totals.malformed), totals.malformed, "", "$text-warning"),
        ("pending", count(totals.pending), totals.pending, "", ""),
    )
    lines = []
    for label, value, number, chart, style in rows:
        value_style = style if number and value[-1:] != "s" else ""
        lines.append(Content.assemble((f"{label:<13}", _DIM), (f"{value:>11}", value_style), "   ", (chart, style)))
    return Content("\n").join(lines)


def _rate(rate: float) -> str:
    return f"{count(rate)}/s"


def health(picture: Picture, width: int, height: int) -> Content:
    """Draw the lost connections, the latency, and what blocks the event loop."""
    overview = picture.overview
    if overview is None:
        return Content()
    chart_width, warning = width - _VALUE, "$text-warning"
    latency, blocked = overview.latency, overview.blocked
    lately = f"{picture.lately('losses'):,} lost, {picture.lately('connects'):,} connected"
    lines = [
        _row("losses", count(overview.totals.losses), _spark(picture.rates("losses"), chart_width), warning),
        Content.assemble((f"{'last minute':<13}", _DIM), lately),
        _row("latency p50", duration(latency.p50), f"p99 {duration(latency.p99)}", ""),
        _row("loop lag", duration(picture.lag()), _spark(picture.lags(), chart_width), "$text-primary"),
    ]
    if blocked is None:
        lines.append(_row("blocked", "never", "", ""))
    elif height > len(lines) + 1:
        lines.append(_row("blocked", duration(blocked.seconds), clean(blocked.by), warning))
        lines.append(Content.styled(f"  {clean(blocked.where)}", _DIM))
    else:
        lines.append(
            _row("blocked", duration(blocked.seconds), f"{clean(blocked.by)}, {clean(blocked.where)}", warning)
        )
    if len(lines) > height:
        del lines[1]  # the chart above it shows the same data
    return Content("\n").join(line.truncate(width, ellipsis=True) for line in lines)


_VALUE = 25


def _row(label: str, value: str, rest: str, style: str) -> Content:
    return Content.assemble((f"{label:<12}", _DIM), f"{value:>10}   ", (rest, style))


def down_since(since: float, picture: Picture) -> str:
    """Return a text with the time since when an endpoint is down, and the duration."""
    passed = f" for {duration(max(0.0, picture.overview.at - since))}" if picture.overview is not None else ""
    return f"down{passed}, since {_clock(since)}"


def slowest(picture: Picture, width: int, height: int) -> Content:
    """Draw the subscriptions with the most pending or dropped messages."""
    rows = picture.overview.slowest if picture.overview is not None else ()
    if not rows:
        return Content.styled("all subscriptions keep up" if picture.overview else "", _DIM)
    name_width = max(8, width - 37)
    lines = [Content.styled(f"{'name':<{name_width}} {'pending':>10} {'dropped':>10}  overflow", _DIM)]
    for row in rows[: max(1, height - 1)]:
        name = Content(clean(row.name)).truncate(name_width, ellipsis=True, pad=True)
        dropped = (f"{count(row.dropped):>10}", "$text-warning" if row.dropped else _DIM)
        lines.append(
            Content.assemble(name, " ", f"{count(row.pending):>10}", " ", dropped, "  ", (clean(row.overflow), _DIM))
        )
    return Content("\n").join(line.truncate(width, ellipsis=True) for line in lines)


def events(picture: Picture, width: int, height: int) -> Content:
    """Draw the events, newest first."""
    if not picture.events:
        return Content.styled("nothing yet" if picture.overview else "", _DIM)
    newest = list(picture.events)[: -max(1, height) - 1 : -1]
    return Content("\n").join(_event(event).truncate(width, ellipsis=True) for event in newest)


def _event(event: dict[str, Any]) -> Content:
    kind = clean(event.get("kind", ""))
    at = event.get("at")
    when = _clock(at) if isinstance(at, int | float) else "        "
    style = _KINDS.get(kind, "")
    if kind == "state":
        style = STATE_STYLES.get(str(event.get("state")), "")
    return Content.assemble((when, _DIM), " ", (f"{kind:<9} ", style), clean(_event_text(kind, event)))


_KINDS = {"dead": "$text-error", "slow": "$text-warning", "gap": "$text-warning", "malformed": "$text-warning"}


def _event_text(kind: str, event: dict[str, Any]) -> str:
    """Return a description of an event, without the parts that are unknown."""
    name = str(event.get("topic", "")).rpartition(".")[2]
    error = f": {event['error']}" if event.get("error") else ""
    if kind == "state":
        times = f" ({event['times']:,} times)" if event.get("times", 0) > 1 else ""
        return f"{name} {event.get('state', '')}{error}{times}"
    if kind == "dead":
        return f"{name} failed{error}"
    if kind == "slow":
        return f"{name} is full: {event.get('pending', '?')} pending, {event.get('overflow', '')}"
    if kind == "gap":
        down_s, at, last_at = event.get("down_s"), event.get("at"), event.get("last_message_at")
        text = f"{name} was down for {duration(down_s) if isinstance(down_s, int | float) else 'a while'}"
        if isinstance(at, int | float) and isinstance(last_at, int | float):
            text += f", without messages for {duration(at - last_at)}"
        return text
    if kind == "malformed":
        return f"{name}{error}"
    return f"{event.get('count', 'some')} more events were skipped" if kind == "missed" else name


def _clock(at: float) -> str:
    try:
        return time.strftime("%H:%M:%S", time.localtime(at))
    except (OverflowError, OSError, ValueError):
        return "--:--:--"


def _bar(number: int, total: int, width: int) -> str:
    if width < 1 or not number:
        return ""
    eighths = max(1, round(8 * width * number / max(1, total)))
    return "█" * (eighths // 8) + " ▏▎▍▌▋▊▉"[eighths % 8].strip()


def _spark(values: Sequence[float], width: int) -> str:
    """Draw the values as a chart of one line; each column is the maximum of its time interval."""
    return _chart(values, width, 1)[0]


def _chart(values: Sequence[float], width: int, height: int = 2) -> list[str]:
    """Draw the values as a chart of `height` lines, the upper line first."""
    if width < 1 or not values:
        return [""] * height
    parts = min(width, len(values))
    columns = [max(values[len(values) * i // parts : len(values) * (i + 1) // parts]) for i in range(parts)]
    top = max(columns) or 1.0
    levels = [max(1, round(8 * height * value / top)) for value in columns]
    return ["".join(_EIGHTHS[max(0, min(8, level - 8 * line))] for level in levels) for line in range(height)][::-1]
