"""Cookies that servers set with the answer to a handshake, and the requests that carry them."""

import pytest
from websockets.asyncio.server import serve
from websockets.datastructures import Headers as Received
from websockets.http11 import Response
from websockets.uri import parse_uri

from tests.support.flows import until
from tests.transport.sockets.test_opening import HOST, failure
from wsfleet import Fleet
from wsfleet.core.headers import Headers
from wsfleet.transport.base import Progress
from wsfleet.transport.cookies import MOST, Cookies


def stored(*values: str, uri: str = "ws://feed.test/") -> Cookies:
    cookies = Cookies()
    cookies.store(parse_uri(uri), Headers([("Set-Cookie", value) for value in values]))
    return cookies


class Setting:
    """Sets cookies with each answer, `refuses` the path /no, redirects /from, and keeps the cookies it gets."""

    def __init__(self) -> None:
        self.seen: list[str] = []
        self.values = ["lb=abc; Path=/; Expires=Wed, 09 Dec 2037 10:00:00 GMT", "sid=s3kr1t-value; HttpOnly"]

    def process_request(self, connection, request):
        self.seen.append("; ".join(request.headers.get_all("Cookie")))
        status, location = {"/no": (429, None), "/from": (302, "/")}.get(request.path, (None, None))
        if status is None:
            return None
        headers = Received([("Content-Length", "0"), *[("Set-Cookie", value) for value in self.values]])
        if location:
            headers["Location"] = location
        return Response(status, "Not yet", headers)

    def process_response(self, connection, request, response):
        for value in self.values:
            response.headers["Set-Cookie"] = value

    def serve(self):
        async def wait(client):
            await client.wait_closed()

        return serve(wait, HOST, 0, process_request=self.process_request, process_response=self.process_response)


def uri_of(server) -> str:
    return f"ws://{HOST}:{server.sockets[0].getsockname()[1]}"


async def test_an_endpoint_with_cookies_sends_them_back_after_a_loss():
    """With `cookies=True` both cookies of the first answer are in the second request; without it, none is."""
    with_jar, without = Setting(), Setting()
    async with with_jar.serve() as one, without.serve() as two, Fleet() as fleet:
        connections = [
            fleet.connect(uri_of(one), name="with", cookies=True, proxy=False),
            fleet.connect(uri_of(two), name="without", proxy=False),
        ]
        for connection in connections:
            await connection.wait_open()
            connection.restart()
        await until(lambda: all(connection.session_count == 2 for connection in connections))
    assert with_jar.seen == ["", "lb=abc; sid=s3kr1t-value"]
    assert without.seen == ["", ""]


@pytest.mark.parametrize("path", ["/no", "/from"])
async def test_cookies_of_a_refusal_and_of_a_redirect_are_kept(connect, path):
    """Every answer may set cookies; those of a redirect are sent with the request that follows it."""
    setting, cookies = Setting(), Cookies()
    async with setting.serve() as server:
        if path == "/no":
            await failure(connect, uri_of(server) + path, cookies=cookies)
            await connect(uri_of(server), cookies=cookies)
        else:
            await connect(uri_of(server) + path, cookies=cookies)
    assert setting.seen == ["", "lb=abc; sid=s3kr1t-value"]


async def test_cookies_are_added_to_those_of_the_user_and_are_secrets(connect):
    """The user's own Cookie header is kept, and stored values are removed from texts."""
    setting, progress = Setting(), Progress()
    async with setting.serve() as server:
        cookies = Cookies()
        cookies.store(parse_uri(uri_of(server)), Headers([("Set-Cookie", "sid=s3kr1t-value")]))
        await connect(uri_of(server), headers={"cookie": "own=1"}, cookies=cookies, progress=progress)
    assert setting.seen == ["own=1; sid=s3kr1t-value"]
    assert "s3kr1t-value" in progress.secrets


@pytest.mark.parametrize(
    ("uri", "sent"),
    [
        ("ws://feed.test/", "plain=1"),
        ("ws://feed.test:8080/", "plain=1"),
        ("wss://feed.test/", "plain=1; safe=2"),
        ("wss://feed.test/deep/er", "path=3; plain=1; safe=2"),
        ("ws://other.test/", ""),
        ("ws://sub.feed.test/", ""),
    ],
)
def test_a_cookie_goes_where_the_rules_allow(uri, sent):
    """Host, path and `Secure` decide, as for the http or https URI with the same host."""
    cookies = stored("plain=1; Path=/", "safe=2; Secure; Path=/", "path=3; Path=/deep", uri="wss://feed.test/deep/")
    assert "; ".join(sorted(filter(None, cookies.header(parse_uri(uri)).split("; ")))) == sent


def test_an_address_and_a_cookie_that_is_deleted():
    """A host may be an IP address; a cookie that has expired is not sent."""
    for uri in ("ws://127.0.0.1:8080/", "ws://[::1]:8080/"):
        cookies = stored("a=1; Path=/", "b=2; Path=/", uri=uri)
        assert cookies.header(parse_uri(uri)) == "a=1; b=2"
        cookies.store(parse_uri(uri), Headers([("Set-Cookie", "a=; Path=/; Max-Age=0")]))
        assert cookies.header(parse_uri(uri)) == "b=2"


def test_a_server_cannot_fill_the_memory():
    """The number of cookies is bounded, and the newest are kept."""
    cookies = Cookies()
    for number in range(3 * MOST):
        cookies.store(parse_uri("ws://feed.test/"), Headers([("Set-Cookie", f"n{number}=x; Path=/")]))
    header = cookies.header(parse_uri("ws://feed.test/"))
    assert len(header.split("; ")) == MOST
    assert f"n{3 * MOST - 1}=x" in header
