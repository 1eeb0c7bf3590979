"""What one endpoint is to the rest of the fleet, over all of its sockets: counters, and who pauses it."""

from __future__ import annotations

import asyncio
from collections import deque
from itertools import repeat
from typing import Any

from wsfleet.decoding import Intake, payload_size
from wsfleet.failures import shown
from wsfleet.hub import Hub
from wsfleet.mailbox import Mailbox
from wsfleet.message import Malformed, Message
from wsfleet.wire.base import Wire

__all__ = ["Feed"]

PAUSES = 8
"""How many pauses are remembered. Beyond them deadlines begin afresh: too late is better than too early."""


class Feed:
    """Publishes one endpoint's messages, and is the `Source` that full mailboxes hold."""

    def __init__(self, intake: Intake, hub: Hub) -> None:
        self.intake = intake
        self.hub = hub
        self.routes = hub.routes_of(intake.name)
        self.received = self.received_bytes = self.sent = 0
        self.malformed = self.answered = self.published = self.discarded = 0
        self.paused_by: dict[Mailbox, None] = {}
        self._paused_s = 0.0
        self._paused_since = 0.0
        self._pausers: dict[str, None] = {}  # whoever had a part in the last pause
        self._pauses: deque[tuple[float, float]] = deque(maxlen=PAUSES)
        self._wire: Wire | None = None

    # Pausing

    def hold(self, mailbox: Mailbox) -> None:
        if not self.paused_by:
            self._paused_since = asyncio.get_running_loop().time()
            if self._wire is not None:
                self._wire.pause()
            self._pausers.clear()
        self.paused_by[mailbox] = None
        self._pausers[mailbox.name] = None

    def release(self, mailbox: Mailbox) -> None:
        self.paused_by.pop(mailbox, None)
        if not self.paused_by:
            now = asyncio.get_running_loop().time()
            self._paused_s += now - self._paused_since
            self._pauses.append((self._paused_since, now))
            if self._wire is not None:
                self._wire.resume()

    def attach(self, wire: Wire) -> None:
        """From now on `wire` is the one that pausing stops; a feed that is paused stops it at once."""
        self._wire = wire
        if self.paused_by:
            wire.pause()

    def detach(self) -> None:
        """The socket is gone. Whoever paused the feed still does, and so finds the next one paused."""
        self._wire = None

    def paused_for(self) -> float:
        """Return for how many seconds the feed has been paused now; 0 where it isn't."""
        return asyncio.get_running_loop().time() - self._paused_since if self.paused_by else 0.0

    def pause_before_loss(self) -> tuple[float, str] | None:
        """Return how long, and by whom, the feed was paused when the connection was lost now; None where it wasn't.

        That the peer has given up waiting for us may only be seen when we read again.
        """
        if self.paused_by:
            return self.paused_for(), ", ".join(mailbox.name for mailbox in self.paused_by)
        if self._pauses:
            begin, end = self._pauses[-1]
            if end - begin >= 1.0 > asyncio.get_running_loop().time() - end:
                return end - begin, ", ".join(self._pausers)
        return None

    def running_since(self, when: float, now: float) -> float:
        """Return the seconds from `when` to `now` without the pauses: what lies unread is nobody's silence."""
        if len(self._pauses) == PAUSES:
            when = max(when, self._pauses[0][0])
        if self.paused_by:
            now = max(when, self._paused_since)
        return now - when - sum(max(0.0, end - max(when, begin)) for begin, end in self._pauses)

    @property
    def paused_s(self) -> float:
        return self._paused_s + self.paused_for()

    # Messages

    def publish(self, payloads: list[str | bytes], session: int, at: float) -> None:
        """Make messages of payloads that came in one read, and hand them to the hub."""
        intake = self.intake
        if intake.make_topic is not None or intake.chunk == 1:
            self.publish_each([(payload, at) for payload in payloads], session)
            return
        # The length of a str is its size on the wire only where it is ASCII.
        sizes = list(map(payload_size if intake.as_text else len, payloads))
        try:
            data = payloads if intake.decode is None else list(map(intake.decode, payloads))
        except Exception:
            self.publish_each([(payload, at) for payload in payloads], session)
            return
        name, topic, first = intake.name, intake.topic, self.received + 1
        count, nbytes = len(sizes), sum(sizes)
        indexes = range(first, first + count)
        messages: list[Message[Any]] = list(
            map(Message, data, repeat(topic), repeat(name), indexes, repeat(session), repeat(at), sizes)
        )
        self.received_bytes += nbytes
        self.published += count
        self.hub.publish(messages, nbytes, name, self.routes, self)

    def publish_each(self, payloads: list[tuple[str | bytes, float]], session: int) -> None:
        """The same one by one, where a payload may be malformed or its topic depends on the data."""
        messages: list[Message[Any]] = []
        for index, (payload, at) in enumerate(payloads, self.received + 1):
            message = self.read(payload, index, session, at)
            if message is not None:
                messages.append(message)
        self.published += len(messages)
        if messages:
            self.hub.publish_mixed(messages, self.intake.name, self.routes, self)

    def read(self, payload: str | bytes, index: int, session: int, at: float) -> Message[Any] | None:
        """Return the message of one payload; None where it is malformed, which is counted and told."""
        try:
            message = self.intake.message(payload, index, session, at)
        except (Exception, asyncio.CancelledError) as exc:
            # Nothing is awaited here: a CancelledError can only be the user's own, and no more than another failure.
            self.received_bytes += payload_size(payload)
            self.malformed += 1
            topic = f"$malformed.{self.intake.name}"
            if self.hub.wants(topic):
                self.hub.inject(topic, Malformed(self.intake.name, index, session, payload, shown(exc)))
            return None
        self.received_bytes += message.size
        return message
