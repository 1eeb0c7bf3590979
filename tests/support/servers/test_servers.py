"""The foreign servers, tested with a plain client, so that their faults are not taken for wsfleet's."""

import asyncio
import json
import ssl
from pathlib import Path

import pytest
import websockets

from tests.support.servers.base import Server
from tests.support.servers.nats import NatsServer
from tests.support.servers.nginx import NginxTls
from tests.support.servers.node_ws import NodeWs

pytestmark = pytest.mark.integration


async def test_nats_server_speaks_its_protocol_in_binary_frames(tmp_path: Path) -> None:
    """A subscription over the WebSocket port gets the messages that were published over the TCP port."""
    async with NatsServer(tmp_path) as server, websockets.connect(server.uri) as socket:
        assert (await socket.recv()).startswith(b"INFO {")
        await socket.send(b'CONNECT {"verbose":false}\r\nSUB ticks 1\r\nPING\r\n')
        assert await socket.recv() == b"PONG\r\n"
        await server.publish("ticks", [b"one"])
        assert await socket.recv() == b"MSG ticks 1 3\r\none\r\n"


async def test_node_ws_feeds_numbered_messages(tmp_path: Path) -> None:
    """/feed sends as many messages as requested, numbered from 1, complete even if sent in fragments."""
    async with NodeWs(tmp_path) as server:
        for query in ("n=300", "n=3&rate=100", "n=5&size=3000&fragments=4"):
            async with websockets.connect(f"{server.uri}/feed?{query}") as socket:
                count = int(query[2:].partition("&")[0])
                assert [json.loads(await socket.recv())["n"] for _ in range(count)] == list(range(1, count + 1))


async def test_node_ws_echoes(tmp_path: Path) -> None:
    """/echo sends text back as text and binary as binary, over the negotiated subprotocol and compression."""
    async with (
        NodeWs(tmp_path, deflate=True, subprotocol="v2.feed") as server,
        websockets.connect(f"{server.uri}/echo", subprotocols=["v1.feed", "v2.feed"]) as socket,
    ):
        for payload in ("text", b"binary", "x" * 100_000):
            await socket.send(payload)
            assert await socket.recv() == payload
        assert socket.subprotocol == "v2.feed"
        assert "permessage-deflate" in server.events("open")[0]["extensions"]


async def test_node_ws_refuses(tmp_path: Path) -> None:
    """/refuse answers with its status as often as requested, and accepts the next handshake."""
    async with NodeWs(tmp_path) as server:
        with pytest.raises(websockets.InvalidStatus) as refused:
            await websockets.connect(f"{server.uri}/refuse/401")
        assert refused.value.response.status_code == 401
        uri = f"{server.uri}/refuse/429?times=1&after=7&n=1"
        with pytest.raises(websockets.InvalidStatus) as refused:
            await websockets.connect(uri)
        assert refused.value.response.headers["Retry-After"] == "7"
        async with websockets.connect(uri) as socket:
            assert json.loads(await socket.recv())["n"] == 1
        assert len(server.events("refuse")) == 2


async def test_nginx_ends_tls_in_front_of_node(tmp_path: Path) -> None:
    """nginx has a certificate that is trusted with the test's CA and with no other, even after a reload."""
    async with NodeWs(tmp_path) as node, NginxTls(tmp_path, node) as nginx, NginxTls(tmp_path, node) as other:
        for _ in range(2):
            async with websockets.connect(f"{nginx.uri}/feed?n=1", ssl=nginx.client_context()) as socket:
                assert json.loads(await socket.recv())["n"] == 1
            with pytest.raises(ssl.SSLCertVerificationError):
                await websockets.connect(nginx.uri, ssl=other.client_context())
            nginx.reload()


@pytest.mark.parametrize("kind", ["nats", "node", "nginx"])
async def test_a_killed_server_comes_back_on_its_port(tmp_path: Path, kind: str) -> None:
    """A kill breaks its connections without a close frame; the same URI answers after the next start."""
    async with NodeWs(tmp_path) as node:
        server: Server = NatsServer(tmp_path) if kind == "nats" else NodeWs(tmp_path)
        if kind == "nginx":
            server = NginxTls(tmp_path, node)
        tls = server.client_context() if isinstance(server, NginxTls) else None
        async with server:
            uri = f"{server.uri}/feed?n=1"
            async with websockets.connect(uri, ssl=tls) as socket:
                await socket.recv()
                await server.kill()
                with pytest.raises(websockets.ConnectionClosedError) as lost:
                    await socket.recv()
                assert lost.value.rcvd is None
            with pytest.raises(OSError):
                await asyncio.open_connection("127.0.0.1", server.port)
            await server.start()
            async with websockets.connect(uri, ssl=tls) as socket:
                await socket.recv()


async def test_a_missing_server_skips_or_fails(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A test whose server is not installed is skipped with its name, and fails if all servers are required."""
    monkeypatch.setattr("tests.support.servers.base._SEARCH", str(tmp_path))
    monkeypatch.delenv("WSFLEET_REQUIRE_SERVERS", raising=False)
    with pytest.raises(pytest.skip.Exception, match="nats-server is not installed"):
        NatsServer(tmp_path)
    monkeypatch.setenv("WSFLEET_REQUIRE_SERVERS", "1")
    with pytest.raises(pytest.fail.Exception, match="nats-server is not installed"):
        NatsServer(tmp_path)
