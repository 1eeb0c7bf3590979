"""What faults are made of: frames, good or not, which websockets would refuse to write, and checks of what is given."""

from __future__ import annotations

import functools
import math
import struct
import zlib
from typing import cast

from websockets.frames import Opcode

__all__ = ["check_number", "deflated", "frame"]


def frame(opcode: Opcode, payload: bytes, *, fin: bool = True, reserved: int = 0) -> bytes:
    """One frame (RFC 6455, section 5.2)."""
    first, length = fin << 7 | reserved << 4 | opcode, len(payload)
    if length < 126:
        return struct.pack("!BB", first, length) + payload
    if length < 2**16:
        return struct.pack("!BBH", first, 126, length) + payload
    return struct.pack("!BBQ", first, 127, length) + payload


@functools.lru_cache(maxsize=4)
def deflated(size: int) -> bytes:
    """So many spaces, as one message of permessage-deflate (RFC 7692, section 7.2.1)."""
    deflate = zlib.compressobj(wbits=-15)
    chunk = b" " * min(size, 2**20)
    parts = [deflate.compress(chunk) for _ in range(size // len(chunk))] if chunk else []
    parts += [deflate.compress(b" " * (size % len(chunk)) if chunk else b""), deflate.flush(zlib.Z_SYNC_FLUSH)]
    return b"".join(parts).removesuffix(b"\x00\x00\xff\xff")


def check_number(
    name: str, value: object, least: int, most: float = math.inf, *, kind: type | tuple[type, ...] = int
) -> None:
    """Raise ValueError where `value` is no number of this kind, or out of bounds."""
    if not isinstance(value, kind) or isinstance(value, bool) or not least <= cast(float, value) <= most:
        bounds = f"from {least} to {most}" if most < math.inf else f"of at least {least}"
        raise ValueError(f"{name} must be a number {bounds}, not {value!r}")
