"""The HTTP interface: each answer, its timing, no secrets, and nothing left open."""

import asyncio
import contextlib
import json
import logging
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from unittest.mock import AsyncMock, Mock, patch

import httpx
import pytest

from tests.support.http import client as http_client
from wsfleet import Endpoint, Fleet, Message, Reconnect, State
from wsfleet.core.errors import ConfigError, ConnectionLost, EndpointFailed, FleetError
from wsfleet.fleet.reloading import Change, Reloaded
from wsfleet.serve.status.http import HttpServer
from wsfleet.serve.status.recent import Recent
from wsfleet.testing import FakeTransport, FeedServer

SECRET = "zq8sK2vTq9Lw4XbN7rYd"
ANY = "127.0.0.1:0"

# The keys that the page uses; their content is checked in other tests.
TOTALS = {
    *("received", "received_bytes", "sent", "malformed", "dropped", "failed", "processed"),
    *("pending", "connects", "losses", "dead", "paused"),
}
SAMPLE = {
    *("at", "received", "processed", "dropped", "failed", "losses", "connects", "open", "pending"),
    *("loop_lag_s", "latency_p50", "latency_p99"),
}


async def nothing(message: Message[Any]) -> None:
    pass


@asynccontextmanager
async def asking(server: Any, **options: Any) -> AsyncIterator[httpx.AsyncClient]:
    """A client of `server`, which must listen."""
    async with http_client(server.address, **options) as client:
        yield client


async def until(client: httpx.AsyncClient, path: str, good: Any) -> Any:
    """Repeat the request until the answer is `good`."""
    while not good(answer := (await client.get(path)).json()):
        await asyncio.sleep(0.01)
    return answer


async def test_stats_are_the_documented_json() -> None:
    """`/api/stats` returns `FleetStats.to_dict()`, key by key, and the counts balance."""
    async with FeedServer() as feed:
        fleet = Fleet(name="mine")
        fleet.connect(feed.uri, nothing, name="feed")
        server = fleet.serve_http(ANY)
        async with fleet, asking(server) as client:
            await feed.wait_clients(1)
            await feed.send("one", "two")
            shown = await until(client, "/api/stats", lambda stats: stats["endpoints"][0]["received"] == 2)
            answer = await client.get("/api/stats")
            mine = fleet.stats().to_dict()
    assert answer.headers["content-type"] == "application/json"
    assert list(shown) == list(mine) and shown["name"] == "mine" and shown["balanced"]
    for rows in ("endpoints", "subscriptions"):
        assert [list(row) for row in shown[rows]] == [list(row) for row in mine[rows]]
    assert shown["endpoints"] == mine["endpoints"]


async def test_overview() -> None:
    """`/api/overview` contains the documented overview, and nothing else."""
    transport = FakeTransport()
    fleet = Fleet(transport=transport)

    async def fails(message: Message[Any]) -> None:
        raise ValueError

    fleet.connect("ws://a.test", fails, name="a")
    fleet.connect("ws://b.test", name="b", required=True)
    server = fleet.serve_http(ANY)
    async with fleet, asking(server) as client:
        await (await transport.accept("a")).feed("one", "two")
        shown = await until(client, "/api/overview", lambda overview: overview["totals"]["dead"] == 2)
    assert list(shown) == [
        *("name", "uptime_s", "balanced", "accelerated", "loop_lag_s", "blocked", "at", "states", "totals"),
        *("latency", "slowest", "down", "down_count", "flapping", "flapping_count", "workers"),
    ]
    assert shown["states"] == {"OPEN": 1, "CONNECTING": 1, "BACKOFF": 0, "CLOSED": 0, "FAILED": 0}
    assert set(shown["totals"]) == TOTALS
    assert (shown["totals"]["received"], shown["totals"]["failed"]) == (2, 2)
    assert shown["latency"] == {"p50": None, "p99": None}
    assert shown["workers"] is None and shown["down_count"] == 1
    assert [(down["name"], down["state"], down["required"]) for down in shown["down"]] == [("b", "CONNECTING", True)]


