"""Opening of a socket: the handshake, and its failures at each stage."""

import asyncio
import contextlib
import datetime
import logging
import socket
import ssl
import threading

import pytest
from websockets.asyncio.server import serve

from tests.conftest import open_fds
from tests.support.peers import (
    HOST,
    HttpProxy,
    SocksProxy,
    accept,
    answering,
    listening,
    request,
    sending,
    switching,
    until_gone,
)
from tests.support.wirekit import BINARY, CLOSE, PING, TEXT, frame
from wsfleet.core.errors import ConfigError, ConnectFailed, HandshakeRejected
from wsfleet.core.retry import is_fatal
from wsfleet.transport import dial
from wsfleet.transport.base import DialRequest, Progress
from wsfleet.transport.websockets import MAX_REDIRECTS, WebSocketTransport

TLS = pytest.mark.parametrize("encrypted", [False, True], ids=["ws", "wss"])


@pytest.fixture
def sides(authority, encrypted):
    """The scheme, the server's context and the client's options, without and with TLS."""
    if encrypted:
        return "wss", authority.server(), {"ssl": authority.client()}
    return "ws", None, {}


async def failure(connect, uri, **options):
    """Return the error of an attempt that must fail."""
    with pytest.raises(ConnectFailed) as caught:
        await connect(uri, **options)
    return caught.value


async def echo(websocket):
    async for message in websocket:
        await websocket.send(message)


# The handshake


@TLS
async def test_text_and_bytes_go_both_ways(connect, sides):
    """Text and binary messages are sent and received unchanged, without and with TLS."""
    scheme, server_side, options = sides
    async with serve(echo, HOST, 0, ssl=server_side) as server:
        port = server.sockets[0].getsockname()[1]
        wire, collector = await connect(f"{scheme}://localhost:{port}/", **options)
        sent = ["héllo", b"\x00\xff", "", "x" * 70_000, b"y" * 300_000]
        for payload in sent:
            wire.write(payload)
        wire.close(1000)
        error = await collector.ended
    # What is still on its way when we begin to close is discarded; before, everything comes in its order.
    assert collector.messages == sent[: len(collector.messages)]
    assert error.code == 1000


@TLS
async def test_messages_of_all_sizes_are_returned(connect, sides):
    """Messages of all sizes are returned complete and in order."""
    scheme, server_side, options = sides
    async with serve(echo, HOST, 0, ssl=server_side, max_size=None) as server:
        port = server.sockets[0].getsockname()[1]
        wire, collector = await connect(f"{scheme}://localhost:{port}/", **options)
        sent = ["", "é", b"", b"\x00", *(f"{number}" for number in range(2000)), "x" * 70_000, b"y" * 500_000, "end"]
        for payload in sent:
            wire.write(payload)
        while not collector.messages or collector.messages[-1] != "end":
            await asyncio.sleep(0.001)
    assert collector.messages == sent


async def test_the_request_is_what_was_asked_for(connect):
    """Path, query, headers, user agent and userinfo are sent; compression and subprotocols only on request."""
    seen = []

    async def handle(reader, writer):
        seen.append(await request(reader))
        writer.write(switching(seen[-1][1]))
        await until_gone(reader)

    async with listening(handle) as port:
        wire, _ = await connect(f"ws://user:pass@{HOST}:{port}/a/b?c=d", headers={"X-Plan": "basic"})
        first, headers = seen[0]
        assert first == "GET /a/b?c=d HTTP/1.1"
        assert headers["host"] == f"{HOST}:{port}"
        assert headers["x-plan"] == "basic"
        assert headers["authorization"] == "Basic dXNlcjpwYXNz"
        assert "user-agent" in headers
        assert "sec-websocket-extensions" not in headers
        assert "sec-websocket-protocol" not in headers
        assert wire.request_headers["X-Plan"] == "basic"
        assert wire.response_headers["Upgrade"] == "websocket"
        assert wire.subprotocol is None

        own = {"Authorization": "Bearer own", "User-Agent": "own/1.0"}
        await connect(f"ws://user:pass@{HOST}:{port}", headers=own, subprotocols=["a", "b"], compression="deflate")
        first, headers = seen[1]
        assert first == "GET / HTTP/1.1"
        assert headers["authorization"] == "Bearer own"
        assert headers["user-agent"] == "own/1.0"
        assert headers["sec-websocket-protocol"] == "a, b"
        assert "permessage-deflate" in headers["sec-websocket-extensions"]


