"""Whom a full mailbox keeps waiting: backpressure, and how it is taken back."""

from __future__ import annotations

import asyncio
from typing import Generic, Protocol, TypeVar

__all__ = ["Pausers", "Source"]

Held = TypeVar("Held", contravariant=True)
H = TypeVar("H")

READ_BYTES = 2**16
"""What a released source may bring with its next read, and so the room that it needs."""


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
        """Let go of as many as `free_bytes` hold reads, at least one.

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
