"""Takes whole compressed messages out of a read, as the scanner takes plain ones (RFC 7692).

The state of compression is that of websockets' own extension object, which deals with all other frames, and so with
the fragments of a message: whichever of the two comes next goes on where the other one stopped.
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
"""Bytes that are made at a time, to look at the clock in between: a message may be a thousand times what came."""

_END = b"\x00\x00\xff\xff"
"""What the sender has taken off the end of every message (RFC 7692, section 7.2.2)."""


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
    """Append the compressed messages from `pos` on to `out`; return where the first other thing begins.

    `decoder` is what the message before was inflated with; None for one of its own for each, of `wbits`. Stops as the
    scanner does, and after ENOUGH bytes. Raises zlib.error for what cannot be inflated, PayloadTooBig for what would
    have more than `limit` bytes, and UnicodeDecodeError.
    """
    end, made = len(data), 0
    for _ in range(most):
        if end - pos < 2 or made >= ENOUGH or (head := data[pos]) not in (_TEXT, _BINARY):
            break
        length, start = data[pos + 1], pos + 2
        if length > 125:
            start = pos + (4 if length == 126 else 10)
            if length > 127 or start > end:  # a mask, which websockets refuses
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
    """The fast way of one connection's compressed messages."""

    def __init__(self, extension: PerMessageDeflate) -> None:
        self._wbits = -extension.remote_max_window_bits
        self._decoder: Any = None if extension.remote_no_context_takeover else extension.decoder

    @classmethod
    def of(cls, protocol: Protocol) -> Inflater | None:
        """Return one where compression, and nothing else, was agreed upon."""
        found = [each for each in protocol.extensions if isinstance(each, PerMessageDeflate)]
        return cls(found[0]) if len(found) == len(protocol.extensions) == 1 else None

    def take(self, data: bytes | memoryview, pos: int, limit: int, most: int, as_text: bool, out: list[Payload]) -> int:
        """See `inflate`. Raises ProtocolError for what cannot be inflated."""
        try:
            return _inflate(self._decoder, self._wbits, data, pos, limit, most, as_text, out)
        except zlib.error as exc:
            raise ProtocolError("decompression failed") from exc
