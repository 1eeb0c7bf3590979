"""Makes the messages of one read, unless the user's own functions are called. Every message passes here, so it is also
written in Cython, in `_envelopes.pyx`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import repeat
from typing import TYPE_CHECKING, Any

from wsfleet.core.accel import fastest
from wsfleet.core.message import Message
from wsfleet.core.topics import Topic

__all__ = ["Intake", "envelopes", "payload_size"]


def payload_size(payload: str | bytes) -> int:
    """Return the size of a payload in bytes, as it was on the wire."""
    return len(payload) if isinstance(payload, bytes) or payload.isascii() else len(payload.encode())


def envelopes(
    payloads: list[str | bytes],
    decode: Callable[[Any], Any] | None,
    topic: str,
    endpoint: str,
    first: int,
    session: int,
    at: float,
    make_topic: Topic | None = None,
) -> tuple[list[Message[Any]], int]:
    """Return the messages, numbered from `first`, and their total size in bytes.

    Raises the errors of `decode`, and LookupError if `make_topic` returns None.
    """
    data: Iterable[Any] = payloads if decode is None else map(decode, payloads)
    topics: Iterable[str | None] = repeat(topic)
    if make_topic is not None:
        data = list(data)
        topics = list(map(make_topic, data))
        if None in topics:
            raise LookupError("the data lacks a field of the topic")
    sizes = list(map(payload_size, payloads))
    indexes = range(first, first + len(sizes))
    made = map(Message, data, topics, repeat(endpoint), indexes, repeat(session), repeat(at), sizes)
    return list(made), sum(sizes)


class Intake:
    """The receiver of an endpoint's wires after `on_open`. See `wsfleet.transport.base.Receiver`.

    It does the usual case. `_plain`: no user code is called, and no messages are kept. The subclass does the rest, with
    the methods that it must have. `make_topic` is None if all messages have the same topic.
    """

    def __init__(
        self,
        hub: Any,
        routes: Any,
        decode: Callable[[Any], Any] | None,
        topic: str,
        name: str,
        plain: bool,
        most: int,
        make_topic: Topic | None,
    ) -> None:
        self.hub = hub
        self.routes = routes
        self.received = self.received_bytes = self.published = 0
        self.first_index = 1  # of the messages that are counted here
        self.session = 0
        self.wire: Any = None
        self.last_data = 0.0
        self.last_message_at: float | None = None
        self.early: Any = None
        self.replies: Any = None
        self._decode = decode
        self._topic = topic
        self._name = name
        self._plain = plain
        self._make_topic = make_topic
        self._most = most

    @property
    def chunk(self) -> int:
        """Maximum number of messages to publish at once."""
        chunk: int = self.routes.chunk
        return min(self._most, chunk)

    def receive(self, payloads: list[str | bytes], at: float, until: float) -> None:
        """Publish the messages of one read. See `wsfleet.transport.base.Receiver`."""
        self.last_data, self.last_message_at = self.wire.last_frame, at
        if not self._plain or self.early is not None or self.replies is not None:
            self._receive_others(payloads, at, until)
            return
        first, name = self.first_index + self.received, self._name
        try:
            messages, nbytes = envelopes(
                payloads, self._decode, self._topic, name, first, self.session, at, self._make_topic
            )
        except BaseException:  # _receive_each() finds the payload and handles the error
            self._receive_each(payloads, at, until)
            return
        self.received += len(payloads)
        self.received_bytes += nbytes
        self.published += len(messages)
        if self._make_topic is None:
            self.hub.dispatch(messages, nbytes, name, self.routes, self, until)
        else:
            self.hub.dispatch_mixed(messages, name, self.routes, self, until)

    def _receive_others(self, payloads: list[str | bytes], at: float, until: float) -> None:
        raise NotImplementedError

    def _receive_each(self, payloads: list[str | bytes], at: float, until: float) -> None:
        raise NotImplementedError


if not TYPE_CHECKING:
    envelopes, Intake = (fastest(each, "wsfleet.endpoint._envelopes") for each in (envelopes, Intake))
