"""Extracts complete plain data frames from a read: the reference implementation in Python.

A *plain* frame is one unfragmented, unmasked text or binary frame without reserved bits (RFC 6455, section 5.2). Nearly
all messages of a feed are plain frames. All other frames, and invalid ones, are left to the parser of websockets.
"""

from __future__ import annotations

import sys

__all__ = ["HEADER_MAX", "frame_end", "scan"]

HEADER_MAX = 10
"""Maximum size of the header of an unmasked frame: 2 bytes, and 8 bytes of length."""

_TEXT = 0x81  # FIN, no reserved bits, opcode 1
_BINARY = 0x82

_RESERVED = frozenset([*range(3, 8), *range(11, 16)])
"""Reserved opcodes (RFC 6455, section 5.2)."""


def scan(
    data: bytes | memoryview,
    pos: int,
    limit: int,
    most: int,
    as_text: bool,
    out: list[str | bytes],
    end: int = sys.maxsize,
) -> int:
    """Append the payloads of the plain frames from `pos` on to `out`, and return the position of the first other frame.

    Stops at the end of `data` and at `end`, at an incomplete frame, at a frame that is not plain, at a payload longer
    than `limit`, at text that is not valid UTF-8, and after `most` frames. Text is appended as str, or as bytes if
    `as_text` is false; both are validated.
    """
    end = min(len(data), end)
    append = out.append
    try:
        for _ in range(most):
            head = data[pos]
            if head != _TEXT and head != _BINARY:
                break
            length = data[pos + 1]
            if length < 126:
                start = pos + 2
            elif length == 126:
                length = data[pos + 2] << 8 | data[pos + 3]
                start = pos + 4
            elif length == 127:
                start = pos + 10
                length = int.from_bytes(data[pos + 2 : start], "big")
            else:
                break
            stop = start + length
            if stop > end or length > limit:
                break
            payload = bytes(data[start:stop])  # bytes() does not copy a bytes object
            if head == _BINARY:
                append(payload)
            elif as_text:
                append(payload.decode())
            else:
                if not payload.isascii():
                    payload.decode()
                append(payload)
            pos = stop
    except (IndexError, UnicodeDecodeError):
        pass
    return pos


def frame_end(data: bytes | bytearray | memoryview, pos: int, limit: int) -> int:
    """Return the end of the frame at `pos`, which may be beyond the end of `data`.

    If the header is incomplete, returns the end of the bytes that are needed to determine more of it. If the frame is
    invalid (a reserved opcode, a mask, a payload over `limit`), returns the end of its header, where the parser of
    websockets rejects it.
    """
    start = pos + 2
    if start > len(data):
        return start
    length = data[pos + 1]
    if length & 0x80 or data[pos] & 0x0F in _RESERVED:
        return start
    if length > 125:
        start = pos + (4 if length == 126 else 10)
        if start > len(data):
            return start
        length = int.from_bytes(data[pos + 2 : start], "big")
    return start if length > limit else start + length