async def test_subprotocols(connect):
    """The chosen subprotocol is reported, None without one; one that was not offered fails the handshake."""
    async with serve(echo, HOST, 0, subprotocols=["v2.feed", "v1.feed"]) as server:
        uri = f"ws://{HOST}:{server.sockets[0].getsockname()[1]}"
        wire, _ = await connect(uri, subprotocols=["v1.feed", "v0.feed"])
        assert wire.subprotocol == "v1.feed"
    async with serve(echo, HOST, 0) as server:
        wire, _ = await connect(f"ws://{HOST}:{server.sockets[0].getsockname()[1]}", subprotocols=["v1.feed"])
        assert wire.subprotocol is None
        error = await failure(
            connect,
            f"ws://{HOST}:{server.sockets[0].getsockname()[1]}",
            subprotocols=["v1.feed"],
            subprotocol_required=True,
        )
        assert error.stage == "http"
        assert "subprotocol_required=False" in str(error)
        assert "v1.feed" not in str(error)  # it may be a token
        assert not is_fatal(error)

    async def forward(reader, writer):
        await accept(reader, writer, "Sec-WebSocket-Protocol: other")
        await until_gone(reader)

    async with listening(forward) as port:
        error = await failure(connect, f"ws://{HOST}:{port}", subprotocols=["v1.feed"])
        assert error.stage == "http"
        assert "subprotocol" in str(error)


@TLS
async def test_compression(connect, sides):
    """Compressed messages are received unchanged, and the limit applies to their inflated size."""
    scheme, server_side, options = sides

    async def flood(websocket):
        await websocket.send("a" * 5000)
        await websocket.send(b"b" * 5000)
        await websocket.send(["c" * 2000, "d" * 2000])
        await websocket.send("e" * 5001)

    async with serve(flood, HOST, 0, ssl=server_side) as server:
        port = server.sockets[0].getsockname()[1]
        uri = f"{scheme}://localhost:{port}"
        _, collector = await connect(uri, compression="deflate", max_size=5000, **options)
        error = await collector.ended
    assert collector.messages == ["a" * 5000, b"b" * 5000, "c" * 2000 + "d" * 2000]
    assert error.code == 1009


@pytest.mark.parametrize("step", [1, 2, 3, 7, 50, 1000])
async def test_the_answer_may_come_in_pieces_with_messages_right_behind(connect, step):
    """A response in any number of parts, with messages in the same read, loses no message."""
    behind = frame(TEXT, b"first") + frame(PING, b"p") + frame(BINARY, b"second") + frame(CLOSE, b"\x03\xf0bye")

    async def handle(reader, writer):
        _, headers = await request(reader)
        whole = switching(headers, "X-Cut: \t padded \t") + behind
        for pos in range(0, len(whole), step):
            writer.write(whole[pos : pos + step])
            await writer.drain()
            await asyncio.sleep(0)
        await until_gone(reader)

    async with listening(handle) as port:
        _, collector = await connect(f"ws://{HOST}:{port}", close_s=0.1)
        error = await collector.ended
    assert collector.messages == ["first", b"second"]
    assert (error.code, error.reason) == (1008, "bye")


@TLS
async def test_messages_of_a_server_that_closes_at_once_are_delivered(connect, sides):
    """Messages and a close code that arrive with the response are delivered, if the socket is lost before the start."""
    scheme, server_side, options = sides
    sent = frame(TEXT, b"one") + frame(TEXT, b"two") + frame(CLOSE, b"\x03\xf0too many")
    async with listening(sending(sent), tls=server_side) as port:
        wire, collector = await connect(f"{scheme}://localhost:{port}", started=False, **options)
        await asyncio.sleep(0.05)
        collector.start(wire)
        error = await collector.ended
    assert collector.messages == ["one", "two"]
    assert (error.code, error.reason) == (1008, "too many")


@TLS
async def test_a_burst_before_the_end_is_not_cut_off(connect, sides):
    """If a server sends a megabyte and closes at once, all messages and the close frame are read."""
    scheme, server_side, options = sides
    count = 10_000
    sent = b"".join(frame(TEXT, b"%06d" % number + b"x" * 94) for number in range(count)) + frame(CLOSE, b"\x03\xe9")
    async with listening(sending(sent), tls=server_side) as port:
        _, collector = await connect(f"{scheme}://localhost:{port}", **options)
        error = await collector.ended
    assert [int(message[:6]) for message in collector.messages] == list(range(count))
    assert error.code == 1001


