"""Subscriptions and loops: a message that is returned counts as processed, none is lost, and none is
kept needlessly.
"""

import asyncio
import gc
import threading
import types
import warnings
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.support.flows import (
    DROP_OLDEST,
    balanced,
    burn,
    endpoint_row,
    feeding,
    keeper,
    opened,
    row,
    turns,
    turns_while,
)
from wsfleet import Buffer, Endpoint, Fleet, FleetError, Message, Reconnect, State
from wsfleet.core.errors import Busy, ConfigError, EndpointFailed, Fatal
from wsfleet.testing import FakeTransport

URI = "ws://feed.test/"


def fleet_of(**options: Any) -> tuple[Fleet, FakeTransport]:
    transport = FakeTransport()
    return Fleet(transport=transport, **options), transport


async def collected(loop: AsyncIterator[Message[Any]]) -> list[Any]:
    return [message.data async for message in loop]


# Loops over a subscription


async def test_a_loop_gets_messages_from_the_call_of_subscribe_on() -> None:
    """A subscription gets the messages from `subscribe` on, even if no loop runs yet, and no earlier ones."""
    fleet, _ = fleet_of()
    fleet.publish("news", 1)
    async with fleet.subscribe("news") as subscription:
        fleet.publish("news", 2)
        fleet.publish("news", 3)
        assert (await anext(subscription)).data == 2
        assert subscription.stats().processed == 1 and subscription.stats().pending == 1
        balanced(fleet)


async def test_a_loop_ends_when_its_subscription_is_closed() -> None:
    """`close` during a loop drops waiting messages and ends the loop, whether it is called in its body or elsewhere."""
    fleet, _ = fleet_of()
    subscription = fleet.subscribe("news")
    for n in range(5):
        fleet.publish("news", n)
    seen = []
    async for message in subscription:
        seen.append(message.data)
        if message.data == 1:
            subscription.close()
    assert seen == [0, 1]
    (retired,) = balanced(fleet).subscriptions
    assert (retired.offered, retired.processed, retired.dropped) == (5, 2, 3)

    other = fleet.subscribe("news")
    waiter = asyncio.create_task(collected(other))
    await turns()
    other.close()
    assert await waiter == []
    assert await collected(other) == []
    other.close()


async def test_leaving_the_context_closes_the_subscription() -> None:
    """`async with` removes the subscription however the block is left, and its name is free again."""
    fleet, _ = fleet_of()
    with pytest.raises(KeyError):
        async with fleet.subscribe("news", name="mine") as subscription:
            assert fleet.subscriptions["mine"] is subscription
            raise KeyError
    assert not fleet.subscriptions
    async with fleet.subscribe("news", name="mine"):
        pass


async def test_the_end_of_the_fleet_ends_loops() -> None:
    """A loop over a subscription ends with the fleet; waiting messages are dropped."""
    fleet, _ = fleet_of()
    subscription = fleet.subscribe("news")
    async with fleet:
        waiter = asyncio.create_task(collected(subscription))
        await turns()
        fleet.publish("news", 1)
        await turns()
    assert await waiter == [1]
    (mine,) = balanced(fleet).subscriptions
    assert (mine.name, mine.processed, mine.dropped) == ("sub-1", 1, 0)
    subscription.close()
    assert balanced(fleet).subscriptions == (mine,), "the end adds nothing to $retired, neither then nor afterwards"


async def test_cancelled_loops_lose_nothing() -> None:
    """However often waiting for a message is cancelled, every message is returned once, in order."""
    fleet, _ = fleet_of()
    seen = []
    async with fleet.subscribe("news") as subscription:
        for n in range(50):
            waiter = asyncio.ensure_future(anext(subscription))
            await turns(n % 3)
            if n % 2:
                fleet.publish("news", n)
                await turns(n % 4)
            waiter.cancel()
            await asyncio.wait([waiter])
            if not waiter.cancelled():
                seen.append(waiter.result().data)
        while subscription.stats().pending:
            seen.append((await anext(subscription)).data)
        assert seen == list(range(1, 50, 2))
        balanced(fleet)


