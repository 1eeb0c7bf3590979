"""`wsfleet tap`, run as a command, against the feed server of the test kit."""

import asyncio
import contextlib
import errno
import fcntl
import os
import pty
import re
import signal
import ssl
import struct
import subprocess
import sys
import termios
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trustme

from wsfleet.cli.main import main
from wsfleet.cli.tap import describe, explain, parse_headers, suggest
from wsfleet.core.errors import ConfigError, ConnectFailed, ConnectionLost, FleetError, HandshakeRejected
from wsfleet.testing import FeedServer


class Tapped:
    """A running `wsfleet tap`, whose lines are read one by one."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.out = process.stdout
        self.err = process.stderr

    async def line(self) -> str:
        return (await self.out.readline()).decode().removesuffix("\n")

    async def until_reported(self, text: str) -> str:
        """Read the standard error up to a line that contains `text`."""
        seen = ""
        while line := (await self.err.readline()).decode():
            seen += line
            if text in line:
                return line
        raise AssertionError(f"{text!r} is not in\n{seen}")

    async def end(self) -> tuple[int, str, str]:
        out, err = await self.process.communicate()
        assert self.process.returncode is not None
        return self.process.returncode, out.decode(), err.decode()


@contextlib.asynccontextmanager
async def tap(*arguments: str, env: dict[str, str] | None = None, **options: object) -> AsyncIterator[Tapped]:
    streams = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "wsfleet",
        "tap",
        *arguments,
        env={**os.environ, "PYTHONASYNCIODEBUG": "", **(env or {})},
        **streams,
    )
    try:
        yield Tapped(process)
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def test_prints_messages_and_nothing_else_on_the_standard_output() -> None:
    """Each message is a line of the standard output; the connection's state is written to the standard error."""
    async with FeedServer() as server, tap(server.uri, "--count", "3") as tapped:
        await server.wait_clients(1)
        await server.send("one", b"\x00\x01", "three", "four")
        code, out, err = await tapped.end()
    assert (code, out) == (0, "one\nAAE=\nthree\n")
    assert f"connecting to {server.uri}" in err
    assert "connected" in err


async def test_reconnects_and_reports_the_loss() -> None:
    """A lost connection is reported with its reason and the wait, and messages continue after it."""
    async with FeedServer() as server, tap(server.uri) as tapped:
        await server.wait_clients(1)
        await server.send("before")
        assert await tapped.line() == "before"
        server.close(1012, "restarting\x1b[2J")
        line = await tapped.until_reported("lost")
        assert "1012 restarting" in line
        assert re.search(r"next attempt in \d+\.\d s", line)
        assert "\x1b[2J" not in line
        await server.wait_clients(1)
        await server.send("after")
        assert await tapped.line() == "after"
        tapped.process.send_signal(signal.SIGINT)
        code, _, err = await tapped.end()
    assert code == 0
    assert "2 messages" in err
    assert "connected 2 times" in err


async def test_waits_for_a_server_that_is_not_there_yet() -> None:
    """If nothing listens at the address, this is reported and retried without end."""
    async with FeedServer() as server:
        await server.stop()
        async with tap(server.uri, "--count", "1") as tapped:
            await tapped.until_reported("refused")
            await server.start()
            await server.wait_clients(1)
            await server.send("at last")
            assert await tapped.line() == "at last"
            assert (await tapped.end())[0] == 0


async def test_sends_after_every_connect_and_with_headers() -> None:
    """--send is sent in order on every connect, --header with every handshake."""
    arguments = ["--send", "subscribe a", "--send", "subscribe b", "--header", "X-One: 1", "--header", "X-Two:two: 2"]
    async with FeedServer() as server, tap(server.uri, *arguments):
        for times in (1, 2):
            await server.wait_clients(1)
            while len(server.received) < 2 * times:
                await asyncio.sleep(0.01)
            server.drop()
        assert server.received == ["subscribe a", "subscribe b"] * 2
        assert [(r.headers["X-One"], r.headers["X-Two"]) for r in server.requests[:2]] == [("1", "two: 2")] * 2


async def test_pretty_prints_json() -> None:
    """--json indents JSON; in a pipe every message is JSON."""
    async with FeedServer() as server, tap(server.uri, "--json", "--count", "2") as tapped:
        await server.wait_clients(1)
        await server.send('{"price":1.50}', "plain")
        code, out, _ = await tapped.end()
    assert (code, out) == (0, '{\n  "price": 1.50\n}\n"plain"\n')