async def test_slowest_subscriptions() -> None:
    """`slowest` contains the subscriptions with the most pending, then the most dropped, and none that keeps up."""
    transport = FakeTransport()
    fleet = Fleet(transport=transport, drain_s=0)

    async def waits(message: Message[Any]) -> None:
        await asyncio.Event().wait()

    for name in ("a", "b"):
        fleet.connect(f"ws://{name}.test", waits, name=name)
    fleet.connect("ws://c.test", nothing, name="c")
    server = fleet.serve_http(ANY)
    async with fleet, asking(server) as client:
        for name, size in (("a", 1), ("b", 3), ("c", 5)):
            await (await transport.accept(name)).feed(*"x" * size)
        shown = await until(client, "/api/overview", lambda overview: overview["totals"]["received"] == 9)
    assert [(row["name"], row["pending"]) for row in shown["slowest"]] == [("b", 3), ("a", 1)]


async def test_history(monkeypatch: pytest.MonkeyPatch) -> None:
    """`/api/history` has a sample for every second, oldest first, with increasing totals."""
    monkeypatch.setattr("wsfleet.serve.status.fleet_source.SAMPLE_S", 0.02)
    transport = FakeTransport()
    fleet = Fleet(transport=transport)
    fleet.connect("ws://a.test", nothing, name="a")
    server = fleet.serve_http(ANY)
    async with fleet, asking(server) as client:
        await (await transport.accept("a")).feed("one")
        shown = await until(client, "/api/history", lambda history: history["samples"][-1]["received"] == 1)
    samples = shown["samples"]
    assert all(set(sample) == SAMPLE for sample in samples)
    assert [sample["at"] for sample in samples] == sorted(sample["at"] for sample in samples)
    assert (samples[-1]["open"], samples[-1]["connects"], samples[-1]["losses"]) == (1, 1, 0)


async def test_readyz_lists_endpoints_that_are_down_with_time_and_cause() -> None:
    """`/readyz` is 200 while every endpoint is open; otherwise 503, with each other endpoint, its
    duration and cause.
    """
    transport = FakeTransport()
    fleet = Fleet(transport=transport)
    fleet.connect(Endpoint("ws://a.test", name="a", reconnect=Reconnect(initial_s=60, jitter=0)))
    fleet.connect("ws://b.test", name="b")
    server = fleet.serve_http(ANY)
    began = time.time()
    async with fleet, asking(server) as client:
        early = await client.get("/readyz")
        a, _ = await transport.accept("a"), await transport.accept("b")
        ready = await until(client, "/readyz", lambda answer: answer["ready"])
        plainly = await client.get("/readyz", headers={"Accept": "text/plain"})
        a.close(4000, "maintenance")
        late = await until(client, "/readyz", lambda answer: not answer["ready"])
        lately = await client.get("/readyz", headers={"Accept": "text/plain"})
    assert early.status_code == 503 and early.json()["down_count"] == 2
    assert ready == {"ready": True, "down": [], "down_count": 0} and plainly.text == "ready\n"
    (down,) = late["down"]
    assert (down["name"], down["state"], down["error"]) == ("a", "BACKOFF", "connection lost: 4000 maintenance")
    assert began <= down["since"] <= time.time() and late["down_count"] == 1
    assert lately.status_code == 503 and lately.headers["content-type"].startswith("text/plain")
    (line,) = lately.text.splitlines()
    assert line.startswith("a BACKOFF since 20") and line.endswith(": connection lost: 4000 maintenance")


