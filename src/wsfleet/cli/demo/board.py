"""The demo's output: a live table, or one line per second without a terminal, and the summary."""

from __future__ import annotations

import statistics
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from wsfleet.cli.demo.scenario import LATEST_START, Fault
from wsfleet.core.message import Message, State, StateChange
from wsfleet.core.stats import FleetStats, SubscriptionStats

if TYPE_CHECKING:
    from rich.console import RenderableType

__all__ = ["Board", "Recoveries"]

RATE_S = 2.0  # rates are means over this time
PLAN = "Faults of the server, after all are connected, with the number of connections:"
BAR = 30  # characters

_STATES = ((State.OPEN, "green"), (State.CONNECTING, "yellow"), (State.BACKOFF, "red"), (State.FAILED, "magenta"))


class Recoveries:
    """Measures from the `$state` records how long endpoints were not OPEN."""

    def __init__(self) -> None:
        self.times_s: list[float] = []
        self._left_at: dict[str, float] = {}

    async def note(self, message: Message[StateChange]) -> None:
        """Process one record."""
        change = message.data
        if change.state is State.OPEN:
            left_at = self._left_at.pop(change.endpoint, None)
            if left_at is not None:
                self.times_s.append(message.received_at - left_at)
        elif change.state is State.CLOSED:  # closed by the fleet, so it does not reconnect
            self._left_at.pop(change.endpoint, None)
        elif change.previous is State.OPEN:
            self._left_at[change.endpoint] = message.received_at

    @property
    def missing(self) -> int:
        """Number of endpoints that have not reconnected."""
        return len(self._left_at)

    def __str__(self) -> str:
        if not self.times_s:
            return "no outages" if not self.missing else "none reconnected"
        missing = f"; {self.missing:,} still down at the end" if self.missing else ""
        return f"median {statistics.median(self.times_s):.2f} s, worst {max(self.times_s):.2f} s{missing}"


