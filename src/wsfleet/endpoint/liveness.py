"""Pings, deadlines and heartbeats of all connections. One task serves them from a heap ordered by time.

With ten thousand connections, a task or timer for each would cost more than all the checks.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import logging
from collections.abc import Callable

from wsfleet.core.error_text import is_exit_request, shown
from wsfleet.core.options import Liveness
from wsfleet.core.time_slice import TimeSlice
from wsfleet.endpoint.session import SessionCore
from wsfleet.pipeline.backpressure import UnreadSources

__all__ = ["LivenessCheck", "Sweep"]

log = logging.getLogger("wsfleet")

LATE_S = 0.1
"""A sweep this late, in seconds, means that the loop was blocked or the process frozen: a peer that is overdue gets a
grace."""

TICK_S = 0.001
"""Checks due within this time, in seconds, are made now: the clock of uvloop counts whole milliseconds."""

LOOK_S = 0.5
"""Maximum seconds between two measurements of the loop's lateness."""


class LivenessCheck:
    """The pings, heartbeats and deadlines of an endpoint's open session. It serves all sessions of the endpoint."""

    __slots__ = (
        "_beat_at",
        "_grace_s",
        "_opened_at",
        "_overdue_at",
        "_ping_at",
        "_plan",
        "_session",
        "due_at",
        "place",
    )

    def __init__(self, liveness: Liveness) -> None:
        self._plan = liveness
        self._session: SessionCore | None = None
        self._opened_at = 0.0
        self._overdue_at: float | None = None  # when this silence was first found to be too long
        self._grace_s = 0.0
        self._ping_at: float | None = None
        self._beat_at: float | None = None
        self.due_at: float | None = None
        """The time of its entry in the heap of the sweep, or None without an entry."""
        self.place = 0

    def begin(self, session: SessionCore, now: float) -> None:
        """Check `session`, which opened at `now`."""
        plan = self._plan
        self._session = session
        self._opened_at = now
        self._overdue_at = None
        self._ping_at = now + plan.ping_s if plan.ping_s is not None else None
        self._beat_at = now + plan.heartbeat_s if plan.heartbeat_s is not None else None

    def end(self) -> None:
        """Drop the reference to the session: an entry stays in the heap until it is due."""
        self._session = None

    def check(self, now: float, late_s: float) -> float | None:
        """Do the checks that are due. Return the time of the next check, or None if there is none."""
        session = self._session
        if session is None or session.ended.done():
            return None
        # Once the fleet has stopped reading, for its end, no frame can show that the peer is alive.
        overdue = self._overdue(session, now) if session.reading else None
        if overdue is None:
            self._overdue_at = None
        elif self._may_still_come(session, overdue[1], now, late_s):
            return now
        else:
            session.abort(overdue[0])
            return None
        self._do_due(session, now)
        return self._due(session, now)

    def _may_still_come(self, session: SessionCore, limit_s: float, now: float, late_s: float) -> bool:
        """Return whether an overdue peer gets more time. Each silence gets one grace, of at most its limit.

        After a block or a freeze the answer may wait in the socket; if the whole machine was frozen, it may still be on
        the way. A grace that began again with each late check would never end in a loop that is blocked repeatedly.
        """
        if self._overdue_at is None:
            self._overdue_at = now
            self._grace_s = min(late_s, limit_s) if late_s >= LATE_S else 0.0
        waited_s = session.running_since(self._overdue_at, now)
        return waited_s < self._grace_s or (waited_s < limit_s and session.wire.unread)

    def due(self, now: float) -> float | None:
        """Return the time of the next check, or None if there is none."""
        return None if self._session is None else self._due(self._session, now)

    def _silence(self, session: SessionCore, now: float) -> float | None:
        """Return the seconds since the last frame, if a ping is unanswered. Any frame counts as an answer."""
        sent = session.wire.ping_sent
        if sent is None:
            return None
        return session.running_since(max(sent, session.wire.last_frame), now)

    def _quiet(self, session: SessionCore, now: float) -> float:
        """Return the seconds since the last data, or since the session opened: the time of on_open does not count."""
        return session.running_since(max(session.last_data, self._opened_at), now)

    def _overdue(self, session: SessionCore, now: float) -> tuple[str, float] | None:
        """Return why the peer has to be given up, and the limit that it exceeded, in seconds."""
        plan, silence = self._plan, self._silence(session, now)
        if plan.pong_s is not None and silence is not None and silence >= plan.pong_s:
            return f"no answer to a ping for {plan.pong_s:g} s", plan.pong_s
        if plan.stale_s is not None and self._quiet(session, now) >= plan.stale_s:
            return f"no data for {plan.stale_s:g} s", plan.stale_s
        return None

    def _do_due(self, session: SessionCore, now: float) -> None:
        plan = self._plan
        if self._ping_at is not None and now >= self._ping_at and plan.ping_s is not None:
            self._ping_at = now + plan.ping_s
            session.wire.ping()
        if self._beat_at is not None and now >= self._beat_at and plan.heartbeat_s is not None:
            self._beat_at = now + plan.heartbeat_s
            self._beat(session, plan.heartbeat)

    def _beat(self, session: SessionCore, heartbeat: str | bytes | Callable[[], str | bytes] | None) -> None:
        try:
            payload = heartbeat() if callable(heartbeat) else heartbeat
            if payload is not None:
                session.beat(payload)
        except BaseException as exc:
            # An error of the user's function costs one heartbeat. The endpoint and the sweep go on.
            if is_exit_request(exc):
                session.request_exit(exc)
                return
            fields = {"event": "heartbeat.failed", "endpoint": session.endpoint}
            log.error("%s: heartbeat function failed", session.endpoint, exc_info=shown(exc), extra=fields)

    def _due(self, session: SessionCore, now: float) -> float | None:
        plan, silence = self._plan, self._silence(session, now)
        times = [t for t in (self._ping_at, self._beat_at) if t is not None]
        if session.reading:
            if plan.pong_s is not None and silence is not None:
                times.append(now + plan.pong_s - silence)
            if plan.stale_s is not None:
                times.append(now + plan.stale_s - self._quiet(session, now))
        # While reading is paused a deadline moves. It is checked again at the earliest time at which it could pass.
        return min(times, default=None)