async def test_endpoints_that_are_down_are_listed_worst_first() -> None:
    """Required endpoints come first, then FAILED ones, then those down for the longest time, in any order of
    declaration.
    """
    transport = FakeTransport()
    fleet = Fleet(transport=transport)
    for name in ("new", "old", "failed", "required", "open"):
        again = Reconnect(initial_s=60, jitter=0, fatal=lambda error, name=name: name == "failed")
        fleet.connect(Endpoint(f"ws://{name}.test", name=name, reconnect=again, required=name == "required"))
    server = fleet.serve_http(ANY)
    async with fleet, asking(server) as client:
        sockets = {name: await transport.accept(name) for name in fleet.connections}
        await until(client, "/readyz", lambda answer: answer["ready"])
        for number, name in enumerate(("old", "new", "failed", "required"), 1):
            sockets[name].close(4000)
            await until(client, "/readyz", lambda answer, number=number: answer["down_count"] == number)
        ready = (await client.get("/readyz")).json()
        overview = (await client.get("/api/overview")).json()
    for down in (ready["down"], overview["down"]):
        assert [each["name"] for each in down] == ["required", "failed", "old", "new"]
    assert [each["required"] for each in overview["down"]] == [True, False, False, False]


async def test_an_endpoint_that_is_lost_repeatedly_is_named() -> None:
    """Among many endpoints, one that is lost three times in a minute is named while it is OPEN, and is first."""
    transport = FakeTransport()
    fleet = Fleet(transport=transport)
    for number in range(61):
        fleet.connect(Endpoint(f"ws://{number}.test", name=f"e{number}", reconnect=Reconnect(initial_s=0, max_s=0)))
    server = fleet.serve_http(ANY)
    async with fleet, asking(server) as client:
        sockets = {name: await transport.accept(name) for name in fleet.connections}
        await until(client, "/readyz", lambda answer: answer["ready"])
        for name, losses in (("e7", 3), ("e8", 2)):
            for _ in range(losses):
                sockets[name].close(4000, "again")
                sockets[name] = await transport.accept(name)
                await fleet.connections[name].wait_open()
        shown = await until(client, "/api/overview", lambda overview: overview["totals"]["losses"] == 5)
        shown = await until(client, "/api/overview", lambda overview: overview["flapping"])
        table = (await client.get("/api/endpoints?sort=state&limit=1")).json()["rows"]
    (flapping,) = shown["flapping"]
    assert (flapping["name"], flapping["losses"], flapping["state"], shown["flapping_count"]) == ("e7", 3, "OPEN", 1)
    assert [(row["name"], row["recent_losses"]) for row in table] == [("e7", 3)]


async def test_the_time_of_the_next_attempt_is_returned() -> None:
    """An endpoint in BACKOFF has the time of its next attempt, in the overview and in the table."""
    transport = FakeTransport()
    fleet = Fleet(transport=transport)
    fleet.connect(Endpoint("ws://a.test", name="a", reconnect=Reconnect(initial_s=60, jitter=0)))
    server = fleet.serve_http(ANY)
    async with fleet, asking(server) as client:
        (await transport.accept("a")).close(4000)
        shown = await until(
            client, "/api/overview", lambda overview: overview["down"] and overview["down"][0]["next_at"]
        )
        (row,) = (await client.get("/api/endpoints")).json()["rows"]
    (down,) = shown["down"]
    assert down["next_at"] - down["since"] == pytest.approx(60, abs=1) and row["next_at"] == down["next_at"]


def test_losses_are_forgotten_after_a_minute() -> None:
    """Losses count for a minute, attempts that fail do not count, and nothing is kept of those that recovered."""
    recent = Recent()
    for at, previous in ((100.0, "OPEN"), (130.0, "OPEN"), (131.0, "CONNECTING")):
        recent.note(
            {"endpoint": "a", "at": at, "previous": previous, "state": "BACKOFF", "error": "lost", "delay_s": 5.0}
        )
    assert recent.next_attempt("a") == 136.0
    assert [recent.losses(now) for now in (131.0, 161.0, 191.0)] == [{"a": 2}, {"a": 1}, {}]
    recent.note(
        {"endpoint": "a", "at": 200.0, "previous": "CONNECTING", "state": "OPEN", "error": None, "delay_s": 0.0}
    )
    assert recent.next_attempt("a") is None