class Board:
    """Renders snapshots. `shown` names the subscriptions to show; the first one receives every message."""

    def __init__(
        self, title: str, plan: Sequence[Fault], duration_s: float, shown: Sequence[str], recoveries: Recoveries
    ) -> None:
        self._title = title
        self._plan = plan
        self._duration_s = duration_s
        self._shown = shown
        self._recoveries = recoveries
        self._began_at: float | None = None  # start of the faults
        self._received: deque[tuple[float, int]] = deque([(0.0, 0)])

    def _rate(self, stats: FleetStats) -> float:
        now, received = stats.uptime_s, _received(stats)
        self._received.append((now, received))
        while len(self._received) > 2 and self._received[1][0] <= now - RATE_S:
            self._received.popleft()
        then, before = self._received[0]
        return (received - before) / (now - then) if now > then else 0.0

    def _rows(self, stats: FleetStats) -> Iterator[SubscriptionStats]:
        return (row for row in stats.subscriptions if row.name in self._shown)

    def announcement(self) -> str:
        """Return the planned faults."""
        return "\n".join([PLAN, *(f"  {_when(fault)}  {fault}" for fault in self._plan)])

    def line(self, stats: FleetStats) -> str:
        """Return the state of the fleet in one line."""
        states = _states(stats)
        counts = "  ".join(f"{state.value.lower()} {states[state]:,}" for state, _ in _STATES[:3])
        processed = next((row.processed for row in self._rows(stats)), 0)
        dropped = sum(row.dropped for row in self._rows(stats))
        return (
            f"{stats.uptime_s:5.1f} s  {counts}  in {_received(stats):,} ({self._rate(stats):,.0f}/s)  "
            f"processed {processed:,}  dropped {dropped:,}  reconnects {_reconnects(stats):,}  "
            f"{'balanced' if stats.balanced else 'NOT BALANCED'}"
        )

    def table(self, stats: FleetStats) -> RenderableType:
        """Return the state of the fleet as a table for a terminal of 80 columns and 24 lines."""
        from rich.console import Group
        from rich.text import Text

        head = Text.assemble(
            ("wsfleet demo", "bold"),
            f"  {len(stats.endpoints):,} connections {self._title}\n",
            f"{stats.uptime_s:.1f} of {self._duration_s:g} s",
        )
        return Group(head, "", self._numbers(stats), "", self._mailboxes(stats), "", self._progress(stats))

    def _numbers(self, stats: FleetStats) -> RenderableType:
        from rich.table import Table
        from rich.text import Text

        table = Table.grid(padding=(0, 2))
        table.add_column(style="bold")
        table.add_column(justify="right")
        table.add_column()
        states = _states(stats)
        for state, colour in _STATES:
            bar = round(BAR * states[state] / max(1, len(stats.endpoints)))
            table.add_row(state.value, f"{states[state]:,}", Text("#" * (bar or bool(states[state])), colour))
        table.add_row("messages in", f"{_received(stats):,}", f"{self._rate(stats):,.0f} per second")
        recovered = f"time to recover: {self._recoveries}" if self._recoveries.times_s else ""
        table.add_row("reconnects", f"{_reconnects(stats):,}", recovered)
        balance = Text("holds", "green") if stats.balanced else Text("DOES NOT HOLD", "bold red")
        table.add_row("balance", "", balance)
        return table

    def _mailboxes(self, stats: FleetStats) -> RenderableType:
        from rich.table import Table

        table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0))
        table.add_column("processor", style="bold")
        table.add_column("pattern")
        for name in ("processed", "pending", "dropped"):
            table.add_column(name, justify="right")
        for row in self._rows(stats):
            table.add_row(row.name, row.pattern, f"{row.processed:,}", f"{row.pending:,}", f"{row.dropped:,}")
        return table

    def _progress(self, stats: FleetStats) -> RenderableType:
        from rich.text import Text

        # The server starts the faults by the same rule and its own clock, so the times are approximate.
        now = stats.uptime_s
        if self._began_at is None and (
            _states(stats)[State.OPEN] == len(stats.endpoints) or now >= self._duration_s * LATEST_START
        ):
            self._began_at = now
        text = Text(f"{PLAN}\n")
        for fault in self._plan:
            has_started = self._began_at is not None and now - self._began_at >= fault.at_s
            text.append(f"{_when(fault)}  {fault}\n", "" if has_started else "dim")
        return text

    def summary(self, stats: FleetStats) -> str:
        """Return the summary of the run: messages, drops, recovery times and balance."""
        received, rows = _received(stats), list(self._rows(stats))
        lines = [
            ("ran", f"{stats.uptime_s:.1f} s, {len(stats.endpoints):,} connections {self._title}"),
            ("messages in", f"{received:,} ({received / max(stats.uptime_s, 1e-9):,.0f} per second)"),
            *(("processed", f"{row.processed:,} by {row.name!r} on {row.pattern}") for row in rows),
            *(("dropped", f"{row.dropped:,} by {row.name!r} ({row.overflow})") for row in rows if row.dropped),
            *(() if any(row.dropped for row in rows) else (("dropped", "0"),)),
            ("reconnects", f"{_reconnects(stats):,}"),
            ("to recover", str(self._recoveries)),
            ("balance", "holds: every message is accounted for" if stats.balanced else "DOES NOT HOLD"),
        ]
        return "\n".join(f"{name:<12} {text}" for name, text in lines)


def _when(fault: Fault) -> str:
    return f"+{fault.at_s:4.1f} s"


def _received(stats: FleetStats) -> int:
    return sum(row.received for row in stats.endpoints)


def _reconnects(stats: FleetStats) -> int:
    return sum(max(0, row.connects - 1) for row in stats.endpoints)


def _states(stats: FleetStats) -> Counter[str]:
    return Counter(row.state for row in stats.endpoints)
