"""The feed server, tested with the client of websockets."""

import asyncio
import contextlib
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import trustme
from websockets.asyncio.client import ClientConnection, connect
from websockets.asyncio.server import ServerConnection
from websockets.exceptions import ConnectionClosed, InvalidStatus

from wsfleet.testing import FeedServer, faults


@contextlib.asynccontextmanager
async def client_of(server: FeedServer, **options: object) -> AsyncIterator[ClientConnection]:
    async with connect(server.uri, proxy=None, **options) as client:
        yield client


async def close_code(client: ClientConnection) -> int | None:
    with pytest.raises(ConnectionClosed):
        await client.recv()
    return client.close_code


async def test_sends_to_all_clients_and_keeps_the_kinds_apart() -> None:
    """Payloads reach all clients in order: str as text, bytes as binary, other objects as JSON text."""
    async with FeedServer() as server, client_of(server) as one, client_of(server) as other:
        await server.wait_clients(2)
        assert await server.send("text", b"binary", {"price": 1.5}) == 2
        for client in one, other:
            assert [await client.recv() for _ in range(3)] == ["text", b"binary", '{"price":1.5}']


async def test_sending_without_clients_returns_zero() -> None:
    """Without clients, nothing is sent or kept for later."""
    async with FeedServer() as server:
        assert await server.send("lost") == 0


async def test_notes_what_it_receives() -> None:
    """`received` contains the messages of clients, and `requests` their handshakes."""
    async with FeedServer() as server:
        async with connect(f"{server.uri}/feed?x=1", proxy=None, additional_headers={"X-Token": "abc"}) as client:
            await client.send("hello")
            await client.send(b"\x00")
        await server.wait_clients(0)
        assert server.received == ["hello", b"\x00"]
        assert [(request.path, request.headers["X-Token"]) for request in server.requests] == [("/feed?x=1", "abc")]


async def test_wait_clients_waits_for_enough_and_for_none() -> None:
    """`wait_clients(n)` returns when at least n clients are connected, `wait_clients(0)` when there are none."""
    async with FeedServer() as server:
        waiting = asyncio.create_task(server.wait_clients(2))
        async with client_of(server):
            await server.wait_clients(1)
            assert not waiting.done()
            async with client_of(server):
                await waiting
                await server.wait_clients(1)
                assert len(server.clients) == 2
        await server.wait_clients(0)
        assert server.clients == ()


async def test_wait_clients_has_a_limit() -> None:
    """After `timeout_s`, `wait_clients` raises TimeoutError with the number of clients."""
    async with FeedServer() as server, client_of(server):
        await server.wait_clients(1)
        with pytest.raises(TimeoutError, match=r"1 client connected after 0\.01 s, waited for 2"):
            await server.wait_clients(2, timeout_s=0.01)


async def test_drop_cuts_without_a_close_frame() -> None:
    """After `drop`, clients see 1006, do not count as connected, and can reconnect at once."""
    async with FeedServer() as server:
        async with client_of(server) as client:
            await server.wait_clients(1)
            server.drop()
            assert server.clients == ()
            assert await close_code(client) == 1006
        async with client_of(server):
            await server.wait_clients(1)


async def test_close_sends_the_code_and_the_reason() -> None:
    """`close` closes all clients with the given code, and the server continues to listen."""
    async with FeedServer() as server:
        async with client_of(server) as client:
            await server.wait_clients(1)
            server.close(1012, "restarting")
            assert server.clients == ()
            assert await close_code(client) == 1012
            assert client.close_reason == "restarting"
        async with client_of(server):
            await server.wait_clients(1)


@pytest.mark.parametrize(("code", "answered"), [(1005, 1005), (1006, 1002)])
async def test_close_sends_what_no_server_should(code: int, answered: int) -> None:
    """`close` sends forbidden codes like `strike(Close(...))`: 1005 as a frame without a code, 1006 as it is."""
    async with FeedServer() as server, client_of(server) as client:
        await server.wait_clients(1)
        server.close(code)
        with pytest.raises(ConnectionClosed) as closed:
            await client.recv()
        assert closed.value.sent is not None and closed.value.sent.code == answered


