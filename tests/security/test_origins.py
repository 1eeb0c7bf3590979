"""The real destination of an endpoint: redirects, proxies, certificates."""

import asyncio
import logging
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trustme

from tests.support.peers import HOST, HttpProxy, answering, listening, request, switching, until_gone
from wsfleet import Endpoint, Fleet, Reconnect, Subscription
from wsfleet.cli.main import main
from wsfleet.config import check
from wsfleet.core.errors import ConfigError, ConnectFailed

SECRET = "q7s3kr1tZ9"
ONCE = Reconnect(initial_s=60.0, max_s=60.0, jitter=0.0)


class Server:
    """Records the requests' headers; redirects from "/" to `location` if there is one."""

    def __init__(self, location: str = "") -> None:
        self.location = location
        self.seen: list[str] = []

    async def __call__(self, reader, writer) -> None:  # type: ignore[no-untyped-def]
        first, headers = await request(reader)
        self.seen.append(f"{first} {headers}")
        if self.location and first.split()[1] == "/":
            writer.write(f"HTTP/1.1 302 Found\r\nLocation: {self.location}\r\n\r\n".encode())
        else:
            writer.write(switching(headers))
        await until_gone(reader)


@asynccontextmanager
async def running(uri: str, **options) -> AsyncIterator[tuple[Fleet, Subscription]]:  # type: ignore[no-untyped-def]
    """A fleet of one endpoint, and its state changes."""
    fleet = Fleet()
    states = fleet.subscribe("$state.feed")
    # The servers here do not answer a close frame.
    fleet.connect(Endpoint(uri, name="feed", reconnect=ONCE, close_s=0.1, **options))
    async with fleet:
        yield fleet, states


async def first_error(states: Subscription) -> Exception:
    async for message in states:
        if message.data.error is not None:
            return message.data.error  # type: ignore[no-any-return]
    raise AssertionError("it ended without an error")


# Redirects


@pytest.mark.parametrize("subprotocol", ["graphql-ws", f"api-key.{SECRET}"])
async def test_subprotocols_do_not_go_to_another_origin(subprotocol: str, caplog: pytest.LogCaptureFixture) -> None:
    """A redirect to another origin with user-defined headers, which may contain a token, fails with advice."""
    there = Server()
    async with listening(there) as other:
        here = Server(f"ws://{HOST}:{other}/?token={SECRET}")
        async with (
            listening(here) as port,
            running(f"ws://{HOST}:{port}", subprotocols=[subprotocol]) as (_, states),
        ):
            error = await first_error(states)
    assert here.seen
    assert there.seen == []
    assert f"ws://{HOST}:{other}, another origin, to which subprotocols are not sent" in str(error)
    assert SECRET not in str(error) + caplog.text


async def test_a_redirect_on_the_same_origin_keeps_subprotocols() -> None:
    """A redirect to the same origin is never rejected."""
    here = Server("/next")
    # The server of this test chooses none.
    options = {"subprotocols": ["graphql-ws"], "subprotocol_required": False}
    async with listening(here) as port, running(f"ws://{HOST}:{port}", **options) as (fleet, _):
        await fleet.connections["feed"].wait_open()
    assert len(here.seen) == 2
    assert all("graphql-ws" in seen for seen in here.seen)


async def test_a_redirect_to_another_origin_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """A warning reports the other origin, because data of on_open are sent there, and so does the OPEN line; both
    redacted.
    """
    caplog.set_level(logging.INFO)
    async with (
        listening(Server()) as other,
        listening(Server(f"ws://u:{SECRET}@{HOST}:{other}/a?token={SECRET}")) as port,
        running(f"ws://{HOST}:{port}") as (fleet, _),
    ):
        await fleet.connections["feed"].wait_open()
    records = [record for record in caplog.records if "redirected to" in record.getMessage()]
    assert [record.levelname for record in records] == ["WARNING", "INFO"]
    assert all(f"ws://{HOST}:{other}" in record.getMessage() for record in records)
    assert SECRET not in caplog.text


@pytest.mark.parametrize("echo", [f"Upgrade: {SECRET}", f"Sec-WebSocket-Accept: x{SECRET}"])
async def test_secrets_of_a_redirect_are_not_shown(echo: str, caplog: pytest.LogCaptureFixture) -> None:
    """A token in a Location header is redacted like one in the endpoint's own URI."""
    answer = f"HTTP/1.1 101 x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n{echo}\r\n\r\n"
    async with (
        listening(answering(answer.encode())) as other,
        listening(Server(f"ws://{HOST}:{other}/?token={SECRET}")) as port,
        running(f"ws://{HOST}:{port}") as (fleet, states),
    ):
        error = await first_error(states)
        report = str(fleet.stats())
    assert SECRET not in str(error) + repr(error) + report + caplog.text


