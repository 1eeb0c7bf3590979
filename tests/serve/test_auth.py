"""Access control: no token on loopback, a token elsewhere, and no requests from pages of other origins."""

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest

from tests.support.http import client as http_client
from wsfleet import Fleet
from wsfleet.core.errors import ConfigError
from wsfleet.serve.status.auth import Guard, split_listen
from wsfleet.testing import FakeTransport

TOKEN = "a-token-for-tests"
BEARER = {"Authorization": f"Bearer {TOKEN}"}


@asynccontextmanager
async def served(listen: str = "127.0.0.1:0", token: str | None = None) -> AsyncIterator[httpx.AsyncClient]:
    """A client of a fleet that is served at `listen`."""
    fleet = Fleet(transport=FakeTransport())
    server = fleet.serve_http(listen, token=token)
    async with fleet:
        address = server.address.replace("0.0.0.0", "127.0.0.1")
        async with http_client(address) as client:
            yield client


@pytest.mark.parametrize(
    ("listen", "found"),
    [
        ("127.0.0.1:9464", ("127.0.0.1", 9464)),
        ("localhost:0", ("127.0.0.1", 0)),
        ("[::1]:80", ("::1", 80)),
        ("[0:0::1]:80", ("::1", 80)),
        ("0.0.0.0:65535", ("0.0.0.0", 65535)),
    ],
)
def test_valid_addresses_are_accepted(listen: str, found: tuple[str, int]) -> None:
    """An IP address or localhost, and a port, are accepted."""
    assert split_listen(listen) == found


@pytest.mark.parametrize(
    ("listen", "text"),
    [
        ("9464", "must be an address and a port"),
        (":9464", "must be an address and a port"),
        ("::1:9464", "must be an address and a port"),
        ("127.0.0.1:", "must be an address and a port"),
        ("127.0.0.1:x", "must be an address and a port"),
        ("127.0.0.1:65536", "the highest port is 65535"),
        ("example.com:80", "must name an IP address or localhost"),
        ("127.0.0.256:80", "must name an IP address or localhost"),
        (9464, "must be an address and a port"),
    ],
)
def test_invalid_addresses_are_rejected(listen: Any, text: str) -> None:
    """Any other address is rejected at declaration, with the reason."""
    with pytest.raises(ConfigError, match=text) as caught:
        Fleet().serve_http(listen)
    assert [field for field, _ in caught.value.faults] == ["listen"]


@pytest.mark.parametrize("listen", ["0.0.0.0:9464", "[::]:9464", "192.0.2.1:9464", "[::ffff:192.0.2.1]:80"])
def test_an_address_other_than_loopback_requires_a_token(listen: str) -> None:
    """An address other than loopback requires a token."""
    with pytest.raises(ConfigError, match="requires a token"):
        Fleet().serve_http(listen)
    assert str(Fleet().serve_http(listen, token=TOKEN)).endswith("all requests require the token")


@pytest.mark.parametrize("token", ["", "two words", "tüv", "a\n", 5])
def test_invalid_tokens_are_rejected(token: Any) -> None:
    """A token that is invalid in a header is rejected, and not quoted."""
    with pytest.raises(ConfigError, match=r"token must be printable ASCII without spaces$"):
        Fleet().serve_http(token=token)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.1:9464", "localhost:1", "LOCALHOST", "[::1]:9464", "127.1.2.3"])
async def test_loopback_names_are_answered(host: str) -> None:
    """Without a token, requests with a name of this machine are answered."""
    async with served() as client:
        assert (await client.get("/healthz", headers={"Host": host})).status_code == 200


@pytest.mark.parametrize(
    "host",
    ["attacker.example", "127.0.0.1.attacker.example", "localhost.attacker.example:80", "192.0.2.1", "[::2]:1", ""],
)
async def test_other_names_are_refused(host: str) -> None:
    """A request with another host name (DNS rebinding) is refused, also for the page itself."""
    async with served() as client:
        for path in ("/", "/healthz", "/api/stats", "/nothing"):
            answer = await client.get(path, headers={"Host": host})
            assert answer.status_code == 403 and "loopback" in answer.text
        assert (await client.post("/api/reload", headers={"Host": host})).status_code == 403


async def test_without_a_token_changes_are_refused() -> None:
    """Without a token a POST is refused with 403, whatever it contains."""
    async with served() as client:
        for headers in ({}, BEARER, {"Authorization": "Bearer"}, {"Authorization": "Bearer None"}):
            assert (await client.post("/api/reload", headers=headers)).status_code == 403