def test_losses_that_nobody_reads_are_forgotten() -> None:
    """The losses of endpoints that come and go are not kept, although no report is made."""
    recent = Recent()
    for number in range(1000):
        recent.note(
            {"endpoint": f"e{number}", "at": 10.0 * number, "previous": "OPEN", "state": "CLOSED", "error": "lost"}
        )
    assert len(recent._losses) <= 12


async def test_dead_letters_beyond_an_observers_buffer_are_counted() -> None:
    """More dead letters at once than an observer keeps are still counted."""
    fleet = Fleet(transport=FakeTransport())
    server = fleet.serve_http(ANY)
    async with fleet, asking(server) as client:
        for _ in range(10_050):
            fleet._registry.hub.inject("$dead.a", None)
        assert (await client.get("/api/overview")).json()["totals"]["dead"] == 10_050


async def test_down_is_counted_from_the_loss_on() -> None:
    """During several attempts, an endpoint is down since it was last open."""
    transport = FakeTransport()
    fleet = Fleet(transport=transport)
    connection = fleet.connect(Endpoint("ws://a.test", name="a", reconnect=Reconnect(initial_s=0, max_s=0)))
    assert connection.down_since is None
    async with fleet:
        assert connection.down_since is not None
        socket = await transport.accept("a")
        await connection.wait_open()
        assert connection.down_since is None
        socket.lose()
        transport.refuse(ConnectionLost(1006))
        again = await transport.accept("a")
        del again
        await connection.wait_open()
        assert connection.down_since is None and connection.session_count == 2


async def test_healthz_reports_a_broken_balance() -> None:
    """`/healthz` is 200 while every message is accounted for, and 503 when one is lost."""
    transport = FakeTransport()
    fleet = Fleet(transport=transport)
    fleet.connect("ws://a.test", nothing, name="a")
    server = fleet.serve_http(ANY)
    async with fleet, asking(server) as client:
        await (await transport.accept("a")).feed("one")
        assert (await client.get("/healthz")).json()["healthy"] is True
        feed = fleet._registry.supervisors["a"].ingest
        feed.received += 1  # a message that went nowhere
        sick = await until(client, "/healthz", lambda answer: not answer["healthy"])
        answer = await client.get("/healthz")
        feed.received -= 1
    assert answer.status_code == 503 and sick["balanced"] is False


async def test_metrics() -> None:
    """`/metrics` returns the format that Prometheus requests."""
    fleet = Fleet(name="mine", transport=FakeTransport())
    fleet.connect("ws://a.test", name="a")
    server = fleet.serve_http(ANY)
    async with fleet, asking(server) as client:
        plain = await client.get("/metrics")
        opened = await client.get("/metrics", headers={"Accept": "application/openmetrics-text"})
    assert plain.headers["content-type"].startswith("text/plain")
    assert 'wsfleet_endpoint_open{endpoint="a"} 0.0' in plain.text
    assert opened.headers["content-type"].startswith("application/openmetrics-text")


async def test_the_page_is_served() -> None:
    """`/` and the files beside it are served with their types, and may load nothing from elsewhere."""
    fleet = Fleet(transport=FakeTransport())
    server = fleet.serve_http(ANY)
    async with fleet, asking(server) as client:
        page = await client.get("/")
        missing = await client.get("/page.exe")
    if page.status_code == 404:
        pytest.skip("the page is not there")
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert "default-src 'self'" in page.headers["content-security-policy"]
    assert missing.status_code == 404