async def test_an_answer_behind_a_redirect_names_its_origin(caplog: pytest.LogCaptureFixture) -> None:
    """The error contains the other origin, and that headers are not sent there."""
    async with (
        listening(answering(b"HTTP/1.1 401 x\r\n\r\n")) as other,
        listening(Server(f"ws://u:{SECRET}@{HOST}:{other}/?token={SECRET}")) as port,
        running(f"ws://{HOST}:{port}", headers={"Authorization": SECRET}) as (fleet, states),
    ):
        error = await first_error(states)
        report = str(fleet.stats())
    way = f"http: the server answered 401 x (redirected to ws://{HOST}:{other}, without headers)"
    assert str(error) == way
    assert way in report and way in caplog.text
    assert SECRET not in str(error) + repr(error) + report + caplog.text


async def test_a_refusal_through_a_proxy_names_it() -> None:
    """The error of a rejected redirect contains the proxy that was used."""
    proxy = HttpProxy()
    async with (
        listening(answering(b"HTTP/1.1 503 x\r\n\r\n")) as port,
        listening(proxy) as proxy_port,
        running(f"ws://{HOST}:{port}", proxy=f"http://{HOST}:{proxy_port}") as (_, states),
    ):
        error = await first_error(states)
    assert str(error) == f"http: the server answered 503 x (through the proxy http://{HOST}:{proxy_port})"


# Proxies