async def test_two_loops_share_a_subscription() -> None:
    """Two loops over the same subscription share its messages, each gets its own in order, and both end."""
    fleet, _ = fleet_of()
    subscription = fleet.subscribe("news")
    loops = [asyncio.create_task(collected(subscription)) for _ in range(2)]
    for n in range(100):
        fleet.publish("news", n)
        await turns(n % 3)
    while subscription.stats().pending:
        await turns()
    subscription.close()
    one, two = [await loop for loop in loops]
    assert sorted(one + two) == list(range(100))
    assert one == sorted(one) and two == sorted(two)
    assert balanced(fleet).subscriptions[-1].processed == 100


async def test_batches_return_waiting_messages() -> None:
    """`batches()` returns non-empty lists of waiting messages, in order, all counted as processed."""
    fleet, _ = fleet_of()
    subscription = fleet.subscribe("news")
    for n in range(3):
        fleet.publish("news", n)
    batches = subscription.batches()
    assert [m.data for m in await anext(batches)] == [0, 1, 2]
    assert subscription.stats().processed == 3
    waiter = asyncio.ensure_future(anext(batches))
    await turns()
    fleet.publish("news", 3)
    fleet.publish("news", 4)
    assert [m.data for m in await waiter] == [3, 4]
    waiter = asyncio.ensure_future(anext(batches))
    await turns()
    waiter.cancel()
    await asyncio.wait([waiter])
    fleet.publish("news", 5)
    async for batch in batches:
        assert [m.data for m in batch] == [5]
        subscription.close()
    balanced(fleet)


async def test_a_batch_is_not_as_large_as_a_backlog() -> None:
    """Reading a huge backlog in batches does not block the loop."""
    fleet, _ = fleet_of()
    async with fleet.subscribe("news", buffer=Buffer(messages=10**6)) as subscription:
        for n in range(2500):
            fleet.publish("news", n)
        sizes, seen = [], []
        async for batch in subscription.batches():
            sizes.append(len(batch))
            seen += [m.data for m in batch]
            if not subscription.stats().pending:
                break
        assert max(sizes) <= 1000 and seen == list(range(2500))


async def test_batches_keep_their_subscription_alive() -> None:
    """A loop over `fleet.subscribe(...).batches()` keeps a reference to its subscription."""
    fleet, _ = fleet_of()
    batches = fleet.subscribe("news").batches()
    gc.collect()
    fleet.publish("news", 1)
    assert [m.data for m in await anext(batches)] == [1]
    fleet.subscriptions["sub-1"].close()


async def test_a_processors_subscription_is_not_for_loops() -> None:
    """A loop over the subscription of a processor raises Busy."""
    fleet, _ = fleet_of()
    seen: list[Any] = []
    fleet.process("news", name="mine")(keeper(seen))
    handle = fleet.subscriptions["mine"]
    fleet.publish("news", 1)
    for attempt in (handle.__aiter__, handle.batches):
        with pytest.raises(Busy):
            attempt()
    with pytest.raises(Busy):
        await anext(handle)
    assert handle.stats().pending == 1
    handle.close()


# Yielding to the event loop


async def drained(fleet: Fleet, count: int, batches: bool, body_s: float) -> None:
    async with fleet.subscribe("news", buffer=Buffer(messages=10**6)) as subscription:
        for n in range(count):
            fleet.publish("news", n)
        loop: Any = subscription.batches() if batches else subscription
        async for _ in loop:
            burn(body_s)
            if not subscription.stats().pending:
                return


