"""Client frames (RFC 6455, section 5.2): a message in one frame, masked with a new random key."""

from __future__ import annotations

import os
import struct

from websockets.frames import apply_mask  # type: ignore[attr-defined]  # compiled if possible

__all__ = ["client_frame"]

POOL = 4096
"""Number of random bytes that are read from the operating system at once, for 1,024 masking keys."""


class _Keys:
    """Masking keys from a strong source of entropy, as RFC 6455, section 5.3, requires."""

    def __init__(self) -> None:
        self._pool = b""
        self._used = 0
        # Two processes must not use the same keys.
        os.register_at_fork(after_in_child=self._discard)

    def _discard(self) -> None:
        self._pool, self._used = b"", 0

    def next(self) -> bytes:
        start = self._used
        if start >= len(self._pool):
            self._pool, start = os.urandom(POOL), 0
        self._used = start + 4
        return self._pool[start : self._used]


_keys = _Keys()


def client_frame(message: str | bytes) -> bytes:
    """Return the only frame of a text message (str) or a binary one (bytes).

    Raises UnicodeEncodeError for a str with a surrogate.
    """
    head, payload = (0x81, message.encode()) if isinstance(message, str) else (0x82, message)
    key, length = _keys.next(), len(payload)
    if length < 126:
        header = bytes((head, 0x80 | length))
    elif length < 65536:
        header = struct.pack("!BBH", head, 0x80 | 126, length)
    else:
        header = struct.pack("!BBQ", head, 0x80 | 127, length)
    return b"".join((header, key, apply_mask(payload, key)))