async def test_every_answer_has_the_security_headers() -> None:
    """Every answer, refusals included, has the headers against framing, sniffing and loading from other origins."""
    fleet = Fleet(transport=FakeTransport())
    server = fleet.serve_http(ANY)
    async with fleet, asking(server) as client:
        answers = [await client.get(path) for path in ("/", "/api/stats", "/nothing", "/api/endpoints?sort=x")]
        answers.append(await client.post("/api/reload"))
    for answer in answers:
        headers = answer.headers
        assert headers["x-content-type-options"] == "nosniff" and headers["referrer-policy"] == "no-referrer"
        assert "frame-ancestors 'none'" in headers["content-security-policy"]
        assert headers["cross-origin-resource-policy"] == "same-origin" and headers["cache-control"] == "no-store"
        assert "date" in headers and "server" not in headers


async def test_no_secret_is_in_any_answer() -> None:
    """No secret of a URI, of headers, or repeated by a peer, is in any answer or event."""
    async with FeedServer() as feed:
        fleet = Fleet()

        async def fails(message: Message[Any]) -> None:
            raise ValueError(f"api_key={SECRET}")

        fleet.connect(
            Endpoint(
                f"{feed.uri}/v2/{SECRET}?token={SECRET}",
                name="a",
                headers={"Authorization": f"Bearer {SECRET}", "X-Api-Key": SECRET},
                decode="json",
                reconnect=Reconnect(initial_s=60, jitter=0),
            ),
            fails,
        )
        server = fleet.serve_http(ANY, token=SECRET)
        seen = ""
        async with fleet, asking(server) as client, client.stream("GET", "/api/events") as events:
            lines = events.aiter_lines()
            await feed.wait_clients(1)
            await feed.send(json.dumps({"token": SECRET}), f'{{"token": "{SECRET}"')
            while "event: malformed" not in seen or "event: dead" not in seen:
                seen += f"{await anext(lines)}\n"
            feed.close(4001, f"bad token={SECRET}, or {SECRET}")
            await until(client, "/readyz", lambda answer: answer["down"] and answer["down"][0]["error"])
            while "BACKOFF" not in seen:
                seen += f"{await anext(lines)}\n"
            for path in (
                *("/api/stats", "/api/overview", "/api/history", "/api/endpoints", "/api/subscriptions"),
                *("/metrics", "/healthz", "/readyz", "/nothing", f"/api/endpoints?sort={SECRET}"),
            ):
                answer = await client.get(path)
                seen += f"{answer.headers}{answer.text}" if SECRET not in path else ""
            seen += (await client.post("/api/reload", headers={"Authorization": f"Bearer {SECRET}x"})).text
            seen += repr(server) + str(server)
    assert "4001" in seen and SECRET not in seen


async def test_reload_returns_the_changes() -> None:
    """POST /api/reload returns the changes; all faults with 422; 409 without a file."""
    fleet = Fleet(transport=FakeTransport())
    server = fleet.serve_http(ANY, token="t0ken")
    bearer = {"Authorization": "Bearer t0ken"}
    faults = (("feeds.toml:3", "must be text"), ("feeds.toml:4", f"token={SECRET} is wrong"))

    async with fleet, asking(server) as client:
        nowhere = await client.post("/api/reload", headers=bearer)
        with patch.object(Fleet, "reload", AsyncMock(side_effect=[["a: added"], ConfigError("x", faults)])):
            fleet._control.reloader = Mock()
            good = await client.post("/api/reload", headers=bearer)
            bad = await client.post("/api/reload", headers=bearer)
    assert nowhere.status_code == 409 and "file" in nowhere.text
    assert (good.status_code, good.json()) == (200, {"changed": ["a: added"]})
    assert (bad.status_code, bad.json()) == (
        422,
        {"faults": ["feeds.toml:3: must be text", "feeds.toml:4: token=*** is wrong"]},
    )