# Answers that open nothing


@pytest.mark.parametrize(
    ("head", "status", "wait_s"),
    [
        ("HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Bearer", 401, None),
        ("HTTP/1.1 429 Too Many Requests\r\nRetry-After: 12", 429, 12.0),
        ("HTTP/1.1 429 Too Many Requests\r\nretry-after: soon", 429, None),
        ("HTTP/1.1 503 Service Unavailable\r\nRetry-After: Thu, 01 Jan 1970 00:00:00 GMT", 503, 0.0),
        ("HTTP/1.0 502 Bad Gateway", 502, None),
        ("HTTP/1.1 200 OK\r\nContent-Length: 1000000", 200, None),
        ("HTTP/1.1 404 Not Found\r\nTransfer-Encoding: chunked", 404, None),
        ("HTTP/1.1 302 Found", 302, None),
        ("HTTP/1.1 304 Not Modified\r\nLocation: /elsewhere", 304, None),
    ],
)
async def test_a_rejection_is_raised_after_its_head(connect, head, status, wait_s):
    """A rejection is raised although its body and the stream do not end."""
    async with listening(answering(f"{head}\r\n\r\nsome of a body".encode(), and_close=False)) as port:
        error = await failure(connect, f"ws://{HOST}:{port}/?token=s3kr1t")
    assert isinstance(error, HandshakeRejected)
    assert (error.status, error.stage, error.retry_after_s) == (status, "http", wait_s)
    assert all(name == name.lower() for name in error.headers)
    assert "s3kr1t" not in str(error)
    assert is_fatal(error) == (status in (401, 404))


HEAD = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"


NO_ANSWERS = [
    b"",
    b"HTTP/1.1 101 Switching Protocols\r\n",
    b"SSH-2.0-OpenSSH_9.2\r\n\r\n",
    b"\r\n\r\n",
    b"HTTP/2 101 Switching Protocols\r\n\r\n",
    b"HTTP/1.1 999 No\r\n\r\n",
    b"HTTP/1.1 101 Switching Protocols\r\n\r\n",
    b"HTTP/1.0 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
    f"{HEAD}\r\n".encode(),
    f"{HEAD}Sec-WebSocket-Accept: bm8gc3VjaCBrZXk=\r\n\r\n".encode(),
    f"{HEAD}Sec-WebSocket-Accept: a\r\nSec-WebSocket-Accept: b\r\n\r\n".encode(),
    f"{HEAD}: no name\r\n\r\n".encode(),
    f"{HEAD}X-Long: {'x' * 9000}\r\n\r\n".encode(),
    (HEAD + "X-Many: x\r\n" * 200 + "\r\n").encode(),
    b"\x00" * 100_000,
    b"HTTP/1.1 101 " + b"x" * 100_000,
    HEAD.encode() + b"X-Endless: " + b"x" * 100_000,
]

JSON = b'{"code":"INVALID_QUERY","key":"s3cr3t-k3y"}'
REASONS = {
    "of a known size": (b"Content-Length: %d\r\n\r\n%b" % (len(JSON), JSON), '{"code":"INVALID_QUERY","key":"***"}'),
    "until the end": (b"\r\nno such\r\n  channel", "no such channel"),
    "in chunks": (b"Transfer-Encoding: chunked\r\n\r\n5;x=y\r\nno su\r\n4\r\nch x\r\n0\r\n\r\n", "no such x"),
    "as a page": (
        b"Content-Type: text/html\r\n\r\n<html><head><title>t</title></head><body><h1>Too many</h1>\n<p>clients</body>",
        "Too many clients",
    ),
    "with controls": (b"\r\na\x1b[2Jb", "a\\u001b[2Jb"),
    "compressed": (b"Content-Encoding: br\r\n\r\nlooks like text", ""),
    "not a text": (b"\r\n\xff\xfe\x00\x01", ""),
    "endless": (b"\r\n" + b"x" * 100_000, "x" * 1024),
}


