"""Publishes the messages of one endpoint, counts them, and pauses reading while mailboxes are full.

An `Ingest` lives as long as its endpoint, over all of its sockets.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from typing import Any

from wsfleet.core.error_text import describe, is_exit_request, shown
from wsfleet.core.errors import ConnectionLost
from wsfleet.core.loop_watchdog import calls_user_code
from wsfleet.core.message import Malformed, Message
from wsfleet.endpoint.decode import MessageFactory
from wsfleet.endpoint.early import EarlyMessages
from wsfleet.endpoint.envelopes import Intake, envelopes, payload_size
from wsfleet.endpoint.requests import PendingRequests
from wsfleet.pipeline.hub import Hub, Routes
from wsfleet.pipeline.mailbox import Mailbox
from wsfleet.transport.base import Receiver, Wire

__all__ = ["LONG_S", "Ingest"]

log = logging.getLogger("wsfleet")

LONG_S = 0.5
"""Minimum duration of a pause, in seconds, that is reported as the cause of a loss."""

LAG_S = 1.0
"""Seconds after a pause in which the messages read may still be those that arrived during the pause."""

PAUSES = 8
"""Number of recent pauses kept for `running_since`. Older time does not count: a late deadline is better than an early
one."""


class Ingest(Intake):
    """Publishes one endpoint's messages, and is the `Source` that full mailboxes pause."""

    def __init__(self, factory: MessageFactory, hub: Hub, keep_last: int = 0) -> None:
        super().__init__(
            hub,
            hub.routes_of(factory.name),
            factory.decode,
            factory.topic,
            factory.name,
            plain=factory.chunk > 1 and not keep_last,
            most=factory.chunk,
            make_topic=factory.make_topic,
        )
        self.factory = factory
        self.hub: Hub
        self.routes: Routes
        self.early: EarlyMessages | None
        self.replies: PendingRequests | None
        self.as_text = factory.as_text
        self.sent = self.malformed = self.answered = self.discarded = 0
        self.paused_by: dict[Mailbox, None] = {}
        self._paused_s = 0.0
        self._paused_since = 0.0
        self._paused_by_name: dict[str, None] = {}  # all mailboxes of the current or the last pause
        # Long pauses with less than LAG_S between them: their sum, the names of the mailboxes, the end of the last.
        self._lag_s = 0.0
        self._lag_by: dict[str, None] = {}
        self._lag_until = float("-inf")
        self._pauses: list[tuple[float, float]] = []
        self.wire: Wire | None  # while it may be paused
        self._session: Receiver | None = None
        self._attached_at = 0.0
        self._reading = True
        self.pause_logged = False
        # Logged once, since each message may have the fault.
        self._logged_malformed = self._logged_topic = False
        # The last message of each topic, least recently updated first; replayed to new subscriptions.
        self.kept: OrderedDict[str, Message[Any]] = OrderedDict()
        self._keep = keep_last

    # Pausing

    def hold(self, mailbox: Mailbox) -> None:
        self.paused_by[mailbox] = None
        self._paused_by_name[mailbox.name] = None
        self.set_reading()

    def overfull(self, mailbox: Mailbox) -> None:
        # Reading continued for the replies, and the mailbox took too many other messages.
        if self.replies is not None:
            self.replies.lose(f"{self.factory.name} had to stop reading: {mailbox.name} is full", socket_gone=False)

    def release(self, mailbox: Mailbox) -> None:
        self.paused_by.pop(mailbox, None)
        self.set_reading()

    @property
    def name(self) -> str:
        """The endpoint's name."""
        return self.factory.name

    @property
    def user_code(self) -> str:
        """The name of the processor, or else of the endpoint, that calls user code within a read."""
        return self.factory.name if self.hub.calling is None else self.hub.calling.name

    @property
    def last_index(self) -> int:
        """The index of the last message."""
        return self.first_index + self.received - 1

    @property
    def pause_reason(self) -> str:
        """The mailboxes that pause reading, and why they are full."""
        names = ", ".join(mailbox.name for mailbox in self.paused_by)
        if any(mailbox.in_hand for mailbox in self.paused_by):
            return f"{names} is full"
        # No processor has a message of these mailboxes, so loops read them.
        return f"{names} is full, and no loop takes its messages"

    @property
    def reading(self) -> bool:
        """Whether the socket may be read."""
        return self._reading

    def set_reading(self) -> None:
        """Resume or pause reading.

        Reading is paused while a mailbox is full. While replies are awaited, which go through no mailbox, it is paused
        only when a mailbox holds twice its bound.
        """
        reading = not self.paused_by or (bool(self.replies) and not any(m.overfull for m in self.paused_by))
        if reading == self._reading:
            return
        self._reading = reading
        now = asyncio.get_running_loop().time()
        if reading:
            self._paused_s += now - self._paused_since
            self._pauses.append((self._paused_since, now))
            del self._pauses[:-PAUSES]
            self._note_lag(now)
            self.hub.unread.end(self)
        else:
            self._paused_since = now
            self.pause_logged = False
            self._paused_by_name = dict.fromkeys(mailbox.name for mailbox in self.paused_by)
        if self.wire is not None:
            if reading:
                self.wire.resume()
            else:
                self.wire.pause()
                self.hub.unread.begin(self)

    def begin(self, session: int, wire: Wire) -> None:
        """Note the connection, number `session`, whose messages come from now on."""
        self.session = session
        self.last_data, self.last_message_at = wire.connected_at, None

    def attach(self, wire: Wire, session: Receiver) -> None:
        """Pause and resume `wire` from now on; pause it at once if the endpoint is paused.

        `session` handles its loss.
        """
        self.wire, self._session = wire, session
        self._attached_at = asyncio.get_running_loop().time()
        self._lag_until = float("-inf")  # the pauses of the previous socket do not count
        if not self._reading:
            wire.pause()
            self.hub.unread.begin(self)

    def detach(self, error: ConnectionLost | None = None) -> None:
        """Let go of the socket, lost with `error`, and fail the pending requests.

        The mailboxes that pause the endpoint still do.
        """
        self.wire = self._session = None
        self.hub.unread.end(self)
        if self.replies is not None:
            self.replies.lose(
                f"{self.factory.name}: the connection was lost before the reply arrived", socket_gone=True, cause=error
            )

    def paused_for(self) -> float:
        """Return the seconds since the current pause began; 0 if reading is not paused."""
        return asyncio.get_running_loop().time() - self._paused_since if not self._reading else 0.0

    def _note_lag(self, now: float) -> None:
        """Add the pause that has just ended to the sum of recent long pauses."""
        paused_s = self._unread_s(now)
        if paused_s < LONG_S:
            return
        if self._paused_since - self._lag_until > LAG_S:
            self._lag_s, self._lag_by = 0.0, {}
        self._lag_s += paused_s
        self._lag_by |= self._paused_by_name
        self._lag_until = now

    def _unread_s(self, now: float) -> float:
        """Return the seconds for which this socket was not read. The pause may have begun before it was opened."""
        return now - max(self._paused_since, self._attached_at)

    def lag(self) -> tuple[float, str]:
        """Return the seconds of the current or a recent pause, and the names of the mailboxes that caused it.

        Less than `LONG_S` if the endpoint keeps up. A pause that has just ended counts, because the data read after it
        was waiting meanwhile. Long pauses that follow each other are added up.
        """
        now = asyncio.get_running_loop().time()
        paused_s = self._unread_s(now) if not self._reading else 0.0
        if paused_s < LONG_S and now - self._lag_until <= LAG_S:
            return self._lag_s, ", ".join(self._lag_by)
        return paused_s, ", ".join(self._paused_by_name)

    def running_since(self, when: float, now: float) -> float:
        """Return the seconds from `when` to `now` without the pauses, in which the peer may have sent data."""
        if len(self._pauses) == PAUSES:
            when = max(when, self._pauses[0][0])
        if not self._reading:
            now = max(when, self._paused_since)
        return now - when - sum(max(0.0, end - max(when, begin)) for begin, end in self._pauses)

    @property
    def paused_s(self) -> float:
        return self._paused_s + self.paused_for()

    # Messages

    @calls_user_code("self")
    def _receive_others(self, payloads: list[str | bytes], at: float, until: float) -> None:
        """Decode the payloads of one read and publish the messages."""
        factory = self.factory
        if factory.make_topic is not None or factory.chunk == 1 or self.replies is not None:
            self._receive_each(payloads, at, until)
            return
        name, first = factory.name, self.first_index + self.received
        try:
            messages, nbytes = envelopes(payloads, factory.decode, factory.topic, name, first, self.session, at)
        except BaseException:  # _receive_each() finds the payload and handles the error
            self._receive_each(payloads, at, until)
            return
        self.received += len(payloads)
        self.received_bytes += nbytes
        if self._keep:
            self._keep_last(messages[-1:])
        if self.early is not None and self._keep_early(messages):
            return
        self.published += len(messages)
        self.hub.dispatch(messages, nbytes, name, self.routes, self, until)

    @calls_user_code("self")
    def _receive_each(self, payloads: list[str | bytes], at: float, until: float) -> None:
        """Decode payloads one by one and publish the messages: for malformed payloads, and topics made from data."""
        messages: list[Message[Any]] = []
        try:
            for index, payload in enumerate(payloads, self.first_index + self.received):
                message = self.read(payload, index, at)
                if message is not None:
                    messages.append(message)
        finally:
            # Afterwards, since the user's decode and topic functions may read the stats, and in any case.
            self.received += len(payloads)
        self.hand_over(messages, until)

    def hand_over(self, messages: list[Message[Any]], until: float = 0.0) -> None:
        """Publish messages with different topics."""
        if self._keep:
            self._keep_last(messages)
        if not messages or (self.early is not None and self._keep_early(messages)):
            return
        self.published += len(messages)
        self.hub.dispatch_mixed(messages, self.factory.name, self.routes, self, until)

    @calls_user_code("self")
    def read(self, payload: str | bytes, index: int, at: float) -> Message[Any] | None:
        """Decode one payload and return its message; None for a reply to a request and for a malformed payload.

        The topic function is not called for a reply.
        """
        factory = self.factory
        try:
            data = payload if factory.decode is None else factory.decode(payload)
            if self.replies is not None and self.replies.take(data):
                self.answered += 1
                self.received_bytes += payload_size(payload)
                return None
            message = factory.of(data, payload, index, self.session, at)
        except BaseException as exc:
            # Nothing is awaited here, so a CancelledError was raised by user code and is an ordinary failure.
            self.received_bytes += payload_size(payload)
            self.malformed += 1
            if is_exit_request(exc):
                self.hub.request_exit(exc)
            else:
                self._report_malformed(payload, index, exc)
            return None
        self.received_bytes += message.size
        if factory.format is not None and message.topic == factory.topic and not self._logged_topic:
            self._check_topic(message, factory.format)
        return message

    def _report_malformed(self, payload: str | bytes, index: int, exc: BaseException) -> None:
        topic = f"$malformed.{self.factory.name}"
        if not self._logged_malformed:
            self._logged_malformed = True
            log.warning(
                "%s: cannot decode message %d: %s (counted as malformed; published on %s)",
                self.name,
                index,
                describe(exc),
                topic,
                extra={"event": "message.malformed", "endpoint": self.name, "error": describe(exc)},
            )
        if self.hub.wants(topic):
            self.hub.inject(topic, Malformed(self.factory.name, index, self.session, payload, shown(exc)))

    def _check_topic(self, message: Message[Any], template: str) -> None:
        """Log once that the data lacks a field of the topic: subscriptions to the topic do not get the message."""
        if self.factory.make_topic is not None and self.factory.make_topic(message.data) is None:
            self._logged_topic = True
            log.warning(
                "%s: message %d lacks a field of the topic %r; messages without it are published as %r",
                self.name,
                message.index,
                template,
                message.topic,
                extra={"event": "message.no_topic", "endpoint": self.name},
            )

    # The wire's receiver

    def lost_while_paused(self, error: ConnectionLost) -> None:
        if self._session is not None:
            self._session.lost_while_paused(error)

    def lost(self, error: ConnectionLost) -> None:
        if self._session is not None:
            self._session.lost(error)

    # Before the first loop over the connection

    def _keep_early(self, messages: list[Message[Any]]) -> bool:
        """Keep messages for the first loop, unless another subscription matches one. Return whether they were kept."""
        early = self.early
        if early is None or any(self.hub.takes(message.topic, self.name, self.routes) for message in messages):
            self.release_early()
            return False
        self._drop_early(early.add(messages))
        return True

    def hand_over_early(self, mailbox: Mailbox) -> None:
        """Move the kept messages to the mailbox of the first loop, and stop keeping messages."""
        early, self.early = self.early, None
        if early:
            messages = early.take_all()
            self.published += len(messages)
            self.hub.hand_over(messages, mailbox, self)

    def release_early(self) -> None:
        """Stop keeping messages. The kept ones count as unrouted."""
        early, self.early = self.early, None
        if early:
            self._drop_early(len(early))

    def _drop_early(self, count: int) -> None:
        self.published += count
        self.hub.count_unrouted(count)

    def _keep_last(self, messages: list[Message[Any]]) -> None:
        for message in messages:
            self.kept.pop(message.topic, None)
            self.kept[message.topic] = message
        while len(self.kept) > self._keep:
            self.kept.popitem(last=False)
