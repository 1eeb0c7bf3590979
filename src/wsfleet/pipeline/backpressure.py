"""Whom a full mailbox keeps waiting: backpressure, and how it is taken back."""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from typing import Generic, Protocol, TypeVar

from wsfleet.core.time_slice import READ_BYTES, TimeSlice

__all__ = ["Pausers", "Source", "Unread"]

log = logging.getLogger("wsfleet")

Held = TypeVar("Held", contravariant=True)
H = TypeVar("H")

PATIENCE_S = 10.0
"""A pause that takes longer is told: the endpoint is OPEN, and yet nothing comes from it."""


class Source(Protocol[Held]):
    """What stands behind messages and can be told to wait: an endpoint."""

    def hold(self, mailbox: Held) -> None:
        """Bring nothing more on behalf of `mailbox`, beyond what has been read already."""

    def overfull(self, mailbox: Held) -> None:
        """`mailbox`, which holds this source already, has taken twice what it should."""

    def release(self, mailbox: Held) -> None:
        """`mailbox` has room again."""


class Pausers(Generic[H]):
    """The sources that one mailbox holds, in the order in which it began to."""

    def __init__(self, mailbox: H) -> None:
        self._mailbox = mailbox
        self._held: dict[Source[H], None] = {}
        self._pausing_s = 0.0
        self._since: float | None = None

    def __bool__(self) -> bool:
        return bool(self._held)

    def hold(self, source: Source[H]) -> None:
        """Hold `source`, if it isn't held."""
        if source not in self._held:
            self._held[source] = None
            source.hold(self._mailbox)
            if self._since is None:
                self._since = asyncio.get_running_loop().time()

    def release(self, source: Source[H]) -> None:
        """Let go of `source`, if it is held."""
        if source not in self._held:
            return
        del self._held[source]
        if not self._held and self._since is not None:
            self._pausing_s += asyncio.get_running_loop().time() - self._since
            self._since = None
        source.release(self._mailbox)

    def release_some(self, free_bytes: int) -> None:
        """Let go of as many as `free_bytes` hold reads of READ_BYTES, at least one.

        All at once, a thousand sources would fill the mailbox a thousand times over.
        """
        for source in list(self._held)[: max(1, free_bytes // READ_BYTES)]:
            self.release(source)

    def release_all(self) -> None:
        for source in list(self._held):
            self.release(source)

    def seconds(self) -> float:
        """Return for how long there has been anybody held, in all."""
        return self._pausing_s + (asyncio.get_running_loop().time() - self._since if self._since is not None else 0.0)


class Paused(Protocol):
    """A source, as it is told of."""

    told_unread: bool

    @property
    def name(self) -> str: ...
    @property
    def pausers(self) -> str: ...


class Unread:
    """The sources whose open sockets are not read, the longest first. Of each pause that is told once."""

    def __init__(self) -> None:
        # A plain dict looks for its first item among all that were ever taken out before it.
        self._since: OrderedDict[Paused, float] = OrderedDict()

    def begin(self, source: Paused) -> None:
        """From now on the socket of `source` is not read."""
        if not source.told_unread:
            self._since[source] = asyncio.get_running_loop().time()

    def end(self, source: Paused) -> None:
        """It is read again, or gone."""
        self._since.pop(source, None)

    async def tell(self, now: float) -> None:
        """Tell whose patience is at an end; one line for all that wait for the same mailboxes."""
        found: dict[str, list[str]] = {}
        time_slice = TimeSlice()
        while self._since and now - next(iter(self._since.values())) >= PATIENCE_S:
            source, since = self._since.popitem(last=False)
            source.told_unread = True
            text = f"not read for {now - since:.0f} s: the mailbox of {source.pausers} is full"
            found.setdefault(text, []).append(source.name)
            if time_slice.expired():
                await time_slice.yield_to_loop()
        for text, names in found.items():
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            log.warning("%s%s: %s", names[0], more, text, extra={"event": "endpoint.paused", "endpoint": names[0]})