@pytest.mark.parametrize(("rest", "body"), REASONS.values(), ids=REASONS)
async def test_a_rejection_contains_the_reason(connect, rest, body):
    """The reason phrase and the beginning of the body are in the error, printable, in one line, without secrets."""
    async with listening(answering(b"HTTP/1.1 400 Bad Query\r\n" + rest)) as port:
        uri = f"ws://{HOST}:{port}/?key=s3cr3t-k3y"
        error = await failure(connect, uri)
    assert isinstance(error, HandshakeRejected)
    assert (error.reason, error.body) == ("Bad Query", body)
    shown = body if len(body) <= 200 else body[:200] + "..."
    assert str(error) == "http: the server answered 400 Bad Query" + (f": {shown}" if body else "")


@pytest.mark.parametrize("rest", [b"Content-Length: 10\r\n\r\nno", b"\r\nno"])
async def test_a_rejection_does_not_wait_for_its_reason(connect, rest, monkeypatch):
    """A body that does not come is not waited for; its beginning is in the error."""
    monkeypatch.setattr(dial, "BODY_S", 0.1)
    async with listening(answering(b"HTTP/1.1 503 \r\n" + rest, and_close=False)) as port:
        error = await failure(connect, f"ws://{HOST}:{port}")
    assert str(error) == "http: the server answered 503: no"


@pytest.mark.parametrize("and_close", [True, False], ids=["closes", "stays"])
async def test_an_invalid_response_fails_at_the_stage_http(connect, and_close):
    """Invalid, oversized and truncated responses fail the attempt at the stage http without a timeout."""
    for answer in NO_ANSWERS:
        if not and_close and len(answer) < 100 and b"\r\n\r\n" not in answer:
            continue  # silence: for the caller's deadline
        async with listening(answering(answer, and_close=and_close)) as port:
            error = await failure(connect, f"ws://{HOST}:{port}")
        assert error.stage == "http"
        assert not isinstance(error, HandshakeRejected)
        assert error.__cause__ is not None
        assert str(error) not in ("", "http: ")


async def test_an_extension_that_was_not_asked_for(connect):
    """A server that uses compression without negotiation is rejected."""

    async def forward(reader, writer):
        await accept(reader, writer, "Sec-WebSocket-Extensions: permessage-deflate")
        await until_gone(reader)

    async with listening(forward) as port:
        error = await failure(connect, f"ws://{HOST}:{port}")
    assert error.stage == "http"
    assert "extension" in str(error)


async def test_a_reset_while_waiting_for_the_answer(connect):
    """A server that closes or resets the socket before the response fails the attempt at the stage http."""

    async def drop(reader, writer):
        await request(reader)
        writer.transport.abort()

    async with listening(drop) as port:
        assert (await failure(connect, f"ws://{HOST}:{port}")).stage == "http"


# Where it goes wrong


async def test_a_refused_connection(connect):
    """A refused connection is a failure at the stage tcp, with the system's error as its cause."""
    with socket.socket() as unused:
        unused.bind((HOST, 0))
        error = await failure(connect, f"ws://{HOST}:{unused.getsockname()[1]}/?token=s3kr1t")
    assert error.stage == "tcp"
    assert isinstance(error.__cause__, OSError)
    assert not is_fatal(error)


async def test_an_unknown_name(connect, monkeypatch):
    """A name that does not resolve is a failure at the stage dns that is not fatal."""

    def unknown(*args, **options):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    error = await failure(connect, "ws://feed.example/")
    assert error.stage == "dns"
    assert isinstance(error.__cause__, socket.gaierror)
    assert not is_fatal(error)


async def test_the_first_address_that_connects_is_used(connect, monkeypatch):
    """Of several addresses, the first that connects is used."""
    async with listening(sending(frame(CLOSE, b"\x03\xe9"))) as port:
        with socket.socket() as unused:
            unused.bind(("127.0.0.2", 0))
            found = [
                (socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", ("127.0.0.2", unused.getsockname()[1])),
                (socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (HOST, port)),
            ]
            monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
            _, collector = await connect("ws://feed.example/")
            assert (await collector.ended).code == 1001


@pytest.mark.parametrize("kind", ["unknown authority", "wrong name", "expired"])
async def test_a_bad_certificate_is_for_good(connect, authority, kind):
    """A wrong authority, name or validity of a certificate is a fatal failure at the stage tls."""
    now = datetime.datetime.now(datetime.UTC)
    long_ago = {"not_before": now - datetime.timedelta(days=9), "not_after": now - datetime.timedelta(days=2)}
    server_side = {
        "unknown authority": authority.server(),
        "wrong name": authority.server("other.example"),
        "expired": authority.server(**(long_ago if kind == "expired" else {})),
    }[kind]
    ours = None if kind == "unknown authority" else authority.client()
    async with listening(until_gone_only, tls=server_side) as port:
        error = await failure(connect, f"wss://localhost:{port}/?token=s3kr1t", ssl=ours)
    assert error.stage == "tls"
    assert isinstance(error.__cause__, ssl.SSLCertVerificationError)
    assert is_fatal(error)
    assert "s3kr1t" not in str(error)


async def until_gone_only(reader, writer):
    await until_gone(reader)


@pytest.mark.parametrize("answer", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b""], ids=["no TLS", "closes"])
async def test_a_server_that_speaks_no_tls(connect, authority, answer):
    """A server without TLS is a failure at the stage tls that is not fatal."""

    async def handle(reader, writer):
        await reader.read(10)
        writer.write(answer)
        writer.close()
        await until_gone(reader)

    async with listening(handle) as port:
        error = await failure(connect, f"wss://localhost:{port}", ssl=authority.client())
    assert error.stage == "tls"
    assert isinstance(error.__cause__, OSError)
    assert not is_fatal(error)


