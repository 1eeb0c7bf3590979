"""Runs the user's function, or a sink, over one mailbox. What one does wrong stays with it."""

from __future__ import annotations

import asyncio
import functools
import inspect
import logging
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from wsfleet.errors import ConfigError
from wsfleet.failures import shown
from wsfleet.hub import Hub
from wsfleet.mailbox import Mailbox
from wsfleet.message import DeadLetter, Message

if TYPE_CHECKING:
    from typing_extensions import TypeIs

__all__ = ["Function", "Processor", "Sink", "check_processor", "default_name", "is_sink"]

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


def is_sink(target: object) -> TypeIs[Sink]:
    """Tell a sink from a function. A mock has every attribute, so the kinds of two are looked at."""
    return isinstance(target, Sink) and isinstance(target.name, str) and isinstance(target.batch, int)


def _unwrapped(target: Any) -> Any:
    while isinstance(target, functools.partial):
        target = target.func
    return target


def default_name(target: Any) -> str:
    """Return what a processor without a given name is called after: the function, or the sink."""
    if is_sink(target):
        return target.name
    target = _unwrapped(target)
    name = getattr(target, "__name__", None)
    return name if isinstance(name, str) else type(target).__name__


def check_processor(processor: object) -> None:
    """Raise ConfigError where `processor` is neither an async function nor a sink."""
    if is_sink(processor):
        return
    target = _unwrapped(processor)
    if not callable(target) or isinstance(target, type):
        raise ConfigError(f"a processor is an async function or a sink, not {processor!r}")
    if not (inspect.iscoroutinefunction(target) or inspect.iscoroutinefunction(type(target).__call__)):
        raise ConfigError(
            f"{getattr(target, '__qualname__', target)!s} is not an async function; "
            "plain functions, which need threads, are not supported yet"
        )


class Processor:
    """One worker over one mailbox: in order, one message at a time; a sink gets batches."""

    def __init__(self, mailbox: Mailbox, target: Function | Sink, hub: Hub, remove: Callable[[Mailbox], None]) -> None:
        self.mailbox = mailbox
        self.task: asyncio.Task[None] | None = None
        self.sink = target if is_sink(target) else None
        self.opened = False
        self._function = None if is_sink(target) else target
        self._hub = hub
        self._remove = remove
        self._logged_at = float("-inf")
        self._unlogged = 0

    async def open(self) -> None:
        """Open the sink, if it is one. Raises what the sink raises."""
        if self.sink is not None and not self.opened:
            await self.sink.open()
            self.opened = True

    async def close(self) -> None:
        """Close the sink, after the last message."""
        if self.sink is not None and self.opened:
            try:
                await self.sink.close()
            except Exception:
                log.exception("%s: closing the sink failed", self.mailbox.name)
            self.opened = False

    async def run(self) -> None:
        """Work until the mailbox ends. Cancelling it fails the call in progress; what waits goes on waiting."""
        try:
            await self.open()
        except Exception:
            log.exception("%s: the sink could not be opened; its messages are dropped", self.mailbox.name)
            self._remove(self.mailbox)
            return
        if self.sink is not None:
            await self._write_batches(self.sink)
            # Its subscription was closed. At the fleet's end it is closed after the drain instead.
            await self.close()
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
                    if self._is_for_us(exc):
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
                await sink.write(batch.copy())  # a list that it may take apart
            except BaseException as exc:
                self._failed(batch, exc)
                if self._is_for_us(exc):
                    raise
            else:
                mailbox.processed += len(batch)
                for message in batch:
                    mailbox.settled(message)
            await asyncio.sleep(0)

    @staticmethod
    def _is_for_us(exc: BaseException) -> bool:
        """Whether `exc` is to end this worker, or the program, and not just a failure of the user's code."""
        if isinstance(exc, asyncio.CancelledError):
            # One that nobody asked this task for comes from the user's code.
            task = asyncio.current_task()
            return task is None or task.cancelling() > 0
        return isinstance(exc, KeyboardInterrupt | SystemExit | GeneratorExit)

    def _failed(self, messages: list[Message[Any]], error: BaseException) -> None:
        mailbox = self.mailbox
        mailbox.failed += len(messages)
        for message in messages:
            mailbox.settled(message)
        error = shown(error)
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