@pytest.mark.parametrize("batches", [False, True])
async def test_a_loop_over_a_backlog_yields_to_the_loop(batches: bool) -> None:
    """A loop over a huge backlog, whose body awaits nothing, yields after about two milliseconds."""
    fleet, _ = fleet_of()
    if batches:
        # Each batch takes longer than that.
        assert await turns_while(drained(fleet, 20_000, True, 0.0025)) >= 20
    else:
        assert await turns_while(drained(fleet, 2_000, False, 0.000_1)) >= 2_000 // 20


# Subscriptions that are no longer referenced


async def test_an_unreferenced_subscription_is_detached() -> None:
    """When a subscription is no longer referenced, its messages are dropped, paused sources resumed, its name freed."""
    fleet, transport = fleet_of()
    fleet.connect(URI, name="feed")
    async with feeding(fleet, transport) as socket:
        subscription = fleet.subscribe("feed", name="mine", buffer=Buffer(messages=2))
        await socket.feed("1", "2")
        assert endpoint_row(fleet).paused_by == ("mine",)
        with pytest.warns(ResourceWarning, match="'mine'.*was not closed"):
            del subscription
        stats = balanced(fleet)
        assert [(r.name, r.dropped) for r in stats.subscriptions] == [("$retired", 2)]
        assert endpoint_row(fleet).paused_by == ()
        assert "mine" not in fleet.subscriptions
        async with fleet.subscribe("feed", name="mine") as again:
            await socket.feed("3")
            assert (await anext(again)).data == "3"
        balanced(fleet)


async def test_a_collected_subscription_resumes_its_endpoint_at_once() -> None:
    """An endpoint is resumed in one of the next iterations of the loop after the subscription that paused it is
    collected.
    """
    fleet, transport = fleet_of()
    fleet.connect(URI, name="feed")
    async with feeding(fleet, transport) as socket:
        subscription = fleet.subscribe("feed", buffer=Buffer(messages=1))
        await socket.feed("1")
        assert socket.paused
        with pytest.warns(ResourceWarning):
            del subscription
        await turns()
        assert not socket.paused
        await socket.feed("2")
        balanced(fleet)


async def test_an_unreferenced_subscription_is_detached_with_warnings_as_errors() -> None:
    """With warnings as errors, an unreferenced subscription is removed like any other."""
    fleet, _ = fleet_of()
    async with fleet:
        subscription = fleet.subscribe("news")
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr("sys.unraisablehook", lambda _: None)
                del subscription
        assert fleet.publish("news", 1) == 0
        assert balanced(fleet).hub.unrouted == 1


async def test_a_subscription_in_a_cycle_is_detached_by_the_collector() -> None:
    """A subscription that is only referenced by a cycle is removed when the garbage collector finds it."""
    fleet, _ = fleet_of()
    async with fleet:
        holder: dict[str, Any] = {"subscription": fleet.subscribe("news")}
        holder["self"] = holder
        del holder
        with pytest.warns(ResourceWarning):
            gc.collect()
        assert fleet.publish("news", 1) == 0


async def test_a_subscription_may_be_collected_in_another_thread() -> None:
    """If the last reference to a subscription is released in another thread, it is removed in the
    thread of the loop.
    """
    fleet, transport = fleet_of()
    fleet.connect(URI, name="feed")
    async with feeding(fleet, transport) as socket:
        # It was never looped over, so it knows no loop.
        holder = [fleet.subscribe("feed", name="mine", buffer=Buffer(messages=1))]
        await socket.feed("1")
        assert socket.paused
        removed_in: list[int] = []
        remove = fleet._registry.remove

        def watched(mailbox: Any, **options: Any) -> None:
            removed_in.append(threading.get_ident())
            remove(mailbox, **options)

        fleet._registry.remove = watched  # type: ignore[method-assign]
        with pytest.warns(ResourceWarning):
            await asyncio.to_thread(holder.clear)
        while socket.paused:
            await asyncio.sleep(0.001)
        assert removed_in == [threading.get_ident()]
        balanced(fleet)
        await asyncio.get_running_loop().shutdown_default_executor()


