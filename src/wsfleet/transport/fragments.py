"""Reassembly of fragmented messages (RFC 6455, section 5.4)."""

from __future__ import annotations

from websockets.frames import CLOSE, CONT, Frame
from websockets.protocol import Protocol

__all__ = ["FragmentedProtocol", "Fragments", "TooManyFragments", "most_fragments"]


def most_fragments(max_size: int) -> int:
    """Return the default of `max_fragments`: 4,096, plus one fragment for each 64 bytes of `max_size`.

    This allows the largest message in fragments of 64 bytes, and any message in 4,096 fragments.
    """
    return 4096 + max_size // 64


TOO_MANY = "too many fragments"
"""The reason in the close frame."""


class TooManyFragments(Exception):
    """The message has more than `max_fragments` fragments."""


class Fragments:
    """The fragments of an incomplete message.

    Each fragment is appended to one buffer on arrival. In a list, short and empty fragments would need much more memory
    than their size, which `max_size` does not count. With one buffer, `max_size` limits the memory, and
    `max_fragments` limits the CPU time, which does not depend on the length of a fragment.
    """

    __slots__ = ("_count", "_data", "_most")

    def __init__(self, most: int) -> None:
        self._most = most
        self._count = 0
        self._data = bytearray()

    def add(self, frame: Frame) -> bytes | None:
        """Add a data frame. Return the bytes of the message if it is complete. Raises TooManyFragments."""
        if frame.fin and frame.opcode is not CONT:
            return bytes(frame.data)
        if self._count >= self._most:
            raise TooManyFragments
        self._count += 1
        self._data += frame.data
        if not frame.fin:
            return None
        data = bytes(self._data)
        self._count = 0
        self._data = bytearray()
        return data


class FragmentedProtocol(Protocol):
    """The protocol of websockets, with one difference: a close frame is accepted within a fragmented message.

    websockets fails the connection with 1002. However, control frames are allowed between fragments, and a peer sends
    no data after its close frame (RFC 6455, sections 5.4 and 5.5.1). A peer that closes within a message has no other
    choice, and its close code gives the reason.
    """

    def recv_frame(self, frame: Frame) -> None:
        if frame.opcode is CLOSE:
            self.current_size = None
        super().recv_frame(frame)