WRONG = [
    {},
    {"Authorization": f"Bearer {TOKEN}x"},
    {"Authorization": f"Bearer {TOKEN[:-1]}"},
    {"Authorization": TOKEN},
    {"Authorization": f"Basic {TOKEN}"},
    {"Authorization": "Bearer"},
    {"Authorization": "Bearer tÿ"},
    {"Cookie": f"token={TOKEN}"},
]


@pytest.mark.parametrize("headers", WRONG)
async def test_on_loopback_only_changes_need_the_token(headers: dict[str, str]) -> None:
    """With a token on loopback, reading needs no token; changes need the right one."""
    async with served(token=TOKEN) as client:
        raw = {name: value.encode("latin-1") for name, value in headers.items()}
        assert (await client.get("/healthz", headers=raw)).status_code == 200
        answer = await client.post("/api/reload", headers=raw)
        assert answer.status_code == 401 and answer.headers["www-authenticate"] == "Bearer"
        assert (await client.post("/api/reload", headers=BEARER)).status_code == 409
        # Another host name is only allowed with the token: for a proxy, not for a page.
        raw["Host"] = b"fleet.example"
        assert (await client.get("/healthz", headers=raw)).status_code == 401
        assert (await client.get("/healthz", headers={**BEARER, "Host": "fleet.example"})).status_code == 200


@pytest.mark.parametrize("headers", WRONG)
async def test_on_other_addresses_everything_needs_the_token(headers: dict[str, str]) -> None:
    """On another address, nothing about the fleet is returned without the token, for GET and HEAD."""
    async with served("0.0.0.0:0", TOKEN) as client:
        raw = {name: value.encode("latin-1") for name, value in headers.items()}
        for path in ("/api/stats", "/api/events", "/metrics", "/healthz", "/readyz", "/nothing"):
            assert (await client.get(path, headers=raw)).status_code == 401
            assert (await client.head(path, headers=raw)).status_code == 401
        assert (await client.post("/api/reload", headers=raw)).status_code == 401
        assert (await client.get("/api/stats", headers=BEARER)).status_code == 200
        assert (await client.get("/api/stats", headers={"Authorization": f"bearer  {TOKEN}"})).status_code == 200


async def test_a_token_in_a_url_is_ignored() -> None:
    """A token in the URL is ignored, because URLs appear in histories and logs."""
    async with served("0.0.0.0:0", TOKEN) as client:
        assert (await client.get(f"/api/stats?token={TOKEN}")).status_code == 401


async def test_the_page_itself_needs_no_token() -> None:
    """The files of the page need no token, because they contain nothing about the fleet, and let the user enter it."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"page"})

    guard = Guard(app, token=TOKEN, loopback=False, open_paths=["/"])
    async with httpx.AsyncClient(transport=httpx.ASGITransport(guard), base_url="http://fleet.example") as client:
        assert (await client.get("/")).text == "page"
        assert (await client.get("/api/stats")).status_code == 401
        assert (await client.post("/")).status_code == 401


async def test_other_methods_change_nothing() -> None:
    """Other methods are refused, with and without the token."""
    async with served(token=TOKEN) as client:
        for method in ("PUT", "DELETE", "OPTIONS", "PATCH"):
            assert (await client.request(method, "/api/reload")).status_code == 401
            assert (await client.request(method, "/api/reload", headers=BEARER)).status_code == 405
        assert (await client.get("/api/reload")).status_code == 405


async def test_by_default_only_this_machine_can_connect() -> None:
    """By default only this machine can connect."""
    fleet = Fleet(transport=FakeTransport())
    server = fleet.serve_http("127.0.0.1:0")
    async with fleet:
        listening = server._socket
        assert isinstance(listening, socket.socket) and listening.getsockname()[0] == "127.0.0.1"


@pytest.mark.parametrize(
    "host", ["[::1]evil.example", "localhost:80@evil.example", "localhost:evil.example", "::1", "[::1", "127.0.0.1:"]
)
@pytest.mark.parametrize("token", [None, TOKEN])
async def test_the_whole_host_header_is_checked(host: str, token: str | None) -> None:
    """A Host header that only begins like a loopback name is refused."""
    good = host == "127.0.0.1:"  # RFC 9110, section 4.2.3: an empty port is the default port
    async with served(token=token) as client:
        status = (await client.get("/api/overview", headers={"Host": host})).status_code
    assert status == (200 if good else 401 if token else 403)
