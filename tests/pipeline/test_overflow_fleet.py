"""Overflow in a running fleet: failures stay isolated, set-aside messages can be dropped, and `$slow` comes once."""

import asyncio
import logging
import threading
from typing import Any

import pytest

from tests.support.flows import DROP_OLDEST, balanced, endpoint_row, feeding, keeper, opened, row, turns, until
from wsfleet import Buffer, Fleet, FleetStats, Liveness, Message, Overflow, Reconnect, State
from wsfleet.core.errors import Overflowed
from wsfleet.core.message import Slow
from wsfleet.testing import FakeTransport

URI = "ws://feed.test/"
AT_ONCE = Reconnect(initial_s=0.001, max_s=0.001)


def fleet_of() -> tuple[Fleet, FakeTransport]:
    transport = FakeTransport()
    return Fleet(transport=transport), transport


def buffer(messages: int, overflow: Overflow, **options: Any) -> Buffer:
    return Buffer(messages=messages, overflow=overflow, **options)


# FAIL


@pytest.mark.parametrize("batches", [False, True])
async def test_a_loop_whose_buffer_overflows_raises_overflowed(batches: bool) -> None:
    """FAIL raises Overflowed in the loop over that subscription; other subscriptions and the endpoint are not
    affected.
    """
    fleet, transport = fleet_of()
    strict = fleet.subscribe("feed", name="strict", buffer=buffer(3, Overflow.FAIL))
    other = fleet.subscribe("feed", name="other")
    connection = fleet.connect(URI, name="feed")
    async with other, feeding(fleet, transport) as socket:
        loop = strict.batches() if batches else strict
        await socket.feed("1", "2")
        first: Any = await anext(loop)
        assert len(first) == 2 if batches else first.data == "1"
        await socket.feed(*"3456")
        for _ in range(2):
            with pytest.raises(Overflowed, match=r"'strict'.*3 messages"):
                await anext(loop)
        assert connection.state is State.OPEN and not socket.paused
        assert "strict" not in fleet.subscriptions
        stats = balanced(fleet)
        assert [row.name for row in stats.subscriptions] == ["other", "$retired"]
        retired = stats.subscriptions[-1]
        assert (retired.offered, retired.pending) == (6, 0) and retired.processed + retired.dropped == 6
        async with fleet.subscribe("feed", name="strict") as again:  # its name is free again
            await socket.feed("7")
            assert (await anext(again)).data == "7"
        assert other.stats().offered == 7
        balanced(fleet)


async def test_a_waiting_loop_gets_the_overflow() -> None:
    """A loop that waits while one read brings more than the buffer holds gets Overflowed."""
    fleet, transport = fleet_of()
    strict = fleet.subscribe("feed", buffer=buffer(3, Overflow.FAIL))
    fleet.connect(URI, name="feed")
    async with feeding(fleet, transport) as socket:
        waiting = asyncio.create_task(anext(strict))  # type: ignore[arg-type]
        await turns()
        await socket.feed(*"123456")
        with pytest.raises(Overflowed):
            await waiting
        balanced(fleet)


async def test_a_processor_whose_buffer_overflows_is_logged_and_removed(caplog: pytest.LogCaptureFixture) -> None:
    """FAIL ends a processor's subscription and logs this; its current call finishes, and nothing else ends."""
    fleet, transport = fleet_of()
    gate, seen, done = asyncio.Event(), [], []

    @fleet.process("feed", name="strict", buffer=buffer(2, Overflow.FAIL))
    async def strict(message: Message[str]) -> None:
        seen.append(message.data)
        await gate.wait()
        done.append(message.data)

    others: list[str] = []
    fleet.process("feed", name="other")(keeper(others))
    fleet.connect(URI, name="feed")
    async with feeding(fleet, transport) as socket:
        await socket.feed("1")
        await turns()
        with caplog.at_level(logging.ERROR, "wsfleet"):
            await socket.feed("2", "3", "4")
        assert [record.getMessage() for record in caplog.records] == [
            "subscription 'strict' received more than its buffer holds (2 messages or 16777216 bytes)"
        ]
        assert "strict" not in fleet.subscriptions
        retired = balanced(fleet).subscriptions[-1]
        assert (retired.name, retired.offered, retired.dropped, retired.pending) == ("$retired", 4, 3, 1)
        gate.set()
        await turns()
        assert seen == done == ["1"]
        retired = balanced(fleet).subscriptions[-1]
        assert (retired.processed, retired.dropped, retired.pending) == (1, 3, 0)
        fleet.process("feed", name="strict")(keeper(seen))
        await socket.feed("5")
        await turns()
        assert seen == ["1", "5"] and others == list("12345")
        balanced(fleet)