class Sweep:
    """Checks all open sessions in one task, and measures the lateness of the loop."""

    def __init__(self, unread: UnreadSources) -> None:
        self._unread = unread
        self._heap: list[tuple[float, int, LivenessCheck]] = []
        self._count = itertools.count()
        self._sooner: asyncio.Future[None] | None = None
        self.lag_s = 0.0

    def watch(self, session: SessionCore, check: LivenessCheck) -> None:
        """Check `session` until it ends, with the `check` of its endpoint."""
        now = asyncio.get_running_loop().time()
        check.begin(session, now)
        due = check.due(now)
        # An earlier entry, of the previous session, is enough: the check that it starts makes the next entry.
        if due is None or (check.due_at is not None and check.due_at <= due):
            return
        self._push(due, check)
        if self._heap[0][2] is check and self._sooner is not None and not self._sooner.done():
            self._sooner.set_result(None)

    def _push(self, due: float, check: LivenessCheck) -> None:
        check.due_at, check.place = due, next(self._count)
        heapq.heappush(self._heap, (due, check.place, check))

    async def run(self) -> None:
        """Make the checks that are due, without end. Every LOOK_S, measure the lateness and log long pauses."""
        loop = asyncio.get_running_loop()
        while True:
            now = loop.time()
            wake_at = min(self._heap[0][0], now + LOOK_S) if self._heap else now + LOOK_S
            self._sooner = loop.create_future()
            try:
                async with asyncio.timeout_at(wake_at):
                    await self._sooner
            except TimeoutError:
                self.lag_s = max(0.0, loop.time() - wake_at)
            await self._sweep(loop)
            await self._unread.log_long_pauses(loop.time())

    async def _sweep(self, loop: asyncio.AbstractEventLoop) -> None:
        now = loop.time()
        time_slice = TimeSlice()
        while self._heap and self._heap[0][0] <= now + TICK_S:
            _, place, check = heapq.heappop(self._heap)
            if check.place == place:  # otherwise an earlier entry has replaced it
                check.due_at = None
                due = check.check(now, self.lag_s)
                if due is not None:
                    self._push(max(due, now + 2 * TICK_S), check)
            if time_slice.expired():
                await time_slice.yield_to_loop()
