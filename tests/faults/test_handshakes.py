"""Servers that do not complete a handshake: each attempt is bounded, and reported with its stage."""

import asyncio
import ssl

import pytest
import trustme

from tests.faults.kit import Numbered, behind, suffering
from tests.support.peers import Handler, request, reset, until_gone
from wsfleet import State
from wsfleet.core.errors import ConnectFailed

HEAD = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"

SWALLOWS = "http: not done within open_s = 2 s"


async def says_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await until_gone(reader)


async def answers_byte_by_byte(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await request(reader)
    for byte in HEAD + b"X-Slow: " + b"x" * 5000:
        writer.write(bytes([byte]))
        await writer.drain()
        await asyncio.sleep(0.02)


async def never_ends_its_headers(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await request(reader)
    writer.write(HEAD)
    while True:
        writer.write(b"X-Another: one\r\n" * 100)
        await writer.drain()


async def never_ends_a_header(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await request(reader)
    writer.write(HEAD + b"X-Long: ")
    while True:
        writer.write(b"x" * 4096)
        await writer.drain()


async def resets(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await request(reader)
    reset(writer)


async def hangs_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await request(reader)


@pytest.mark.parametrize(
    ("fault", "beginning"),
    [
        (says_nothing, SWALLOWS),
        (answers_byte_by_byte, SWALLOWS),
        (never_ends_its_headers, "http: "),
        (never_ends_a_header, "http: "),
        (resets, "http: "),
        (hangs_up, "http: "),
    ],
)
async def test_a_handshake_that_is_never_done(fault: Handler, beginning: str) -> None:
    """A slow, endless or incomplete answer fails its attempt at stage http, within open_s; the next one opens."""
    async with Numbered() as server, behind(server, fault) as port:
        async with suffering(f"ws://localhost:{port}", open_s=2.0) as case:
            error = await case.fails()
            assert isinstance(error, ConnectFailed)
            assert error.stage == "http"
            assert str(error).startswith(beginning)
            assert len(str(error)) < 300
            assert case.changes[0].state is State.BACKOFF
            await case.comes_back()
        assert case.sick.stats().losses == 0
        case.destroyed(server.handed)


async def test_tls_that_is_never_answered() -> None:
    """A server that accepts the connection and does not answer the TLS hello fails the attempt at stage tls."""
    authority = trustme.CA()
    theirs, ours = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.create_default_context()
    authority.issue_cert("localhost").configure_cert(theirs)
    authority.configure_trust(ours)
    async with Numbered(ssl=theirs) as server, behind(server, says_nothing) as port:
        async with suffering(f"wss://localhost:{port}", ssl=ours, open_s=2.0) as case:
            error = await case.fails()
            assert str(error) == "tls: not done within open_s = 2 s"
            await case.comes_back()
        case.destroyed(server.handed)