async def test_ends_when_its_output_is_closed() -> None:
    """`wsfleet tap URI | head -1` ends without an error, with 0."""
    reading, writing = os.pipe()
    async with FeedServer() as server, tap(server.uri, stdout=writing) as tapped:
        os.close(writing)
        await server.wait_clients(1)
        await server.send("first")
        assert os.read(reading, 100) == b"first\n"
        os.close(reading)
        while server.clients:
            await server.send("more")
            await asyncio.sleep(0.01)
        assert await tapped.process.wait() == 0
        assert "Traceback" not in (await tapped.err.read()).decode()


async def test_a_slow_reader_does_not_cost_the_connection() -> None:
    """While the pipe is full, Ctrl-C works, and no message that was read before is lost."""
    reading, writing = os.pipe()
    async with FeedServer() as server, tap(server.uri, stdout=writing) as tapped:
        os.close(writing)
        await server.wait_clients(1)
        sending = asyncio.create_task(server.send(*["x" * 10_000] * 5_000))
        done, _ = await asyncio.wait([sending], timeout=1.0)
        assert not done, "the pipe blocks the tap, which pauses the server"
        assert len(server.clients) == 1
        tapped.process.send_signal(signal.SIGINT)
        assert await tapped.process.wait() == 0
        await sending
    os.close(reading)


async def test_the_duration_ends_a_tap() -> None:
    """--duration ends a tap without messages, with 0."""
    async with FeedServer() as server, tap(server.uri, "--duration", "0.5") as tapped:
        code, out, err = await tapped.end()
    assert (code, out) == (0, "")
    assert "0 messages" in err


@pytest.mark.parametrize(("status", "advice"), [(401, "--header"), (403, "--header"), (404, "path"), (410, "path")])
async def test_a_fatal_error_ends_with_advice(status: int, advice: str) -> None:
    """Errors that a retry cannot change are one clear line and exit code 1."""
    async with FeedServer() as server:
        server.refuse(status)
        async with tap(server.uri) as tapped:
            code, out, err = await tapped.end()
    assert (code, out) == (1, "")
    last = err.splitlines()[-1]
    assert last.startswith(f"wsfleet tap: the server answered {status}")
    assert advice in last
    assert err.count(f"answered {status}") == 1


async def test_a_bad_certificate_ends_with_advice(tmp_path: Path) -> None:
    """An unknown authority ends the tap with a line that explains how to trust it, and doing so works."""
    ca = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ca.issue_cert("localhost").configure_cert(context)
    trusted = tmp_path / "ca.pem"
    ca.cert_pem.write_to_path(str(trusted))
    async with FeedServer(host="localhost", ssl=context) as server:
        async with tap(server.uri) as tapped:
            code, _, err = await tapped.end()
        assert code == 1
        assert "certificate" in err.splitlines()[-1]
        assert "SSL_CERT_FILE" in err.splitlines()[-1]
        async with tap(server.uri, "--count", "1", env={"SSL_CERT_FILE": str(trusted)}) as tapped:
            await server.wait_clients(1)
            await server.send("sealed")
            assert (await tapped.end())[:2] == (0, "sealed\n")


async def test_secrets_are_not_shown() -> None:
    """Tokens in the URI and in headers appear neither in the output nor in errors."""
    arguments = ["--header", "Authorization: Bearer sesame-open-up"]
    async with FeedServer() as server:
        uri = f"{server.uri}/feed?token=sesame-open-up"
        async with tap(uri, "--count", "1", *arguments) as tapped:
            await server.wait_clients(1)
            server.drop()
            await server.wait_clients(1)
            await server.send("x")
            _, _, well = await tapped.end()
        server.refuse(401)
        async with tap(uri, *arguments) as tapped:
            _, _, badly = await tapped.end()
    assert "sesame" not in well + badly
    assert "/feed?token=" in well