async def test_an_endpoints_own_processor_that_overflows_leaves_the_endpoint() -> None:
    """If the processor of a connection overflows, the connection stays open, and its messages are unrouted."""
    fleet, transport = fleet_of()

    async def stuck(message: Message[str]) -> None:
        await asyncio.Event().wait()

    connection = fleet.connect(URI, stuck, name="feed", buffer=buffer(2, Overflow.FAIL))
    async with feeding(fleet, transport) as socket:
        await socket.feed(*"1234")
        await socket.feed("5")
        assert connection.state is State.OPEN
        assert balanced(fleet).hub.unrouted == 1
        assert not endpoint_row(fleet).paused_by
        await fleet.close()


async def test_subscriptions_that_overflow_repeatedly_leave_one_row() -> None:
    """A subscription that overflows and is made again many times leaves only its sums, even if the stats
    are never read.
    """
    fleet = Fleet()
    for _ in range(500):
        subscription = fleet.subscribe("news", name="strict", buffer=buffer(1, Overflow.FAIL))
        for n in range(3):
            fleet.publish("news", n)
        with pytest.raises(Overflowed):
            await anext(subscription)
    assert len(fleet._registry.hub._leaving) <= 1
    (retired,) = balanced(fleet).subscriptions
    assert (retired.offered, retired.dropped) == (1000, 1000)


# The other policies


async def test_each_policy_in_a_fleet() -> None:
    """Subscriptions with different policies on one feed each keep the messages of their policy, and the counts
    balance.
    """
    fleet, transport = fleet_of()
    oldest = fleet.subscribe("feed", buffer=buffer(3, DROP_OLDEST))
    newest = fleet.subscribe("feed", buffer=buffer(3, Overflow.DROP_NEWEST))
    latest = fleet.subscribe("feed", buffer=buffer(3, Overflow.LATEST, key=lambda message: int(message.data) % 2))
    fleet.connect(URI, name="feed")
    async with oldest, newest, latest, feeding(fleet, transport) as socket:
        await socket.feed(*"123456789")
        taken = [[(await anext(each)).data for _ in range(each.stats().pending)] for each in (oldest, newest, latest)]
        assert taken == [["7", "8", "9"], ["1", "2", "3"], ["9", "8"]]
        assert not socket.paused
        stats = balanced(fleet)
        assert [row.dropped for row in stats.subscriptions] == [6, 6, 7]
        assert [row.overflow for row in stats.subscriptions] == ["drop_oldest", "drop_newest", "latest"]


async def test_a_key_function_that_closes_another_subscription_loses_no_count() -> None:
    """If a key function closes a subscription during delivery, the current messages count as offered and dropped."""
    fleet = Fleet()
    victim_name = "victim"

    def key(message: Message[Any]) -> Any:
        if victim_name in fleet.subscriptions:
            fleet.subscriptions[victim_name].close()
        return message.data

    first = fleet.subscribe("news", buffer=buffer(10, Overflow.LATEST, key=key))
    victim = fleet.subscribe("news", name=victim_name)
    assert fleet.publish("news", 1) == 1
    assert balanced(fleet).hub.deliveries == 2
    fleet.publish("news", 2)
    assert balanced(fleet).hub.deliveries == 3
    first.close()
    victim.close()
    balanced(fleet)


# Set aside


