"""Extracts complete compressed messages from a read, as the scanner extracts plain ones (RFC 7692).

The compression state is shared with the extension object of websockets, which processes all other frames, such as the
fragments of a message.
"""

from __future__ import annotations

import zlib
from typing import Any

from websockets.exceptions import PayloadTooBig, ProtocolError
from websockets.extensions.permessage_deflate import PerMessageDeflate
from websockets.protocol import Protocol

from wsfleet.core.accel import fastest
from wsfleet.transport.base import Payload

__all__ = ["Inflater", "inflate"]

_TEXT = 0xC1  # FIN, RSV1, opcode 1
_BINARY = 0xC2

ENOUGH = 2**16
"""Inflated bytes after which `inflate` returns, so that the caller can check its time slice.

Inflated data can be a thousand times larger than the compressed data.
"""

_END = b"\x00\x00\xff\xff"
"""The bytes that the sender removes from the end of each message (RFC 7692, section 7.2.2)."""


def inflate(
    decoder: Any,
    wbits: int,
    data: bytes | memoryview,
    pos: int,
    limit: int,
    most: int,
    as_text: bool,
    out: list[Payload],
) -> int:
    """Append the compressed messages from `pos` on to `out`, and return the position of the first other frame.

    `decoder` has the compression context of the previous messages. None: each message has a new context of `wbits`.
    Stops under the conditions of the scanner, and after ENOUGH inflated bytes. Raises zlib.error for invalid data,
    PayloadTooBig for more than `limit` inflated bytes, and UnicodeDecodeError.
    """
    end, made = len(data), 0
    for _ in range(most):
        if end - pos < 2 or made >= ENOUGH or (head := data[pos]) not in (_TEXT, _BINARY):
            break
        length, start = data[pos + 1], pos + 2
        if length > 125:
            start = pos + (4 if length == 126 else 10)
            if length > 127 or start > end:  # the mask bit is set, which websockets rejects
                break
            length = int.from_bytes(data[pos + 2 : start], "big")
        stop = start + length
        if stop > end or length > limit:
            break
        own = decoder or zlib.decompressobj(wbits=wbits)
        message: bytes = own.decompress(bytes(data[start:stop]) + _END, limit + 1)
        if len(message) > limit or own.unconsumed_tail:
            raise PayloadTooBig(None, limit)
        if head == _BINARY:
            out.append(message)
        elif as_text:
            out.append(message.decode())
        else:
            if not message.isascii():
                message.decode()
            out.append(message)
        pos = stop
        made += len(message)
    return pos


_inflate = fastest(inflate, "wsfleet.transport._scanner")


class Inflater:
    """Inflates the unfragmented messages of one connection, bypassing websockets."""

    def __init__(self, extension: PerMessageDeflate) -> None:
        self._wbits = -extension.remote_max_window_bits
        self._decoder: Any = None if extension.remote_no_context_takeover else extension.decoder

    @classmethod
    def of(cls, protocol: Protocol) -> Inflater | None:
        """Return an inflater if permessage-deflate is the only negotiated extension, otherwise None."""
        found = [each for each in protocol.extensions if isinstance(each, PerMessageDeflate)]
        return cls(found[0]) if len(found) == len(protocol.extensions) == 1 else None

    def take(self, data: bytes | memoryview, pos: int, limit: int, most: int, as_text: bool, out: list[Payload]) -> int:
        """Call `inflate`. Raises ProtocolError for invalid data."""
        try:
            return _inflate(self._decoder, self._wbits, data, pos, limit, most, as_text, out)
        except zlib.error as exc:
            raise ProtocolError("decompression failed") from exc