async def test_a_reload_over_http_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """POST /api/reload logs its changes, or its faults, as SIGHUP does."""
    caplog.set_level(logging.INFO)
    fleet = Fleet(transport=FakeTransport())
    server = fleet.serve_http(ANY, token="t0ken")
    done = Reloaded([Change("connect", "a", "added")], [], {})
    async with fleet, asking(server) as client:
        with patch.object(Fleet, "reload", AsyncMock(side_effect=[done, ConfigError("feeds.toml:3: must be text")])):
            fleet._control.reloader = Mock()
            for _ in range(2):
                await client.post("/api/reload", headers={"Authorization": "Bearer t0ken"})
    lines = [record.getMessage() for record in caplog.records if record.getMessage().startswith("reload: ")]
    assert lines[0] == "reload: [[connect]] a: added"
    assert lines[-2:] == ["reload: feeds.toml:3: must be text", "reload: failed; nothing was changed"]


async def test_the_address_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """The start of the server is logged, with the port that a port of 0 has become."""
    caplog.set_level(logging.INFO)
    fleet = Fleet(transport=FakeTransport())
    server = fleet.serve_http(ANY)
    async with fleet:
        (record,) = [each for each in caplog.records if getattr(each, "event", "") == "http.listening"]
    assert record.getMessage() == f"serving http://{server.address}, read-only without a token"
    assert not server.address.endswith(":0")


async def test_a_port_in_use_is_one_clear_error() -> None:
    """If the address is in use, the fleet does not start, and the error contains the address; nothing is left open."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        fleet = Fleet(transport=FakeTransport())
        fleet.serve_http(ANY)
        fleet.serve_http(address)
        with pytest.raises(FleetError, match=f"cannot listen on {address}: Address already in use"):
            await fleet.serve()
        running = Fleet(transport=FakeTransport())
        async with running:
            with pytest.raises(FleetError, match="cannot listen"):
                running.serve_http(address)
            assert running.observers == ()


async def test_a_server_declared_while_the_fleet_runs_listens_at_once() -> None:
    """A server that is declared while the fleet runs listens at once, and ends with it."""
    fleet = Fleet(transport=FakeTransport())
    async with fleet:
        server = fleet.serve_http(ANY)
        async with asking(server) as client:
            assert (await client.get("/healthz")).status_code == 200
    with pytest.raises(FleetError):
        fleet.serve_http(ANY)


async def test_the_server_answers_until_the_end_of_the_drain() -> None:
    """During the drain the server answers; after the end of the fleet it does not."""
    transport = FakeTransport()
    fleet = Fleet(transport=transport)
    going_on = asyncio.Event()

    async def slow(message: Message[Any]) -> None:
        await going_on.wait()

    fleet.connect("ws://a.test", slow, name="a")
    server = fleet.serve_http(ANY)
    await fleet.__aenter__()
    await (await transport.accept("a")).feed("one")
    async with asking(server) as client:
        closing = asyncio.create_task(fleet.close())
        shown = await until(client, "/api/overview", lambda overview: overview["totals"]["pending"] == 1)
        assert shown["balanced"]
        going_on.set()
        await closing
        with pytest.raises(httpx.TransportError):
            await client.get("/healthz")
    await fleet.__aexit__(None, None, None)
    assert fleet.stats().balanced


async def test_a_fleet_that_ends_at_once_closes_the_server() -> None:
    """After a failed required endpoint, or an exception in the body, no socket is listening."""
    transport = FakeTransport()
    fleet = Fleet(transport=transport)
    fleet.connect(Endpoint("ws://a.test", name="a", required=True, reconnect=Reconnect(fatal=lambda error: True)))
    server = fleet.serve_http(ANY)
    transport.refuse(ConnectionLost(1006))
    with pytest.raises(EndpointFailed):
        await fleet.serve()
    host, port = server.address.split(":")
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((host, int(port))).close()


async def test_two_servers_for_one_fleet() -> None:
    """A fleet may be served at two addresses, each with its own rules."""
    fleet = Fleet(transport=FakeTransport())
    first, second = fleet.serve_http(ANY), fleet.serve_http(ANY, token="t0ken")
    async with fleet, asking(first) as one, asking(second) as two:
        assert first.address != second.address
        assert (await one.post("/api/reload")).status_code == 403
        assert (await two.post("/api/reload")).status_code == 401
        names = [row["name"] for row in (await two.get("/api/subscriptions")).json()["rows"]]
    assert len(names) == len(set(names)) == 10
    assert fleet.observers == (first, second)


async def test_requests_are_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    """Neither valid nor invalid requests are logged, and the program's own uvicorn logger is not changed."""
    caplog.set_level(logging.DEBUG)
    access = logging.getLogger("uvicorn.access")
    before = (list(access.handlers), access.propagate)
    fleet = Fleet(transport=FakeTransport())
    server = fleet.serve_http(ANY)
    async with fleet, asking(server) as client:
        await client.get("/healthz")
        reader, writer = await asyncio.open_connection(*server.address.split(":"))
        writer.write(b"no HTTP at all\r\n\r\n")
        assert b"400" in await reader.readline()
        writer.close()
        await writer.wait_closed()
    assert (list(access.handlers), access.propagate) == before
    assert not [record for record in caplog.records if record.name.startswith(("uvicorn", "wsfleet.http"))]


