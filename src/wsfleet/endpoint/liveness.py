"""Pings, silence and heartbeats of all connections, by one task: a heap of who is due when.

A task or timer for each of ten thousand connections would cost more than all their checks together.
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
"""A sweep this late means that the loop was blocked: frames may lie unread in the sockets, so deadlines wait for it."""

TICK_S = 0.001
"""What is due so soon is due now: uvloop's clock counts whole milliseconds, and other timers may come early."""

LOOK_S = 0.5
"""At least so often the sweep looks how late the loop is."""


class LivenessCheck:
    """What an endpoint's open session owes and is owed, and when. One for all of the endpoint's sessions."""

    __slots__ = ("_beat_at", "_opened_at", "_ping_at", "_plan", "_session", "due_at", "place")

    def __init__(self, liveness: Liveness) -> None:
        self._plan = liveness
        self._session: SessionCore | None = None
        self._opened_at = 0.0
        self._ping_at: float | None = None
        self._beat_at: float | None = None
        self.due_at: float | None = None
        """When its place in the sweep's heap comes up, None where it has none."""
        self.place = 0

    def begin(self, session: SessionCore, now: float) -> None:
        """Look after `session`, which is open from `now` on."""
        plan = self._plan
        self._session = session
        self._opened_at = now
        self._ping_at = now + plan.ping_s if plan.ping_s is not None else None
        self._beat_at = now + plan.heartbeat_s if plan.heartbeat_s is not None else None

    def end(self) -> None:
        """Let go of the session: the heap keeps a pulse until it is due, which would keep what the session holds."""
        self._session = None

    def check(self, now: float, late_s: float) -> float | None:
        """Do what is due; return when to look again, or None when there is nothing more to look after."""
        session = self._session
        if session is None or session.ended.done():
            return None
        # Where the fleet has stopped reading, for its end, the peer may be as lively as it likes: nobody hears it.
        why = self._overdue(session, now) if session.reading else None
        if why is not None:
            if late_s >= LATE_S:
                return now + late_s
            session.abort(why)
            return None
        self._do_due(session, now)
        return self._due(session, now)

    def due(self, now: float) -> float | None:
        """Return when something is due next, as things stand now, or None where nothing ever is."""
        return None if self._session is None else self._due(self._session, now)

    def _silence(self, session: SessionCore, now: float) -> float | None:
        """Return for how long a ping has been waiting without any frame from the peer, a pong or another."""
        sent = session.wire.ping_sent
        if sent is None:
            return None
        return session.running_since(max(sent, session.wire.last_frame), now)

    def _quiet(self, session: SessionCore, now: float) -> float:
        """Return for how long no data has come. What on_open waited for is no matter of the feed's."""
        return session.running_since(max(session.last_data, self._opened_at), now)

    def _overdue(self, session: SessionCore, now: float) -> str | None:
        plan, silence = self._plan, self._silence(session, now)
        if plan.pong_s is not None and silence is not None and silence >= plan.pong_s:
            return f"no answer to a ping for {plan.pong_s:g} s"
        if plan.stale_s is not None and self._quiet(session, now) >= plan.stale_s:
            return f"no data for {plan.stale_s:g} s"
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
            # The user's function; its endpoint goes on without this beat, and the sweep without any harm.
            if is_exit_request(exc):
                session.request_exit(exc)
                return
            fields = {"event": "heartbeat.failed", "endpoint": session.endpoint}
            log.error("%s: the heartbeat failed", session.endpoint, exc_info=shown(exc), extra=fields)

    def _due(self, session: SessionCore, now: float) -> float | None:
        plan, silence = self._plan, self._silence(session, now)
        times = [t for t in (self._ping_at, self._beat_at) if t is not None]
        if session.reading:
            if plan.pong_s is not None and silence is not None:
                times.append(now + plan.pong_s - silence)
            if plan.stale_s is not None:
                times.append(now + plan.stale_s - self._quiet(session, now))
        # A deadline that stands still is looked at again after the shortest time in which it could pass.
        return min(times, default=None)


class Sweep:
    """The one task that looks after all open sessions; it also measures how late the loop is."""

    def __init__(self, unread: UnreadSources) -> None:
        self._unread = unread
        self._heap: list[tuple[float, int, LivenessCheck]] = []
        self._count = itertools.count()
        self._sooner: asyncio.Future[None] | None = None
        self.lag_s = 0.0

    def watch(self, session: SessionCore, pulse: LivenessCheck) -> None:
        """Look after `session` until it ends, by its endpoint's `pulse`."""
        now = asyncio.get_running_loop().time()
        pulse.begin(session, now)
        due = pulse.due(now)
        # Where the place of a session before comes up earlier, it will be found then that this one is due later.
        if due is None or (pulse.due_at is not None and pulse.due_at <= due):
            return
        self._push(due, pulse)
        if self._heap[0][2] is pulse and self._sooner is not None and not self._sooner.done():
            self._sooner.set_result(None)

    def _push(self, due: float, pulse: LivenessCheck) -> None:
        pulse.due_at, pulse.place = due, next(self._count)
        heapq.heappush(self._heap, (due, pulse.place, pulse))

    async def run(self) -> None:
        """Check whoever is due, for ever; at least every half second look at the loop's lateness, and who is paused."""
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
            _, place, pulse = heapq.heappop(self._heap)
            if pulse.place == place:  # or it has got an earlier one meanwhile
                pulse.due_at = None
                due = pulse.check(now, self.lag_s)
                if due is not None:
                    self._push(max(due, now + 2 * TICK_S), pulse)
            if time_slice.expired():
                await time_slice.yield_to_loop()