@pytest.mark.parametrize(
    ("uri", "headers"),
    [
        ("http://feed.example/?token=s3kr1t", {}),
        ("ws://user:s3kr1t:x@feed.example:port/", {}),
        ("ws://.feed.example/?token=s3kr1t", {}),
        ("ws://feed.example/", {"Authorization": "Bearer s3kr1t\r\nHost: elsewhere"}),
        ("ws://feed.example/", {"Authorization": "Bearer s3kr1t–"}),
    ],
)
async def test_a_request_that_cannot_be_sent_is_fatal(connect, uri, headers):
    """A URI or headers that cannot be sent are a fatal error that does not quote them."""
    error = await failure(connect, uri, headers=headers)
    assert error.stage == "uri"
    assert isinstance(error.__cause__, ConfigError)
    assert is_fatal(error)
    assert "s3kr1t" not in f"{error} {error.__cause__}"


async def test_the_debug_log_has_no_credentials(connect, caplog):
    """The log contains no handshake at any level."""
    caplog.set_level(logging.DEBUG)
    async with listening(sending(frame(TEXT, b"s3kr1t"))) as port:
        _, collector = await connect(f"ws://{HOST}:{port}/?token=s3kr1t", headers={"Authorization": "Bearer s3kr1t"})
        await collector.ended
    assert "s3kr1t" not in caplog.text


# Redirects


class Redirecting:
    """A server that redirects by path according to `answers`, and records the requests in `seen`."""

    def __init__(self):
        self.answers = {}
        self.seen = []

    async def __call__(self, reader, writer):
        first, headers = await request(reader)
        path = first.split(" ")[1]
        self.seen.append((path, headers))
        location = self.answers.get(path)
        if location is None:
            writer.write(switching(headers))
        else:
            writer.write(f"HTTP/1.1 307 Temporary Redirect\r\nLocation: {location}\r\n\r\n".encode())
        await until_gone(reader)


OWN = {"Authorization": "Bearer s3kr1t", "Cookie": "a=b", "X-Api-Key": "s3kr1t", "X-Plan": "basic"}


async def test_a_redirect_on_the_same_origin_keeps_the_headers(connect):
    """A redirect to the same origin keeps headers and userinfo, for relative and absolute URIs."""
    server = Redirecting()
    async with listening(server) as port:
        server.answers = {"/": "/next", "/next": f"ws://{HOST}:{port}/last?x=1#part"}
        await connect(f"ws://user:pass@{HOST}:{port}", headers={"X-Api-Key": "s3kr1t"})
    assert [path for path, _ in server.seen] == ["/", "/next", "/last?x=1"]
    for _, headers in server.seen:
        assert headers["x-api-key"] == "s3kr1t"
        assert headers["authorization"] == "Basic dXNlcjpwYXNz"


async def test_a_redirect_to_another_origin_takes_no_header_along(connect):
    """A redirect to another host or port receives no headers and no userinfo."""
    here, there = Redirecting(), Redirecting()
    async with listening(here) as port, listening(there) as other:
        here.answers = {"/": f"http://{HOST}:{other}/there"}
        there.answers = {"/there": "/again"}
        await connect(f"ws://{HOST}:{port}", headers=OWN)
        await connect(f"ws://user:s3kr1t@{HOST}:{port}")
    assert [path for path, _ in there.seen] == ["/there", "/again", "/there", "/again"]
    for _, headers in there.seen:
        assert not {name.lower() for name in OWN} & set(headers)
        assert "s3kr1t" not in repr(headers)


