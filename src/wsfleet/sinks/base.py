"""What a sink is: somewhere for messages to go where a processor's function could stand."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

from wsfleet.message import Message

__all__ = ["Sink"]


@runtime_checkable
class Sink(Protocol):
    """Takes batches of messages out of one mailbox. The fleet opens it at its start and closes it after the drain.

    `open` comes first, `write` is called by one task at a time, `close` comes last; a failed `open`
    leaves nothing to close. None of them may block the loop.
    """

    name: str
    """The default name of its subscription: one token."""

    batch: int
    """How many messages it wants in one call at most."""

    async def open(self) -> None:
        """Get ready to write. Nothing outside the process is touched before."""

    async def write(self, messages: list[Message[Any]]) -> None:
        """Return when all of them are written and flushed; otherwise raise, and all of them count as failed."""

    async def close(self) -> None:
        """Release everything. Safe to call twice."""