async def test_an_incomplete_request_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection that sends no request, or sends it byte by byte, is closed."""
    monkeypatch.setattr("wsfleet.serve.status.http.HEAD_S", 0.05)
    fleet = Fleet(transport=FakeTransport())
    server = fleet.serve_http(ANY)
    async with fleet:
        reader, writer = await asyncio.open_connection(*server.address.split(":"))
        writer.write(b"GET / HT")
        with pytest.raises(ConnectionError):
            while await reader.read():
                pass
            raise ConnectionResetError  # an end without a reset is also accepted
        writer.close()


async def test_idle_connections_do_not_block_new_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the limit, the oldest connection without a request is closed; if all have one, the new one is."""
    monkeypatch.setattr("wsfleet.serve.status.http.HEAD_S", 600)
    monkeypatch.setattr("wsfleet.serve.status.http.CONNECTIONS", 2)
    fleet = Fleet(transport=FakeTransport())
    server = fleet.serve_http(ANY)
    async with fleet:
        address = server.address.split(":")
        idle, busy = [await asyncio.open_connection(*address) for _ in range(2)], []
        for oldest, _ in idle:
            busy.append(await watching(address))
            await gone(oldest)
        late = await asyncio.open_connection(*address)
        await gone(late[0])  # it sends no request in time
        for _, each in (*idle, *busy, late):
            each.close()


async def watching(address: list[str]) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A connection that is being answered for as long as it is open."""
    reader, writer = await asyncio.open_connection(*address)
    writer.write(b"GET /api/events HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert await reader.readline() == b"HTTP/1.1 200 OK\r\n"
    return reader, writer


@pytest.mark.parametrize("limit", ["CONNECTIONS", "PEER_CONNECTIONS"])
async def test_health_checks_are_answered_when_all_connections_are_in_use(
    limit: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If all connections are in use, a health check on a new one is answered; other requests get 503."""
    monkeypatch.setattr(f"wsfleet.serve.status.http.{limit}", 2)
    monkeypatch.setattr("wsfleet.serve.status.http.HEALTH_CONNECTIONS", 1)
    monkeypatch.setattr("wsfleet.serve.status.http.HEALTH_HEAD_S", 600)
    fleet = Fleet(transport=FakeTransport())
    server = fleet.serve_http(ANY, token="t0ken")
    async with fleet:
        address = server.address.split(":")
        busy = [await watching(address) for _ in range(2)]
        asks_nothing = await asyncio.open_connection(*address)
        async with asking(server) as client:
            for path, status in (("/healthz", 200), ("/readyz", 200), ("/api/overview", 503)):
                answer = await client.get(path, headers={"Authorization": "Bearer t0ken"})
                assert (answer.status_code, answer.headers["connection"]) == (status, "close")
                assert answer.headers["x-content-type-options"] == "nosniff"
        await gone(asks_nothing[0])
        for _, each in (*busy, asks_nothing):
            each.close()