async def test_a_closed_or_ended_subscription_causes_no_warning() -> None:
    """No warning for a subscription that was closed, or whose fleet has ended."""
    fleet, _ = fleet_of()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        closed = fleet.subscribe("news")
        closed.close()
        del closed
        open_to_the_end = fleet.subscribe("news")
        async with fleet:
            pass
        del open_to_the_end
        gc.collect()


# `fleet.subscriptions`


async def test_the_subscriptions_are_a_read_only_mapping() -> None:
    """`fleet.subscriptions` contains processors and subscriptions by name, and is read-only."""
    fleet, _ = fleet_of()
    fleet.process("news", name="proc")(keeper([]))
    fleet.connect(URI, keeper([]), name="feed")
    async with fleet.subscribe("news.*", name="sub") as subscription:
        assert set(fleet.subscriptions) == {"proc", "feed", "sub"} and len(fleet.subscriptions) == 3
        assert fleet.subscriptions["sub"] is subscription
        assert [fleet.subscriptions[name].pattern for name in ("proc", "feed", "sub")] == ["news", ">", "news.*"]
        assert "other" not in fleet.subscriptions and fleet.subscriptions.get("other") is None
        with pytest.raises(TypeError):
            fleet.subscriptions["x"] = subscription  # type: ignore[index]
        with pytest.raises(TypeError):
            del fleet.subscriptions["sub"]  # type: ignore[attr-defined]
        assert isinstance(fleet.connections, types.MappingProxyType)
    assert set(fleet.subscriptions) == {"proc", "feed"}


# Loops over a connection


async def test_a_loop_over_a_connection_gets_its_messages() -> None:
    """`async for message in connection` uses its own subscription, which has the endpoint's name."""
    fleet, transport = fleet_of()
    connection = fleet.connect(URI, name="feed", topic="some.topic")
    fleet.connect("ws://other.test/", name="other", topic="some.topic")
    async with feeding(fleet, transport) as socket:
        other = await opened(fleet, transport, "other")
        waiter = asyncio.ensure_future(anext(aiter(connection)))
        await turns()
        assert fleet.subscriptions["feed-iter"].pattern == ">"
        await other.feed("no")
        await socket.feed("yes")
        assert (await waiter).data == "yes"
        assert row(fleet, "feed-iter").offered == 1
        balanced(fleet)


async def test_messages_are_kept_between_loops() -> None:
    """Messages that arrive before the first loop over a connection, or between two loops, are kept for the next."""
    fleet, transport = fleet_of()
    connection = fleet.connect(URI, name="feed")
    async with feeding(fleet, transport) as socket:
        await socket.feed("before any loop")
        waiter = asyncio.ensure_future(anext(aiter(connection)))
        await turns()
        await socket.feed("1", "2")
        assert (await waiter).data == "before any loop"
        await socket.feed("3")
        async for message in connection:
            if message.data == "2":
                break
        async for message in connection:
            assert message.data == "3"
            break
        assert list(fleet.subscriptions) == ["feed-iter"]
        assert balanced(fleet).hub.unrouted == 0


async def test_a_second_loop_at_the_same_time_is_busy() -> None:
    """A second loop over a connection raises Busy while the first one runs, whether it waits or is in its body."""
    fleet, transport = fleet_of()
    connection = fleet.connect(URI, name="feed")
    async with feeding(fleet, transport) as socket:
        waiter = asyncio.create_task(collected(aiter(connection)))
        await turns()
        with pytest.raises(Busy):
            aiter(connection)
        waiter.cancel()
        await asyncio.wait([waiter])
        await socket.feed("1", "2")
        async for _ in connection:
            with pytest.raises(Busy):
                async for _ in connection:
                    pass
            break
        async for message in connection:
            assert message.data == "2"
            break


