"""Messages in several frames (RFC 6455, section 5.4): how they are put together, and what may end them."""

from __future__ import annotations

from websockets.frames import CLOSE, CONT, Frame
from websockets.protocol import Protocol

__all__ = ["FragmentedProtocol", "Fragments", "TooManyFragments", "most_fragments"]


def most_fragments(max_size: int) -> int:
    """Return how many fragments one message may have, where `max_fragments` was not declared.

    There is room for the largest message in pieces of 64 bytes, and for any in 4,096 pieces, however short.
    """
    return 4096 + max_size // 64


class TooManyFragments(Exception):
    """The message has more fragments than it may have."""


class Fragments:
    """The message that is being put together.

    Its pieces are joined as they come: kept apart, a piece of one byte would cost as much memory as fifty, and an empty
    one would cost some and count as nothing against `max_size`. So memory is bounded by `max_size` alone, and the
    number of pieces bounds the work, which each piece makes however short it is.
    """

    __slots__ = ("_count", "_data", "_most")

    def __init__(self, most: int) -> None:
        self._most = most
        self._count = 0
        self._data = bytearray()

    def add(self, frame: Frame) -> bytes | None:
        """Take a data frame; return the message's bytes where this was its last one. Raises TooManyFragments."""
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
    """websockets' rules for an open connection, but for one: a close frame may end a message half sent.

    websockets fails such a connection with 1002. But control frames may stand between fragments, and after its close
    frame a peer sends no data (RFC 6455, sections 5.4 and 5.5.1): one that has to go in the middle of a message cannot
    do otherwise, and why it goes is what its code says.
    """

    def recv_frame(self, frame: Frame) -> None:
        if frame.opcode is CLOSE:
            self.current_size = None
        super().recv_frame(frame)
