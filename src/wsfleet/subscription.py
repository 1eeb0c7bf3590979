"""The user's end of a mailbox: a loop that takes messages out, or the handle on a processor's."""

from __future__ import annotations

import asyncio
import threading
import time
import warnings
import weakref
from collections.abc import AsyncIterator, Callable
from types import TracebackType
from typing import Any

from wsfleet.errors import Busy, FleetError
from wsfleet.mailbox import Mailbox
from wsfleet.message import Message
from wsfleet.stats import SubscriptionStats

__all__ = ["Loop", "Subscription"]

SLICE_S = 0.001


class Loop:
    """Hands out one mailbox's messages, and lets the event loop have its turn when there are many of them."""

    __slots__ = ("__weakref__", "_failure", "_mailbox", "_until")

    def __init__(self, mailbox: Mailbox, failure: Callable[[], BaseException | None]) -> None:
        self._mailbox = mailbox
        self._failure = failure
        self._until = 0.0

    def __aiter__(self) -> Loop:
        return self

    async def __anext__(self) -> Message[Any]:
        await self._turn()
        return self._mailbox.hand_out()

    async def _turn(self) -> None:
        """Wait until there is something. Nothing has been taken yet, so cancelling loses nothing."""
        mailbox = self._mailbox
        now = time.perf_counter()
        if not mailbox.waiting:
            if not await mailbox.ready():
                error = self._failure()
                if error is not None:
                    raise error
                raise StopAsyncIteration
            self._until = time.perf_counter() + SLICE_S
        elif now > self._until:
            await asyncio.sleep(0)
            self._until = time.perf_counter() + SLICE_S
            if not mailbox.waiting:  # another loop over the same subscription, or the policy, was quicker
                await self._turn()


class Subscription:
    """Messages of the topics that match a pattern, from the call of `Fleet.subscribe` on.

    Use it as `async for message in subscription`, within `async with` where the loop may be left early. What a loop
    was handed counts as processed. A subscription that nobody holds any more is detached, with a ResourceWarning.
    """

    def __init__(self, mailbox: Mailbox, close: Callable[[Mailbox], None], *, pull: bool) -> None:
        self._mailbox = mailbox
        self._close = close
        self._pull = pull
        self._thread = threading.get_ident()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._messages = Loop(mailbox, lambda: None)

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
        return self._mailbox.stats()

    def close(self) -> None:
        """Take no more: what waits is dropped, calls in progress finish, loops end. Idempotent."""
        if threading.get_ident() != self._thread:
            raise FleetError("a subscription belongs to its fleet's thread; elsewhere use Fleet.from_thread")
        self._close(self._mailbox)

    async def __aenter__(self) -> Subscription:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __aiter__(self) -> Subscription:
        self._pullable()
        return self

    async def __anext__(self) -> Message[Any]:
        """Return the next message. Safe to cancel: nothing is lost."""
        self._loop = self._loop or asyncio.get_running_loop()
        return await self._messages.__anext__()

    def batches(self) -> AsyncIterator[list[Message[Any]]]:
        """Iterate over lists of all that waits at the time, at least one message each. Safe to cancel."""
        self._pullable()
        return _Batches(self, self._mailbox, self._messages)

    def _pullable(self) -> None:
        if not self._pull:
            raise Busy(f"{self.name} is a processor's; subscribe to its pattern to have a loop of your own")

    def __del__(self) -> None:
        mailbox = self._mailbox
        if not self._pull or mailbox.closed:
            return
        warnings.warn(
            f"{self!r} was left without close(); its messages are dropped", ResourceWarning, stacklevel=2, source=self
        )
        if threading.get_ident() == self._thread:
            self._close(mailbox)
        elif self._loop is not None and not self._loop.is_closed():
            # The garbage collector runs in whatever thread it likes.
            self._loop.call_soon_threadsafe(self._close, mailbox)


class _Batches:
    """`Subscription.batches()`; holds the subscription, so that it lives as long as the loop."""

    def __init__(self, subscription: Subscription, mailbox: Mailbox, loop: Loop) -> None:
        self._subscription = subscription
        self._mailbox = mailbox
        self._messages = loop

    def __aiter__(self) -> _Batches:
        return self

    async def __anext__(self) -> list[Message[Any]]:
        await self._messages._turn()
        mailbox = self._mailbox
        return [mailbox.hand_out() for _ in range(len(mailbox.waiting))]


class LoopGuard:
    """Lets one loop at a time over a connection's messages; one that was left behind does not count."""

    def __init__(self) -> None:
        self._current: weakref.ref[Loop] | None = None

    def enter(self, loop: Loop, name: str) -> Loop:
        if self._current is not None and self._current() is not None:
            raise Busy(f"another loop over {name} is running")
        self._current = weakref.ref(loop)
        return loop
