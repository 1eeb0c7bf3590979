"""What a terminal shows of a fleet, but for the table of endpoints: each function draws one part as plain content.

Content has styles of the theme and no markup: what a peer wrote is text here, whatever it looks like.
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
    """Return a peer's or the fleet's text as one line that the terminal shows and does not obey."""
    return one_line(str(text)).replace("\t", " ")


def title(picture: Picture, width: int) -> Content:
    """Draw who it is, where, and for how long it has been running."""
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
    """Draw whether the fleet is well, and why not."""
    found: Verdict = picture.verdict()
    style = _LEVELS[found.level]
    parts: list[Part] = [(f" {found.word} ", f"bold reverse {style}"), " ", (clean(found.text), style)]
    if picture.error is not None and picture.since is not None:
        old = " What is shown is of before." if picture.overview is not None else ""
        parts.append((f". Since {_clock(picture.since)}; it is tried again.{old}", _DIM))
    return Content.assemble(*parts)


def connections(picture: Picture, width: int) -> Content:
    """Draw how many endpoints are in which state."""
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
    """Draw what came in and what became of it: a second, in all, and over time."""
    overview = picture.overview
    if overview is None:
        return Content()
    totals, room = overview.totals, width - 27
    charts = _chart(picture.rates("received"), room)
    rows: tuple[tuple[str, str, int, str, str], ...] = (
        ("received", _rate(picture.rate("received")), totals.received, charts[0], "$text-primary"),
        ("processed", _rate(picture.rate("processed")), totals.processed, charts[1], "$text-primary"),
        ("dropped", count(totals.dropped), totals.dropped, _spark(picture.rates("dropped"), room), "$text-warning"),
        ("dead letters", count(totals.dead), totals.dead, "", "$text-error"),
        ("malformed", count(totals.malformed), totals.malformed, "", "$text-warning"),
        ("pending", count(totals.pending), totals.pending, "", ""),
    )
    lines = []
    for label, value, number, chart, style in rows:
        striking = style if number and value[-1:] != "s" else ""
        lines.append(Content.assemble((f"{label:<13}", _DIM), (f"{value:>11}", striking), "   ", (chart, style)))
    return Content("\n").join(lines)


def _rate(rate: float) -> str:
    return f"{count(rate)}/s"


def health(picture: Picture, width: int, height: int) -> Content:
    """Draw what was lost and came back, the latency, and who holds up the loop."""
    overview = picture.overview
    if overview is None:
        return Content()
    room, warning = width - _VALUE, "$text-warning"
    latency, blocked = overview.latency, overview.blocked
    lately = f"{picture.lately('losses'):,} lost, {picture.lately('connects'):,} connected"
    lines = [
        _row("losses", count(overview.totals.losses), _spark(picture.rates("losses"), room), warning),
        Content.assemble((f"{'last minute':<13}", _DIM), lately),
        _row("latency p50", duration(latency.p50), f"p99 {duration(latency.p99)}", ""),
        _row("loop lag", duration(picture.lag()), _spark(picture.lags(), room), "$text-primary"),
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
        del lines[1]  # the chart above it tells the same
    return Content("\n").join(line.truncate(width, ellipsis=True) for line in lines)


_VALUE = 25


def _row(label: str, value: str, rest: str, style: str) -> Content:
    return Content.assemble((f"{label:<12}", _DIM), f"{value:>10}   ", (rest, style))


def down_since(since: float, picture: Picture) -> str:
    """Say since when an endpoint is down, and how long that is."""
    passed = f" for {duration(max(0.0, picture.overview.at - since))}" if picture.overview is not None else ""
    return f"down{passed}, since {_clock(since)}"


def slowest(picture: Picture, width: int, height: int) -> Content:
    """Draw the subscriptions that have most to do, or drop most."""
    rows = picture.overview.slowest if picture.overview is not None else ()
    if not rows:
        return Content.styled("all subscriptions keep up" if picture.overview else "", _DIM)
    room = max(8, width - 37)
    lines = [Content.styled(f"{'name':<{room}} {'pending':>10} {'dropped':>10}  overflow", _DIM)]
    for row in rows[: max(1, height - 1)]:
        name = Content(clean(row.name)).truncate(room, ellipsis=True, pad=True)
        dropped = (f"{count(row.dropped):>10}", "$text-warning" if row.dropped else _DIM)
        lines.append(
            Content.assemble(name, " ", f"{count(row.pending):>10}", " ", dropped, "  ", (clean(row.overflow), _DIM))
        )
    return Content("\n").join(line.truncate(width, ellipsis=True) for line in lines)


def events(picture: Picture, width: int, height: int) -> Content:
    """Draw what happened, the newest first."""
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
    return Content.assemble((when, _DIM), " ", (f"{kind:<9} ", style), clean(_told(kind, event)))


_KINDS = {"dead": "$text-error", "slow": "$text-warning", "gap": "$text-warning", "malformed": "$text-warning"}


def _told(kind: str, event: dict[str, Any]) -> str:
    """Say in a person's words what happened; what isn't known is left out."""
    who = str(event.get("topic", "")).rpartition(".")[2]
    error = f": {event['error']}" if event.get("error") else ""
    if kind == "state":
        times = f" ({event['times']:,} times)" if event.get("times", 0) > 1 else ""
        return f"{who} {event.get('state', '')}{error}{times}"
    if kind == "dead":
        return f"{who} gave a message up{error}"
    if kind == "slow":
        return f"{who} is full: {event.get('pending', '?')} pending, {event.get('overflow', '')}"
    if kind == "gap":
        down_s = event.get("down_s")
        return f"{who} was away for {duration(down_s) if isinstance(down_s, int | float) else 'a while'}"
    if kind == "malformed":
        return f"{who} sent what cannot be decoded{error}"
    return f"{event.get('count', 'some')} more that could not be told" if kind == "missed" else who


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
    """Draw the values as far as there is room; each column is the highest of its part of the time."""
    return _chart(values, width, 1)[0]


def _chart(values: Sequence[float], width: int, height: int = 2) -> list[str]:
    """The same over several lines, the upper one first."""
    if width < 1 or not values:
        return [""] * height
    parts = min(width, len(values))
    columns = [max(values[len(values) * i // parts : len(values) * (i + 1) // parts]) for i in range(parts)]
    top = max(columns) or 1.0
    levels = [max(1, round(8 * height * value / top)) for value in columns]
    return ["".join(_EIGHTHS[max(0, min(8, level - 8 * line))] for level in levels) for line in range(height)][::-1]
