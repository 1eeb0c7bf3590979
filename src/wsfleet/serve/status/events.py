"""What happens to a fleet, as plain data without secrets, for any number of watchers of any speed."""

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
"""Events that wait for one watcher. Beyond them the oldest go."""

MAX_WATCHERS = 32
"""Watchers of one HTTP server at a time."""

QUIET_S = 15.0
"""After so long without an event a comment is sent, so that no proxy takes the connection for dead."""


def plain(message: Message[Any]) -> Event:
    """Return a message of a `$` topic as data that may be shown. What a peer sent is not in it, only what it was."""
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
            }
    return {}


class Watcher:
    """One of those who watch: an iterator that keeps what it has not handed out yet, up to a bound."""

    def __init__(self, leave: Callable[[Watcher], None]) -> None:
        self._events: deque[Event] = deque()
        self._missed = 0
        self._news = asyncio.Event()
        self._leave = leave
        self._over = False

    def put(self, event: Event) -> None:
        """Keep `event`; where there is no room, the oldest is missed."""
        if len(self._events) >= KEPT:
            self._events.popleft()
            self._missed += 1
        self._events.append(event)
        self._news.set()

    def end(self) -> None:
        """There will be no more."""
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
        """Watch no longer."""
        self._leave(self)
        self.end()


class Events:
    """Hands every event to every watcher."""

    def __init__(self) -> None:
        self._watchers: dict[Watcher, None] = {}
        self._over = False

    def watch(self) -> Watcher:
        """Watch from now on."""
        watcher = Watcher(self._left)
        if self._over:
            watcher.end()
        else:
            self._watchers[watcher] = None
        return watcher

    def _left(self, watcher: Watcher) -> None:
        self._watchers.pop(watcher, None)

    def publish(self, message: Message[Any]) -> None:
        """Hand out one message of a `$` topic. It is not converted while nobody watches."""
        if self._watchers:
            self.publish_plain(plain(message))

    def publish_plain(self, event: Event) -> None:
        """Hand out an event that another process has converted already."""
        for watcher in self._watchers:
            watcher.put(event)

    def end(self) -> None:
        """There will be no more."""
        self._over = True
        for watcher in self._watchers:
            watcher.end()
        self._watchers.clear()


async def event_stream(events: AsyncIterator[Event]) -> AsyncGenerator[bytes, None]:
    """Yield events as a browser's EventSource takes them (WHATWG HTML, section 9.2). Ends when the events do."""
    yield b": watching\n\n"
    # A task of its own, which goes on over the comments: an iterator that is cancelled may be at its end.
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
        # Nothing here may wait: whoever watches can be gone, and then every wait is cancelled (Starlette).
        if coming is not None:
            coming.add_done_callback(_heard)
            coming.cancel()
        close = getattr(events, "aclose", None)
        if close is not None:
            await close()


def _heard(coming: asyncio.Future[Event]) -> None:
    """Take note of the end, which is nobody's concern any more."""
    if not coming.cancelled():
        coming.exception()


def _encoded(event: Event) -> bytes:
    kind = event["topic"].partition(".")[0].removeprefix("$")
    # JSON has no line breaks outside of strings, and inside they are escaped: it is one line of data.
    return f"event: {kind}\n".encode() + b"data: " + msgspec.json.encode(event, enc_hook=str) + b"\n\n"
