"""The messages that a connection without a processor keeps until the first loop over it."""

from __future__ import annotations

import logging
from collections import deque
from typing import Any

from wsfleet.core.message import Message
from wsfleet.core.options import Buffer

__all__ = ["EarlyMessages"]

log = logging.getLogger("wsfleet")


class EarlyMessages:
    """A queue bounded as `buffer` is, in messages and bytes. When it is full, the oldest go."""

    __slots__ = ("_bytes", "_endpoint", "_messages", "_overflowed", "buffer")

    def __init__(self, endpoint: str, buffer: Buffer) -> None:
        self.buffer = buffer
        self._endpoint = endpoint
        self._messages: deque[Message[Any]] | None = None  # none while empty: there may be ten thousand of these
        self._bytes = 0
        self._overflowed = False

    def __len__(self) -> int:
        return len(self._messages) if self._messages is not None else 0

    def add(self, messages: list[Message[Any]]) -> int:
        """Keep `messages`; return how many, the oldest, there was no room for."""
        if self._messages is None:
            self._messages = deque()
        kept = self._messages
        kept.extend(messages)
        self._bytes += sum([message.size for message in messages])
        dropped = 0
        # As in a mailbox, one message alone may be larger than `bytes`.
        while len(kept) > self.buffer.messages or (self._bytes > self.buffer.bytes and len(kept) > 1):
            self._bytes -= kept.popleft().size
            dropped += 1
        if dropped and not self._overflowed:
            self._overflowed = True
            log.warning(
                "%s: buffer full and no loop over the connection has begun; dropping the oldest messages "
                "(counted as unrouted)",
                self._endpoint,
                extra={"event": "connection.overflow", "endpoint": self._endpoint},
            )
        return dropped

    def take_all(self) -> list[Message[Any]]:
        """Return what is kept, and keep it no longer."""
        messages, self._messages, self._bytes = list(self._messages or ()), None, 0
        return messages
