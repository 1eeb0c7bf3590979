"""Records the data of real servers, as inputs for the fuzzer: `python -m tools.fuzz.record`.

They are saved in `tests/support/fuzz_corpus`. websockets' own server, nats-server and the npm package ws, with and
without compression, are each asked to open a WebSocket with the one key of all inputs. Every conversation ends with a
close, or with the server's refusal.
"""

from __future__ import annotations

import asyncio
import http
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from websockets.asyncio.server import ServerConnection, serve
from websockets.client import ClientProtocol
from websockets.datastructures import Headers
from websockets.extensions.permessage_deflate import ClientPerMessageDeflateFactory
from websockets.frames import Frame, Opcode
from websockets.http11 import Request, Response
from websockets.typing import Subprotocol
from websockets.uri import parse_uri

from tests.support.fuzzing import KEY, SUBPROTOCOL, how
from tests.support.servers.base import HOST
from tests.support.servers.nats import NatsServer
from tests.support.servers.node_ws import NodeWs

CORPUS = Path(__file__).parents[2] / "tests" / "support" / "fuzz_corpus"
MOST = 4096
"""Maximum size of a recorded conversation: longer ones only make the fuzzer slower."""

QUIET_S = 0.5
CLOSE = Frame(Opcode.CLOSE, b"\x03\xe8")
TEXTS = ["", "x", '{"n": 1, "price": 101.25}', "é價\U0001f600", "y" * 130]
SUBSCRIBE = b'CONNECT {"verbose":true}\r\nSUB a 1\r\nPUB a 5\r\nhello\r\nPING\r\n'


async def record(uri: str, deflate: bool, sent: list[Frame]) -> bytes:
    """Return all data of the server at `uri`, from its answer to the handshake on, for a client that sends `sent`."""
    where = parse_uri(uri)
    client = ClientProtocol(
        where,
        extensions=[ClientPerMessageDeflateFactory(client_max_window_bits=True)] if deflate else None,
        subprotocols=[Subprotocol(SUBPROTOCOL)],
    )
    client.key = KEY
    reader, writer = await asyncio.open_connection(where.host, where.port)
    try:
        client.send_request(client.connect())
        writer.writelines(client.data_to_send())
        received = await reader.readuntil(b"\r\n\r\n")
        for frames in (sent, [CLOSE] * received.startswith(b"HTTP/1.1 101")):
            for frame in frames:
                writer.write(frame.serialize(mask=True))  # uncompressed, which is always allowed
            received += await until_quiet(reader)
        return received
    finally:
        writer.close()


async def until_quiet(reader: asyncio.StreamReader) -> bytes:
    """Return the data that arrive until the server is silent."""
    received = b""
    while True:
        try:
            async with asyncio.timeout(QUIET_S):
                data = await reader.read(2**16)
        except (TimeoutError, ConnectionError):
            return received
        if not data:
            return received
        received += data


async def feed(connection: ServerConnection) -> None:
    """All kinds of data of a correct server: texts, bytes, fragments, a ping, and a close with a reason."""
    for text in TEXTS:
        await connection.send(text)
    await connection.send(bytes(range(200)))
    await connection.send(["in ", "three ", "fragments"])
    await connection.ping(b"there?")
    await connection.close(1001, "good bye")


def refuse(connection: ServerConnection, request: Request) -> Response | None:
    if request.path == "/":
        return None
    if request.path == "/moved":
        return Response(302, "Found", Headers(Location="/there", Content_Length="0"))
    status = http.HTTPStatus(int(request.path[1:]))
    response = connection.respond(status, f"{status.phrase}\n")
    response.headers["Retry-After"] = "120"
    return response


@asynccontextmanager
async def sources(folder: Path, deflate: bool) -> AsyncIterator[list[tuple[str, str, list[Frame]]]]:
    """Servers: name, address, and the messages that make them send data."""
    kind = "deflate" if deflate else None
    echoed = [Frame(Opcode.TEXT, text.encode()) for text in TEXTS] + [Frame(Opcode.PING, b"?")]
    async with (
        serve(feed, HOST, 0, compression=kind, process_request=refuse, subprotocols=[Subprotocol(SUBPROTOCOL)]) as ours,
        NatsServer(folder, compression=deflate) as nats,
        NodeWs(folder, deflate=deflate, subprotocol=SUBPROTOCOL) as node,
    ):
        here = f"ws://{HOST}:{ours.sockets[0].getsockname()[1]}"
        yield [
            ("websockets", f"{here}/", []),
            ("websockets-429", f"{here}/429", []),
            ("websockets-moved", f"{here}/moved", []),
            ("nats", nats.uri, [Frame(Opcode.BINARY, SUBSCRIBE)]),
            ("ws", f"{node.uri}/echo", echoed),
            ("ws-feed", f"{node.uri}/feed?n=3&size=300&fragments=3", []),
            ("ws-refused", f"{node.uri}/refuse/503?after=5", []),
        ]


async def record_all() -> None:
    for name in ("wire", "handshake"):
        (CORPUS / name).mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        for deflate in (False, True):
            async with sources(Path(folder), deflate) as found:
                for name, uri, sent in found:
                    received = await record(uri, deflate, sent)
                    keep(name + "-deflate" * deflate, received[:MOST], deflate)


def keep(name: str, received: bytes, deflate: bool) -> None:
    """Save a conversation from the handshake on, and, if it opened, also as one on an open connection."""
    head, _, rest = received.partition(b"\r\n\r\n")
    opened = head.startswith(b"HTTP/1.1 101")
    if deflate and not opened:
        return  # a duplicate
    (CORPUS / "handshake" / name).write_bytes(how(deflate, cut=100) + received)
    if opened:
        (CORPUS / "wire" / name).write_bytes(how(deflate) + rest)
    print(f"{name}: {len(received)} bytes{', opened' if opened else ''}")


if __name__ == "__main__":
    asyncio.run(record_all())
