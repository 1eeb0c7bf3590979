"""The faults are visible to the client of websockets and to plain sockets."""

import asyncio
import socket

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidMessage, InvalidStatus

from wsfleet.testing import FeedServer, faults

CODES = [
    (faults.Drop(after=2), 1006),
    (faults.Reset(after=2), 1006),
    (faults.Close(1012, after=2), 1012),
    (faults.Close(1005, after=2), 1005),
    (faults.Close(1006, after=2), 1002),
    (faults.Garbage(after=2), 1002),
    (faults.ReservedBits(3, after=2), 1002),
    (faults.InvalidUTF8(after=2), 1007),
    (faults.Oversize(after=2), 1009),
    (faults.CompressionBomb(after=2), 1009),
]


@pytest.mark.parametrize(("fault", "code"), CODES, ids=lambda value: str(value).partition("(")[0])
async def test_another_client_sees_the_same(fault: faults.ConnectionFault, code: int) -> None:
    """The client receives the messages before the fault, and then the code of RFC 6455."""
    async with FeedServer(compression="deflate") as server:
        server.script([fault])
        async with connect(server.uri, proxy=None) as client:
            await server.wait_clients(1)
            await server.send("one", "two", "never sent")
            if not fault.destroys:
                assert [await client.recv(), await client.recv()] == ["one", "two"]
            with pytest.raises(ConnectionClosed):
                while True:
                    await client.recv()
            sent = client.protocol.close_sent
            assert (sent.code if sent is not None and sent.code != 1000 else client.close_code) == code
            assert server.clients == ()


async def test_another_client_sees_fragments_without_an_end() -> None:
    """websockets also limits the number of fragments."""
    async with FeedServer() as server, connect(server.uri, proxy=None, max_queue=None) as client:
        await server.wait_clients(1)
        server.strike(faults.FragmentFlood())
        with pytest.raises(ConnectionClosed, match="too many fragments"):
            await client.recv()


async def test_other_clients_see_handshake_faults() -> None:
    """websockets raises the matching exception for each handshake fault."""
    async with FeedServer() as server:
        refusals = [faults.Refuse(429, {"Retry-After": "7"}), faults.BadAnswer(), faults.EndlessHeaders()]
        server.script([*refusals, faults.Redirect(f"{server.uri}/there")])
        with pytest.raises(InvalidStatus) as refused:
            await connect(server.uri, proxy=None)
        assert refused.value.response.headers["Retry-After"] == "7"
        for _ in range(2):
            with pytest.raises((InvalidMessage, InvalidHandshake)):
                await connect(server.uri, proxy=None)
        async with connect(server.uri, proxy=None):
            assert server.requests[-1].path == "/there"


async def test_a_held_client_receives_nothing() -> None:
    """A silent server answers pings only; a stalled server does not answer."""
    async with FeedServer() as server, connect(server.uri, proxy=None) as silent:
        await server.wait_clients(1)
        server.strike(faults.Silence())
        async with connect(server.uri, proxy=None, close_timeout=0.1) as stalled:
            await server.wait_clients(1)
            server.strike(faults.Stall())
            assert await server.send("nobody hears this") == 0
            answer = await stalled.ping()
            await (await silent.ping())
            await silent.send("still read")
            while not server.received:
                await asyncio.sleep(0.01)
            assert not answer.done()
            answer.cancel()


async def test_a_flood_is_good_messages() -> None:
    """All messages of a flood arrive, and the connection stays open."""
    async with FeedServer() as server, connect(server.uri, proxy=None) as client:
        await server.wait_clients(1)
        server.strike(faults.Flood(100, b"\x01"))
        await server.send("after it")
        assert [await client.recv() for _ in range(101)] == [b"\x01"] * 100 + ["after it"]


async def test_a_reset_ends_with_econnreset() -> None:
    """The socket ends with ECONNRESET within a frame."""
    async with FeedServer() as server:
        server.script([faults.Reset(after_s=0.05)])
        with socket.create_connection((server.host, server.port)) as sock:
            sock.setblocking(False)
            loop = asyncio.get_running_loop()
            key = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
            request = f"GET / HTTP/1.1\r\nHost: feed\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n{key}"
            await loop.sock_sendall(sock, request.encode())
            got = b""
            with pytest.raises(ConnectionResetError):
                while data := await loop.sock_recv(sock, 2**16):
                    got += data
            assert got.startswith(b"HTTP/1.1 101 ")


@pytest.mark.parametrize(
    "make", [lambda: faults.Drop(after=-1), lambda: faults.ReservedBits(4), lambda: faults.Refuse(101)]
)
def test_invalid_parameters_of_a_fault_are_refused(make: object) -> None:
    """Invalid parameters of a fault are rejected on creation."""
    assert callable(make)
    with pytest.raises(ValueError):
        make()