async def test_messages_waiting_for_their_busy_key_are_dropped_oldest_first() -> None:
    """Under DROP_OLDEST, messages set aside to wait for their key are dropped first; those in hand stay."""
    fleet, transport = fleet_of()
    gate, seen = asyncio.Event(), []

    @fleet.process("feed", name="keyed", concurrency=2, key=lambda m: m.data[0], buffer=buffer(4, DROP_OLDEST))
    async def keyed(message: Message[str]) -> None:
        seen.append(message.data)
        await gate.wait()

    fleet.connect(URI, name="feed")
    async with feeding(fleet, transport) as socket:
        await socket.feed("a1")
        await turns()
        await socket.feed("a2", "a3", "a4")  # the other worker sets them aside
        await turns(5)
        assert row(fleet, "keyed").pending == 4
        await socket.feed("a5", "a6")
        assert row(fleet, "keyed").dropped == 2
        await turns(5)
        balanced(fleet)
        gate.set()
        await until(lambda: row(fleet, "keyed").pending == 0)
        assert seen == ["a1", "a4", "a5", "a6"]
        balanced(fleet)


async def test_messages_handed_to_a_busy_thread_are_dropped_oldest_first() -> None:
    """Under DROP_OLDEST, messages that were handed to a thread and have not begun are dropped first."""
    fleet, transport = fleet_of()
    gate, begun, seen = threading.Event(), threading.Event(), []

    @fleet.process("feed", name="blocking", buffer=buffer(4, DROP_OLDEST))
    def blocking(message: Message[str]) -> None:
        seen.append(message.data)
        begun.set()
        gate.wait()

    fleet.connect(URI, name="feed")
    async with feeding(fleet, transport) as socket:
        await socket.feed("1")
        await asyncio.to_thread(begun.wait)
        await socket.feed("2", "3", "4")
        await turns(5)
        await socket.feed("5", "6")
        assert (row(fleet, "blocking").dropped, row(fleet, "blocking").pending) == (2, 4)
        balanced(fleet)
        gate.set()
        await until(lambda: row(fleet, "blocking").pending == 0)
        assert seen == ["1", "4", "5", "6"]
        balanced(fleet)


async def test_publishing_replaces_a_message_handed_to_a_busy_thread() -> None:
    """Under PAUSE, a published message replaces the oldest published one, even if that was handed to a thread."""
    fleet = Fleet()
    gate, begun, seen = threading.Event(), threading.Event(), []

    @fleet.process("news", name="blocking", buffer=Buffer(messages=3))
    def blocking(message: Message[int]) -> None:
        seen.append(message.data)
        begun.set()
        gate.wait()

    async with fleet:
        fleet.publish("news", 1)
        await asyncio.to_thread(begun.wait)
        for n in range(2, 10):
            assert fleet.publish("news", n) == 1
            await turns(5)
        assert (row(fleet, "blocking").dropped, row(fleet, "blocking").pending) == (6, 3)
        gate.set()
        await until(lambda: row(fleet, "blocking").pending == 0)
        assert seen == [1, 8, 9]
        balanced(fleet)


async def test_latest_replaces_a_message_whose_key_is_busy() -> None:
    """Under LATEST, a message that waits because its key is in hand is replaced by a newer one."""
    fleet, transport = fleet_of()
    gate, seen = asyncio.Event(), []

    @fleet.process("feed", name="keyed", concurrency=3, key=lambda m: "k", buffer=buffer(10, Overflow.LATEST))
    async def keyed(message: Message[str]) -> None:
        seen.append(message.data)
        await gate.wait()

    fleet.connect(URI, name="feed")
    async with feeding(fleet, transport) as socket:
        for n in range(1, 8):
            await socket.feed(str(n))
            await turns(5)
        assert (row(fleet, "keyed").dropped, row(fleet, "keyed").pending) == (5, 2)
        gate.set()
        await until(lambda: row(fleet, "keyed").pending == 0)
        assert seen == ["1", "7"]
        balanced(fleet)


# `$slow` once for each episode


