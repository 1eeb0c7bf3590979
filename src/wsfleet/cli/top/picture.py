"""The state behind the screen: the last overview of a fleet, its history, and the verdict. Independent of Textual."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Literal, NamedTuple

from wsfleet.core.text import plural
from wsfleet.serve.status.schema import Down, Overview, Sample, StatusError

__all__ = ["Picture", "Verdict", "count", "duration"]

KEPT = 600  # samples: ten minutes
EVENTS = 500
LATELY_S = 60.0
LAG_S = 0.1  # a longer loop lag is a warning
LOSSES, LOSSES_EACH = 3, 0.5  # more losses per minute, in total and per endpoint, are a warning

Counter = Literal["received", "processed", "dropped", "failed", "losses", "connects"]
Level = Literal["good", "warn", "bad", "none"]


class Verdict(NamedTuple):
    """The state of the fleet as one `word`, and the reasons as `text`."""

    level: Level
    word: str
    text: str


class Picture:
    """Collects overviews of a fleet and computes rates. A restart of the fleet clears the history."""

    def __init__(self, place: str) -> None:
        self.place = place
        self.overview: Overview | None = None
        self.events: deque[dict[str, Any]] = deque(maxlen=EVENTS)
        self.error: StatusError | None = None
        self.since: float | None = None
        """Time of the first failed request since the last success, by the local wall clock."""
        self._samples: deque[Sample] = deque(maxlen=KEPT)

    def wants_history(self, overview: Overview) -> bool:
        """Whether the history must be fetched: at the start, after an error, or after a restart of the fleet."""
        return not self._samples or self.error is not None or self._is_another(overview)

    def take(self, overview: Overview, history: Sequence[Sample] = ()) -> None:
        """Add the newest overview, and the fetched history."""
        if self.wants_history(overview):
            self._samples.clear()
            self._samples.extend(history)
        self.overview, self.error, self.since = overview, None, None
        if self._samples and overview.at <= self._samples[-1].at:
            return  # the same overview as before
        totals = overview.totals
        self._samples.append(
            Sample(
                at=overview.at,
                received=totals.received,
                processed=totals.processed,
                dropped=totals.dropped,
                failed=totals.failed,
                losses=totals.losses,
                connects=totals.connects,
                loop_lag_s=overview.loop_lag_s,
            )
        )

    def _is_another(self, overview: Overview) -> bool:
        before = self.overview
        return before is not None and (overview.uptime_s < before.uptime_s or overview.name != before.name)

    def fail(self, error: StatusError, now: float) -> None:
        """Record that a request failed. The last overview is kept."""
        self.error = error
        if self.since is None:
            self.since = now

    def hear(self, event: dict[str, Any]) -> None:
        """Add an event. Of an endpoint's consecutive failed attempts, only the last is kept, with their number."""
        if event.get("kind") == "state":
            topic, state = event.get("topic"), event.get("state")
            before = next((old for old in self.events if old.get("topic") == topic and old.get("trying")), None)
            if state in ("CONNECTING", "BACKOFF"):
                if before is not None and state == "CONNECTING":
                    return
                times = int(state == "BACKOFF")
                if before is not None:
                    self.events.remove(before)
                    times += before["times"]
                event = {**event, "trying": True, "times": times}
            elif before is not None:
                before["trying"] = False
        self.events.append(event)

    def rate(self, counter: Counter) -> float:
        """Return the counter's rate per second between the last two samples."""
        return next(reversed(self.rates(counter)), 0.0)

    def rates(self, counter: Counter) -> list[float]:
        """Return the counter's rates per second between consecutive samples, oldest first."""
        return [
            max(0, getattr(new, counter) - getattr(old, counter)) / (new.at - old.at)
            for old, new in pairwise(self._samples)
            if new.at > old.at
        ]

    def lags(self) -> list[float]:
        """Return the loop lags in seconds, oldest first."""
        return [sample.loop_lag_s for sample in self._samples]

    def lately(self, counter: Counter) -> int:
        """Return the increase of the counter in the last minute."""
        if not self._samples:
            return 0
        last = self._samples[-1]
        first = next(sample for sample in self._samples if sample.at >= last.at - LATELY_S)
        return max(0, int(getattr(last, counter) - getattr(first, counter)))

    def lag(self) -> float:
        """Return the largest loop lag of the last minute, in seconds."""
        last = self._samples[-1].at if self._samples else 0.0
        return max((sample.loop_lag_s for sample in self._samples if sample.at >= last - LATELY_S), default=0.0)

    def verdict(self) -> Verdict:
        """Return the verdict with all reasons, the worst first."""
        if self.error is not None:
            return Verdict("bad", self.error.headline, self.error.text)
        if self.overview is None:
            return Verdict("none", "CONNECTING", f"to {self.place}")
        bad, warn = _bad(self.overview), list(self._warnings(self.overview))
        reasons = "; ".join(bad + warn)
        if bad:
            return Verdict("bad", "FAILING", reasons)
        if warn:
            return Verdict("warn", "DEGRADED", reasons)
        total = sum(self.overview.states.values())
        balance = "every received message accounted for, none dropped in the last minute"
        return Verdict("good", "WELL", f"{_all(total)} open; {balance}" if total else f"no endpoints; {balance}")

    def _warnings(self, overview: Overview) -> list[str]:
        states, totals = overview.states, overview.totals
        total = sum(states.values())
        down = {state: number for state in ("FAILED", "BACKOFF", "CONNECTING") if (number := states.get(state, 0))}
        parts = ", ".join(f"{number:,} {state}" for state, number in down.items())
        lost, lag = self.lately("losses"), self.lag()
        reasons = [
            (sum(down.values()), f"{sum(down.values()):,} of {total:,} not open ({parts})"),
            (overview.flapping, _flapping(overview)),
            (
                not overview.flapping and lost >= LOSSES and lost > LOSSES_EACH * total,
                f"frequent connection losses: {lost:,} in the last minute",
            ),
            (self.lately("dropped"), f"{self.lately('dropped'):,} dropped in the last minute"),
            (self.lately("failed"), f"{self.lately('failed'):,} failed in the last minute"),
            (totals.paused, f"{totals.paused:,} paused by a full mailbox"),
            (lag >= LAG_S, f"the loop was {duration(lag)} late"),
        ]
        return [text for applies, text in reasons if applies]


