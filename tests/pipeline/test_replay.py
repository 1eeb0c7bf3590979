"""`keep_last` and `replay`: a subscription begins with the last message of each topic, and the counts stay right."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from tests.support.flows import balanced, feeding, opened, row
from wsfleet import Buffer, Endpoint, Fleet, Message, Overflow, Subscription
from wsfleet.core.errors import ConfigError, Overflowed
from wsfleet.testing import FakeSocket, FakeTransport

URI = "ws://feed.test/"


def fleet_of(keep_last: int, name: str = "feed", **options: Any) -> tuple[Fleet, FakeTransport]:
    """A fleet with one endpoint whose topics are `<name>.<first character>`."""
    transport = FakeTransport()
    fleet = Fleet(transport=transport)
    connect(fleet, name, keep_last, **options)
    return fleet, transport


def connect(fleet: Fleet, name: str, keep_last: int, **options: Any) -> None:
    topic: Callable[[str], str] = lambda data: f"{name}.{data[0]}"  # noqa: E731
    fleet.connect(URI, name=name, keep_last=keep_last, topic=options.pop("topic", topic), **options)


def waiting(subscription: Subscription) -> list[Any]:
    return [message.data for message in subscription._mailbox.waiting]


async def test_the_last_of_each_topic_comes_first() -> None:
    """With `replay="last"` a subscription begins with the last message of each topic, unchanged, and then continues."""
    fleet, transport = fleet_of(10)
    async with feeding(fleet, transport) as socket:
        await socket.feed("a1", "b1", "a2", "c1", "b2")
        async with fleet.subscribe("feed.*", replay="last") as late, fleet.subscribe("feed.*") as plain:
            await socket.feed("a3")
            assert waiting(late) == ["a2", "c1", "b2", "a3"]
            assert waiting(plain) == ["a3"]
            message = await anext(late)
            assert (message.topic, message.endpoint, message.index, message.session) == ("feed.a", "feed", 3, 1)
            balanced(fleet)


async def test_without_keep_last_nothing_is_kept() -> None:
    """By default no messages are kept, and `replay` has no effect."""
    fleet, transport = fleet_of(0)
    async with feeding(fleet, transport) as socket:
        await socket.feed("a1")
        async with fleet.subscribe(">", replay="last") as late:
            assert waiting(late) == []
    assert not fleet._registry.supervisors["feed"].ingest.kept


async def test_the_most_recent_topics_are_kept() -> None:
    """If there are more topics than `keep_last`, the most recently received ones are kept."""
    fleet, transport = fleet_of(3)
    async with feeding(fleet, transport) as socket:
        await socket.feed("a1", "b1", "c1", "a2", "d1")
        async with fleet.subscribe(">", replay="last") as late:
            assert waiting(late) == ["c1", "a2", "d1"]
        await socket.feed("c2")
        await socket.feed("e1")
        async with fleet.subscribe(">", replay="last") as late:
            assert waiting(late) == ["d1", "c2", "e1"]


async def test_a_single_topic_is_kept_too() -> None:
    """An endpoint whose topic is its name keeps the last message of each read."""
    transport = FakeTransport()
    fleet = Fleet(transport=transport)
    fleet.connect(URI, name="feed", keep_last=1)
    async with feeding(fleet, transport) as socket:
        await socket.feed("1", "2")
        await socket.feed("3", "4")
        async with fleet.subscribe("feed", replay="last") as late:
            assert waiting(late) == ["4"]


async def test_messages_during_on_open_are_kept() -> None:
    """Messages that were held while `on_open` ran are kept like later ones; those that it took are not."""
    gate = asyncio.Event()

    async def on_open(session: Any) -> None:
        await session.recv()
        await gate.wait()

    fleet, transport = fleet_of(5, on_open=on_open)
    async with fleet:
        socket = await transport.accept("feed")
        await socket.feed("a-login", "b1", "c1")
        gate.set()
        await fleet.connections["feed"].wait_open()
        await socket.feed("d1")
        async with fleet.subscribe(">", replay="last") as late:
            assert waiting(late) == ["b1", "c1", "d1"]
            balanced(fleet)


async def test_several_endpoints_are_replayed_by_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Messages kept by several endpoints are replayed in the order of receipt; each endpoint has its own bound."""
    clock = 1000.0
    monkeypatch.setattr("time.time", lambda: clock)
    fleet, transport = fleet_of(2, "one")
    connect(fleet, "two", 2)
    async with fleet:
        sockets: list[FakeSocket] = [await opened(fleet, transport, name) for name in ("one", "two")]
        for socket, text in ((0, "a1"), (1, "b1"), (0, "c1"), (1, "d1"), (0, "e1"), (1, "b2")):
            clock += 1
            await sockets[socket].feed(text)
        async with fleet.subscribe(">", replay="last") as late:
            assert waiting(late) == ["c1", "d1", "e1", "b2"]
            assert [message.received_at for message in late._mailbox.waiting] == [1003, 1004, 1005, 1006]


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [("one.*", ["a", "b"]), ("*.a", ["a", "a"]), ("two.>", ["a", "b"]), ("*", []), ("$state.>", []), ("one.b", ["b"])],
)
async def test_only_topics_that_match_are_replayed(pattern: str, expected: list[str]) -> None:
    """The pattern selects kept messages as it selects new ones."""
    fleet, transport = fleet_of(5, "one")
    connect(fleet, "two", 5)
    async with fleet:
        for name in ("one", "two"):
            await (await opened(fleet, transport, name)).feed("a", "b")
        async with fleet.subscribe(pattern, replay="last") as late:
            assert waiting(late) == expected