@pytest.mark.parametrize("variable", ["ws_proxy", "http_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"])
async def test_the_environments_proxy_is_used_and_shown(
    variable: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The OPEN line contains the proxy that is used, without its password."""
    caplog.set_level(logging.INFO)
    proxy = HttpProxy(user="someone", password=SECRET)
    async with listening(Server()) as port, listening(proxy) as proxy_port:
        monkeypatch.setenv(variable, f"http://someone:{SECRET}@{HOST}:{proxy_port}")
        async with running(f"ws://{HOST}:{port}") as (fleet, _):
            await fleet.connections["feed"].wait_open()
    assert proxy.asked == [f"CONNECT {HOST}:{port}"]
    assert f"open (ws://{HOST}:{port}, through the proxy http://***@{HOST}:{proxy_port})" in caplog.text
    assert SECRET not in caplog.text


@pytest.mark.parametrize("proxied", ["all_proxy", "ws_proxy"])
async def test_a_host_in_no_proxy_is_connected_to_directly(
    proxied: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A host in no_proxy is connected to directly, and no proxy is shown."""
    caplog.set_level(logging.INFO)
    async with listening(Server()) as port:
        monkeypatch.setenv(proxied, f"http://{HOST}:1")
        monkeypatch.setenv("no_proxy", HOST)
        async with running(f"ws://{HOST}:{port}") as (fleet, _):
            await fleet.connections["feed"].wait_open()
    assert "through the proxy" not in caplog.text


@pytest.mark.parametrize(
    "answer",
    [
        f"HTTP/1.1 407 Password {SECRET}\r\n\r\n",
        f"garbage {SECRET}\r\n\r\n",
        f"HTTP/1.1 200 OK\r\nBad Header {SECRET}\r\n\r\n",
        f"HTTP/1.1 200 OK\r\nX: \x1b{SECRET}\r\n\r\n",
    ],
)
async def test_a_proxy_that_answers_garbage_is_named(answer: str, caplog: pytest.LogCaptureFixture) -> None:
    """The error contains the proxy that was used; if the proxy repeats its password, this is redacted."""
    async with listening(answering(answer.encode())) as port:
        proxy = f"http://someone:{SECRET}@{HOST}:{port}"
        async with running("wss://feed.example/", proxy=proxy) as (fleet, states):
            error = await first_error(states)
            report = str(fleet.stats())
    assert isinstance(error, ConnectFailed)
    assert error.stage == "proxy"
    assert f"(through the proxy http://***@{HOST}:{port})" in str(error)
    shown = [str(error), repr(error), str(error.__cause__), report, caplog.text]
    assert not [text for text in shown if SECRET in text]


@pytest.mark.parametrize(
    ("proxy", "fault"),
    [
        (f"http://someone:pass@proxy.example:{SECRET}", "has a port that is not a number"),
        (f"http://someone:{SECRET}/x@proxy.example:3128", "has a port that is not a number"),
        (f"http://someone:{SECRET}#x@proxy.example:3128", "has a port that is not a number"),
        (f"someone:{SECRET}@proxy.example:3128", "must be an http://"),
        (f"http://{SECRET}@proxy.example", "has a user without a password"),
        (f"http://someone:[{SECRET}@proxy.example", "is not a URI"),
    ],
)
async def test_a_bad_proxy_of_the_environment_is_not_quoted(
    proxy: str,
    fault: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """An invalid proxy is reported in the error of an attempt and by `wsfleet check`, without quoting it."""
    monkeypatch.setenv("ws_proxy", proxy)
    async with running("ws://feed.example/") as (fleet, states):
        error = await first_error(states)
        report = str(fleet.stats())
    assert f"proxy: the proxy's URL is not valid: it {fault}" in str(error)
    (tmp_path / "feeds.toml").write_text('[[connect]]\nuri = "ws://feed.example"\n')
    assert main(["check", str(tmp_path / "feeds.toml")]) == 2
    output = capsys.readouterr()
    assert f"wsfleet: the environment's proxy {fault}" in output.err
    assert output.err.endswith(": feed-example\n")
    assert SECRET not in str(error) + repr(error) + report + caplog.text + output.out + output.err


def test_check_lists_the_proxies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`wsfleet check` lists the endpoints that use a proxy, also of the environment, without passwords."""
    file = tmp_path / "feeds.toml"
    own = f'proxy = "socks5h://someone:{SECRET}@own.example:1080"'
    names = "abcdefg"
    entries = "".join(f'[[connect]]\nuri = "wss://{name}.example"\nname = "{name}"\n' for name in names)
    file.write_text(f'{entries}[[connect]]\nuri = "wss://o.example"\n{own}\n[[connect]]\nuri = "ws://n.example"\n')
    monkeypatch.setenv("wss_proxy", f"http://someone:{SECRET}@proxy.example:3128")
    assert main(["check", str(file)]) == 0
    assert capsys.readouterr().out.splitlines()[1:] == [
        "proxy http://***@proxy.example:3128, from the environment: a, b, c, d, e, and 2 more",
        "proxy socks5h://***@own.example:1080, from the file: o-example",
    ]


# Certificates


def blind(check_hostname: bool, mode: ssl.VerifyMode) -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.check_hostname = check_hostname
    context.verify_mode = mode
    return context


@pytest.mark.parametrize(
    ("mode", "warning"),
    [
        (ssl.CERT_NONE, "does not verify the server's certificate;"),
        (ssl.CERT_REQUIRED, "does not verify the server's host name in its certificate;"),
    ],
)
async def test_a_context_without_verification_is_logged_once(
    mode: ssl.VerifyMode, warning: str, caplog: pytest.LogCaptureFixture
) -> None:
    """An SSLContext without verification causes one warning with the endpoint's name."""
    ca = trustme.CA()
    tls, context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), blind(False, mode)
    ca.issue_cert("other.example").configure_cert(tls)
    ca.configure_trust(context)
    async with listening(Server(), tls=tls) as port:
        fleet = Fleet()
        for name in ("one", "two"):
            fleet.connect(f"wss://localhost:{port}", name=name, ssl=context, close_s=0.1)
        async with fleet:
            for connection in fleet.connections.values():
                await connection.wait_open()
            fleet.connections["one"].restart()
            while fleet.connections["one"].session_count < 2:
                await asyncio.sleep(0.01)
    (record,) = [record for record in caplog.records if "does not verify" in record.getMessage()]
    assert record.levelname == "WARNING"
    assert record.getMessage().startswith(("one: ", "two: "))
    assert warning in record.getMessage()


async def test_a_context_that_verifies_causes_no_warning(caplog: pytest.LogCaptureFixture) -> None:
    """Contexts that verify certificates, including the user's own, cause no warning."""
    ca = trustme.CA()
    tls, context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.create_default_context()
    ca.issue_cert("localhost").configure_cert(tls)
    ca.configure_trust(context)
    async with listening(Server(), tls=tls) as port, running(f"wss://localhost:{port}", ssl=context) as (fleet, _):
        await fleet.connections["feed"].wait_open()
    assert "does not verify" not in caplog.text


@pytest.mark.parametrize("value", [False, True, 0, "none", ssl.CERT_NONE])
def test_no_other_value_of_ssl_disables_verification(value: object) -> None:
    """Verification can only be disabled by an SSLContext: other values are rejected."""
    with pytest.raises(ConfigError, match=r"must be an ssl\.SSLContext"):
        Endpoint("wss://feed.example", ssl=value)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "line",
    ["ssl = true", 'ssl = "none"', "ssl = { verify = false }", "ssl = { check_hostname = false }", "verify = false"],
)
def test_no_line_of_a_file_disables_verification(line: str, tmp_path: Path) -> None:
    """In a configuration file, verification cannot be disabled."""
    (tmp_path / "feeds.toml").write_text(f'[[connect]]\nuri = "wss://feed.example"\n{line}\n')
    assert check(tmp_path / "feeds.toml").faults


def test_ssl_false_in_a_file_keeps_the_verification(tmp_path: Path) -> None:
    """`ssl = false` is the default, a context that verifies, and does not disable verification."""
    (tmp_path / "feeds.toml").write_text('[[connect]]\nuri = "wss://feed.example"\nssl = false\n')
    ((_, endpoint),) = check(tmp_path / "feeds.toml").endpoints
    assert endpoint.ssl is None