async def test_slow_is_reported_for_each_policy() -> None:
    """For any policy, `$slow` has one record for each episode, with the row at its beginning."""
    fleet, transport = fleet_of()
    kept = {
        overflow: fleet.subscribe("feed", name=overflow.value, buffer=buffer(4, overflow, **more))
        for overflow, more in (
            (Overflow.PAUSE, {}),
            (Overflow.DROP_OLDEST, {}),
            (Overflow.DROP_NEWEST, {}),
            (Overflow.LATEST, {"key": lambda message: message.data}),
            (Overflow.FAIL, {}),
        )
    }
    watcher = fleet.subscribe("$slow.>")
    fleet.connect(URI, name="feed")
    async with watcher, feeding(fleet, transport) as socket:
        await socket.feed(*(str(n) for n in range(4)))
        records = {(await anext(watcher)).data for _ in kept}
        assert records == {Slow(overflow.value, 4, 4, overflow.value) for overflow in kept}
        kept.pop(Overflow.PAUSE).close()
        for n in range(100):
            await socket.feed(str(1000 + n))
        assert watcher.stats().pending == 0
        stats = balanced(fleet)
        assert stats.subscriptions[-1].name == "$retired"
    for each in kept.values():
        each.close()


@pytest.mark.looptime
async def test_stats_contain_who_pauses_which_endpoint_and_for_how_long() -> None:
    """`paused_by` contains each full mailbox that an endpoint feeds; `paused_s` and `pausing_s` contain the time."""
    fleet, transport = fleet_of()
    one = fleet.subscribe("feed", name="one", buffer=Buffer(messages=1))
    two = fleet.subscribe("feed", name="two", buffer=Buffer(messages=1))
    fleet.connect(URI, name="feed", liveness=Liveness(ping_s=None))
    async with one, two, feeding(fleet, transport) as socket:
        await socket.feed("1")
        assert set(endpoint_row(fleet).paused_by) == {"one", "two"}
        await asyncio.sleep(10)
        await anext(one)
        assert endpoint_row(fleet).paused_by == ("two",)
        await asyncio.sleep(5)
        assert (row(fleet, "one").pausing_s, row(fleet, "two").pausing_s) == (10, 15)
        assert endpoint_row(fleet).paused_s == 15
        two.close()
        assert endpoint_row(fleet).paused_by == () and not socket.paused
        await asyncio.sleep(100)
        assert endpoint_row(fleet).paused_s == 15
        balanced(fleet)


# A paused connection is not closed


@pytest.mark.looptime(start=1_000_000, noop_cycles=3)
async def test_ten_minutes_for_each_message_keep_the_connection() -> None:
    """With the defaults, a processor that needs ten minutes for each message keeps its connection.

    Pings are sent all the time, but answers are only read when reading is resumed.
    """
    fleet, transport = fleet_of()
    seen: list[str] = []

    async def slow(message: Message[str]) -> None:
        seen.append(message.data)
        await asyncio.sleep(600)

    connection = fleet.connect(URI, slow, name="feed", buffer=Buffer(messages=1), liveness=Liveness(stale_s=60))
    async with feeding(fleet, transport) as socket:
        for n in range(4):
            before = socket.pings
            await socket.feed(str(n))
            if n:
                assert socket.pings - before >= 29, "pings are written while reading is paused"
        assert connection.state is State.OPEN and connection.session_count == 1
        assert endpoint_row(fleet).losses == 0 and endpoint_row(fleet).last_error is None
        assert endpoint_row(fleet).paused_s > 2 * 590
        assert seen == [str(n) for n in range(4)][: len(seen)] and len(seen) >= 3
        await fleet.close()


@pytest.mark.looptime(start=1_000_000)
async def test_after_the_pause_the_timeouts_apply_again() -> None:
    """When reading is resumed and nothing arrives, unanswered pings and silence count from then on."""
    fleet, transport = fleet_of()
    slow = fleet.subscribe("feed", buffer=Buffer(messages=1))
    connection = fleet.connect(URI, name="feed", liveness=Liveness(ping_s=20, pong_s=20, stale_s=None))
    loop = asyncio.get_running_loop()
    async with slow, feeding(fleet, transport) as socket:
        socket.answers_pings = False
        await socket.feed("1")
        await asyncio.sleep(300)
        assert connection.state is State.OPEN
        await anext(slow)
        resumed = loop.time()
        while connection.state is State.OPEN:
            await asyncio.sleep(0.5)
        assert 19 <= loop.time() - resumed <= 21
        assert "no answer to a ping" in str(endpoint_row(fleet).last_error)
        assert "closed by the peer" not in str(endpoint_row(fleet).last_error)


