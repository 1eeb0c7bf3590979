"""Makes the messages of one read if they have one topic. Every message passes here, so it is also written in Cython,
in `_envelopes.pyx`.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import repeat
from typing import TYPE_CHECKING, Any

from wsfleet.core.accel import fastest
from wsfleet.core.message import Message

__all__ = ["envelopes", "payload_size"]


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
) -> tuple[list[Message[Any]], int]:
    """Return the messages, numbered from `first`, and their total size in bytes. Raises the errors of `decode`."""
    data = payloads if decode is None else map(decode, payloads)
    sizes = list(map(payload_size, payloads))
    indexes = range(first, first + len(sizes))
    made = map(Message, data, repeat(topic), repeat(endpoint), indexes, repeat(session), repeat(at), sizes)
    return list(made), sum(sizes)


if not TYPE_CHECKING:
    envelopes = fastest(envelopes, "wsfleet.endpoint._envelopes")
