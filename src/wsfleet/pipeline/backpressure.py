"""Backpressure: a full mailbox pauses its sources, and releases them when it has room."""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from typing import Generic, Protocol, TypeVar

from wsfleet.core.time_slice import READ_BYTES, TimeSlice

__all__ = ["PausedSources", "Source", "UnreadSources"]

log = logging.getLogger("wsfleet")

MailboxT = TypeVar("MailboxT")
MailboxT_contra = TypeVar("MailboxT_contra", contravariant=True)

LONG_PAUSE_S = 10.0
"""A longer pause is logged: the endpoint is OPEN, but no messages come from it."""


class Source(Protocol[MailboxT_contra]):
    """A source of messages that can be paused: an endpoint."""

    def hold(self, mailbox: MailboxT_contra) -> None:
        """Stop reading because `mailbox` is full. Data that has been read already may still be delivered."""

    def overfull(self, mailbox: MailboxT_contra) -> None:
        """Note that `mailbox`, which holds this source, has twice as many messages or bytes pending as its bound."""

    def release(self, mailbox: MailboxT_contra) -> None:
        """Note that `mailbox` has room again."""


class PausedSources(Generic[MailboxT]):
    """The sources that one mailbox holds, the longest held first."""

    def __init__(self, mailbox: MailboxT) -> None:
        self._mailbox = mailbox
        self._held: dict[Source[MailboxT], None] = {}
        self._pausing_s = 0.0
        self._since: float | None = None

    def __bool__(self) -> bool:
        return bool(self._held)

    def hold(self, source: Source[MailboxT]) -> None:
        """Hold `source`. Does nothing if it is held already."""
        if source not in self._held:
            self._held[source] = None
            source.hold(self._mailbox)
            if self._since is None:
                self._since = asyncio.get_running_loop().time()

    def release(self, source: Source[MailboxT]) -> None:
        """Release `source`. Does nothing if it is not held."""
        if source not in self._held:
            return
        del self._held[source]
        if not self._held and self._since is not None:
            self._pausing_s += asyncio.get_running_loop().time() - self._since
            self._since = None
        source.release(self._mailbox)

    def release_some(self, free_bytes: int) -> None:
        """Release one source for each READ_BYTES in `free_bytes`, at least one.

        Released all at once, thousands of sources would exceed the bound of the mailbox by far.
        """
        for source in list(self._held)[: max(1, free_bytes // READ_BYTES)]:
            self.release(source)

    def release_all(self) -> None:
        for source in list(self._held):
            self.release(source)

    def seconds(self) -> float:
        """Return the total time, in seconds, during which at least one source was held."""
        return self._pausing_s + (asyncio.get_running_loop().time() - self._since if self._since is not None else 0.0)


class Paused(Protocol):
    """A paused source, as it is logged."""

    pause_logged: bool

    @property
    def name(self) -> str: ...
    @property
    def pause_reason(self) -> str: ...


class UnreadSources:
    """The sources whose open sockets are not read, the longest first. Each long pause is logged once."""

    def __init__(self) -> None:
        # To find its first item, a plain dict steps over the entries removed before it.
        self._since: OrderedDict[Paused, float] = OrderedDict()

    def begin(self, source: Paused) -> None:
        """Note that the socket of `source` is no longer read."""
        if not source.pause_logged:
            self._since[source] = asyncio.get_running_loop().time()

    def end(self, source: Paused) -> None:
        """Note that the socket of `source` is read again, or closed."""
        self._since.pop(source, None)

    async def log_long_pauses(self, now: float) -> None:
        """Log the pauses longer than LONG_PAUSE_S, in one line for all sources that wait for the same mailboxes."""
        found: dict[str, list[str]] = {}
        time_slice = TimeSlice()
        while self._since and now - next(iter(self._since.values())) >= LONG_PAUSE_S:
            source, since = self._since.popitem(last=False)
            source.pause_logged = True
            text = f"not read for {now - since:.0f} s: the mailbox of {source.pause_reason}"
            found.setdefault(text, []).append(source.name)
            if time_slice.expired():
                await time_slice.yield_to_loop()
        for text, names in found.items():
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            log.warning("%s%s: %s", names[0], more, text, extra={"event": "endpoint.paused", "endpoint": names[0]})