async def test_a_kept_exception_does_not_prevent_another_loop() -> None:
    """A loop that ended, failed or was cancelled is over, even if its exception is kept with its traceback."""
    fleet, transport = fleet_of()
    connection = fleet.connect(Endpoint(URI, name="feed", reconnect=Reconnect(max_restarts=0)))
    async with feeding(fleet, transport) as socket:
        try:
            async with asyncio.timeout(0):
                async for _ in connection:
                    pass
        except TimeoutError:
            await socket.feed("1")
            async for message in connection:
                assert message.data == "1"
                break
        socket.lose()
        try:
            async for _ in connection:
                pass
        except EndpointFailed as error:
            connection.restart()
            socket = await opened(fleet, transport)
            await socket.feed("2")
            async for message in connection:
                assert message.data == "2"
                break
            kept = error
    assert kept.name == "feed"


async def test_a_cancelled_loop_may_continue() -> None:
    """Repeatedly waiting for one message with a deadline, on the same iterator, loses nothing and does
    not raise Busy.
    """
    fleet, transport = fleet_of()
    connection = fleet.connect(URI, name="feed")
    async with feeding(fleet, transport) as socket:
        loop = aiter(connection)
        for _ in range(3):
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(anext(loop), 0.001)
        await socket.feed("1")
        assert (await anext(loop)).data == "1"
        with pytest.raises(Busy):
            aiter(connection)


async def test_after_close_a_loop_gets_pending_messages_and_ends() -> None:
    """A loop over a connection that is closed returns the waiting messages, then ends, without a warning."""
    fleet, transport = fleet_of()
    connection = fleet.connect(URI, name="feed")
    async with feeding(fleet, transport) as socket:
        loop = aiter(connection)
        await socket.feed("1", "2", "3")
        assert (await anext(loop)).data == "1"
        await connection.close()
        assert "feed-iter" not in fleet.subscriptions
        assert balanced(fleet).subscriptions[-1].pending == 2
        assert await collected(loop) == ["2", "3"]
        assert await collected(aiter(connection)) == []
        (retired,) = balanced(fleet).subscriptions
        assert (retired.name, retired.processed, retired.dropped) == ("$retired", 3, 0)


async def test_closing_in_the_loops_own_body_ends_it_after_pending_messages() -> None:
    """`await connection.close()` in the body of the loop over it neither deadlocks nor loses a message."""
    fleet, transport = fleet_of()
    connection = fleet.connect(URI, name="feed")
    async with feeding(fleet, transport) as socket:
        loop = aiter(connection)
        await socket.feed("1", "2", "3")
        seen = []
        async for message in loop:
            seen.append(message.data)
            if message.data == "1":
                await connection.close()
        assert seen == ["1", "2", "3"]


async def test_after_failed_a_loop_gets_pending_messages_and_raises() -> None:
    """A loop over a failed connection returns the waiting messages, and raises EndpointFailed each time."""
    fleet, transport = fleet_of()
    connection = fleet.connect(URI, name="feed", reconnect=Reconnect(max_restarts=0))
    async with feeding(fleet, transport) as socket:
        loop = aiter(connection)
        await socket.feed("1", "2")
        socket.lose()
        while connection.state is not State.FAILED:
            await turns()
        assert (await anext(loop)).data == "1"
        assert (await anext(loop)).data == "2"
        for _ in range(2):
            with pytest.raises(EndpointFailed) as caught:
                await anext(loop)
            assert caught.value.name == "feed"
        balanced(fleet)


async def test_a_waiting_loop_gets_the_failure() -> None:
    """A loop that is waiting when the endpoint fails raises EndpointFailed."""
    fleet, transport = fleet_of()

    async def refuse(session: Any) -> None:
        raise Fatal("no")

    connection = fleet.connect(URI, name="feed", on_open=refuse)
    async with fleet:
        waiter = asyncio.create_task(collected(aiter(connection)))
        await transport.accept("feed")
        with pytest.raises(EndpointFailed):
            await waiter


