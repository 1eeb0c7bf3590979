"""The data of a socket that the system has received and the event loop has not read.

If a write fails, event loops close the transport at once, although data of the peer may wait unread. It is not lost: a
TCP socket can be read to its end also after a reset (seen on Linux), and both asyncio and uvloop close the socket only
after `connection_lost`.
"""

from __future__ import annotations

import asyncio
import os
import select
import socket
import ssl
from typing import cast

__all__ = ["TLSProtocolReader", "read_rest", "readable"]

CHUNK = 2**18


def readable(transport: asyncio.BaseTransport) -> bool:
    """Return whether data, the end of the stream or an error waits in the socket of `transport`."""
    sock = transport.get_extra_info("socket")
    if transport.is_closing() or sock is None or sock.fileno() < 0:
        return False
    poll = select.poll()  # select.select() is limited to the first 1024 descriptors
    poll.register(sock.fileno(), select.POLLIN)
    return bool(poll.poll(0))


def read_rest(transport: asyncio.BaseTransport, exc: Exception | None) -> bytes:
    """Return the unread data of a transport that was lost because of `exc`. Call it in `connection_lost`."""
    sock = transport.get_extra_info("socket")
    # Without an error the stream was read to its end, or the connection was aborted; after a TLS error it is unusable.
    failed = isinstance(exc, OSError) and not isinstance(exc, ssl.SSLError)
    if not failed or sock is None or sock.fileno() < 0:
        return b""
    parts: list[bytes] = []
    room = sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)  # a peer that goes on sending must not keep us here
    while room > 0:
        try:
            data = os.read(sock.fileno(), CHUNK)
        except OSError:  # there is no more, or the error of the connection
            break
        if not data:
            break
        parts.append(data)
        room -= len(data)
    return b"".join(parts)


class TLSProtocolReader(asyncio.BufferedProtocol):
    """Stands between the TCP transport and the TLS protocol of the event loop, which it gives the rest after a failure.

    The TLS protocol reports the loss to the connection above it only when the socket is closed.
    """

    __slots__ = ("_source", "_tls", "buffer_updated", "eof_received", "get_buffer", "pause_writing", "resume_writing")

    def __init__(self, source: asyncio.Transport) -> None:
        self._source = source
        self._tls = tls = cast(asyncio.BufferedProtocol, source.get_protocol())
        self.get_buffer, self.buffer_updated = tls.get_buffer, tls.buffer_updated  # type: ignore[method-assign]
        self.eof_received = tls.eof_received  # type: ignore[method-assign]
        self.pause_writing, self.resume_writing = tls.pause_writing, tls.resume_writing  # type: ignore[method-assign]
        source.set_protocol(self)

    def connection_lost(self, exc: Exception | None) -> None:
        rest = memoryview(read_rest(self._source, exc))
        while rest:
            buffer = memoryview(self._tls.get_buffer(len(rest)))
            count = min(len(rest), len(buffer))
            buffer[:count] = rest[:count]
            self._tls.buffer_updated(count)
            rest = rest[count:]
        self._tls.connection_lost(exc)
