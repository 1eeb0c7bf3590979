"""What an endpoint has received so far, over all of its connections: the basis of `$gap` and of resuming."""

from __future__ import annotations

from dataclasses import dataclass

from wsfleet.core.message import Gap
from wsfleet.endpoint.session import SessionCore

__all__ = ["Position"]


@dataclass(frozen=True, slots=True)
class Position:
    """What an endpoint had received when a connection that was OPEN ended. Times are those of the wall clock."""

    session: int
    index: int
    message_at: float | None
    frame_at: float | None

    @classmethod
    def of(cls, session: SessionCore, index: int, before: Position | None) -> Position:
        """Return the position at the end of `session`, whose endpoint has received `index` messages."""
        message_at = session.last_message_at
        if message_at is None and before is not None:
            message_at = before.message_at
        return cls(session.number, index, message_at, session.wire.last_frame_at)

    def gap(self, endpoint: str, session: int, down_s: float) -> Gap:
        """Return the record of the gap between this position and the connection `session`."""
        return Gap(endpoint, self.session, session, self.index, down_s, self.message_at, self.frame_at)