async def test_an_unreferenced_closed_connection_drops_its_messages() -> None:
    """Messages that wait for the next loop over a closed connection are dropped when it is no longer referenced."""
    fleet, transport = fleet_of()
    connection = fleet.connect(URI, name="feed")
    async with feeding(fleet, transport) as socket:
        loop = aiter(connection)
        await socket.feed("1", "2")
        await connection.close()
        del loop, connection
        gc.collect()
        (retired,) = balanced(fleet).subscriptions
        assert (retired.pending, retired.dropped) == (0, 2)


async def test_closing_an_old_subscription_again_does_not_affect_a_new_one() -> None:
    """If a subscription is closed a second time after its name was reused, the new one is not affected."""
    fleet, transport = fleet_of()
    connection = fleet.connect(URI, name="feed")
    async with feeding(fleet, transport) as socket:
        await socket.feed("0")
        loop = aiter(connection)
        handle = fleet.subscriptions["feed-iter"]
        await socket.feed("1")
        await connection.close()
        again = fleet.connect(URI, name="feed")
        second = await opened(fleet, transport)
        new_loop = aiter(again)
        handle.close()
        assert "feed-iter" in fleet.subscriptions and fleet.subscriptions["feed-iter"] is not handle
        with pytest.raises(ConfigError):
            fleet.subscribe(">", name="feed-iter")
        assert await collected(loop) == []
        await second.feed("2")
        assert (await anext(new_loop)).data == "2"
        balanced(fleet)


async def test_the_next_loop_after_a_close_makes_a_new_subscription() -> None:
    """If its subscription was closed by name, the next loop over a connection makes a new one."""
    fleet, transport = fleet_of()
    connection = fleet.connect(URI, name="feed")
    async with feeding(fleet, transport) as socket:
        for _ in range(3):
            loop = aiter(connection)
            await socket.feed("1")
            assert (await anext(loop)).data == "1"
            fleet.subscriptions["feed-iter"].close()
            assert await collected(loop) == []
            del loop
        assert len(fleet._registry.own[connection._supervisor]) == 0
        balanced(fleet)


# Pausing an endpoint


async def test_a_new_socket_of_a_paused_endpoint_starts_paused() -> None:
    """After a reconnect, an endpoint whose subscription is still full is read until `on_open` returns, then paused."""
    fleet, transport = fleet_of()
    logins = []

    async def login(session: Any) -> None:
        logins.append((await session.recv()).data)

    fleet.connect(URI, name="feed", on_open=login, reconnect=Reconnect(initial_s=0))
    async with fleet, fleet.subscribe("feed", name="slow", buffer=Buffer(messages=2)) as slow:
        socket = await transport.accept("feed")
        await socket.feed("hello 1", "1", "2", "3")
        await fleet.connections["feed"].wait_open()
        await turns(5)
        assert socket.paused and endpoint_row(fleet).paused_by == ("slow",)
        socket.lose()
        socket = await transport.accept("feed")
        assert not socket.paused
        await socket.feed("hello 2", "4")
        await fleet.connections["feed"].wait_open()
        await turns(5)
        assert socket.paused and logins == ["hello 1", "hello 2"]
        feed = asyncio.create_task(socket.feed("5"))
        seen = [(await anext(slow)).data for _ in range(5)]
        await feed
        assert seen == ["1", "2", "3", "4", "5"]
        assert not socket.paused and endpoint_row(fleet).paused_by == ()
        balanced(fleet)


