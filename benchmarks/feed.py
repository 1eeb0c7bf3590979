"""A WebSocket server that only sends, in its own process.

    python -m benchmarks.feed MESSAGES SIZE [--port PORT] [--certificate FILE] [--deflate] [--single]

For each message of a client, every connection gets MESSAGES text frames of SIZE bytes of JSON. They are encoded, and
compressed, before the first connection and written in blocks, so that the server costs a small part of the cost of
any client. The address is printed first; at the end of stdin, which is also when the parent dies, the server prints
the cost of the flow, and ends.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import hashlib
import json
import re
import ssl
import sys
import time
import zlib
from functools import partial

import uvloop

from benchmarks.contender import raise_open_files

BLOCK = 64 * 1024
RATE = 10.0
PAUSE_S = 0.001
_MAGIC = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_SYMBOLS = ("AAPL", "MSFT", "GOOG", "AMZN", "NVDA", "META", "TSLA", "INTC")


def payloads(size: int) -> list[bytes]:
    """Return the messages of one block: JSON of exactly `size` bytes each, all different."""
    made = []
    for number in range(max(1, BLOCK // (size + 4))):
        trade: dict[str, str | int | float] = {
            "symbol": _SYMBOLS[number % len(_SYMBOLS)],
            "id": 10**9 + number,
            "price": 1000 + number / 8,
            "size": 1 + number % 100,
            "time": 1700000000.125 + number,
            "note": "",
        }
        room = size - len(json.dumps(trade))
        if room < 0:
            raise ValueError(f"a message has at least {size - room} bytes")
        made.append(json.dumps(trade | {"note": "n" * room}).encode())
    return made


def expected_total(messages: int, size: int) -> int:
    """Return the sum of the field "size" over the messages of one connection."""
    sizes: list[int] = [json.loads(payload)["size"] for payload in payloads(size)]
    whole, rest = divmod(messages, len(sizes))
    return whole * sum(sizes) + sum(sizes[:rest])


def deflated(messages: list[bytes]) -> list[bytes]:
    """Return the payloads of compressed frames (RFC 7692, section 7.2.1), each with the previous ones as context.

    The first has none, so the whole list can be sent repeatedly to a receiver that keeps the context.
    """
    made = zlib.compressobj(wbits=-15)
    return [
        (made.compress(each) + made.flush(zlib.Z_SYNC_FLUSH)).removesuffix(b"\x00\x00\xff\xff") for each in messages
    ]


def frame(opcode: int, payload: bytes, *, compressed: bool = False) -> bytes:
    """Return a complete frame from a server, so without a mask (RFC 6455, section 5.2)."""
    size = len(payload)
    if size < 126:
        length = bytes([size])
    elif size < 2**16:
        length = b"\x7e" + size.to_bytes(2, "big")
    else:
        length = b"\x7f" + size.to_bytes(8, "big")
    return bytes([0x80 | compressed << 6 | opcode]) + length + payload


class Feed:
    """The state shared by all connections: the encoded blocks, the clients, and the clock."""

    def __init__(self, messages: int, size: int, deflate: bool, single: bool) -> None:
        plain = payloads(size)
        frames = [frame(1, payload, compressed=deflate) for payload in (deflated(plain) if deflate else plain)]
        whole, rest = divmod(messages, len(frames))
        self.singles = [frames[number % len(frames)] for number in range(messages)] if single else []
        self.flow: asyncio.Task[None] | None = None
        self.block = b"".join(frames)
        self.whole = whole
        self.rest = b"".join(frames[:rest])
        self.extensions = b"Sec-WebSocket-Extensions: permessage-deflate\r\n" if deflate else b""
        self.senders: list[Sender] = []
        self.began = self.ended = 0.0

    def go(self) -> None:
        self.began = self.began or time.process_time()
        if self.singles:
            self.flow = asyncio.create_task(self.go_slowly())
            return
        for sender in self.senders:
            sender.blocks, sender.rest = self.whole, self.rest
            sender.send()
        self.ended = time.process_time()

    async def go_slowly(self) -> None:
        """Send one message to one connection after the other, `RATE` messages per second to each."""
        loop = asyncio.get_running_loop()
        due, gap_s = loop.time(), 1 / (RATE * len(self.senders))
        for single in self.singles:
            for sender in list(self.senders):
                sender.transport.write(single)
                due += gap_s
                if due > loop.time():
                    await asyncio.sleep(max(PAUSE_S, due - loop.time()))
        self.ended = time.process_time()


class Sender(asyncio.Protocol):
    """One connection. A client's messages are short, so each read is assumed to contain whole frames."""

    def __init__(self, feed: Feed) -> None:
        self.feed = feed
        self.request = b""
        self.blocks, self.rest = 0, b""
        self.open = self.paused = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self.transport = transport
        transport.set_write_buffer_limits(high=16 * BLOCK)

    def data_received(self, data: bytes) -> None:
        if not self.open:
            self.request += data
            if b"\r\n\r\n" in self.request:
                self.accept()
            return
        while data:
            opcode, size = data[0] & 0x0F, data[1] & 0x7F
            payload = bytes(byte ^ data[2 + at % 4] for at, byte in enumerate(data[6 : 6 + size]))
            data = data[6 + size :]
            if opcode == 8:  # closing: echo the code, then the server closes the socket (section 7.1.1)
                self.transport.write(frame(8, payload[:2]))
                self.transport.close()
            elif opcode == 9:
                self.transport.write(frame(10, payload))
            elif opcode in (1, 2):
                self.feed.go()

    def accept(self) -> None:
        key = re.search(rb"(?i)\r\nsec-websocket-key: *(\S+)", self.request)
        assert key is not None
        assert b"permessage-deflate" in self.request or not self.feed.extensions
        accept = base64.b64encode(hashlib.sha1(key[1] + _MAGIC, usedforsecurity=False).digest())
        self.transport.write(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Accept: " + accept + b"\r\n" + self.feed.extensions + b"\r\n"
        )
        self.open = True
        self.feed.senders.append(self)

    def send(self) -> None:
        while self.blocks and not self.paused:
            self.blocks -= 1
            self.transport.write(self.feed.block)
        if self.rest and not self.blocks and not self.paused:
            self.transport.write(self.rest)
            self.rest = b""

    def pause_writing(self) -> None:
        self.paused = True

    def resume_writing(self) -> None:
        self.paused = False
        self.send()
        self.feed.ended = time.process_time()

    def connection_lost(self, exc: Exception | None) -> None:
        self.paused = True
        if self in self.feed.senders:
            self.feed.senders.remove(self)


async def main(options: argparse.Namespace) -> None:
    feed = Feed(options.messages, options.size, options.deflate, options.single)
    context = None
    if options.certificate:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(options.certificate)
    server = await asyncio.get_running_loop().create_server(
        partial(Sender, feed), "127.0.0.1", options.port, backlog=4096, ssl=context
    )
    print(f"{'wss' if context else 'ws'}://127.0.0.1:{server.sockets[0].getsockname()[1]}/", flush=True)
    await asyncio.to_thread(sys.stdin.read)
    print(json.dumps({"cpu_s": feed.ended - feed.began}))
    server.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m benchmarks.feed", description=__doc__)
    parser.add_argument("messages", type=int)
    parser.add_argument("size", type=int)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--certificate")
    parser.add_argument("--deflate", action="store_true")
    parser.add_argument("--single", action="store_true")
    raise_open_files()
    uvloop.run(main(parser.parse_args()))