def _bad(overview: Overview) -> list[str]:
    failed, known = overview.states.get("FAILED", 0), [row for row in overview.down if row.state == "FAILED"]
    total, required = sum(overview.states.values()), [row.name for row in overview.down if row.required]
    reasons = [
        (not overview.balanced, "the balance does not hold: messages are unaccounted for"),
        (total and not overview.states.get("OPEN") and overview.states.get("CLOSED") != total, "nothing is open"),
        (required, f"required and down: {', '.join(required[:3])}{', ...' if len(required) > 3 else ''}"),
        (failed, _failed(failed, known)),
    ]
    return [text for applies, text in reasons if applies]


def _failed(number: int, known: Sequence[Down]) -> str:
    """Return a text on the endpoints that failed for good, with the error of the first one."""
    if not known:
        return f"{number:,} failed for good"
    why = f": {known[0].error}" if known[0].error else ""
    if number == 1:
        return f"{known[0].name} has failed for good{why}"
    return f"{number:,} have failed for good, {known[0].name} among them{why}"


def _flapping(overview: Overview) -> str:
    """Return a text on the endpoints that are lost again and again, the first three by name."""
    named = ", ".join(f"{row.name} {row.losses:,} times" for row in overview.flapping[:3])
    more, noun = overview.flapping_count - 3, "more endpoint"
    return f"lost in the last minute: {named}{f', and {plural(more, noun)}' if more > 0 else ''}"


def _all(total: int) -> str:
    return "the one endpoint is" if total == 1 else f"all {total:,} endpoints are"


def count(number: float) -> str:
    """Format a count in at most nine characters."""
    for limit, factor, unit in ((1e7, 1, ""), (1e10, 1e6, " M"), (1e13, 1e9, " G")):
        if number < limit:
            return f"{number:,.0f}" if factor == 1 else f"{number / factor:,.1f}{unit}"
    return f"{number:.2g}"


def duration(seconds: float | None) -> str:
    """Format a duration in its two largest units."""
    if seconds is None:
        return "-"
    if seconds < 0.9995:
        return f"{seconds * 1000:.{1 if seconds < 0.00995 else 0}f} ms"
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, seconds = divmod(int(seconds + 0.05), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days} d {hours} h"
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {seconds} s"
