"""Runs the user's function, or a sink, over one mailbox. What one does wrong stays with it."""

from __future__ import annotations

import asyncio
import inspect
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any, Protocol, runtime_checkable

from wsfleet.errors import ConfigError
from wsfleet.hub import Hub
from wsfleet.mailbox import Mailbox
from wsfleet.message import DeadLetter, Message

__all__ = ["Function", "Processor", "Sink", "check_processor"]

log = logging.getLogger("wsfleet")

Function = Callable[[Message[Any]], Awaitable[Any]]

SLICE_S = 0.001
"""How long a worker goes on without giving the loop its turn, when no call of the user's does."""

QUIET_S = 10.0
"""A processor that fails for every message is logged once in so many seconds, with a count."""


@runtime_checkable
class Sink(Protocol):
    """Where messages can go instead of to a function. See `wsfleet.sinks`."""

    name: str
    batch: int

    async def open(self) -> None:
        """Get ready; called once, when the fleet starts."""

    async def write(self, messages: list[Message[Any]]) -> None:
        """Write all, or raise."""

    async def close(self) -> None:
        """Called once, after the drain."""


def check_processor(processor: object) -> None:
    """Raise ConfigError where `processor` is neither an async function nor a sink."""
    if isinstance(processor, Sink):
        return
    if not callable(processor):
        raise ConfigError(f"a processor is an async function or a sink, not {processor!r}")
    call = processor if inspect.isroutine(processor) else getattr(processor, "func", processor.__call__)
    if not inspect.iscoroutinefunction(call):
        raise ConfigError(
            f"{getattr(processor, '__qualname__', processor)!s} is not an async function; "
            "plain functions, which need threads, are not supported yet"
        )


class Processor:
    """One worker over one mailbox: in order, one message at a time; a sink gets batches."""

    def __init__(self, mailbox: Mailbox, target: Function | Sink, hub: Hub) -> None:
        self.mailbox = mailbox
        self.task: asyncio.Task[None] | None = None
        self._sink = target if isinstance(target, Sink) else None
        self._function = None if isinstance(target, Sink) else target
        self._opened = False
        self._hub = hub
        self._logged_at = float("-inf")
        self._unlogged = 0

    async def open(self) -> None:
        """Open the sink, if it is one. Raises what the sink raises."""
        if self._sink is not None and not self._opened:
            await self._sink.open()
            self._opened = True

    async def close(self) -> None:
        """Close the sink, after the last message."""
        if self._sink is not None and self._opened:
            self._opened = False
            try:
                await self._sink.close()
            except Exception:
                log.exception("%s: closing the sink failed", self.mailbox.name)

    async def run(self) -> None:
        """Work until the mailbox ends. Cancelling it fails the call in progress; what waits goes on waiting."""
        try:
            await self.open()
        except Exception:
            log.exception("%s: the sink could not be opened; its messages are dropped", self.mailbox.name)
            self._hub.remove(self.mailbox)
            return
        if self._sink is not None:
            await self._write_batches(self._sink)
        elif self._function is not None:
            await self._call_one_by_one(self._function)

    async def _call_one_by_one(self, function: Function) -> None:
        mailbox = self.mailbox
        waiting = mailbox.waiting
        clock = time.perf_counter
        while await mailbox.ready():
            until = clock() + SLICE_S
            while waiting:
                message = waiting.popleft()
                mailbox.in_hand += 1
                try:
                    await function(message)
                except BaseException as exc:
                    self._failed([message], exc)
                    if not isinstance(exc, Exception) and not self._is_users_own(exc):
                        raise
                else:
                    mailbox.processed += 1
                    mailbox.settled(message)
                if clock() > until:
                    await asyncio.sleep(0)
                    until = clock() + SLICE_S

    async def _write_batches(self, sink: Sink) -> None:
        mailbox = self.mailbox
        waiting = mailbox.waiting
        while await mailbox.ready():
            batch = [waiting.popleft() for _ in range(min(len(waiting), sink.batch))]
            mailbox.in_hand += len(batch)
            try:
                await sink.write(batch)
            except BaseException as exc:
                self._failed(batch, exc)
                if not isinstance(exc, Exception) and not self._is_users_own(exc):
                    raise
            else:
                mailbox.processed += len(batch)
                for message in batch:
                    mailbox.settled(message)
            await asyncio.sleep(0)

    @staticmethod
    def _is_users_own(exc: BaseException) -> bool:
        # A CancelledError that nobody asked this task for comes from the user's code: a failure like any other.
        task = asyncio.current_task()
        return isinstance(exc, asyncio.CancelledError) and task is not None and not task.cancelling()

    def _failed(self, messages: list[Message[Any]], error: BaseException) -> None:
        mailbox = self.mailbox
        mailbox.failed += len(messages)
        for message in messages:
            mailbox.settled(message)
        self._log(error)
        topic = f"$dead.{mailbox.name}"
        for message in messages:
            # What a $ message does never makes another.
            if not message.topic.startswith("$") and self._hub.wants(topic):
                self._hub.inject(topic, DeadLetter(message, error, 1))

    def _log(self, error: BaseException) -> None:
        now = asyncio.get_running_loop().time()
        if now - self._logged_at < QUIET_S:
            self._unlogged += 1
            return
        more = f" ({self._unlogged} more since the last report)" if self._unlogged else ""
        self._logged_at, self._unlogged = now, 0
        if isinstance(error, asyncio.CancelledError):
            log.warning("%s: a call was cancelled%s", self.mailbox.name, more)
        else:
            log.error("%s: a message failed%s", self.mailbox.name, more, exc_info=error)