async def test_refuses_until_accept() -> None:
    """`refuse` answers handshakes with status and headers until `accept`, and keeps connected clients."""
    async with FeedServer() as server, client_of(server) as before:
        await server.wait_clients(1)
        server.refuse(429, {"Retry-After": "7"})
        for _ in range(2):
            with pytest.raises(InvalidStatus) as refused:
                await connect(server.uri, proxy=None)
            assert refused.value.response.status_code == 429
            assert refused.value.response.headers["Retry-After"] == "7"
        server.accept()
        async with client_of(server):
            await server.wait_clients(2)
        await server.send("still there")
        assert await before.recv() == "still there"


async def test_refuses_so_many_times() -> None:
    """With `times`, the refusal ends automatically; statuses outside the standard are sent too."""
    async with FeedServer() as server:
        server.refuse(520, times=1)
        with pytest.raises(InvalidStatus) as refused:
            await connect(server.uri, proxy=None)
        assert refused.value.response.status_code == 520
        async with client_of(server):
            await server.wait_clients(1)
        assert len(server.requests) == 2


def test_refuse_requires_a_final_status() -> None:
    """`refuse` rejects 101 and other interim statuses."""
    with pytest.raises(ValueError, match="status must be a number from 200 to 599, not 101"):
        FeedServer().refuse(101)


@pytest.mark.parametrize(
    ("steps", "expected"),
    [([503], "not 503"), ([faults.Well(), faults.Drop], "not the class Drop"), ([None], "not None")],
)
async def test_a_script_of_what_is_no_fault(steps: list[Any], expected: str) -> None:
    """A script with a step that is not a fault is rejected at once."""
    with pytest.raises(TypeError, match=f"must be a fault such as faults.Refuse\\(503\\), {expected}"):
        FeedServer().script(steps)


async def test_an_iterator_that_makes_what_is_no_fault() -> None:
    """An invalid step of an iterator is raised at the end of the server's context."""
    with pytest.raises(TypeError, match="not 503"):
        async with FeedServer() as server:
            server.script(iter([503]))  # type: ignore[list-item]
            with pytest.raises(InvalidStatus) as refused:
                await connect(server.uri, proxy=None)
            assert refused.value.response.status_code == 500
            async with client_of(server):
                await server.wait_clients(1)


async def test_an_exception_of_the_test_takes_precedence() -> None:
    """An exception of the test itself takes precedence over that of a script's iterator."""
    with pytest.raises(AssertionError, match="the test's own"):
        async with FeedServer() as server:
            server.script(iter([503]))  # type: ignore[list-item]
            with pytest.raises(InvalidStatus):
                await connect(server.uri, proxy=None)
            raise AssertionError("the test's own")


@pytest.mark.parametrize("fault", ["x", faults.Refuse(503), faults.Drop])
def test_strike_refuses_other_objects(fault: Any) -> None:
    """`strike` rejects an object that is not a fault, also without clients."""
    with pytest.raises(TypeError, match=r"must be a fault such as faults.Drop\(\), not "):
        FeedServer().strike(fault)


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda: faults.Refuse("503"), "status must be a number from 200 to 599, not '503'"),  # type: ignore[arg-type]
        (lambda: faults.Redirect("ws://h", 200), "status must be a number from 300 to 399, not 200"),
        (lambda: faults.Close(70000), "code must be a number from 0 to 65535, not 70000"),
        (lambda: faults.Close(1000, "x" * 124), "reason must have at most 123 bytes, not 124"),
        (lambda: faults.Drop(after=-1), "after must be a number of at least 0, not -1"),
        (lambda: faults.Drop(after_s="1"), "after_s must be a number of at least 0, not '1'"),  # type: ignore[arg-type]
    ],
)
def test_a_fault_that_cannot_happen(make: Callable[[], object], expected: str) -> None:
    """Invalid parameters of a fault raise an error that names the allowed values."""
    with pytest.raises(ValueError, match=expected):
        make()


async def test_stops_and_starts_on_the_same_port() -> None:
    """A stopped server refuses connections, and accepts them again on the same `uri` after `start`."""
    async with FeedServer() as server:
        uri = server.uri
        async with client_of(server) as client:
            await server.wait_clients(1)
            await server.stop()
            assert await close_code(client) == 1001
        with pytest.raises(ConnectionRefusedError):
            await connect(uri, proxy=None)
        await server.stop()
        await server.start()
        await server.start()
        assert server.uri == uri
        async with client_of(server):
            await server.wait_clients(1)


