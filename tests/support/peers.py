"""Servers and proxies on loopback that send exact bytes, for behaviour that a correct server does not have."""

import asyncio
import base64
import contextlib
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable

from websockets.utils import accept_key

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
HOST = "127.0.0.1"


@contextlib.asynccontextmanager
async def listening(handle: Handler, *, tls: ssl.SSLContext | None = None, host: str = HOST) -> AsyncIterator[int]:
    """Serve every connection with `handle` on a free port, and close all of them at the end."""
    running: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        running.add(task)
        try:
            await handle(reader, writer)
        # uvloop raises RuntimeError for a write after the client has disconnected.
        except (OSError, RuntimeError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            writer.transport.abort()
            running.discard(task)

    server = await asyncio.start_server(serve, host, 0, ssl=tls, limit=2**16)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in list(running):
            task.cancel()
        if running:
            await asyncio.wait(running)
        await server.wait_closed()


async def request(reader: asyncio.StreamReader) -> tuple[str, dict[str, str]]:
    """The first line of an HTTP request, and its headers by lower-case name."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode("iso-8859-1")
    first, *lines = head.removesuffix("\r\n\r\n").split("\r\n")
    return first, {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}


def switching(headers: dict[str, str], *more: str) -> bytes:
    """The answer that opens a WebSocket."""
    lines = ["HTTP/1.1 101 Switching Protocols", "Upgrade: websocket", "Connection: Upgrade"]
    lines += [f"Sec-WebSocket-Accept: {accept_key(headers['sec-websocket-key'])}", *more]
    return "\r\n".join([*lines, "", ""]).encode()


async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *more: str) -> dict[str, str]:
    """Answer the opening handshake; return the request's headers."""
    _, headers = await request(reader)
    writer.write(switching(headers, *more))
    return headers


async def until_gone(reader: asyncio.StreamReader) -> bytes:
    """Read until the peer disconnects; return all data."""
    received = b""
    with contextlib.suppress(ConnectionError):
        while data := await reader.read(2**16):
            received += data
    return received


def sending(*parts: bytes) -> Handler:
    """A server that accepts, sends these bytes, and closes the socket."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await accept(reader, writer)
        for part in parts:
            writer.write(part)
        await writer.drain()
        writer.close()
        await until_gone(reader)

    return handle


def answering(answer: bytes, *, and_close: bool = True) -> Handler:
    """A server that answers the handshake with exactly these bytes."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await request(reader)
        writer.write(answer)
        if and_close:
            writer.close()
        await until_gone(reader)

    return handle


def reset(writer: asyncio.StreamWriter) -> None:
    """Close a connection with a RST: data in transit do not arrive."""
    sock = writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(2**16):
            writer.write(data)
            await writer.drain()
    except ConnectionError:
        pass
    finally:
        writer.close()


async def _join(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, host: str, port: int) -> None:
    there_reader, there_writer = await asyncio.open_connection(host, port)
    try:
        await asyncio.gather(_pump(reader, there_writer), _pump(there_reader, writer))
    finally:
        there_writer.transport.abort()


class HttpProxy:
    """A CONNECT proxy; `asked` has the requests."""

    def __init__(self, *, user: str = "", password: str = "", leads_to: int | None = None) -> None:
        self.asked: list[str] = []
        self._credentials = f"Basic {base64.b64encode(f'{user}:{password}'.encode()).decode()}" if user else None
        self._leads_to = leads_to

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        first, headers = await request(reader)
        method, target, _ = first.split(" ")
        self.asked.append(f"{method} {target}")
        if self._credentials is not None and headers.get("proxy-authorization") != self._credentials:
            writer.write(b"HTTP/1.1 407 Proxy Authentication Required\r\nProxy-Authenticate: Basic\r\n\r\n")
            await until_gone(reader)
            return
        writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        port = int(target.rpartition(":")[2])
        await _join(reader, writer, HOST, self._leads_to or port)


class SocksProxy:
    """A SOCKS5 proxy (RFC 1928), with user and password (RFC 1929) if given; `asked` has the requests."""

    def __init__(self, *, user: str = "", password: str = "", refuses: bool = False) -> None:
        self.asked: list[str] = []
        self._login = (user.encode(), password.encode()) if user else None
        self._refuses = refuses

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        _, count = await reader.readexactly(2)
        methods = await reader.readexactly(count)
        method = 2 if self._login is not None else 0
        if method not in methods:
            writer.write(b"\x05\xff")
            return
        writer.write(bytes([5, method]))
        if self._login is not None:
            _, length = await reader.readexactly(2)
            user = await reader.readexactly(length)
            password = await reader.readexactly((await reader.readexactly(1))[0])
            good = (user, password) == self._login
            writer.write(b"\x01\x00" if good else b"\x01\x01")
            if not good:
                return
        kind = (await reader.readexactly(4))[3]
        if kind == 3:
            host = (await reader.readexactly((await reader.readexactly(1))[0])).decode()
        else:
            family, size = (socket.AF_INET, 4) if kind == 1 else (socket.AF_INET6, 16)
            host = socket.inet_ntop(family, await reader.readexactly(size))
        (port,) = struct.unpack("!H", await reader.readexactly(2))
        self.asked.append(f"{host}:{port}")
        writer.write(bytes([5, 5 if self._refuses else 0, 0, 1, 0, 0, 0, 0, 0, 0]))
        if not self._refuses:
            await _join(reader, writer, HOST, port)
