"""Whether the system holds unread data of a socket."""

from __future__ import annotations

import asyncio
import select

__all__ = ["readable"]


def readable(transport: asyncio.BaseTransport) -> bool:
    """Return whether data, the end of the stream or an error waits in the socket of `transport`."""
    sock = transport.get_extra_info("socket")
    if transport.is_closing() or sock is None or sock.fileno() < 0:
        return False
    poll = select.poll()  # select.select() is limited to the first 1024 descriptors
    poll.register(sock.fileno(), select.POLLIN)
    return bool(poll.poll(0))