async def test_a_replay_is_delivered_and_offered_but_not_published_again() -> None:
    """Each replayed message counts as offered and delivered in the subscription; `published` does not change."""
    fleet, transport = fleet_of(5)
    async with feeding(fleet, transport) as socket:
        await socket.feed("a", "b", "c")
        before = balanced(fleet).hub
        assert (before.published, before.deliveries, fleet.stats().endpoints[0].held) == (0, 0, 3)
        async with fleet.subscribe(">", replay="last", name="late"):
            after = balanced(fleet).hub
            assert (after.published, after.unrouted, after.routed, after.deliveries) == (0, 0, 0, 3)
            assert row(fleet, "late").offered == 3
        balanced(fleet)


@pytest.mark.parametrize(
    ("overflow", "expected", "dropped"),
    [
        (Overflow.PAUSE, ["d", "e", "f"], 3),
        (Overflow.DROP_OLDEST, ["d", "e", "f"], 3),
        (Overflow.DROP_NEWEST, ["a", "b", "c"], 3),
        (Overflow.LATEST, ["d", "e", "f"], 3),
    ],
)
async def test_a_replay_follows_the_policy(overflow: Overflow, expected: list[str], dropped: int) -> None:
    """Kept messages beyond the buffer are dropped by its policy; PAUSE, which can pause no source here, drops the
    oldest.
    """
    fleet, transport = fleet_of(10)
    async with feeding(fleet, transport) as socket:
        await socket.feed(*"abcdef")
        late = fleet.subscribe(">", replay="last", buffer=Buffer(messages=3, overflow=overflow))
        async with late:
            assert waiting(late) == expected
            assert (late.stats().offered, late.stats().dropped, late.stats().pending) == (6, dropped, 3)
            assert late.stats().pending_bytes == 3
            assert not socket.paused
            balanced(fleet)


