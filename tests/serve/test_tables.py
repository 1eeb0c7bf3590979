"""Long tables are searched, sorted and paged by the server, so that only visible rows are sent."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest

from tests.support.http import client as http_client
from wsfleet import Fleet, Limits, Message, State
from wsfleet.core.stats import EndpointStats
from wsfleet.serve.status.tables import ENDPOINTS, Query, Table
from wsfleet.testing import FakeSocket, FakeTransport

LOOPS = ("asyncio",)  # only the selection of rows is tested


@asynccontextmanager
async def serving(names: list[str]) -> AsyncIterator[tuple[httpx.AsyncClient, dict[str, FakeSocket], Fleet]]:
    """A fleet with endpoints of these names, all open, and a client of its server."""
    transport = FakeTransport()
    fleet = Fleet(transport=transport, limits=Limits(handshakes=len(names)))

    async def nothing(message: Message[Any]) -> None:
        pass

    for name in names:
        fleet.connect(f"ws://{name.lower()}.test/{name}", nothing, name=name)
    server = fleet.serve_http("127.0.0.1:0")
    async with fleet:
        sockets = {name: await transport.accept(name) for name in names}
        for name in names:
            await fleet.connections[name].wait_open()
        async with http_client(server.address) as client:
            yield client, sockets, fleet


async def rows(client: httpx.AsyncClient, question: str = "", table: str = "endpoints") -> list[str]:
    answer = await client.get(f"/api/{table}?{question}")
    assert answer.status_code == 200, answer.text
    return [row["name"] for row in answer.json()["rows"]]


async def test_offset_and_limit_select_rows() -> None:
    """`offset` and `limit` select rows, and the answer contains the total number."""
    async with serving([f"e{n}" for n in range(7)]) as (client, _, _):
        answer = (await client.get("/api/endpoints?offset=5&limit=3")).json()
        assert [row["name"] for row in answer.pop("rows")] == ["e5", "e6"]
        assert answer == {"total": 7, "matched": 7, "offset": 5}
        assert await rows(client, "offset=7") == []
        answer = (await client.get("/api/endpoints?search=e3&limit=1")).json()
        assert (answer["total"], answer["matched"]) == (7, 1)


async def test_search_and_state() -> None:
    """`search` finds text in names, addresses and errors, case-insensitively; `state` is exact."""
    async with serving(["alpha", "BETA", "gamma"]) as (client, sockets, _):
        assert await rows(client, "search=beta") == ["BETA"]
        assert await rows(client, "search=ALPHA.test") == ["alpha"]
        assert await rows(client, "search=%25") == []
        sockets["gamma"].close(4000, "Maintenance")
        while not await rows(client, "search=maintenance"):
            await asyncio.sleep(0.01)
        assert "gamma" not in await rows(client, "state=OPEN")
        assert await rows(client, "state=FAILED&search=alpha") == []
        assert await rows(client, "search=a&state=&limit=1") == ["BETA"]  # capital letters sort first


async def test_sorting() -> None:
    """Rows can be sorted by any column, in both directions; equal rows by name; missing values come last."""
    async with serving(["b", "a", "c"]) as (client, sockets, fleet):
        await sockets["a"].feed("1", "2")
        await sockets["c"].feed("1")
        while await rows(client, "sort=received&order=desc") != ["a", "c", "b"]:
            await asyncio.sleep(0.01)
        assert await rows(client, "sort=received") == ["b", "c", "a"]
        assert await rows(client, "sort=losses&order=desc") == ["a", "b", "c"]
        assert await rows(client, "order=desc") == ["c", "b", "a"]
        for column in EndpointStats.__slots__:
            for order in ("asc", "desc"):
                assert sorted(await rows(client, f"sort={column}&order={order}")) == ["a", "b", "c"]
        fleet._registry.supervisors["b"].session.wire._socket._latency_s = 0.1
        for order in ("asc", "desc"):
            while (await rows(client, f"sort=latency_s&order={order}"))[0] != "b":
                await asyncio.sleep(0.01)


async def test_a_row_contains_since_when_it_is_down() -> None:
    """A row contains since when its endpoint is down, and can be sorted by it: open endpoints come last."""
    async with serving(["a", "b", "c"]) as (client, sockets, _):
        for name in ("c", "b"):
            sockets[name].close(4000)
            while name in await rows(client, "state=OPEN"):
                await asyncio.sleep(0.01)
        assert await rows(client, "sort=down_since") == ["c", "b", "a"]
        assert await rows(client, "sort=down_since&order=desc") == ["b", "c", "a"]
        since = {row["name"]: row["down_since"] for row in (await client.get("/api/endpoints")).json()["rows"]}
        assert since["a"] is None and since["c"] < since["b"] <= time.time()


async def test_states_are_sorted_by_severity() -> None:
    """Sorted by state, FAILED endpoints come first, and open ones last."""
    table = Table([{"name": state.value, "state": state.value} for state in State], ENDPOINTS)
    found = [row["name"] for row in (await table.answer(Query(sort="state")))["rows"]]
    assert found == ["FAILED", "BACKOFF", "CONNECTING", "CLOSED", "OPEN"]


async def test_subscriptions() -> None:
    """Subscriptions can be selected in the same way, by their own columns."""
    async with serving(["b", "a"]) as (client, sockets, _):
        await sockets["b"].feed("1")
        while (await rows(client, "sort=processed&order=desc&search=%3E", "subscriptions"))[0] != "b":
            await asyncio.sleep(0.01)
        assert await rows(client, "limit=1", "subscriptions") == ["a"]


async def test_removed_endpoints_have_no_row() -> None:
    """The sum of removed endpoints is not a row, but counts in the totals."""
    async with serving(["a", "b"]) as (client, sockets, fleet):
        await sockets["b"].feed("1")
        await fleet.connections["b"].close()
        while await rows(client) != ["a"]:
            await asyncio.sleep(0.01)
        assert (await client.get("/api/overview")).json()["totals"]["received"] == 1


@pytest.mark.parametrize(
    ("question", "error"),
    [
        ("sort=colour", "sort must be one of name, uri, state"),
        ("order=up", "order must be one of asc, desc"),
        ("state=open", "state must be one of CONNECTING, OPEN"),
        ("offset=-1", "offset must be a whole number from 0"),
        ("offset=x", "offset must be a whole number from 0"),
        ("offset=9999999999", "offset must be a whole number from 0"),
        ("limit=0", "limit must be a whole number from 1 to 500"),
        ("limit=501", "limit must be a whole number from 1 to 500"),
        ("limit=", "limit must be a whole number from 1 to 500"),
        ("limit=%D9%A1", "limit must be a whole number from 1 to 500"),
        ("limit=1&limit=2", "limit is given twice"),
        ("page=1", "'page' is unknown; there are search, state, sort, order, offset, limit"),
    ],
)
async def test_invalid_parameters_are_rejected(question: str, error: str) -> None:
    """The error for an invalid parameter is one line with its name."""
    async with serving(["a"]) as (client, _, _):
        answer = await client.get(f"/api/endpoints?{question}")
        assert answer.status_code == 400 and answer.text.startswith(error) and answer.text.count("\n") == 1


async def test_subscriptions_have_no_state() -> None:
    """Parameters that a table does not have are rejected."""
    async with serving(["a"]) as (client, _, _):
        for question in ("state=OPEN", "sort=uri"):
            assert (await client.get(f"/api/subscriptions?{question}")).status_code == 400


async def test_ten_thousand_endpoints() -> None:
    """For ten thousand endpoints only the visible rows are sent, and the report is complete."""
    asyncio.get_running_loop().set_debug(False)  # debug mode would record ten thousand stacks
    transport = FakeTransport()
    fleet = Fleet(transport=transport)
    for number in range(10_000):
        fleet.connect(f"ws://host-{number}.test", name=f"e{number:05}")
    server = fleet.serve_http("127.0.0.1:0")
    async with fleet, http_client(server.address) as client:
        assert await rows(client, "search=e0999&sort=name&order=desc&limit=3") == ["e09999", "e09998", "e09997"]
        answer = await client.get("/api/endpoints?sort=uri&offset=9990&limit=10")
        assert answer.json()["total"] == 10_000 and len(answer.content) < 10_000
        stats = (await client.get("/api/stats")).json()
        assert len(stats["endpoints"]) == 10_000 and stats["balanced"]
        ready = (await client.get("/readyz")).json()
        assert ready["down_count"] == 10_000 and len(ready["down"]) == 100
