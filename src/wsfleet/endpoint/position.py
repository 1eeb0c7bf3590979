"""What an endpoint has received so far, over all of its connections: the basis of `$gap` and of resuming."""

from __future__ import annotations

from dataclasses import dataclass

from wsfleet.core.attempt import Attempt
from wsfleet.core.message import Gap
from wsfleet.endpoint.session import SessionCore

__all__ = ["Position"]


@dataclass(frozen=True, slots=True)
class Position:
    """What an endpoint had received when a connection that was OPEN ended. Times are those of the wall clock.

    `session` is 0 before the first connection.
    """

    session: int = 0
    index: int = 0
    message_at: float | None = None
    frame_at: float | None = None

    def after(self, session: SessionCore, index: int) -> Position:
        """Return the position after `session`, whose endpoint has received the message `index` last."""
        message_at = self.message_at if session.last_message_at is None else session.last_message_at
        return Position(session.number, index, message_at, session.wire.last_frame_at)

    def gap(self, endpoint: str, session: int, down_s: float) -> Gap:
        """Return the record of the gap between this position and the connection `session`."""
        return Gap(endpoint, self.session, session, self.index, down_s, self.message_at, self.frame_at)

    def attempt(self, endpoint: str, session: int) -> Attempt:
        """Return what the functions of an endpoint can know at this position, before the connection `session`."""
        return Attempt(endpoint, self.index, self.message_at, session)
