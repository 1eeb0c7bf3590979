"""How a fleet ends, in five steps, and how one endpoint or pool is closed while the fleet goes on."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence

from wsfleet.endpoint.supervisor import Supervisor
from wsfleet.pipeline.hub import Hub
from wsfleet.pipeline.mailbox import Mailbox
from wsfleet.pipeline.processor import Processor

__all__ = ["Closing", "Shutdown", "finish_processor"]

log = logging.getLogger("wsfleet")

CANCEL_AGAIN_S = 1.0
"""A call that goes on after it was cancelled is named and cancelled again after so many seconds."""

LOG_DRAIN_S = 1.0
"""A drain that takes longer logs which subscriptions it waits for."""


class Shutdown:
    """The five steps. `hurry` ends the waiting for processors."""

    def __init__(self, drain_s: float) -> None:
        self._drain_s = drain_s
        self._hurried = False
        self._scope: asyncio.Timeout | None = None

    def hurry(self) -> None:
        """Do not wait for processors any longer."""
        self._hurried = True
        if self._scope is not None and not self._scope.expired():
            self._scope.reschedule(asyncio.get_running_loop().time())

    async def run(
        self,
        supervisors: Iterable[Supervisor],
        processors: Callable[[], list[Processor]],
        pulled: Iterable[Mailbox],
        hub: Hub,
    ) -> None:
        """End everything. Not to be cancelled: its waits are bounded."""
        supervisors = list(supervisors)
        # 1. No new attempts.
        for supervisor in supervisors:
            supervisor.stop()
        # 2. Reading stops, sending still works.
        for supervisor in supervisors:
            if supervisor.session is not None:
                supervisor.session.stop_reading()
        # 3. Processors finish; pull subscriptions end.
        for mailbox in pulled:
            mailbox.close()
        for supervisor in supervisors:
            supervisor.ingest.release_early()
        if not self._hurried:
            await self._drain(processors)
        # 4. Calls in progress are cancelled, the rest is dropped.
        hub.close()
        await cancel_processors(processors())
        # 5. Close frames, reading and discarding.
        await close_sessions(supervisors, 1001)

    async def _drain(self, processors: Callable[[], list[Processor]]) -> None:
        try:
            async with asyncio.timeout(self._drain_s) as self._scope:
                waiting = asyncio.get_running_loop().call_later(LOG_DRAIN_S, self._log_drain, processors)
                try:
                    # One processor's last message may be another's next: until all are idle at the same time.
                    while busy := _busy(processors):
                        for processor in busy:
                            await processor.mailbox.idle()
                finally:
                    waiting.cancel()
        except TimeoutError:
            if not self._hurried:
                names = ", ".join(p.mailbox.name for p in processors() if p.mailbox.pending)
                fields = {"event": "fleet.drain_over"}
                log.warning(
                    "drain timed out after drain_s=%g s; dropping pending messages of %s",
                    *(self._drain_s, names),
                    extra=fields,
                )
        finally:
            self._scope = None

    def _log_drain(self, processors: Callable[[], list[Processor]]) -> None:
        names = ", ".join(repr(processor.mailbox.name) for processor in _busy(processors))
        if names and self._drain_s > LOG_DRAIN_S:
            log.warning("draining: waiting up to %g s for %s", self._drain_s, names, extra={"event": "fleet.drain"})


def _busy(processors: Callable[[], list[Processor]]) -> list[Processor]:
    return [p for p in processors() if p.mailbox.pending and not p.over]


async def cancel_processors(processors: list[Processor]) -> None:
    """Cancel all workers, and cancel again those that go on."""
    await _cancel({task: p.mailbox.name for p in processors for task in p.tasks})


async def _cancel(tasks: dict[asyncio.Task[None], str]) -> None:
    left = {task: name for task, name in tasks.items() if not task.done()}
    while left:
        for task in left:
            task.cancel()
        await asyncio.wait(left, timeout=CANCEL_AGAIN_S)
        left = {task: name for task, name in left.items() if not task.done()}
        for name in left.values():
            log.warning(
                "%s: still running after cancellation; cancelling again", name, extra={"event": "processor.stubborn"}
            )


async def close_sessions(supervisors: Iterable[Supervisor], code: int) -> None:
    """Begin all closing handshakes at once; after the largest `close_s` drop the sockets that are left."""
    sessions = [s.session for s in supervisors if s.session is not None]
    close_s = max((s.endpoint.close_s for s in supervisors), default=0.0)
    for session in sessions:
        session.close(code)
    ended = [session.ended for session in sessions if not session.ended.done()]
    if ended:
        await asyncio.wait(ended, timeout=close_s)
    for session in sessions:
        if not session.ended.done():
            session.abort("the closing handshake took too long")
    tasks = {s.task: s.name for s in supervisors if s.task is not None and not s.task.done()}
    if tasks:
        await asyncio.wait(tasks, timeout=CANCEL_AGAIN_S)
        await _cancel(tasks)


async def finish_processor(processor: Processor, drain_s: float) -> None:
    """Let one processor finish what is pending, for at most `drain_s`, and then cancel it."""
    try:
        async with asyncio.timeout(drain_s):
            if not processor.over:
                await processor.mailbox.idle()
    except TimeoutError:
        pass
    processor.mailbox.close()
    await cancel_processors([processor])


class Closing:
    """Closes an endpoint, or the members of a pool, and the processors that take messages from nowhere else."""

    def __init__(
        self, supervisors: Sequence[Supervisor], mailboxes: Iterable[Mailbox], processors: Mapping[Mailbox, Processor]
    ) -> None:
        self.supervisors = supervisors
        self._mailboxes = mailboxes
        self._processors = processors

    async def run(self, drain_s: float) -> None:
        """Stop reading, let the processors finish for at most `drain_s` seconds each, then close the sockets."""
        for supervisor in self.supervisors:
            supervisor.stop()
            if supervisor.session is not None:
                supervisor.session.stop_reading()
        for mailbox in self._mailboxes:
            processor = self._processors.get(mailbox)
            if processor is not None:
                await finish_processor(processor, drain_s)
                await processor.close()
        await close_sessions(self.supervisors, 1000)