async def test_a_redirect_from_ws_to_wss_is_followed(connect, authority):
    """A redirect from ws to wss is followed, without headers, as to any other origin."""
    here, there = Redirecting(), Redirecting()
    async with listening(here) as port, listening(there, tls=authority.server()) as other:
        here.answers = {"/": f"wss://localhost:{other}/"}
        await connect(f"ws://{HOST}:{port}", headers=OWN, ssl=authority.client())
    assert not {name.lower() for name in OWN} & set(there.seen[0][1])


@pytest.mark.parametrize("location", ["ws://{host}:{port}/", "http://{host}:{port}/"])
async def test_a_redirect_from_wss_to_ws_is_refused(connect, authority, location):
    """A redirect from wss to ws is refused, and no connection is made."""
    here, there = Redirecting(), Redirecting()
    async with listening(here, tls=authority.server()) as port, listening(there) as other:
        here.answers = {"/": location.format(host=HOST, port=other)}
        error = await failure(connect, f"wss://localhost:{port}", headers=OWN, ssl=authority.client())
    assert error.stage == "http"
    assert there.seen == []


@pytest.mark.parametrize(
    "location",
    [
        "ftp://feed.example/",
        "ws://",
        "ws://feed.example:port/",
        "ws://.feed.example/",
        "javascript:alert(1)",
        "//",
        "//[",
    ],
)
async def test_a_redirect_to_nowhere_fails(connect, location):
    """An invalid Location is a failure at the stage http that is not fatal."""
    server = Redirecting()
    server.answers = {"/": location}
    async with listening(server) as port:
        error = await failure(connect, f"ws://{HOST}:{port}")
    assert (error.stage, error.status) == ("http", 307)
    assert not is_fatal(error)


async def test_the_number_of_redirects_is_bounded(connect):
    """The number of redirects is limited."""
    server = Redirecting()
    server.answers = {"/": "/"}
    async with listening(server) as port:
        error = await failure(connect, f"ws://{HOST}:{port}")
    assert (error.stage, error.status) == ("http", 307)
    assert len(server.seen) == MAX_REDIRECTS + 1


# Proxies


@TLS
@pytest.mark.parametrize("scheme_of_proxy", ["http", "https"])
async def test_through_an_http_proxy(connect, authority, sides, scheme_of_proxy, transport):
    """CONNECT works for ws and wss, through an HTTP and an HTTPS proxy."""
    scheme, server_side, options = sides
    proxy = HttpProxy()
    transport._dialer._context = done(authority.client())  # for the way to the proxy, which has no option of its own
    async with (
        listening(sending(frame(TEXT, b"hello"), frame(CLOSE, b"\x03\xe9")), tls=server_side) as port,
        listening(proxy, tls=authority.server() if scheme_of_proxy == "https" else None) as proxy_port,
    ):
        url = f"{scheme_of_proxy}://localhost:{proxy_port}"
        _, collector = await connect(f"{scheme}://localhost:{port}", proxy=url, **options)
        error = await collector.ended
    assert proxy.asked == [f"CONNECT localhost:{port}"]
    assert collector.messages == ["hello"]
    assert error.code == 1001


def done(value):
    future = asyncio.get_running_loop().create_future()
    future.set_result(value)
    return future


async def test_an_http_proxy_with_a_password(connect):
    """The userinfo of the proxy's URL is sent to the proxy; a rejection is a failure that does not quote it."""
    proxy = HttpProxy(user="someone", password="s3kr1t")
    async with listening(sending(frame(TEXT, b"hello"))) as port, listening(proxy) as proxy_port:
        uri = f"ws://{HOST}:{port}"
        _, collector = await connect(uri, proxy=f"http://someone:s3kr1t@{HOST}:{proxy_port}")
        await collector.ended
        assert collector.messages == ["hello"]
        error = await failure(connect, uri, proxy=f"http://someone:wr0ng@{HOST}:{proxy_port}")
    assert (error.stage, error.status) == ("proxy", 407)
    assert is_fatal(error)
    assert "407" in str(error)
    assert "wr0ng" not in str(error)


