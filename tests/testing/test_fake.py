"""The fake transport: deliveries wait for `on_open`, and a wrong name is found."""

import asyncio

import pytest

from wsfleet import ConnectionLost, Fleet, Session
from wsfleet.testing import FakeTransport

URI = "ws://feed.test/"

LOOPS = ("asyncio",)  # there are no sockets, and looptime replaces asyncio's loop


@pytest.mark.parametrize("on_open_turns", [0, 3, 20])
async def test_messages_fed_at_once_are_published(on_open_turns: int) -> None:
    """Messages fed right after accept() are published when feed() returns, although `on_open` had not begun."""
    transport = FakeTransport()
    fleet = Fleet(transport=transport)
    opened = []

    async def on_open(session: Session) -> None:
        await session.send("login")
        for _ in range(on_open_turns):
            await asyncio.sleep(0)
        opened.append(session.number)

    fleet.connect(URI, name="feed", on_open=on_open)
    async with fleet:
        socket = await transport.accept("feed")
        await socket.feed("a", "b")
        assert opened == [1]
        (row,) = fleet.stats().endpoints
        assert (row.received, row.held) == (2, 2)  # held for the first loop
        assert fleet.connections["feed"].state == "OPEN"
    assert fleet.stats().endpoints[0].discarded == 0


async def test_feed_returns_while_on_open_waits_for_more() -> None:
    """feed() returns when `on_open` waits in recv() for another message, and when it waits for anything else."""
    transport, proceed = FakeTransport(), asyncio.Event()
    fleet = Fleet(transport=transport)

    async def on_open(session: Session) -> None:
        await session.recv(lambda message: message.data == "second")
        await proceed.wait()

    connection = fleet.connect(URI, name="feed", on_open=on_open)
    async with fleet, asyncio.timeout(60.0):
        socket = await transport.accept("feed")
        await socket.feed("first")
        assert connection.stats().held == 1
        await socket.feed("second")
        assert connection.state == "CONNECTING"
        proceed.set()
        await connection.wait_open()


async def test_feed_into_a_failing_on_open() -> None:
    """feed() does not wait for an `on_open` that has failed."""
    transport = FakeTransport()
    fleet = Fleet(transport=transport)

    async def on_open(session: Session) -> None:
        await session.recv()
        raise ConnectionLost(1000, "not a welcome")

    connection = fleet.connect(URI, name="feed", on_open=on_open)
    async with fleet, asyncio.timeout(60.0):
        socket = await transport.accept("feed")
        await socket.feed("first", "second")
        while connection.state != "BACKOFF":
            await asyncio.sleep(0)
        assert connection.stats().discarded == 1


async def test_feed_takes_anything_that_send_takes() -> None:
    """Text and bytes are delivered as they are, other data as JSON."""
    transport = FakeTransport()
    fleet = Fleet(transport=transport)
    connection = fleet.connect(URI, name="feed")
    async with fleet:
        socket = await transport.accept("feed")
        await socket.feed("a", b"b", bytearray(b"c"), {"n": 1})
        loop = aiter(connection)
        assert [(await anext(loop)).data for _ in range(4)] == ["a", b"b", b"c", '{"n":1}']


@pytest.mark.looptime
async def test_accept_of_an_unknown_endpoint() -> None:
    """accept() with an unknown name raises TimeoutError with the known names; with a known one it waits on."""
    transport = FakeTransport()
    fleet = Fleet(transport=transport)
    fleet.connect(URI, name="feed")
    fleet.connect(URI, name="news")
    async with fleet:
        with pytest.raises(TimeoutError, match="no endpoint 'fed', waited 5 s; it has: 'feed', 'news'"):
            await transport.accept("fed")
        with pytest.raises(TimeoutError, match="waited 1 s"):
            await transport.accept("fed", timeout_s=1.0)
        await transport.accept("feed")
        again = asyncio.create_task(transport.accept("feed"))
        await asyncio.sleep(1000.0)
        assert not again.done()
        again.cancel()


@pytest.mark.looptime
async def test_a_fleet_without_endpoints() -> None:
    """accept() of any endpoint raises TimeoutError if the fleet has none, and waits for one that is declared later."""
    transport = FakeTransport()
    async with Fleet(transport=transport) as fleet:
        with pytest.raises(TimeoutError, match="it has: none"):
            await transport.accept()
        accepted = asyncio.create_task(transport.accept("feed"))
        await asyncio.sleep(4.0)
        fleet.connect(URI, name="feed")
        await accepted
