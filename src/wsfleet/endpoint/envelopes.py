"""Payloads of one read into messages of one topic: what every message costs, and so exists twice.

`_envelopes.pyx` is the same in Cython.
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
    """Return the messages, the first of which has the index `first`, and the sum of their sizes.

    Raises what `decode` raises.
    """
    data = payloads if decode is None else map(decode, payloads)
    sizes = list(map(payload_size, payloads))
    indexes = range(first, first + len(sizes))
    made = map(Message, data, repeat(topic), repeat(endpoint), indexes, repeat(session), repeat(at), sizes)
    return list(made), sum(sizes)


if not TYPE_CHECKING:
    envelopes = fastest(envelopes, "wsfleet.endpoint._envelopes")
