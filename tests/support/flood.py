"""A server that sends at full speed and counts its messages: for backpressure and floods."""

import asyncio
import base64
import hashlib
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

_MAGIC = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
HEAD = 16


def frame(payload: bytes, opcode: int = 1) -> bytes:
    """A complete frame from a server, so without a mask (RFC 6455, section 5.2)."""
    size = len(payload)
    length = bytes([size]) if size < 126 else b"\x7e" + size.to_bytes(2, "big")
    assert size < 2**16
    return bytes([0x80 | opcode]) + length + payload


class Flood:
    """Its messages are numbered, `size` characters long; `sent` counts those that were written to the socket.

    It answers pings and never sends any. Other frames of a client are ignored.
    """

    def __init__(self, size: int, pause_s: float = 0.0) -> None:
        self.size = size
        self.pause_s = pause_s
        self.sent = 0
        self.clients = 0
        self.pings = 0
        self.going = asyncio.Event()
        self.going.set()
        self.uri = ""
        self._tasks: set[asyncio.Task[None]] = set()

    def payload(self, number: int) -> bytes:
        return f"{number:0{HEAD}d}".encode().ljust(self.size, b".")

    def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.clients += 1
        task = asyncio.create_task(self._serve(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        both: set[asyncio.Task[None]] = set()
        try:
            request = await reader.readuntil(b"\r\n\r\n")
            key = re.search(rb"(?i)sec-websocket-key: *(\S+)", request)
            assert key is not None
            accept = base64.b64encode(hashlib.sha1(key[1] + _MAGIC, usedforsecurity=False).digest())
            writer.write(
                b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                b"Sec-WebSocket-Accept: " + accept + b"\r\n\r\n"
            )
            both = {asyncio.create_task(self._send(writer)), asyncio.create_task(self._answer(reader, writer))}
            await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            for task in both:
                task.cancel()
            await asyncio.gather(*both, return_exceptions=True)
            writer.close()

    async def _send(self, writer: asyncio.StreamWriter) -> None:
        # Small buffers at this end, so that `sent` is not much more than the kernel and the client have taken.
        writer.transport.set_write_buffer_limits(high=2**16)
        number = 0
        while True:
            await self.going.wait()
            block = max(1, 2**15 // self.size)
            writer.write(b"".join(frame(self.payload(number + n)) for n in range(1, block + 1)))
            number += block
            await writer.drain()
            self.sent = number
            await asyncio.sleep(self.pause_s)

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            head = await reader.readexactly(2)
            size = head[1] & 0x7F
            if size == 126:
                size = int.from_bytes(await reader.readexactly(2), "big")
            body = await reader.readexactly(4 + size)
            payload = bytes(byte ^ body[place % 4] for place, byte in enumerate(body[4:]))
            if head[0] & 0x0F == 9:
                self.pings += 1
                writer.write(frame(payload, 10))
            elif head[0] & 0x0F == 8:
                writer.write(frame(payload[:2], 8))
                return

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


@asynccontextmanager
async def flooding(size: int = 1000, pause_s: float = 0.0) -> AsyncIterator[Flood]:
    """The server, on a free loopback port."""
    flood = Flood(size, pause_s)
    server = await asyncio.start_server(flood.connected, "127.0.0.1", 0)
    flood.uri = f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield flood
    finally:
        server.close()
        await flood.stop()
        await server.wait_closed()
