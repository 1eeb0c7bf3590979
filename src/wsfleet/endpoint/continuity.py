"""The numbers of an endpoint's connections and messages, and its position: for `$gap` and for resuming.

They outlive the endpoint: one of the same name can go on from them, after a reload or in another process.
"""

from __future__ import annotations

import asyncio
import time

import msgspec

from wsfleet.core.attempt import Attempt
from wsfleet.core.message import Gap
from wsfleet.endpoint.ingest import Ingest
from wsfleet.endpoint.session import SessionCore

__all__ = ["Continuity", "History", "Position"]


class Position(msgspec.Struct, frozen=True, array_like=True):
    """The last message and frame of an endpoint when its last OPEN connection ended. Times are those of the wall clock.

    `session` is 0 before the first connection. `exact` is false if more may have been received.
    """

    session: int = 0
    index: int = 0
    message_at: float | None = None
    frame_at: float | None = None
    exact: bool = True


class History(msgspec.Struct, frozen=True, array_like=True):
    """The numbers that an endpoint leaves to its successor of the same name.

    `sessions` and `index` are the last numbers that it has used; the position may be before them. `down_at` is the wall
    clock time at which it stopped being OPEN, or None.
    """

    sessions: int
    index: int
    position: Position
    down_at: float | None

    def of_dead_process(self, died_at: float) -> History:
        """Return the history as it is known after the death of the process, from its last report."""
        position = msgspec.structs.replace(self.position, exact=False)
        return History(self.sessions, self.index, position, died_at if self.down_at is None else self.down_at)


class Continuity:
    """Numbers the connections of one endpoint, and knows its position."""

    def __init__(self, ingest: Ingest) -> None:
        self._ingest = ingest
        self._position = Position()
        self._down_at: float | None = None  # of the predecessor, until the start
        self.sessions = 0
        """The number of the last connection."""
        self.down_since: float | None = None
        """The loop's time at which the endpoint stopped being OPEN, or was started; None while OPEN."""

    def opened(self) -> None:
        """Note that the endpoint is OPEN."""
        self.down_since = None

    def down(self) -> None:
        """Note that the endpoint is not OPEN."""
        if self.down_since is None:
            before_s = 0.0 if self._down_at is None else max(0.0, time.time() - self._down_at)
            self.down_since, self._down_at = asyncio.get_running_loop().time() - before_s, None

    def next_session(self) -> int:
        """Return the number of a new connection."""
        self.sessions += 1
        return self.sessions

    def ended(self, session: SessionCore) -> None:
        """Note the end of `session`, which was OPEN."""
        self._position = self._after(session)

    def attempt(self) -> Attempt:
        """Return the argument of the endpoint's functions before the next connection."""
        last = self._position
        if not last.exact:
            last = Position()  # the messages that waited in mailboxes have ended with the process
        return Attempt(self._ingest.name, last.index, last.message_at, self.sessions + 1)

    def gap(self, session: int) -> Gap | None:
        """Return the record of the gap that the connection `session` ends, or None for the first connection."""
        last = self._position
        if not last.session:
            return None
        name = self._ingest.name
        down_s = self._down_s()
        return Gap(name, last.session, session, last.index, down_s, last.message_at, last.frame_at, last.exact)

    def history(self, session: SessionCore | None) -> History:
        """Return the history for a successor now. `session` is the OPEN one, or None."""
        down_at = time.time() - self._down_s() if session is None else None
        position = self._position if session is None else self._after(session)
        return History(self.sessions, self._ingest.last_index, position, down_at)

    def go_on(self, history: History) -> None:
        """Go on from the history of another endpoint. Must be called before the first connection."""
        self.sessions, self._position, self._ingest.first_index = history.sessions, history.position, history.index + 1
        self._down_at = history.down_at
        if self.down_since is not None:  # it has been started
            self.down_since = None
            self.down()

    def _down_s(self) -> float:
        return 0.0 if self.down_since is None else asyncio.get_running_loop().time() - self.down_since

    def _after(self, session: SessionCore) -> Position:
        last_message_at = self._ingest.last_message_at
        message_at = self._position.message_at if last_message_at is None else last_message_at
        return Position(session.number, self._ingest.last_index, message_at, session.wire.last_frame_at)
