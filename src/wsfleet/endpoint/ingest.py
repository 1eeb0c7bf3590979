"""What one endpoint is to the rest of the fleet, over all of its sockets: counters, and who pauses it."""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from typing import Any

from wsfleet.core.error_text import describe, is_exit_request, shown
from wsfleet.core.loop_watchdog import calls_user_code
from wsfleet.core.message import Malformed, Message
from wsfleet.endpoint.decode import MessageFactory
from wsfleet.endpoint.early import EarlyMessages
from wsfleet.endpoint.envelopes import envelopes, payload_size
from wsfleet.endpoint.requests import PendingRequests
from wsfleet.pipeline.hub import Hub
from wsfleet.pipeline.mailbox import Mailbox
from wsfleet.transport.base import Wire

__all__ = ["LONG_S", "Ingest"]

log = logging.getLogger("wsfleet")

LONG_S = 0.5
"""Shorter pauses try nobody's patience, and are no reason to give for a loss."""

LAG_S = 1.0
"""A feed that was paused so short a time ago may still have before it what came during the pause."""

PAUSES = 8
"""How many pauses are remembered. Beyond them deadlines begin afresh: too late is better than too early."""


class Ingest:
    """Publishes one endpoint's messages, and is the `Source` that full mailboxes hold."""

    def __init__(self, factory: MessageFactory, hub: Hub, keep_last: int = 0) -> None:
        self.factory = factory
        self.hub = hub
        self.routes = hub.routes_of(factory.name)
        self.received = self.received_bytes = self.sent = 0
        self.malformed = self.answered = self.published = self.discarded = 0
        self.paused_by: dict[Mailbox, None] = {}
        self._paused_s = 0.0
        self._paused_since = 0.0
        self._paused_by_name: dict[str, None] = {}  # whoever had a part in the pause, or the last one
        # The long pauses that followed upon one another within LAG_S, whose they were, and when the last one ended.
        self._lag_s = 0.0
        self._lag_by: dict[str, None] = {}
        self._lag_until = float("-inf")
        self._pauses: list[tuple[float, float]] = []
        self._wire: Wire | None = None
        self._attached_at = 0.0
        self._reading = True
        self.pause_logged = False
        self.replies: PendingRequests | None = None
        self.early: EarlyMessages | None = None
        # What would make no sound is logged once: it may be so with every message.
        self._told_malformed = self._told_topic = False
        # By topic, the longest unheard first; for subscriptions that want the last of each replayed.
        self.kept: OrderedDict[str, Message[Any]] = OrderedDict()
        self._keep = keep_last

    # Pausing

    def hold(self, mailbox: Mailbox) -> None:
        self.paused_by[mailbox] = None
        self._paused_by_name[mailbox.name] = None
        self.set_reading()

    def overfull(self, mailbox: Mailbox) -> None:
        # It was patient with our replies, and got too much of the rest.
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
    def chunk(self) -> int:
        """How many messages may be published in one go."""
        return min(self.factory.chunk, self.routes.chunk)

    @property
    def pausers(self) -> str:
        """Whose mailboxes pause it."""
        return ", ".join(mailbox.name for mailbox in self.paused_by)

    @property
    def reading(self) -> bool:
        """Whether the socket may be read."""
        return self._reading

    def set_reading(self) -> None:
        """Read unless a mailbox is full; and even so while replies are awaited, which never pass through one.

        That mailbox may take as much again, and then replies have to wait, too.
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
        if self._wire is not None:
            if reading:
                self._wire.resume()
            else:
                self._wire.pause()
                self.hub.unread.begin(self)

    def attach(self, wire: Wire) -> None:
        """From now on `wire` is the one that pausing stops; a feed that is paused stops it at once."""
        self._wire = wire
        self._attached_at = asyncio.get_running_loop().time()
        self._lag_until = float("-inf")  # that was another socket's
        if not self._reading:
            wire.pause()
            self.hub.unread.begin(self)

    def detach(self) -> None:
        """The socket is gone. Whoever paused the feed still does, and so finds the next one paused."""
        self._wire = None
        self.hub.unread.end(self)
        if self.replies is not None:
            self.replies.lose(f"{self.factory.name}: the connection was lost before the reply came", socket_gone=True)

    def paused_for(self) -> float:
        """Return for how many seconds the feed has been paused now; 0 where it isn't."""
        return asyncio.get_running_loop().time() - self._paused_since if not self._reading else 0.0

    def _note_lag(self, now: float) -> None:
        """A pause has ended."""
        paused_s = self._unread_s(now)
        if paused_s < LONG_S:
            return
        if self._paused_since - self._lag_until > LAG_S:
            self._lag_s, self._lag_by = 0.0, {}
        self._lag_s += paused_s
        self._lag_by |= self._paused_by_name
        self._lag_until = now

    def _unread_s(self, now: float) -> float:
        """Return for how long the pause has kept this socket unread: it may have begun with another one."""
        return now - max(self._paused_since, self._attached_at)

    def lag(self) -> tuple[float, str]:
        """Return for how long the feed is or was just paused, and by whom; less than `LONG_S` where it keeps up.

        What has just been read after a pause lay there meanwhile. Where a long pause follows upon the other, that is
        so since the first of them.
        """
        now = asyncio.get_running_loop().time()
        paused_s = self._unread_s(now) if not self._reading else 0.0
        if paused_s < LONG_S and now - self._lag_until <= LAG_S:
            return self._lag_s, ", ".join(self._lag_by)
        return paused_s, ", ".join(self._paused_by_name)

    def running_since(self, when: float, now: float) -> float:
        """Return the seconds from `when` to `now` without the pauses: what lies unread is nobody's silence."""
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
    def receive(self, payloads: list[str | bytes], session: int, at: float) -> None:
        """Make messages of payloads that came in one read, and hand them to the hub."""
        factory = self.factory
        if factory.make_topic is not None or factory.chunk == 1 or self.replies is not None:
            self.receive_each([(payload, at) for payload in payloads], session)
            return
        name, first = factory.name, self.received + 1
        try:
            messages, nbytes = envelopes(payloads, factory.decode, factory.topic, name, first, session, at)
        except BaseException:  # looked at where it is met again
            self.receive_each([(payload, at) for payload in payloads], session)
            return
        self.received_bytes += nbytes
        if self._keep:
            self._keep_last(messages[-1:])
        if self.early is not None and self._keep_early(messages):
            return
        self.published += len(messages)
        self.hub.dispatch(messages, nbytes, name, self.routes, self)

    @calls_user_code("self")
    def receive_each(self, payloads: list[tuple[str | bytes, float]], session: int) -> None:
        """The same one by one, where a payload may be malformed or its topic depends on the data."""
        messages: list[Message[Any]] = []
        for index, (payload, at) in enumerate(payloads, self.received + 1):
            message = self.read(payload, index, session, at)
            if message is not None:
                messages.append(message)
        self.hand_over(messages)

    def hand_over(self, messages: list[Message[Any]]) -> None:
        """Publish messages of any topics."""
        if self._keep:
            self._keep_last(messages)
        if not messages or (self.early is not None and self._keep_early(messages)):
            return
        self.published += len(messages)
        self.hub.dispatch_mixed(messages, self.factory.name, self.routes, self)

    @calls_user_code("self")
    def read(self, payload: str | bytes, index: int, session: int, at: float) -> Message[Any] | None:
        """Return the message of one payload; None for a reply, which is answered, and for what is malformed.

        A reply has no topic: a function that makes topics is not asked about it.
        """
        factory = self.factory
        try:
            data = payload if factory.decode is None else factory.decode(payload)
            if self.replies is not None and self.replies.take(data):
                self.answered += 1
                self.received_bytes += payload_size(payload)
                return None
            message = factory.of(data, payload, index, session, at)
        except BaseException as exc:
            # Nothing is awaited here: a CancelledError can only be the user's own, and no more than another failure.
            self.received_bytes += payload_size(payload)
            self.malformed += 1
            if is_exit_request(exc):
                self.hub.request_exit(exc)
            else:
                self._tell_malformed(payload, index, session, exc)
            return None
        self.received_bytes += message.size
        if factory.format is not None and message.topic == factory.topic and not self._told_topic:
            self._look_at_topic(message, factory.format)
        return message

    def _tell_malformed(self, payload: str | bytes, index: int, session: int, exc: BaseException) -> None:
        topic = f"$malformed.{self.factory.name}"
        if not self._told_malformed:
            self._told_malformed = True
            log.warning(
                "%s: message %d is malformed: %s; such are counted, and told on %s",
                self.name,
                index,
                describe(exc),
                topic,
                extra={"event": "message.malformed", "endpoint": self.name, "error": describe(exc)},
            )
        if self.hub.wants(topic):
            self.hub.inject(topic, Malformed(self.factory.name, index, session, payload, shown(exc)))

    def _look_at_topic(self, message: Message[Any], template: str) -> None:
        """Tell once where data has not what its topic needs: nobody who subscribed to such topics gets it."""
        if self.factory.make_topic is not None and self.factory.make_topic(message.data) is None:
            self._told_topic = True
            log.warning(
                "%s: message %d lacks a field that its topic %r needs; such are published as %r",
                *(self.name, message.index, template, message.topic),
                extra={"event": "message.no_topic", "endpoint": self.name},
            )

    # Before the first loop over the connection

    def _keep_early(self, messages: list[Message[Any]]) -> bool:
        """Keep messages for the first loop, unless another subscription takes one; return whether they are kept."""
        early = self.early
        if early is None or any(self.hub.takes(message.topic, self.name, self.routes) for message in messages):
            self.release_early()
            return False
        self._drop_early(early.add(messages))
        return True

    def hand_over_early(self, mailbox: Mailbox) -> None:
        """The first loop begins: give it what was kept, and keep nothing any more."""
        early, self.early = self.early, None
        if early:
            messages = early.take_all()
            self.published += len(messages)
            self.hub.hand_over(messages, mailbox, self)

    def release_early(self) -> None:
        """Keep nothing any more: what was kept has found no subscription."""
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