async def test_a_stop_after_a_drop_sends_no_close_frame() -> None:
    """After `drop` and `stop`, clients see 1006, and connections are refused."""
    async with FeedServer() as server, client_of(server) as client:
        await server.wait_clients(1)
        server.drop()
        await server.stop()
        assert await close_code(client) == 1006


async def test_the_port_stays_reserved_while_stopped() -> None:
    """The port of a stopped server stays reserved."""
    async with FeedServer() as server:
        await server.stop()
        with socket.socket() as other, pytest.raises(OSError, match="in use"):
            other.bind((server.host, server.port))


async def test_stops_although_clients_misbehave() -> None:
    """`stop` does not wait for a client without a handshake or without an answer to the close frame."""
    async with FeedServer() as server:
        mute = socket.create_connection((server.host, server.port))
        stubborn = await connect(server.uri, proxy=None, close_timeout=0.1)
        await server.wait_clients(1)
        stubborn.transport.pause_reading()
        await server.stop()
        assert mute.recv(1) == b""
        mute.close()
        await stubborn.close()


async def test_on_client_logs_the_client_in() -> None:
    """`on_client` can read and write first, and messages that it read are in `received`."""

    async def login(client: ServerConnection) -> None:
        token = await client.recv()
        await client.send(f"welcome {token}")

    async with FeedServer(on_client=login) as server:
        async with client_of(server) as client:
            await client.send("me")
            assert await client.recv() == "welcome me"
            await client.send("more")
        await server.wait_clients(0)
        assert server.received == ["me", "more"]


async def test_on_client_ends_with_its_connection() -> None:
    """An endless `on_client` is cancelled when its client disconnects, and does not delay `stop`."""
    ended = 0

    async def stream(client: ServerConnection) -> None:
        nonlocal ended
        try:
            await client.send("tick")
            await asyncio.Event().wait()
        finally:
            ended += 1

    async with FeedServer(on_client=stream) as server:
        async with client_of(server) as client:
            assert await client.recv() == "tick"
        await server.wait_clients(0)
        assert ended == 1
        async with client_of(server) as client:
            assert await client.recv() == "tick"
            await server.stop()
    assert ended == 2


async def test_sending_waits_for_a_client_that_does_not_read() -> None:
    """`send` waits while the TCP window is closed, continues when the client reads, and ends with a drop."""
    payload = b"x" * 2**20
    async with FeedServer() as server, client_of(server, max_size=None) as client:
        await server.wait_clients(1)
        client.transport.pause_reading()
        sending = asyncio.create_task(server.send(*[payload] * 64))
        while not server.clients[0].transport.get_write_buffer_size():
            await asyncio.sleep(0.01)
        assert not sending.done()
        client.transport.resume_reading()
        assert await client.recv() == payload
        client.transport.pause_reading()
        server.drop()
        await sending
        client.transport.resume_reading()


async def test_serves_tls_and_subprotocols() -> None:
    """With an SSL context, `uri` is a wss URI with its certificate, and a subprotocol is negotiated."""
    ca = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ca.issue_cert("localhost").configure_cert(context)
    trust = ssl.create_default_context()
    ca.configure_trust(trust)
    async with FeedServer(host="localhost", ssl=context, subprotocols=["feed.v2", "feed.v1"]) as server:
        assert server.uri.startswith("wss://localhost:")
        async with client_of(server, ssl=trust, subprotocols=["feed.v1"]) as client:
            assert client.subprotocol == "feed.v1"
            await server.wait_clients(1)
            await server.send("sealed")
            assert await client.recv() == "sealed"
        async with client_of(server, ssl=trust):
            await server.wait_clients(1)
            server.drop()


async def test_serves_ipv6() -> None:
    """An IPv6 host is in brackets in the URI."""
    try:
        server = await FeedServer(host="::1").__aenter__()
    except OSError as exc:
        pytest.skip(f"no IPv6 on loopback: {exc}")
    try:
        assert server.uri.startswith("ws://[::1]:")
        async with client_of(server):
            await server.wait_clients(1)
    finally:
        await server.__aexit__(None, None, None)