async def reads_nothing(server: HttpServer) -> socket.socket:
    """A connection with more requests than the system's buffers can hold answers for."""
    host, port = server.address.split(":")
    asked = socket.socket()
    asked.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    asked.setblocking(False)
    await asyncio.get_running_loop().sock_connect(asked, (host, int(port)))
    page = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"
    await asyncio.get_running_loop().sock_sendall(asked, page * 1000)
    return asked


async def stalled(server: HttpServer, count: int) -> None:
    """Wait until this number of connections has bytes that the client does not read."""
    while sum(each.transport.get_write_buffer_size() > 0 for each in server._state.connections) < count:
        await asyncio.sleep(0.01)


async def test_a_client_that_does_not_read_is_disconnected_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the limit, a connection whose client does not read is closed before those without a request."""
    monkeypatch.setattr("wsfleet.serve.status.http.HEAD_S", 600)
    monkeypatch.setattr("wsfleet.serve.status.http.CONNECTIONS", 3)
    monkeypatch.setattr("wsfleet.serve.status.http.HEALTH_CONNECTIONS", 0)
    fleet = Fleet(transport=FakeTransport())
    server = fleet.serve_http(ANY)
    async with fleet:
        idle = await asyncio.open_connection(*server.address.split(":"))
        greedy = [await reads_nothing(server) for _ in range(2)]
        await stalled(server, 2)
        async with asking(server) as one, asking(server) as two:
            assert (await one.get("/api/overview")).status_code == 200
            assert (await two.get("/api/overview")).status_code == 200
        idle[1].write(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert await idle[0].readline() == b"HTTP/1.1 200 OK\r\n"
        idle[1].close()
        for each in greedy:
            each.close()


async def test_a_client_that_does_not_read_its_answers_is_disconnected(monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection whose client does not read the answers is closed, for any number of waiting requests."""
    monkeypatch.setattr("wsfleet.serve.status.http.WRITE_S", 0.05)
    fleet = Fleet(transport=FakeTransport())
    server = fleet.serve_http(ANY)
    async with fleet:
        asked = await reads_nothing(server)
        while not server._state.connections:
            await asyncio.sleep(0.01)
        while server._state.connections:
            await asyncio.sleep(0.01)
        asked.close()


async def gone(reader: asyncio.StreamReader) -> None:
    """Wait until the peer has closed."""
    with contextlib.suppress(ConnectionError):
        assert await reader.read() == b""


def test_a_missing_extra_is_reported_with_the_command_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the extra, the error of `serve_http` contains the command to install it."""
    import sys

    for name in [name for name in sys.modules if name.startswith("wsfleet.serve")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "starlette", None)
    monkeypatch.setitem(sys.modules, "starlette.applications", None)
    with pytest.raises(ConfigError, match=r"install wsfleet\[http\]"):
        Fleet().serve_http()


async def test_a_server_can_serve_any_source() -> None:
    """HttpServer serves any source, which it starts and stops, without a fleet around it."""
    fleet = Fleet(transport=FakeTransport())
    connection = fleet.connect("ws://a.test", name="a")
    async with fleet:
        from wsfleet.serve.status.fleet_source import FleetSource

        server = HttpServer(FleetSource(fleet), "[::1]:0", "t0ken")
        try:
            server.bind()
        except FleetError:
            pytest.skip("this machine has no IPv6")
        await server.start()
        async with asking(server) as client:
            assert (await client.post("/api/reload", headers={"Authorization": "Bearer t0ken"})).status_code == 409
        await server.stop()
        await server.stop()
        assert list(fleet.subscriptions) == []
        assert connection.state is State.CONNECTING
