"""Keeps one endpoint alive: connect, run until the connection is lost, classify the error, wait, connect again.

The state is the position in the loop of `Supervisor.run`; `State` only reports it. A supervisor outlives the sockets.
`Connection` is its public handle.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable

from wsfleet.core import error_text, retry
from wsfleet.core.errors import ConnectionLost, EndpointFailed, FleetError, NotOpen
from wsfleet.core.message import State, StateChange
from wsfleet.core.options import Endpoint
from wsfleet.core.redact import redact_text
from wsfleet.core.stats import Counted, EndpointStats
from wsfleet.endpoint.attempt import bind_attempt
from wsfleet.endpoint.connector import Connector
from wsfleet.endpoint.continuity import Continuity
from wsfleet.endpoint.decode import MessageFactory
from wsfleet.endpoint.ingest import LONG_S, Ingest
from wsfleet.endpoint.liveness import LivenessCheck
from wsfleet.endpoint.on_open import run_on_open
from wsfleet.endpoint.open_waiters import OpenWaiters
from wsfleet.endpoint.services import Services
from wsfleet.endpoint.session import SessionCore
from wsfleet.endpoint.state_log import StateLog

__all__ = ["Supervisor"]


class Supervisor:
    """One endpoint, from its declaration to its end."""

    def __init__(self, endpoint: Endpoint, factory: MessageFactory, services: Services) -> None:
        self.name = factory.name
        self.ingest = Ingest(factory, services.hub, endpoint.keep_last)
        self.continuity = Continuity(self.ingest)
        self.endpoint = bind_attempt(endpoint, self.continuity.attempt)
        self.state = State.CONNECTING
        self.session: SessionCore | None = None
        self.holding: SessionCore | None = None  # until the messages held for on_open are published
        self.session_count = 0
        self.losses = 0
        self.last_error: Exception | None = None
        self.stopping = False
        self.task: asyncio.Task[None] | None = None
        self._error_text: tuple[Exception | None, str] = (None, "")
        self._services = services
        self._on_end: Callable[[Supervisor], None] | None = None
        self._connector = Connector(self.endpoint, self.name, services)
        self._redirected = ""
        self._backoff = retry.Backoff(endpoint.reconnect, random.random)
        self._budget = retry.RestartBudget(endpoint.reconnect.max_restarts, endpoint.reconnect.window_s)
        self._state_log = StateLog(self.name)
        self._pulse = LivenessCheck(endpoint.liveness)
        self._attempt = 0
        self._rejections = 0
        self._restarting = False
        self._scope: asyncio.Timeout | None = None
        self.open_waiters = OpenWaiters()

    # The loop

    async def run(self) -> None:
        """Keep the endpoint alive until it fails permanently or is stopped."""
        try:
            while not self.stopping:
                error = await self._live_once()
                if self.stopping:
                    break
                if self._restarting:
                    continue
                error, delay_s = self._verdict(error)
                if delay_s is None:
                    self._fail(error)
                    return
                self._set_state(State.BACKOFF, error, delay_s)
                await self._wait(delay_s, error)
            self._end(State.CLOSED, None)
        except (KeyboardInterrupt, SystemExit) as exc:
            self._drop_session()
            self._end(State.CLOSED, None)
            self._services.context.request_exit(exc)
        except GeneratorExit:  # the loop is gone
            raise
        except BaseException as exc:
            if error_text.is_ours(exc):
                self._drop_session()
                self._end(State.CLOSED, None)
                raise
            # A bug in wsfleet or in the user's `fatal` function ends this endpoint, but not the fleet.
            fault = error_text.unexpected(exc, self._connector.secrets)
            error_text.hide_secrets(fault, self._connector.secrets)
            self._state_log.crashed(fault)
            self._drop_session()
            self._fail(fault)

    def _verdict(self, error: Exception) -> tuple[Exception, float | None]:
        """Return the error, and the seconds until the next attempt, or None if there will be none."""
        now = asyncio.get_running_loop().time()
        plan, endpoint = self.endpoint.reconnect, self.endpoint
        if getattr(error, "status", None) in (401, 403):
            self._rejections += 1
            self._connector.refused()
        else:
            self._rejections = 0
        verdict = retry.classify(
            error,
            plan.fatal,
            fatal_codes=plan.fatal_codes,
            fresh_credentials=callable(endpoint.uri) or callable(endpoint.headers),
            rejections=self._rejections,
        )
        # After classify, which may look at the cause of the error.
        error_text.hide_secrets(error, self._connector.secrets)
        if verdict.fatal:
            return error, None
        if not self._budget.spend(now):
            spent = FleetError(f"restarted more than {plan.max_restarts} times in {plan.window_s:g} s; last: {error}")
            spent.__cause__ = error
            return spent, None
        if verdict.hold_s:
            self._services.limiter.hold(self._connector.host, verdict.hold_s)
        # Jitter above the pause that the host has asked for, so that its endpoints do not all come at its end.
        jitter_s = plan.jitter * plan.initial_s * random.random() if verdict.hold_s else 0.0
        return error, max(self._backoff.next(), verdict.hold_s + jitter_s)

    async def _live_once(self) -> Exception:
        """Connect, and wait until the connection is lost. Return the error of the attempt or of the connection."""
        loop = asyncio.get_running_loop()
        self._attempt += 1
        self._restarting = False
        self._set_state(State.CONNECTING, None, 0.0)
        received = self.ingest.received
        try:
            async with asyncio.timeout(self.endpoint.open_s) as self._scope:
                session = await self._open(self._scope)
            if self._scope.expired() or self.stopping or self._restarting:
                # on_open suppressed the cancellation, or the endpoint was stopped meanwhile.
                raise TimeoutError
        except BaseException as exc:
            if error_text.is_ours(exc):
                raise
            return self._attempt_failed(exc)
        finally:
            self._scope = None
        opened_at = loop.time()
        self._note_route()
        self._opened(session)
        await session.release()
        self.holding = None
        self._services.sweep.watch(session, self._pulse)
        error = self._explain(await session.ended)
        lost_at = loop.time()
        self.continuity.ended(session)
        # With a coarse clock, the first message may have the time of the handshake.
        heard = session.wire.last_frame > session.wire.connected_at or self.ingest.received > received
        if heard and lost_at - opened_at >= self.endpoint.reconnect.stable_s:
            self._backoff.reset()
            self._state_log.stable()
            self._attempt = 0
        self._drop_session()
        if not self.stopping and not self._restarting:
            self.losses += 1
            self.last_error = error
        return error

    async def _open(self, scope: asyncio.Timeout) -> SessionCore:
        """Open a session and run `on_open`."""
        wire = await self._connector.open(scope, again=self.session_count > 0)
        self.session_count += 1
        number = self.continuity.next_session()
        session = self.session = self.holding = SessionCore(self.endpoint, self.ingest, wire, number)
        session.on_lost_while_paused = self._lost_while_paused
        wire.start(session)
        if self.endpoint.on_open is not None:
            self._connector.progress.stage = "on_open"
            await run_on_open(
                session, self.endpoint.on_open, self.ingest, lambda: _expire(scope), self.endpoint.close_s
            )
        return session

    # The result of an attempt or a session

    def _opened(self, session: SessionCore) -> None:
        self._rejections = 0
        gap = self.continuity.gap(session.number)
        self._set_state(State.OPEN, None, 0.0)
        topic = f"$gap.{self.name}"
        if gap is not None and self._services.hub.wants(topic):
            self._services.hub.inject(topic, gap)
        self.open_waiters.wake()

    def _note_route(self) -> None:
        redirected = self._connector.opened()
        if redirected not in ("", self._redirected):
            self._redirected = redirected
            self._state_log.redirected(redirected)

    def _attempt_failed(self, exc: BaseException) -> Exception:
        session = self.session
        lost, traffic = (session.lost_error, session.traffic) if session is not None else (None, "")
        self._drop_session()
        open_s = self.endpoint.open_s if self._scope is not None and self._scope.expired() else None
        error = self._connector.failed(exc, lost, open_s, traffic)
        if not self._restarting and not self.stopping:
            self.last_error = error
        return error

    def _explain(self, lost: ConnectionLost) -> ConnectionLost:
        """Return the loss without secrets, and with its cause if that was a pause of reading or a blocked loop."""
        ours = self.stopping or (self.session is not None and self.session.closed_by_us)
        impatient = retry.may_be_timeout(lost.code)
        paused_s, names = self.ingest.lag()
        pause = (paused_s, names) if paused_s >= LONG_S and (impatient or not self.ingest.reading) else None
        # "1011 keepalive ping timeout" is mostly caused by a blocked loop: nothing read and answered the ping.
        block = self._services.watchdog.recent() if impatient else None
        if ours:
            pause = block = None
        return error_text.loss(lost, pause, None if block is None else str(block), self._connector.secrets)

    def _lost_while_paused(self, lost: ConnectionLost) -> None:
        """Report a loss whose cause may be the pause that delays its handling."""
        if not self.stopping and not self._restarting:
            self.last_error = self._explain(lost)
            self._state_log.lost_while_paused(self.last_error)

    def _drop_session(self) -> None:
        """Release the session, in whatever state it is."""
        session, self.session = self.session, None
        self.holding = None
        self._pulse.end()
        self._connector.closed()
        if session is not None:
            session.discard()
            # Not `ended`: that future is cancelled together with the task that awaits it.
            if session.lost_error is None:
                session.abort("the attempt was abandoned")
            self.ingest.detach()

    def _fail(self, error: Exception) -> None:
        self.last_error = error
        self._end(State.FAILED, error)

    def _end(self, state: State, error: Exception | None) -> None:
        self._set_state(state, error, 0.0)
        self.open_waiters.wake()
        if self._on_end is not None:
            self._on_end(self)

    def _set_state(self, state: State, error: Exception | None, delay_s: float) -> None:
        previous, self.state = self.state, state
        if state is previous:
            return
        if State.OPEN in (previous, state):
            self.continuity.opened() if state is State.OPEN else self.continuity.down()
        self._state_log.log_state(state, error, delay_s, self._connector.shown_uri + self._connector.route)
        topic = f"$state.{self.name}"
        if self._services.hub.wants(topic):
            record = StateChange(self.name, previous, state, error, self._attempt, delay_s)
            self._services.hub.inject(topic, record)

    # Waiting

    async def _wait(self, delay_s: float, error: Exception) -> None:
        """Wait for `delay_s`, or until the host works again if it was the host that failed."""
        try:
            async with asyncio.timeout(delay_s) as self._scope:
                await self._connector.recovery(error)
        except TimeoutError:
            pass
        finally:
            self._scope = None

    @property
    def can_send(self) -> bool:
        """Whether it is OPEN and not closing. The state changes only when the socket is gone."""
        return self.state is State.OPEN and self.session is not None and self.session.can_send

    async def wait_open(self) -> None:
        # A caller whose send was refused must not be woken at once: it would block the other tasks.
        while not self.can_send:
            if self.state is State.FAILED:
                raise self.failure()
            if self.state is State.CLOSED:
                raise NotOpen(f"{self.name} is closed")
            await self.open_waiters.wait()

    def failure(self) -> EndpointFailed:
        """Return an EndpointFailed with the last error as its cause."""
        error = EndpointFailed(self.name, str(self.last_error or ""))
        error.__cause__ = self.last_error
        return error

    def restart(self) -> None:
        """End the current attempt, wait or connection, and connect again at once."""
        if self.task is None:
            return
        self._restarting = True
        self._backoff.reset()
        self._attempt = 0
        if self._scope is not None:
            _expire(self._scope)
        elif self.session is not None:
            self.session.close(1000)

    def reset(self) -> None:
        """Leave FAILED, with a fresh backoff and restart budget."""
        reconnect = self.endpoint.reconnect
        self._restarting = False
        self._rejections = self._attempt = 0
        self._backoff.reset()
        self._budget = retry.RestartBudget(reconnect.max_restarts, reconnect.window_s)
        self._set_state(State.CONNECTING, None, 0.0)

    def start(self, tasks: asyncio.TaskGroup, on_end: Callable[[Supervisor], None]) -> None:
        """Begin, as a task of `tasks`; call `on_end` at the end, when the state is CLOSED or FAILED."""
        self.stopping = False
        self._on_end = on_end
        self.continuity.down()
        context = self._services.context.task_context()
        self.task = tasks.create_task(self.run(), name=f"wsfleet-{self.name}", context=context)
        self.task.add_done_callback(self._never_began, context=context)

    def _never_began(self, task: asyncio.Task[None]) -> None:
        # A task that is cancelled before its first step never runs its coroutine.
        if task is self.task and self.state not in (State.CLOSED, State.FAILED):
            self._end(State.CLOSED, None)

    def let_go(self) -> bool:
        """Become CLOSED without a task: before the start, or after FAILED. Return whether the state has changed."""
        if self.state is State.CLOSED:
            return False
        self._set_state(State.CLOSED, None, 0.0)
        self.open_waiters.wake()
        return True

    def stop(self) -> None:
        """Make no new attempts; an open session goes on until it is closed."""
        self.stopping = True
        if self.state is not State.OPEN and self.task is not None:
            self.task.cancel()

    def error_text(self) -> str | None:
        """Return the text of the last error without secrets. It is cached, because redacting takes long."""
        error = self.last_error
        if error is None:
            return None
        if self._error_text[0] is not error:
            self._error_text = (error, redact_text(str(error), self._connector.secrets))
        return self._error_text[1]

    def counted(self) -> Counted:
        """Return the counters of the balance."""
        ingest, holding = self.ingest, self.holding
        held = holding.held if holding is not None else 0
        if ingest.early is not None:
            held += len(ingest.early)
        received, received_bytes, malformed = ingest.received, ingest.received_bytes, ingest.malformed
        return received, received_bytes, malformed, ingest.answered, ingest.published, ingest.discarded, held

    def stats(self, counted: Counted | None = None) -> EndpointStats:
        ingest, session = self.ingest, self.session
        received, received_bytes, malformed, answered, published, discarded, held = counted or self.counted()
        return EndpointStats(
            name=self.name,
            uri=self._connector.shown_uri,
            state=self.state.value,
            connects=self.session_count,
            losses=self.losses,
            received=received,
            received_bytes=received_bytes,
            sent=ingest.sent,
            malformed=malformed,
            answered=answered,
            published=published,
            held=held,
            discarded=discarded,
            paused_by=tuple([mailbox.name for mailbox in ingest.paused_by]) if ingest.paused_by else (),
            paused_s=ingest.paused_s,
            last_error=self.error_text(),
            latency_s=session.wire.latency_s if session is not None else None,
        )


def _expire(scope: asyncio.Timeout) -> None:
    """Make a timeout expire now. No-op if it has expired or was left."""
    try:
        scope.reschedule(asyncio.get_running_loop().time())
    except RuntimeError:
        pass
