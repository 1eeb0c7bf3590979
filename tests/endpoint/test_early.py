"""Messages that come before the first loop over a connection."""

import logging

import pytest

from wsfleet import Buffer, ConfigError, Fleet, Overflow
from wsfleet.testing import FakeTransport

pytestmark = pytest.mark.looptime


def row(fleet: Fleet, name: str = "feed"):
    return next(each for each in fleet.stats().endpoints if each.name == name)


@pytest.fixture
def transport() -> FakeTransport:
    return FakeTransport()


async def test_the_first_loop_begins_with_earlier_messages(transport):
    """A loop that begins late gets all messages from the first one, in order, and the counts balance meanwhile."""
    fleet = Fleet(transport=transport)
    connection = fleet.connect("ws://feed.test/", name="feed")
    async with fleet:
        socket = await transport.accept("feed")
        await connection.wait_open()
        await socket.feed("1", "2")
        await socket.feed("3")
        assert (row(fleet).held, fleet.stats().hub.unrouted) == (3, 0) and fleet.stats().balanced
        seen = []
        loop = aiter(connection)
        await socket.feed("4")
        while len(seen) < 4:
            seen.append((await anext(loop)).data)
        assert seen == ["1", "2", "3", "4"]
        assert row(fleet).held == 0 and fleet.stats().balanced
    assert fleet.stats().balanced


@pytest.mark.parametrize("topic", [None, "t.{n}"])
async def test_the_newest_are_kept_and_the_loss_of_others_is_logged(transport, caplog, topic):
    """If more messages come than `buffer` holds, the loop gets the newest; the others are unrouted, and this is logged
    once.
    """
    caplog.set_level(logging.WARNING, "wsfleet")
    fleet = Fleet(transport=transport)
    connection = fleet.connect("ws://feed.test/", name="feed", decode="json", topic=topic, buffer=Buffer(messages=3))
    async with fleet:
        socket = await transport.accept("feed")
        await connection.wait_open()
        for number in range(8):
            await socket.feed(f'{{"n": {number}}}')
            assert fleet.stats().balanced
        loop = aiter(connection)
        assert [(await anext(loop)).data["n"] for _ in range(3)] == [5, 6, 7]
        assert fleet.stats().hub.unrouted == 5
    events = [record for record in caplog.records if getattr(record, "event", "") == "connection.overflow"]
    assert len(events) == 1 and "feed: buffer full" in events[0].getMessage()


async def test_kept_messages_are_bounded_in_bytes(transport):
    """The bound in bytes works as in a mailbox: a message larger than it is kept alone."""
    fleet = Fleet(transport=transport)
    connection = fleet.connect("ws://feed.test/", name="feed", buffer=Buffer(bytes=10))
    async with fleet:
        socket = await transport.accept("feed")
        await connection.wait_open()
        await socket.feed("a" * 6, "b" * 6)
        assert row(fleet).held == 1
        await socket.feed("c" * 30)
        assert row(fleet).held == 1 and fleet.stats().balanced
        assert (await anext(aiter(connection))).data == "c" * 30


async def test_kept_messages_are_dropped_when_a_subscription_takes_one(transport):
    """Kept messages are not delivered to a subscription that is made later; they count as unrouted, and no more are
    kept.
    """
    fleet = Fleet(transport=transport)
    connection = fleet.connect("ws://feed.test/", name="feed")
    async with fleet:
        socket = await transport.accept("feed")
        await connection.wait_open()
        await socket.feed("early")
        async with fleet.subscribe("feed") as taken:
            await socket.feed("late")
            assert (await taken.next()).data == "late"
        assert (row(fleet).held, fleet.stats().hub.unrouted) == (0, 1)
        await socket.feed("unrouted")
        assert row(fleet).held == 0 and fleet.stats().hub.unrouted == 2 and fleet.stats().balanced


async def test_the_loop_has_the_buffer_of_the_connection(transport):
    """`buffer` of a connection without a processor is that of its loops, including the policy."""
    fleet = Fleet(transport=transport)
    buffer = Buffer(messages=2, overflow=Overflow.DROP_NEWEST)
    connection = fleet.connect("ws://feed.test/", name="feed", buffer=buffer)
    async with fleet:
        socket = await transport.accept("feed")
        await connection.wait_open()
        loop = aiter(connection)
        await socket.feed("1", "2", "3")
        assert [(await anext(loop)).data for _ in range(2)] == ["1", "2"]
        (subscription,) = fleet.stats().subscriptions
        assert (subscription.name, subscription.overflow, subscription.dropped) == ("feed-iter", "drop_newest", 1)


async def test_a_closed_connection_leaves_nothing_kept(transport):
    """When a connection without a loop is closed, its kept messages count as unrouted."""
    fleet = Fleet(transport=transport)
    connection = fleet.connect("ws://feed.test/", name="feed")
    async with fleet:
        socket = await transport.accept("feed")
        await connection.wait_open()
        await socket.feed("x", "y")
        await connection.close()
        assert fleet.stats().hub.unrouted == 2 and row(fleet, "$retired").held == 0 and fleet.stats().balanced


def test_a_buffer_of_the_wrong_type_is_rejected(transport):
    """A `buffer` of the wrong type raises ConfigError, as for a processor."""
    with pytest.raises(ConfigError, match="buffer must be a Buffer"):
        Fleet(transport=transport).connect("ws://feed.test/", buffer=5)
