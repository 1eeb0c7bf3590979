"""The stream of events: slow clients miss events and get their number; disconnected ones are removed."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from tests.support.http import client as http_client
from wsfleet import Buffer, Endpoint, Fleet, Message, Overflow, Reconnect
from wsfleet.serve.status.events import KEPT, MAX_WATCHERS, Events
from wsfleet.testing import FakeTransport


@asynccontextmanager
async def watching(server: Any) -> AsyncIterator[AsyncIterator[tuple[str, Any]]]:
    """Read the events of `server`, as pairs of kind and data."""

    async def pairs(lines: AsyncIterator[str]) -> AsyncIterator[tuple[str, Any]]:
        kind = ""
        async for line in lines:
            name, _, value = line.partition(": ")
            if name == "event":
                kind = value
            elif name == "data":
                yield kind, json.loads(value)
            elif name == "" and value:
                yield "comment", value

    async with (
        http_client(server.address) as client,
        client.stream("GET", "/api/events") as answer,
    ):
        assert answer.headers["content-type"].startswith("text/event-stream")
        events = pairs(answer.aiter_lines())
        while await anext(events) != ("comment", "watching"):
            pass
        yield events
        await events.aclose()  # type: ignore[attr-defined]


async def first(events: AsyncIterator[tuple[str, Any]], kind: str) -> Any:
    """Return the data of the next event of `kind`."""
    async for each, data in events:
        if each == kind:
            return data
    raise AssertionError(f"there was no {kind}")


async def test_every_kind_of_event_is_sent() -> None:
    """State changes, dead letters, full mailboxes, gaps and malformed messages are sent, each with its subject."""
    transport = FakeTransport()
    fleet = Fleet(transport=transport)
    full = asyncio.Event()

    async def fails(message: Message[Any]) -> None:
        if message.data == "wait":
            await full.wait()
        raise KeyError("why")

    fleet.connect(
        Endpoint("ws://a.test", name="a", decode="json", reconnect=Reconnect(initial_s=0, max_s=0)),
        fails,
        buffer=Buffer(messages=2, overflow=Overflow.DROP_NEWEST),
    )
    server = fleet.serve_http("127.0.0.1:0")
    async with fleet, watching(server) as events:
        began = time.time()
        socket = await transport.accept("a")
        state = await first(events, "state")
        assert (state["topic"], state["previous"], state["state"]) == ("$state.a", "CONNECTING", "OPEN")
        assert began - 60 < state["at"] < began + 60 and state["error"] is None
        await socket.feed('"wait"', "1", "2", "3")
        slow = await first(events, "slow")
        assert (slow["subscription"], slow["pending"], slow["overflow"]) == ("a", 2, "drop_newest")
        full.set()
        dead = await first(events, "dead")
        assert (dead["topic"], dead["endpoint"], dead["index"], dead["attempts"]) == ("$dead.a", "a", 1, 1)
        assert dead["error"] == "KeyError: 'why'"
        await socket.feed("no json")
        malformed = await first(events, "malformed")
        assert (malformed["endpoint"], malformed["index"]) == ("a", 5) and "no json" not in str(malformed)
        socket.close(4000, "maintenance")
        await transport.accept("a")
        assert (await first(events, "state"))["error"] == "connection lost: 4000 maintenance"
        gap = await first(events, "gap")
        assert (gap["endpoint"], gap["previous_session"], gap["session"], gap["last_index"]) == ("a", 1, 2, 5)
        assert 0 < gap["last_message_at"] <= gap["last_frame_at"] <= gap["at"]


async def test_a_quiet_fleet_sends_comments(monkeypatch: pytest.MonkeyPatch) -> None:
    """While nothing happens, a comment is sent from time to time, and later events still arrive."""
    monkeypatch.setattr("wsfleet.serve.status.events.QUIET_S", 0.02)
    transport = FakeTransport()
    fleet = Fleet(transport=transport)
    fleet.connect("ws://a.test", name="a")
    server = fleet.serve_http("127.0.0.1:0")
    async with fleet, watching(server) as events:
        assert await first(events, "comment") == await first(events, "comment") == "quiet"
        await transport.accept("a")
        assert (await first(events, "state"))["state"] == "OPEN"


async def test_a_slow_client_gets_the_number_of_missed_events() -> None:
    """A slow client loses the oldest events, gets their number, and delays no other client."""
    events = Events()
    slow, quick = events.watch(), events.watch()
    taken = 0
    for number in range(KEPT + 7):
        events.publish(Message({}, f"$state.e{number}", received_at=float(number)))
        assert (await anext(quick))["topic"] == f"$state.e{number}"
    first = await anext(slow)
    assert first == {"at": 7.0, "topic": "$missed", "count": 7}
    for number in range(7, KEPT + 7):
        assert (await anext(slow))["topic"] == f"$state.e{number}"
        taken += 1
    assert taken == KEPT
    events.end()
    with pytest.raises(StopAsyncIteration):
        await anext(slow)


async def test_a_client_that_does_not_read_gets_the_number_of_missed_events() -> None:
    """A client that stops reading a real socket uses bounded memory, and gets `missed` when it reads again."""
    transport = FakeTransport()
    fleet = Fleet(transport=transport)
    server = fleet.serve_http("127.0.0.1:0")
    async with fleet:
        reader, writer = await asyncio.open_connection(*server.address.split(":"), limit=2**10)
        writer.write(b"GET /api/events HTTP/1.1\r\nHost: localhost\r\n\r\n")
        await reader.readuntil(b"watching")
        source = server.source
        for number in range(20_000):
            source._events.publish(Message({}, f"$state.{'x' * 500}{number}", received_at=1.0))
            if number % 100 == 0:
                await asyncio.sleep(0)
        (watcher,) = source._events._watchers
        assert len(watcher._events) <= KEPT and watcher._missed > 0
        found = b""
        while b"event: missed" not in found:
            found = found[-20:] + await reader.read(2**16)
        writer.close()
        await writer.wait_closed()


async def test_a_disconnected_client_is_removed() -> None:
    """A client that disconnects is removed, and frees its slot; the number of clients is limited."""
    transport = FakeTransport()
    fleet = Fleet(transport=transport)
    server = fleet.serve_http("127.0.0.1:0")
    async with fleet:
        writers = []
        for _ in range(MAX_WATCHERS):
            reader, writer = await asyncio.open_connection(*server.address.split(":"))
            writer.write(b"GET /api/events HTTP/1.1\r\nHost: localhost\r\n\r\n")
            await reader.readuntil(b"watching")
            writers.append(writer)
        async with http_client(server.address) as client:
            refused = await client.get("/api/events")
            assert refused.status_code == 503 and "retry-after" in refused.headers
            for writer in writers:
                writer.close()
                await writer.wait_closed()
            while server.source._events._watchers:
                await asyncio.sleep(0.01)
        async with watching(server):
            pass


async def test_the_stream_ends_with_the_fleet() -> None:
    """At the shutdown, clients get the begin of the drain, and then a proper end of the stream."""
    transport = FakeTransport()
    fleet = Fleet(transport=transport)
    fleet.connect("ws://a.test", name="a")
    server = fleet.serve_http("127.0.0.1:0")
    async with fleet:
        reader, writer = await asyncio.open_connection(*server.address.split(":"))
        writer.write(b"GET /api/events HTTP/1.1\r\nHost: localhost\r\n\r\n")
        await reader.readuntil(b"watching")
        await transport.accept("a")
        await reader.readuntil(b'"OPEN"')
    assert (await reader.read()).endswith(b"0\r\n\r\n")
    writer.close()
    await writer.wait_closed()
