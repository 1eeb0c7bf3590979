"""Encodes data to send: text and bytes stay as they are, anything else becomes JSON text."""

from __future__ import annotations

import math
from typing import Any

import msgspec

__all__ = ["encode_payload"]


def encode_payload(data: Any) -> str | bytes:
    """Return `data` as the payload of a text message (str) or a binary one (bytes).

    Raises TypeError for data that JSON cannot express, and ValueError for NaN and infinity (RFC 8259, section 6).
    """
    if isinstance(data, str | bytes):
        return data
    if isinstance(data, bytearray | memoryview):
        return bytes(data)
    text = msgspec.json.encode(data).decode()
    # msgspec encodes NaN and infinity as null. The search is fast, the walk over the data is not.
    if "null" in text and (place := _not_finite(msgspec.to_builtins(data, enc_hook=_raw), "$")):
        raise ValueError(f"cannot send as JSON: {place} (RFC 8259, section 6)")
    return text


def _raw(data: Any) -> None:
    """Skip a `msgspec.Raw`, the only type that is encoded above and not converted: it is JSON text already."""


def _not_finite(data: Any, path: str) -> str | None:
    """Return the path and the value of the first number that is not finite."""
    if isinstance(data, float):
        return None if math.isfinite(data) else f"{path} is {data}"
    if isinstance(data, dict):
        items = ((f"{path}.{key}", value) for key, value in data.items())
    elif isinstance(data, list | tuple | set | frozenset):
        items = ((f"{path}[{place}]", value) for place, value in enumerate(data))
    else:
        return None
    return next((found for where, value in items if (found := _not_finite(value, where))), None)