@pytest.mark.parametrize(
    "answer", [b"", b"garbage\r\n\r\n", b"HTTP/1.1 200 OK\r\n" + b"x" * 100_000, b"HTTP/1.1 200 OK\r\n\r\nearly"]
)
async def test_a_proxy_with_an_invalid_response(connect, answer):
    """An invalid or negative response of a proxy is a failure at the stage proxy."""
    async with listening(answering(answer)) as port:
        error = await failure(connect, "wss://feed.example/", proxy=f"http://{HOST}:{port}")
    assert error.stage == "proxy"
    assert error.__cause__ is not None


async def test_a_bad_certificate_behind_a_proxy(connect, authority):
    """TLS through a proxy verifies the server's certificate, and fails at the stage tls."""
    async with (
        listening(until_gone_only, tls=authority.server("other.example")) as port,
        listening(HttpProxy()) as proxy_port,
    ):
        error = await failure(
            connect, f"wss://localhost:{port}", proxy=f"http://{HOST}:{proxy_port}", ssl=authority.client()
        )
    assert error.stage == "tls"
    assert isinstance(error.__cause__, ssl.SSLCertVerificationError)


@TLS
@pytest.mark.parametrize(("scheme_of_proxy", "asked"), [("socks5h", "localhost"), ("socks5", "127.0.0.1")])
async def test_through_a_socks_proxy(connect, sides, scheme_of_proxy, asked, monkeypatch):
    """SOCKS works for ws and wss, with a password; with `h`, the proxy resolves the name."""
    scheme, server_side, options = sides
    proxy = SocksProxy(user="someone", password="s3kr1t")
    monkeypatch.setattr("python_socks.async_.asyncio._resolver.Resolver.resolve", None)  # on the loop's executor
    async with listening(sending(frame(TEXT, b"hello")), tls=server_side) as port, listening(proxy) as proxy_port:
        url = f"{scheme_of_proxy}://someone:s3kr1t@localhost:{proxy_port}"
        _, collector = await connect(f"{scheme}://localhost:{port}", proxy=url, **options)
        await collector.ended
        assert collector.messages == ["hello"]
        assert proxy.asked == [f"{asked}:{port}"]
        wrong = f"{scheme_of_proxy}://someone:wr0ng@{HOST}:{proxy_port}"
        error = await failure(connect, f"{scheme}://localhost:{port}", proxy=wrong, **options)
        missing = f"{scheme_of_proxy}://{HOST}:{proxy_port}"
        anonymous = await failure(connect, f"{scheme}://localhost:{port}", proxy=missing, **options)
    assert error.stage == "proxy"
    assert "wr0ng" not in str(error)
    assert error.status == anonymous.status == 407
    assert is_fatal(error)


async def test_a_socks_proxy_that_refuses(connect):
    """A SOCKS proxy that refuses, closes, or uses another protocol is a failure at the stage proxy."""
    async with listening(SocksProxy(refuses=True)) as port:
        assert (await failure(connect, "ws://feed.example/", proxy=f"socks5h://{HOST}:{port}")).stage == "proxy"
    assert (await failure(connect, "ws://feed.example/", proxy=f"socks5h://{HOST}:{port}")).stage == "proxy"

    async def hang_up(reader, writer):
        await reader.read(1)

    async with listening(hang_up) as port:
        assert (await failure(connect, "ws://feed.example/", proxy=f"socks5h://{HOST}:{port}")).stage == "proxy"


async def test_the_environments_proxy(connect, monkeypatch):
    """The proxy of the environment is used unless no_proxy or proxy=False excludes it."""
    proxy = HttpProxy()
    async with listening(sending(frame(TEXT, b"hello"))) as port, listening(proxy) as proxy_port:
        monkeypatch.setenv("ws_proxy", f"http://{HOST}:{proxy_port}")
        for options, asked in ((dict[str, object](), 1), ({"proxy": False}, 1)):
            _, collector = await connect(f"ws://{HOST}:{port}", **options)
            await collector.ended
            assert collector.messages == ["hello"]
            assert len(proxy.asked) == asked
        monkeypatch.setenv("no_proxy", HOST)
        await connect(f"ws://{HOST}:{port}")
        assert len(proxy.asked) == 1
        monkeypatch.delenv("no_proxy")
        monkeypatch.setenv("ws_proxy", "someone:s3kr1t@proxy.example")
        error = await failure(connect, f"ws://{HOST}:{port}")
    assert error.stage == "proxy"
    assert "s3kr1t" not in f"{error}{error.__cause__}"


# Cancelling


