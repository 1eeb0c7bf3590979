"""The reason that a server gives when it rejects the handshake, from the body of its response."""

from __future__ import annotations

import codecs
import re

import websockets.datastructures

__all__ = ["BODY_MAX", "body_size", "readable_body"]

BODY_MAX = 1024
"""Maximum number of bytes that are read of a body, which may be endless."""

_CHUNK = re.compile(rb"([0-9A-Fa-f]{1,8})[^\r\n]*\r\n")
_INVISIBLE = re.compile(r"(?is)<(head|style|script)\b.*?(</\1\s*>|$)|<[^>]*(>|$)")


def body_size(headers: websockets.datastructures.Headers) -> int:
    """Return the number of bytes to read after the head: those of the body, at most `BODY_MAX`."""
    try:
        return min(int(headers.get("Content-Length", BODY_MAX)), BODY_MAX)
    except (ValueError, websockets.datastructures.MultipleValuesError):
        return 0


def readable_body(headers: websockets.datastructures.Headers, data: bytes) -> str:
    """Return the text of a body whose beginning is `data`, in one line; "" if it is not a text.

    The tags of an HTML page are removed.
    """
    if headers.get_all("Content-Encoding"):
        return ""
    if any("chunked" in value.lower() for value in headers.get_all("Transfer-Encoding")):
        data = _unchunked(data)
    # The last character may be cut off.
    text = codecs.getincrementaldecoder("utf-8")("replace").decode(data)
    if any("html" in value.lower() for value in headers.get_all("Content-Type")):
        text = _INVISIBLE.sub(" ", text)
    if "\x00" in text or text.count("�") > len(text) // 10:
        return ""
    return " ".join(text.split())


def _unchunked(data: bytes) -> bytes:
    """Return the data of the chunks (RFC 9112, section 7.1). The last one may be incomplete."""
    parts, pos = [], 0
    while (found := _CHUNK.match(data, pos)) and (size := int(found[1], 16)):
        parts.append(data[found.end() : found.end() + size])
        pos = found.end() + size + 2
    return b"".join(parts)