@pytest.mark.looptime(start=1_000_000)
@pytest.mark.parametrize("code", [1000, 1011, 4000])
async def test_last_error_contains_who_paused_the_endpoint(code: int) -> None:
    """`last_error` contains how long and by which subscription an endpoint was paused when the peer closed it."""
    fleet, transport = fleet_of()
    async with fleet.subscribe("feed", name="slow", buffer=Buffer(messages=1)) as slow:
        fleet.connect(URI, name="feed", reconnect=AT_ONCE)
        async with feeding(fleet, transport) as socket:
            await socket.feed("1")
            await asyncio.sleep(41)
            socket.close(code, "keepalive ping timeout")
            await turns()
            error = str(endpoint_row(fleet).last_error)
            assert "closed by the peer after 41 s paused by slow (keepalive ping timeout)" in error
            assert str(code) in error
            await opened(fleet, transport)
            slow.close()


@pytest.mark.looptime(start=1_000_000)
async def test_a_close_that_is_read_after_the_pause_mentions_the_pause() -> None:
    """If the peer's close was only read after reading resumed, `last_error` contains the pauses before it."""
    fleet, transport = fleet_of()
    async with fleet.subscribe("feed", name="slow", buffer=Buffer(messages=1)) as slow:
        fleet.connect(URI, name="feed", reconnect=AT_ONCE)
        async with feeding(fleet, transport) as socket:
            await socket.feed("1")
            await asyncio.sleep(30)
            await anext(slow)
            await socket.feed("2")  # this was also unread
            await asyncio.sleep(11)
            await anext(slow)
            socket.close(1011, "keepalive ping timeout")
            await turns()
            assert "after 41 s paused by slow (keepalive ping timeout)" in str(endpoint_row(fleet).last_error)


@pytest.mark.looptime(start=1_000_000)
@pytest.mark.parametrize("how", ["later", "politely", "by us", "at once"])
async def test_a_pause_is_not_mentioned_for_unrelated_losses(how: str) -> None:
    """A pause is not mentioned after a later loss, a server's going-away right after it, or a close by the client."""
    fleet, transport = fleet_of()
    async with fleet.subscribe("feed", name="slow", buffer=Buffer(messages=1)) as slow:
        fleet.connect(URI, name="feed", reconnect=AT_ONCE, liveness=Liveness(stale_s=0.5))
        async with feeding(fleet, transport) as socket:
            await socket.feed("1")
            await asyncio.sleep(0.2 if how == "at once" else 30)
            if how == "at once":
                socket.close(1011)
            else:
                await anext(slow)
                if how == "politely":
                    socket.close(1012)
                elif how == "later":
                    await asyncio.sleep(0.4)
                    await socket.feed("2")
                    await anext(slow)
                    for _ in range(4):
                        await asyncio.sleep(0.4)
                        socket._last_frame = asyncio.get_running_loop().time()
                        await socket.feed("2")
                        await anext(slow)
                    socket.close(1011)
                else:
                    await asyncio.sleep(2)
            await turns()
            error = str(endpoint_row(fleet).last_error)
            assert "paused" not in error
            assert ("no data" in error) == (how == "by us")


async def test_stats_can_be_read_after_the_loop_has_ended() -> None:
    """The stats of a fleet that ended while an endpoint was paused can be read when no loop runs any more."""
    fleet, transport = fleet_of()

    async def scene() -> None:
        slow = fleet.subscribe("feed", buffer=Buffer(messages=1))
        fleet.connect(URI, name="feed")
        async with slow, feeding(fleet, transport) as socket:
            await socket.feed("1")
            assert socket.paused

    def in_one_thread() -> FleetStats:
        asyncio.run(scene())
        return fleet.stats()

    stats = await asyncio.to_thread(in_one_thread)
    assert stats.balanced and stats.endpoints[0].paused_s >= 0