async def hang(reader, writer):
    await reader.read(2**16)
    await until_gone(reader)


@pytest.mark.parametrize(
    ("scheme", "stage", "proxy"),
    [
        ("ws", "http", None),
        ("wss", "tls", None),
        ("ws", "proxy", "http"),
        ("ws", "proxy", "https"),
        ("ws", "proxy", "socks5h"),
    ],
)
async def test_cancelling_leaves_nothing_open(transport, authority, scheme, stage, proxy):
    """Cancelling an attempt at any stage closes its socket."""
    arrived, gone = asyncio.Event(), asyncio.Event()

    async def silent(reader, writer):
        arrived.set()
        with contextlib.suppress(ConnectionError):
            while await reader.read(2**16):
                pass
        gone.set()

    async with listening(silent) as port:
        target = DialRequest(
            "test",
            f"{scheme}://localhost:{port}",
            {},
            ssl=authority.client() if scheme == "wss" else None,
            proxy=f"{proxy}://localhost:{port}" if proxy else False,
        )
        progress = Progress()
        attempt = asyncio.create_task(transport.open(target, progress))
        await arrived.wait()
        while progress.stage != stage:
            await asyncio.sleep(0.01)
        attempt.cancel()
        with pytest.raises(asyncio.CancelledError):
            await attempt
        await gone.wait()


@pytest.mark.parametrize("turns", range(1, 16))
async def test_cancelling_at_any_turn_of_the_loop_leaves_nothing_open(transport, authority, turns):
    """Cancelling an attempt after any number of loop iterations leaves no socket, or returns a wire."""

    async def stays(reader, writer):
        await accept(reader, writer)
        writer.write(frame(TEXT, b"hello"))
        await until_gone(reader)

    async with listening(stays, tls=authority.server()) as port:
        before = open_fds()
        # An address, as the thread that looks up a name would take up all of the turns.
        target = DialRequest("test", f"wss://{HOST}:{port}", {}, ssl=authority.client(), proxy=False)
        attempt = asyncio.create_task(transport.open(target, Progress()))
        for _ in range(turns):
            await asyncio.sleep(0)
        attempt.cancel()
        await asyncio.wait([attempt])
        if not attempt.cancelled() and attempt.exception() is None:
            attempt.result().abort()
        while open_fds() - before:  # the server leaves it to us to close
            await asyncio.sleep(0.01)


async def test_cancelling_a_lookup_leaves_nothing_behind(monkeypatch):
    """An attempt can be cancelled during a lookup that hangs."""
    release = threading.Event()
    transport = WebSocketTransport()

    def slow(*args, **options):
        release.wait(10)
        raise socket.gaierror(socket.EAI_AGAIN, "try again")

    monkeypatch.setattr(socket, "getaddrinfo", slow)
    progress = Progress()
    attempt = asyncio.create_task(transport.open(DialRequest("test", "ws://feed.example", {}), progress))
    await asyncio.sleep(0.01)
    attempt.cancel()
    with pytest.raises(asyncio.CancelledError):
        await attempt
    assert progress.stage == "dns"
    release.set()
    await transport.aclose()


# The context of all


async def test_endpoints_share_one_context(connect, authority, monkeypatch):
    """Endpoints without an SSLContext share one, which is created once, in another thread."""
    made = []
    context = authority.client()

    def create():
        made.append(threading.current_thread())
        return context

    monkeypatch.setattr(dial.ssl, "create_default_context", create)
    async with listening(sending(frame(CLOSE, b"\x03\xe9")), tls=authority.server()) as port:
        wires = await asyncio.gather(*(connect(f"wss://localhost:{port}") for _ in range(5)))
        for _, collector in wires:
            await collector.ended
    assert len(made) == 1
    assert made[0] is not threading.main_thread()


async def test_a_context_that_cannot_be_made_is_tried_again(connect, authority, monkeypatch):
    """If the default SSLContext cannot be created, the next attempt tries again."""
    answers = [OSError("no such file"), authority.client()]

    def create():
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(dial.ssl, "create_default_context", create)
    async with listening(sending(frame(CLOSE, b"\x03\xe9")), tls=authority.server()) as port:
        error = await failure(connect, f"wss://localhost:{port}")
        assert isinstance(error.__cause__, OSError)
        assert error.stage == "tls"
        _, collector = await connect(f"wss://localhost:{port}")
        assert (await collector.ended).code == 1001
