"""Converts a fleet's events to plain data without secrets, and distributes them to watchers."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from typing import Any

import msgspec

from wsfleet.core.error_text import describe
from wsfleet.core.message import DeadLetter, Gap, Malformed, Message, Slow, StateChange
from wsfleet.core.redact import redact_text

__all__ = ["KINDS", "MAX_WATCHERS", "Event", "Events", "event_stream", "plain"]

Event = dict[str, Any]

KINDS = ("state", "dead", "slow", "gap", "malformed")

KEPT = 500
"""Maximum number of queued events per watcher. Beyond it the oldest are dropped."""

MAX_WATCHERS = 32
"""Maximum number of concurrent watchers of one HTTP server."""

QUIET_S = 15.0
"""Seconds without an event after which a comment is sent, so that proxies do not close an idle connection."""


def plain(message: Message[Any]) -> Event:
    """Convert a message of a `$` topic to plain data. It describes the peer's messages without their content."""
    return {"at": message.received_at, "topic": message.topic} | _record(message.data)


def _record(record: Any) -> Event:
    match record:
        case StateChange():
            return {
                "endpoint": record.endpoint,
                "previous": record.previous.value,
                "state": record.state.value,
                "error": None if record.error is None else redact_text(str(record.error)),
                "attempt": record.attempt,
                "delay_s": record.delay_s,
            }
        case DeadLetter():
            return {
                "endpoint": record.message.endpoint,
                "session": record.message.session,
                "index": record.message.index,
                "message_topic": redact_text(record.message.topic),
                "attempts": record.attempts,
                "error": describe(record.error),
            }
        case Malformed():
            return {
                "endpoint": record.endpoint,
                "session": record.session,
                "index": record.index,
                "error": describe(record.error),
            }
        case Slow():
            return {
                "subscription": record.subscription,
                "pending": record.pending,
                "pending_bytes": record.pending_bytes,
                "overflow": record.overflow,
            }
        case Gap():
            return {
                "endpoint": record.endpoint,
                "previous_session": record.previous_session,
                "session": record.session,
                "last_index": record.last_index,
                "down_s": record.down_s,
                "last_message_at": record.last_message_at,
                "last_frame_at": record.last_frame_at,
                "exact": record.exact,
            }
    return {}


class Watcher:
    """An iterator over events with a bounded queue."""

    def __init__(self, leave: Callable[[Watcher], None]) -> None:
        self._events: deque[Event] = deque()
        self._missed = 0
        self._news = asyncio.Event()
        self._leave = leave
        self._over = False

    def put(self, event: Event) -> None:
        """Queue `event`. If the queue is full, drop the oldest event."""
        if len(self._events) >= KEPT:
            self._events.popleft()
            self._missed += 1
        self._events.append(event)
        self._news.set()

    def end(self) -> None:
        """End the iteration after the queued events."""
        self._over = True
        self._news.set()

    def __aiter__(self) -> Watcher:
        return self

    async def __anext__(self) -> Event:
        while not self._events:
            if self._over:
                raise StopAsyncIteration
            self._news.clear()
            await self._news.wait()
        if self._missed:
            missed, self._missed = self._missed, 0
            return {"at": self._events[0]["at"], "topic": "$missed", "count": missed}
        return self._events.popleft()

    async def aclose(self) -> None:
        """Stop watching."""
        self._leave(self)
        self.end()


class Events:
    """Distributes events to all watchers."""

    def __init__(self) -> None:
        self._watchers: dict[Watcher, None] = {}
        self._over = False

    def watch(self) -> Watcher:
        """Return a watcher of the events from now on."""
        watcher = Watcher(self._left)
        if self._over:
            watcher.end()
        else:
            self._watchers[watcher] = None
        return watcher

    def _left(self, watcher: Watcher) -> None:
        self._watchers.pop(watcher, None)

    def publish(self, message: Message[Any]) -> None:
        """Publish a message of a `$` topic. It is converted only if there are watchers."""
        if self._watchers:
            self.publish_plain(plain(message))

    def publish_plain(self, event: Event) -> None:
        """Publish an event that a worker has already converted."""
        for watcher in self._watchers:
            watcher.put(event)

    def end(self) -> None:
        """End all watchers."""
        self._over = True
        for watcher in self._watchers:
            watcher.end()
        self._watchers.clear()


async def event_stream(events: AsyncIterator[Event]) -> AsyncGenerator[bytes, None]:
    """Encode events as server-sent events (WHATWG HTML, section 9.2), until `events` ends."""
    yield b": watching\n\n"
    # A task that survives the timeouts: cancelling `anext` could end the iterator.
    coming: asyncio.Future[Event] | None = None
    try:
        while True:
            if coming is None:
                coming = asyncio.ensure_future(anext(events))
            done, _ = await asyncio.wait({coming}, timeout=QUIET_S)
            if not done:
                yield b": quiet\n\n"
                continue
            try:
                event = coming.result()
            except StopAsyncIteration:
                return
            coming = None
            yield _encoded(event)
    finally:
        # Nothing here may wait: Starlette cancels every wait after the client has disconnected.
        if coming is not None:
            coming.add_done_callback(_retrieve_exception)
            coming.cancel()
        close = getattr(events, "aclose", None)
        if close is not None:
            await close()


def _retrieve_exception(coming: asyncio.Future[Event]) -> None:
    """Retrieve the exception, so that asyncio does not log it as never retrieved."""
    if not coming.cancelled():
        coming.exception()


def _encoded(event: Event) -> bytes:
    kind = event["topic"].partition(".")[0].removeprefix("$")
    # JSON encoded by msgspec has no line breaks, so it is one line of data.
    return f"event: {kind}\n".encode() + b"data: " + msgspec.json.encode(event, enc_hook=str) + b"\n\n"
