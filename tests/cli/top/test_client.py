"""The client of a fleet's HTTP interface, against a fake of that interface on loopback."""

import ssl
from pathlib import Path

import pytest
from starlette.responses import JSONResponse, PlainTextResponse, RedirectResponse, Response

from tests.support.fleetview import FleetView, endpoint
from tests.support.served import Served, serving
from wsfleet.cli.top.client import Client, check_url
from wsfleet.cli.top.command import tokens
from wsfleet.serve.status.schema import Query, StatusError


async def trouble(client: Client) -> StatusError:
    with pytest.raises(StatusError) as caught:
        await client.overview()
    return caught.value


async def test_reads_all_data_of_a_fleet() -> None:
    """Overview, history, a part of the table and the events are returned as they were sent."""
    view = FleetView(sent=[{"kind": "gap", "topic": "$gap.feed-1", "at": 1.5}, {"kind": "missed", "count": 3}])
    async with serving(Served(view)) as served:
        client = Client(served.url)
        overview = await client.overview()
        assert (overview.name, overview.states["OPEN"], overview.latency.p50) == ("market", 10, 0.012)
        assert len(await client.history()) == 600
        part = await client.endpoints(Query(search="feed-1", sort="received", order="desc", offset=1, limit=2))
        assert (part.total, part.matched, part.offset) == (12, 4, 1)
        assert [row.name for row in part.rows] == ["feed-11", "feed-10"]
        stream = client.events()
        assert [await anext(stream), await anext(stream)] == view.sent
        await stream.aclose()
        await client.close()


async def test_the_token_is_only_sent_in_the_header() -> None:
    """The token is sent in Authorization, never in a URL; a wrong token and a missing one give different errors."""
    async with serving(Served(FleetView())) as served:
        served.token = "let-me-in"
        given: list[str | None] = [None]
        client = Client(served.url, lambda: given[0])
        without = await trouble(client)
        assert without.headline == "REFUSED" and "requires a token" in without.text
        given[0] = "wrong"
        assert "token is not valid" in (await trouble(client)).text
        given[0] = "let-me-in"
        assert (await client.overview()).name == "market"
        assert not any("let-me-in" in str(request.url) for request in served.asked)
        await client.close()


async def test_a_changed_token_file_is_read_again(tmp_path: Path) -> None:
    """A new token in the token file is used; a missing file is reported."""
    file = tmp_path / "token"
    file.write_text("old\n")
    async with serving(Served(FleetView())) as served:
        served.token = "new"
        client = Client(served.url, tokens(file))
        assert (await trouble(client)).headline == "REFUSED"
        file.write_text("new\n")
        assert (await client.overview()).name == "market"
        file.unlink()
        assert "can no longer be read" in (await trouble(client)).text
        await client.close()


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (PlainTextResponse("hello"), "not wsfleet"),
        (JSONResponse({"states": 7}), "not wsfleet"),
        (JSONResponse([]), "not wsfleet"),
        (PlainTextResponse(b"\xff\xfe"), "not wsfleet"),
        (PlainTextResponse("no", 404), "404 at /api/overview"),
        (RedirectResponse("http://127.0.0.1:1/elsewhere"), "307"),
    ],
)
async def test_answers_of_another_server_are_recognized(answer: Response, text: str) -> None:
    """An answer of another server is a specific error, and no redirect is followed with the token."""
    async with serving(Served(FleetView())) as served:
        served.odd = answer
        client = Client(served.url, lambda: "secret")
        found = await trouble(client)
        assert found.headline == "NO FLEET" and text in found.text
        await client.close()


async def test_an_unreachable_fleet_is_reported_in_plain_words() -> None:
    """If nothing listens on the port, or the fleet ends during the events, the error is UNREACHABLE."""
    async with serving(Served(FleetView())) as served:
        client = Client(served.url)
        await client.overview()
    found = await trouble(client)
    assert (found.headline, found.text) == ("UNREACHABLE", "connection refused")
    await client.close()
    secure = Client(served.url.replace("http:", "https:"))
    assert (await trouble(secure)).headline == "UNREACHABLE"
    await secure.close()


async def test_plain_http_behind_an_https_url_is_reported() -> None:
    """https:// for a server without TLS is reported with this reason."""
    async with serving(Served(FleetView())) as served:
        client = Client(served.url.replace("http:", "https:"))
        assert "not use TLS" in (await trouble(client)).text
        await client.close()
    assert issubclass(ssl.SSLError, OSError)  # therefore it is checked first


async def test_only_requested_rows_are_sent() -> None:
    """Of ten thousand endpoints, only the twenty that are requested are sent."""
    async with serving(Served(FleetView([endpoint(number) for number in range(10_000)]))) as served:
        client = Client(served.url)
        part = await client.endpoints(Query(offset=9_000, limit=20))
        assert (part.total, part.matched, len(part.rows)) == (10_000, 10_000, 20)
        await client.close()


@pytest.mark.parametrize(
    ("given", "used"),
    [
        ("127.0.0.1:9464", "http://127.0.0.1:9464"),
        ("https://ops.example/market/", "https://ops.example/market"),
        ("http://[::1]:9464", "http://[::1]:9464"),
    ],
)
def test_short_forms_of_a_url_are_accepted(given: str, used: str) -> None:
    """The scheme may be omitted, a path may precede the interface, and a final slash is accepted."""
    assert check_url(given) == used


@pytest.mark.parametrize(
    "given",
    [
        "http://user:hunter2@host",
        "http://host/?token=hunter2",
        "http://host/#hunter2",
        "ftp://hunter2",
        "http://host:hunter2",
        "http://",
        "http://a b",
    ],
)
def test_an_invalid_url_is_rejected_without_quoting_it(given: str) -> None:
    """A URL that contains a secret is rejected, and the error does not show it."""
    with pytest.raises(ValueError) as caught:
        check_url(given)
    assert "hunter2" not in str(caught.value)