@pytest.mark.looptime
async def test_stats_contain_who_pauses_which_endpoint() -> None:
    """The stats contain who paused an endpoint and for how long; a slow subscription pauses no other endpoint."""
    fleet, transport = fleet_of()
    fleet.connect(URI, name="feed")
    fleet.connect("ws://other.test/", name="other")
    async with (
        fleet,
        fleet.subscribe("feed", name="slow", buffer=Buffer(messages=1)) as slow,
        fleet.subscribe(">", name="quick") as quick,
    ):
        socket, other = await opened(fleet, transport), await opened(fleet, transport, "other")
        await socket.feed("1")
        await other.feed("1")
        await asyncio.sleep(7)
        assert endpoint_row(fleet).paused_by == ("slow",) and endpoint_row(fleet).paused_s == 7
        assert endpoint_row(fleet, "other").paused_by == () and endpoint_row(fleet, "other").paused_s == 0
        assert (slow.stats().pausing_s, quick.stats().pausing_s) == (7, 0)
        await other.feed("2", "3")
        assert quick.stats().pending == 4
        slow.close()
        await asyncio.sleep(1)
        assert endpoint_row(fleet).paused_by == () and endpoint_row(fleet).paused_s == 7
        balanced(fleet)


@pytest.mark.looptime
async def test_an_endpoint_that_closes_while_paused_is_released() -> None:
    """If a paused endpoint is closed, or a subscription is closed after it, neither keeps a reference to the other."""
    fleet, transport = fleet_of()
    connection = fleet.connect(URI, name="feed")
    async with feeding(fleet, transport) as socket, fleet.subscribe("feed", buffer=Buffer(messages=1)) as slow:
        await socket.feed("1")
        await connection.close()
        paused_s = slow.stats().pausing_s
        await asyncio.sleep(1)
        assert slow.stats().pausing_s == paused_s
        assert balanced(fleet).endpoints[0].paused_by == ()


async def test_drop_oldest_pauses_no_endpoint() -> None:
    """A subscription that drops messages never pauses its endpoint."""
    fleet, transport = fleet_of()
    fleet.connect(URI, name="feed")
    dropping = fleet.subscribe("feed", buffer=Buffer(messages=2, overflow=DROP_OLDEST))
    async with feeding(fleet, transport) as socket, dropping:
        await socket.feed(*map(str, range(100)))
        assert not socket.paused
        assert [(await anext(dropping)).data for _ in range(2)] == ["98", "99"]
        assert balanced(fleet).subscriptions[0].dropped == 98


# Threads


async def test_other_threads_get_an_error_that_mentions_from_thread() -> None:
    """Methods that belong to the loop's thread raise an error in other threads, which mentions `from_thread`."""
    fleet, transport = fleet_of()
    connection = fleet.connect(URI, name="feed")
    async with feeding(fleet, transport):
        subscription = fleet.subscribe("news")
        calls = [
            subscription.close,
            subscription.stats,
            subscription.batches,
            subscription.__aiter__,
            connection.stats,
            connection.restart,
            connection.__aiter__,
            fleet.stats,
            lambda: fleet.publish("news", 1),
            lambda: fleet.subscribe("news"),
            lambda: fleet.process("news"),
            lambda: fleet.connect("ws://other.test/"),
        ]

        def elsewhere() -> list[str]:
            found = []
            for call in calls:
                with pytest.raises(FleetError) as caught:
                    call()
                found.append(str(caught.value))
            return found

        errors = await asyncio.to_thread(elsewhere)
        assert all("from_thread" in text for text in errors) and len(errors) == len(calls)
        assert (await asyncio.to_thread(fleet.from_thread, subscription.stats)).name == "sub-1"
        await asyncio.to_thread(fleet.from_thread, subscription.close)
        assert "sub-1" not in fleet.subscriptions
        await asyncio.get_running_loop().shutdown_default_executor()


def test_a_fleet_declared_in_one_thread_runs_in_another() -> None:
    """A subscription made before the start belongs to the thread that runs the fleet."""
    fleet, _ = fleet_of()
    subscription = fleet.subscribe("news")
    outcome: list[Any] = []

    async def main() -> None:
        async with fleet:
            fleet.publish("news", 1)
            outcome.append((await anext(subscription)).data)
            subscription.close()

    thread = threading.Thread(target=lambda: asyncio.run(main()))
    thread.start()
    thread.join()
    assert outcome == [1]
