"""The user's end of a mailbox: a loop that takes messages out, or the handle on a processor's."""

from __future__ import annotations

import asyncio
import time
import warnings
import weakref
from collections.abc import AsyncIterator, Callable
from types import TracebackType
from typing import Any, Protocol

from wsfleet.core.errors import Busy
from wsfleet.core.message import Message
from wsfleet.core.stats import SubscriptionStats
from wsfleet.pipeline.mailbox import Mailbox
from wsfleet.pipeline.queue import MessageIterator

__all__ = ["Loop", "LoopGuard", "Owner", "Subscription"]

BATCH = 1000
"""The most that `Subscription.batches()` gives at a time: taking them all out at once would hold the loop."""


class Owner(Protocol):
    """What a subscription asks of its fleet."""

    def check_thread(self) -> None: ...

    def remove(self, mailbox: Mailbox) -> None:
        """Take `mailbox` out. Idempotent."""

    def abandon(self, mailbox: Mailbox) -> None:
        """The same, soon; from any thread, and in the middle of anything."""


class Loop(MessageIterator):
    """Hands out one mailbox's messages, and lets the event loop have its turn when there are many of them."""

    def __init__(
        self,
        mailbox: Mailbox,
        failure: Callable[[], BaseException | None],
        guard: LoopGuard,
        check_thread: Callable[[], None],
    ) -> None:
        super().__init__(mailbox)
        self._check_thread = check_thread
        self._mailbox = mailbox
        self._failure = failure
        self._guard = guard
        guard.enter(self)

    async def _slow(self) -> Message[Any]:
        self._check_thread()
        if not self._ready:
            self._guard.enter(self)
            self._ready = True
        try:
            if not await self._mailbox.turn(self):
                raise self._failure() or StopAsyncIteration
        except BaseException:
            self._interrupted()
            raise
        return self._take()

    def _interrupted(self) -> None:
        # It is over, or was cancelled. Whoever keeps the exception keeps this loop alive, and no other out.
        self._ready = False
        self._guard.leave(self)


class Subscription(MessageIterator):
    """Messages of the topics that match a pattern, from the call of `Fleet.subscribe` on.

    Use it as `async for message in subscription`, within `async with` where the loop may be left early. What a loop
    was handed counts as processed. A subscription that nobody holds any more is detached, with a ResourceWarning.
    """

    __slots__ = ("__weakref__", "_kept", "_mailbox", "_owner", "_pull")

    def __init__(self, mailbox: Mailbox, owner: Owner, *, pull: bool = True, kept: bool = False) -> None:
        super().__init__(mailbox)
        self._ready = pull
        self._mailbox = mailbox
        self._owner = owner
        self._pull = pull
        self._kept = kept  # by the fleet, so that nobody needs to hold it

    def __repr__(self) -> str:
        m = self._mailbox
        state = "closed" if m.closed else f"{m.pending} pending"
        return f"<Subscription {m.name!r} to {m.pattern!r}, {state}>"

    @property
    def name(self) -> str:
        """The name under which it stands in `Fleet.subscriptions`."""
        return self._mailbox.name

    @property
    def pattern(self) -> str:
        """The topics it takes; `>` for a processor's own endpoint."""
        return self._mailbox.pattern

    def stats(self) -> SubscriptionStats:
        """Return its row of the fleet's stats."""
        self._owner.check_thread()
        return self._mailbox.stats()

    def close(self) -> None:
        """Take no more: what waits is dropped, calls in progress finish, loops end. Idempotent."""
        self._owner.check_thread()
        self._owner.remove(self._mailbox)

    async def __aenter__(self) -> Subscription:
        """Return itself; it takes messages already."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close it, as `close` does; nothing is waited for."""
        self.close()

    def __aiter__(self) -> Subscription:
        """Loop over the messages, until `close` or the fleet's end; waiting for the next one is safe to cancel.

        Raises Busy where a processor has them, and Overflowed where that is what its buffer does.
        """
        self._pullable()
        return self

    async def next(self, timeout: float | None = None) -> Message[Any]:  # noqa: ASYNC109 - the usual name of it
        """Return the next message; wait for it, at most `timeout` seconds if given.

        Raises TimeoutError after that time, StopAsyncIteration at the end of the subscription, and otherwise what a
        loop raises. Safe to cancel: no message is lost, after a timeout neither.
        """
        self._pullable()
        if self._mailbox.waiting:
            return await anext(self)
        async with asyncio.timeout(timeout):
            return await anext(self)

    async def _slow(self) -> Message[Any]:
        await self._turn()
        return self._take()

    async def _turn(self) -> None:
        self._pullable()
        if not await self._mailbox.turn(self):
            raise self._mailbox.error or StopAsyncIteration

    def batches(self) -> AsyncIterator[list[Message[Any]]]:
        """Iterate over lists of what waits at the time, 1 to 1,000 messages each. Ends and raises as a loop over single
        messages does; waiting for the next list is safe to cancel.
        """
        self._pullable()
        return _Batches(self, self._mailbox)

    def _pullable(self) -> None:
        self._owner.check_thread()
        if not self._pull:
            raise Busy(f"{self.name} is a processor's; subscribe to its pattern to have a loop of your own")

    def __del__(self) -> None:
        mailbox = self._mailbox
        if self._kept or mailbox.closed:
            return
        self._owner.abandon(mailbox)
        # Last, as a warning may be an error.
        warnings.warn(
            f"{self!r} was left without close(); its messages are dropped", ResourceWarning, stacklevel=2, source=self
        )


class _Batches:
    """`Subscription.batches()`; holds the subscription, so that it lives as long as the loop."""

    def __init__(self, subscription: Subscription, mailbox: Mailbox) -> None:
        self._subscription = subscription
        self._mailbox = mailbox

    def __aiter__(self) -> _Batches:
        return self

    async def __anext__(self) -> list[Message[Any]]:
        mailbox = self._mailbox
        self._subscription._pullable()
        if not mailbox.waiting or time.perf_counter() > self._subscription._until:
            await self._subscription._turn()
        return [mailbox.hand_out() for _ in range(min(len(mailbox.waiting), BATCH))]


class LoopGuard:
    """Lets one loop at a time over a connection's messages; one that was left behind does not count."""

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
