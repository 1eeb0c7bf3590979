"""The public handle of a mailbox: a loop over its messages, or the subscription of a processor."""

from __future__ import annotations

import asyncio
import time
import warnings
import weakref
from collections.abc import AsyncIterator, Callable
from types import TracebackType
from typing import Generic, Protocol, Self

from wsfleet.core.context import Context, loop_thread_only
from wsfleet.core.errors import Busy
from wsfleet.core.message import Message, T_co
from wsfleet.core.stats import SubscriptionStats
from wsfleet.pipeline.mailbox import Mailbox
from wsfleet.pipeline.queue import MessageIterator

__all__ = ["Loop", "LoopGuard", "Owner", "Subscription"]

BATCH = 1000
"""Maximum length of a list from `Subscription.batches()`. A longer list would block the event loop."""


class Owner(Protocol):
    """The interface of the fleet that a subscription uses."""

    context: Context

    def check_thread(self) -> None: ...

    def remove(self, mailbox: Mailbox) -> None:
        """Remove `mailbox`. Idempotent."""

    def abandon(self, mailbox: Mailbox) -> None:
        """Remove `mailbox` soon. Safe to call from any thread and from a finalizer."""


class Loop(MessageIterator[T_co]):
    """Iterates over the messages of one mailbox, and yields to the event loop once each time slice."""

    def __init__(
        self,
        mailbox: Mailbox,
        failure: Callable[[], BaseException | None],
        guard: LoopGuard,
        context: Context,
    ) -> None:
        super().__init__(mailbox)
        self._context = context
        self._mailbox = mailbox
        self._failure = failure
        self._guard = guard
        guard.enter(self)

    async def _slow(self) -> Message[T_co]:
        self._context.check_thread()
        if not self._ready:
            self._guard.enter(self)
        self._ready = self._context.loop is not None  # so that each wait before the start is checked
        try:
            if not self._ready:
                await self._context.check_loop(self._mailbox.name, self._mailbox.would_wait)
            if not await self._mailbox.turn(self):
                raise self._failure() or StopAsyncIteration
        except BaseException:
            self._interrupted()
            raise
        return self._take()

    def _interrupted(self) -> None:
        # The loop ended or was cancelled. A stored exception may keep this object alive; it must not block other loops.
        self._ready = False
        self._guard.leave(self)


class Subscription(MessageIterator[T_co]):
    """The messages whose topics match a pattern, published after the call of `Fleet.subscribe`.

    Use `async for message in subscription`, within `async with` if the loop may be left early. A message counts as
    processed when the loop gets it. A subscription that is garbage-collected without `close` is removed, with a
    ResourceWarning.
    """

    __slots__ = ("__weakref__", "_kept", "_mailbox", "_owner", "_pull")

    def __init__(self, mailbox: Mailbox, owner: Owner, *, pull: bool = True, kept: bool = False) -> None:
        super().__init__(mailbox)
        self._ready = pull
        self._mailbox = mailbox
        self._owner = owner
        self._pull = pull
        self._kept = kept  # the fleet keeps the mailbox when this object is garbage-collected

    def __repr__(self) -> str:
        m = self._mailbox
        state = "closed" if m.closed else f"{m.pending} pending"
        return f"<Subscription {m.name!r} to {m.pattern!r}, {state}>"

    @property
    def name(self) -> str:
        """The name of the subscription in `Fleet.subscriptions`."""
        return self._mailbox.name

    @property
    def pattern(self) -> str:
        """The topic pattern; `>` for the processor of an endpoint."""
        return self._mailbox.pattern

    def stats(self) -> SubscriptionStats:
        """Return the subscription's row of the fleet's stats."""
        self._owner.check_thread()
        return self._mailbox.stats()

    def close(self) -> None:
        """Close the subscription: drop waiting messages, end its loops, let calls in progress finish. Idempotent."""
        self._owner.check_thread()
        self._owner.remove(self._mailbox)

    async def __aenter__(self) -> Self:
        """Return the subscription, which already receives messages."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Call `close`. Does not wait."""
        self.close()

    def __aiter__(self) -> Self:
        """Iterate over the messages until `close` or the end of the fleet. Safe to cancel while it waits.

        Raises Busy if a processor receives the messages, and Overflowed if the buffer with `Overflow.FAIL` overflowed.
        Raises FleetError if it would wait although the fleet has not been started and no other task can start it.
        """
        self._pullable()
        return self

    @loop_thread_only
    async def next(self, timeout: float | None = None) -> Message[T_co]:  # noqa: ASYNC109 - the usual name of it
        """Return the next message. Wait for it, at most `timeout` seconds if given.

        Raises TimeoutError after that time, StopAsyncIteration at the end of the subscription, and Busy, Overflowed or
        FleetError as `__aiter__` does. Safe to cancel: a cancellation or a timeout loses no message.
        """
        self._pullable()
        if self._mailbox.waiting:
            return await anext(self)
        async with asyncio.timeout(timeout):
            return await anext(self)

    async def _slow(self) -> Message[T_co]:
        await self._turn()
        return self._take()

    async def _turn(self) -> None:
        self._pullable()
        self._ready = self._owner.context.loop is not None  # so that each wait before the start is checked
        if not self._ready:
            await self._owner.context.check_loop(self._mailbox.name, self._mailbox.would_wait)
        if not await self._mailbox.turn(self):
            raise self._mailbox.error or StopAsyncIteration

    def batches(self) -> AsyncIterator[list[Message[T_co]]]:
        """Iterate over lists of the waiting messages, 1 to 1,000 in each list.

        Ends and raises like a loop over single messages. Safe to cancel while it waits.
        """
        self._pullable()
        return _Batches(self, self._mailbox)

    def _check_thread(self) -> None:
        self._owner.check_thread()

    def _pullable(self) -> None:
        self._check_thread()
        if not self._pull:
            raise Busy(f"a processor receives the messages of {self.name}; subscribe to its pattern to loop over them")

    def __del__(self) -> None:
        mailbox = self._mailbox
        if self._kept or mailbox.closed:
            return
        self._owner.abandon(mailbox)
        # Warn last: the warning may be turned into an exception.
        warnings.warn(f"{self!r} was not closed; its messages are dropped", ResourceWarning, stacklevel=2, source=self)


class _Batches(Generic[T_co]):
    """The iterator of `Subscription.batches()`. It keeps the subscription alive as long as the loop."""

    def __init__(self, subscription: Subscription[T_co], mailbox: Mailbox) -> None:
        self._subscription = subscription
        self._mailbox = mailbox

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> list[Message[T_co]]:
        mailbox = self._mailbox
        self._subscription._pullable()
        if not mailbox.waiting or time.perf_counter() > self._subscription._until:
            await self._subscription._turn()
        return [mailbox.hand_out() for _ in range(min(len(mailbox.waiting), BATCH))]


class LoopGuard:
    """Allows one loop at a time over a connection's messages. A garbage-collected loop does not count."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._current: weakref.ref[Loop] | None = None

    def enter(self, loop: Loop) -> None:
        current = self._current() if self._current is not None else None
        if current is not None and current is not loop:
            raise Busy(f"another loop over {self._name} is running")
        self._current = weakref.ref(loop)

    def leave(self, loop: Loop) -> None:
        if self._current is not None and self._current() is loop:
            self._current = None