async def test_a_replay_into_latest_replaces_by_key() -> None:
    """Kept messages of the same key are counted as dropped, except the last, and their bytes are released."""
    fleet, transport = fleet_of(5, "one")
    connect(fleet, "two", 5)
    async with fleet:
        for name, text in (("one", "abc"), ("two", "de")):
            await (await opened(fleet, transport, name)).feed(*text)
        buffer = Buffer(overflow=Overflow.LATEST, key=lambda message: message.endpoint)
        async with fleet.subscribe(">", replay="last", buffer=buffer) as late:
            assert waiting(late) == ["c", "e"]
            assert (late.stats().offered, late.stats().dropped, late.stats().pending_bytes) == (5, 3, 2)
            balanced(fleet)


async def test_a_replay_that_does_not_fit_fails_under_fail() -> None:
    """Under FAIL no message is dropped silently: a replay larger than the buffer ends the subscription with
    Overflowed.
    """
    fleet, transport = fleet_of(10)
    async with feeding(fleet, transport) as socket:
        await socket.feed(*"abcdef")
        late = fleet.subscribe(">", name="late", replay="last", buffer=Buffer(messages=3, overflow=Overflow.FAIL))
        with pytest.raises(Overflowed):
            await anext(late)
        assert "late" not in fleet.subscriptions
        balanced(fleet)


async def test_a_replay_that_fills_the_mailbox_pauses_its_endpoint() -> None:
    """A mailbox that was filled by a replay pauses an endpoint that sends more, and resumes it at half."""
    fleet, transport = fleet_of(10)
    async with feeding(fleet, transport) as socket:
        await socket.feed(*"abcd")
        async with fleet.subscribe(">", replay="last", buffer=Buffer(messages=4)) as late:
            await socket.feed("e")
            assert socket.paused
            for _ in range(3):
                await anext(late)
            assert not socket.paused


async def test_a_replay_into_few_bytes_keeps_fitting_messages() -> None:
    """The bound in bytes also applies to a replay; a message larger than the bound is taken alone."""
    fleet, transport = fleet_of(10)
    async with feeding(fleet, transport) as socket:
        await socket.feed("a" * 30, "b" * 30, "c" * 30)
        async with fleet.subscribe(">", replay="last", buffer=Buffer(bytes=70)) as late:
            assert [data[0] for data in waiting(late)] == ["b", "c"]
        await socket.feed("d" * 100)
        async with fleet.subscribe(">", replay="last", buffer=Buffer(bytes=70)) as late:
            assert [data[0] for data in waiting(late)] == ["d"]
            balanced(fleet)


async def test_kept_messages_are_removed_with_their_endpoint() -> None:
    """Messages of a closed connection are not replayed."""
    fleet, transport = fleet_of(10)
    async with fleet:
        socket = await opened(fleet, transport)
        await socket.feed("a")
        await fleet.connections["feed"].close()
        async with fleet.subscribe(">", replay="last") as late:
            assert waiting(late) == []


async def test_invalid_replay_options_are_rejected() -> None:
    """A `replay` other than "last", or a `keep_last` that is no number from 0, raises ConfigError, and uses no name."""
    fleet = Fleet()
    wrong: Any
    for wrong in ("all", True, 3):
        with pytest.raises(ConfigError, match="replay"):
            fleet.subscribe("a", name="mine", replay=wrong)
    for wrong in (-1, 1.5, None, True):
        with pytest.raises(ConfigError, match="keep_last"):
            Endpoint(URI, keep_last=wrong)
    fleet.subscribe("a", name="mine").close()


async def test_a_processor_may_subscribe_with_a_replay() -> None:
    """A subscription made during a flow of messages gets the last one of each topic, and misses none that follow."""
    fleet, transport = fleet_of(10)
    late: list[Subscription] = []

    async def on_message(message: Message[str]) -> None:
        if message.data == "x1":
            late.append(fleet.subscribe("feed.*", replay="last"))

    fleet.process("feed.x")(on_message)
    async with feeding(fleet, transport) as socket:
        await socket.feed("a1", "x1", "a2")
        await asyncio.sleep(0)
        await socket.feed("a3", "b1")
        assert waiting(late[0]) == ["a1", "x1", "a2", "a3", "b1"]
        balanced(fleet)
        late[0].close()