@pytest.mark.parametrize("arguments", [[], ["--json"]])
async def test_escape_sequences_of_the_peer_are_escaped(arguments: list[str]) -> None:
    """On a terminal the escape sequences of the peer are escaped, in all of its texts."""
    main, side = pty.openpty()
    fcntl.ioctl(side, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    messages = ["\x1b]0;owned\x07", '{"price": "\x9b2J"}', b"\x1b[2J"]
    options = {"stdout": side, "stderr": side, "env": {"TERM": "xterm-256color"}}
    async with FeedServer() as server, tap(server.uri, "--count", "3", *arguments, **options) as tapped:
        os.close(side)
        await server.wait_clients(1)
        await server.send(*messages)
        assert await tapped.process.wait() == 0
        screen = b""
        with contextlib.suppress(OSError):
            while chunk := os.read(main, 2**16):
                screen += chunk
    os.close(main)
    shown = re.sub(r"\x1b\[[0-9;]*m", "", screen.decode())  # the colours of wsfleet
    assert "\x1b" not in shown
    assert "\x9b" not in shown
    assert r"\u001b]0;owned\u0007" in shown
    assert r"\u009b2J" in shown
    assert "<4 bytes> 1b 5b 32 4a" in shown
    assert "\x1b[2m" in screen.decode(), "text that is not data is dim"


@pytest.mark.parametrize(
    ("uri", "meant"),
    [
        ("localhost:8080", "ws://localhost:8080"),
        ("localhost/feed", "ws://localhost/feed"),
        ("127.0.0.1:80/feed", "ws://127.0.0.1:80/feed"),
        ("[::1]:80", "ws://[::1]:80"),
        ("feed.example/trades", "wss://feed.example/trades"),
        ("feed.example:443", "wss://feed.example:443"),
        ("http://feed.example/a", "ws://feed.example/a"),
        ("HTTPS://feed.example/a", "wss://feed.example/a"),
        ("//feed.example", "wss://feed.example"),
        ("ftp://feed.example", None),
        ("", None),
        ("a b", None),
        ("ws://", None),
    ],
)
def test_suggests_the_likely_uri(uri: str, meant: str | None) -> None:
    """A URI without ws:// or wss:// gets the more likely one, if it can be decided."""
    assert suggest(uri) == meant


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["localhost:8080"], "did you mean ws://localhost:8080 ?"),
        (["https://feed.example/x?token=sesame"], "did you mean wss://feed.example/x?token=*** ?"),
        (["wss://feed.example/#top"], "fragment"),
        (["ws://feed.example", "--header", "no colon"], "Name: value"),
        (["ws://feed.example", "--header", "A: 1", "--header", "a: 2"], "twice"),
        (["ws://feed.example", "--header", "Host: other"], "handshake"),
        (["ws://feed.example", "--count", "0"], "--count"),
        (["ws://feed.example", "--duration", "nan"], "--duration"),
        ([], "URI"),
    ],
)
def test_a_wrong_command_line_is_one_clear_line(
    arguments: list[str], text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Invalid arguments are reported at once, without secrets and without a traceback, with exit code 2."""
    code = main(["tap", *arguments])
    out, err = capsys.readouterr()
    assert (code, out) == (2, "")
    assert text in err
    assert "sesame" not in err
    assert "Traceback" not in err


def test_headers_are_names_and_values() -> None:
    """Only the first colon separates, and the space around name and value is removed."""
    assert parse_headers(["A:b", "X-Url : http://x "]) == {"A": "b", "X-Url": "http://x"}
    for wrong in ("nothing", ": value", " : value"):
        with pytest.raises(ConfigError):
            parse_headers([wrong])


def caused(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "uri", "text"),
    [
        (ConnectionLost(1006, ""), "ws://a", "connection lost: no close frame was received"),
        (ConnectionLost(4000, "bye"), "ws://a", "connection lost: the server closed with 4000 bye"),
        (ConnectionLost(1001), "ws://a", "connection lost: the server closed with 1001"),
        (HandshakeRejected(200), "ws://a", "the server answered 200 (no WebSocket at this path?)"),
        (HandshakeRejected(429, {}, 7.0), "ws://a", "the server answered 429, retry after 7 s"),
        (HandshakeRejected(503), "ws://a", "the server answered 503"),
        (ConnectFailed("dns", "no such host"), "ws://a", "cannot find the host: no such host"),
        (caused(ConnectFailed("tcp"), OSError(errno.ECONNREFUSED, "")), "ws://a", "cannot connect: Connection refused"),
        (
            caused(ConnectFailed("tls"), ConnectionResetError()),
            "wss://a",
            "the server does not use TLS (a ws:// server?)",
        ),
        (ConnectFailed("http", "closed"), "ws://a", "WebSocket handshake failed: closed (a wss:// server?)"),
        (ConnectFailed("http", "closed"), "wss://a", "http: closed"),
        (ConnectFailed("on_open", "odd"), "ws://a", "on_open: odd"),
        (FleetError("odd"), "ws://a", "odd"),
    ],
)
def test_describes_a_failure_in_plain_words(error: Exception, uri: str, text: str) -> None:
    """The reason for a failed connection is followed by advice."""
    assert describe(error, uri) == text


def test_explains_an_unknown_error_by_its_text() -> None:
    """A fatal error without specific advice is reported, too."""
    assert explain(ConnectFailed("tcp", "odd")) == "tcp: odd"
    assert "418" in explain(HandshakeRejected(418))
