"""Takes whole plain data frames out of a read: the reference, in Python.

A *plain* frame is what nearly every message of a feed is: one unfragmented, unmasked text or binary frame without
reserved bits (RFC 6455, section 5.2). Anything else, and anything doubtful, is left where it stands, for websockets'
own parser. So the scanner decides nothing about the protocol; it only knows the easy case.
"""

from __future__ import annotations

__all__ = ["HEADER_MAX", "frame_end", "scan"]

HEADER_MAX = 10
"""The longest header that an unmasked frame can have: 2 bytes, and 8 of length."""

_TEXT = 0x81  # FIN, no reserved bits, opcode 1
_BINARY = 0x82

_RESERVED = frozenset([*range(3, 8), *range(11, 16)])
"""Opcodes that mean nothing yet (RFC 6455, section 5.2)."""


def scan(data: bytes | memoryview, pos: int, limit: int, most: int, as_text: bool, out: list[str | bytes]) -> int:
    """Append the payloads of the plain frames from `pos` on to `out`; return where the first other thing begins.

    Stops at the end of `data`, at an incomplete frame, at a frame that isn't plain, whose payload is longer than
    `limit` or whose text isn't UTF-8, and after `most` frames. Text comes as str, or as bytes where `as_text` is
    false; either way it has been checked.
    """
    end = len(data)
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
            payload = bytes(data[start:stop])  # no copy where it is a slice of bytes already
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
    """Return where the frame at `pos` ends, whether or not `data` reaches that far.

    Where the header is incomplete, the place up to which bytes are needed to know more. Where the frame can only
    fail (a reserved opcode, a mask, a payload over `limit`), the end of its header: websockets' parser refuses it
    right there, and nobody waits for the rest.
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
