"""Starting, waiting for and closing a fleet, in each way in which a program may do it."""

import asyncio
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from wsfleet import Connection, Fleet, Message, Reconnect, State, Subscription
from wsfleet.core import errors
from wsfleet.core.errors import ConfigError, ConnectFailed, FleetError, HandshakeRejected
from wsfleet.testing import FakeTransport, FeedServer

URI = "ws://feed.test/"


class Taken(list[str]):
    """A processor that records its messages."""

    async def __call__(self, message: Message[str]) -> None:
        self.append(message.data)

    async def until(self, count: int) -> None:
        while len(self) < count:
            await asyncio.sleep(0.001)


async def test_serve_in_a_task_group_beside_another_task() -> None:
    """serve() works in a TaskGroup; close() from another task ends it, and the group continues to its own end."""
    taken = Taken()
    async with FeedServer() as server:
        fleet = Fleet()
        fleet.connect(server.uri, taken)
        async with asyncio.TaskGroup() as group:
            group.create_task(fleet.serve())
            await server.wait_clients(1)
            await server.send("a", "b")
            await taken.until(2)
            await fleet.close()
        assert taken == ["a", "b"]
        assert fleet.stats().balanced


async def test_the_failure_of_another_task_ends_serve() -> None:
    """If another task in the TaskGroup fails, the group cancels serve(), and only that failure is raised."""
    async with FeedServer() as server:
        fleet = Fleet()
        connection = fleet.connect(server.uri)
        with pytest.raises(ExceptionGroup) as caught:
            async with asyncio.TaskGroup() as group:
                group.create_task(fleet.serve())
                await connection.wait_open()
                raise ZeroDivisionError
        assert [type(error) for error in caught.value.exceptions] == [ZeroDivisionError]
        assert connection.state is State.CLOSED


async def test_serve_in_gather_with_another_coroutine() -> None:
    """gather(fleet.serve(), other()) works, and other() may close the fleet."""
    taken = Taken()
    async with FeedServer() as server:
        fleet = Fleet()
        connection = fleet.connect(server.uri, taken)

        async def other() -> str:
            await connection.wait_open()
            await server.send("x")
            await taken.until(1)
            await fleet.close()
            return "done"

        assert await asyncio.gather(fleet.serve(), other()) == [None, "done"]
        assert taken == ["x"]


async def test_two_fleets_in_one_gather_are_independent() -> None:
    """Two fleets run side by side; the end of one does not affect the other."""
    one, two = Fleet(name="one"), Fleet(name="two")
    first, second = Taken(), Taken()
    async with FeedServer() as server:
        a = one.connect(server.uri, first, name="feed")
        b = two.connect(server.uri, second, name="feed")

        async def script() -> None:
            await asyncio.gather(a.wait_open(), b.wait_open())
            await server.send("both")
            await first.until(1)
            await one.close()
            assert (a.state, b.state) == (State.CLOSED, State.OPEN)
            await server.send("two")
            await second.until(2)
            await two.close()

        await asyncio.gather(one.serve(), two.serve(), script())
    assert (first, second) == (["both"], ["both", "two"])
    assert one.stats().balanced
    assert two.stats().balanced


@pytest_asyncio.fixture
async def fixture_fleet() -> AsyncIterator[tuple[Fleet, FakeTransport]]:
    """The context may be entered in one task and left in another."""
    transport = FakeTransport()
    async with Fleet(transport=transport) as fleet:
        yield fleet, transport
    assert fleet.stats().balanced


async def test_a_context_may_be_entered_and_left_in_different_tasks(
    fixture_fleet: tuple[Fleet, FakeTransport],
) -> None:
    """A fleet as a pytest fixture works in the test's task, and is drained in the task that ends it."""
    fleet, transport = fixture_fleet
    taken = Taken()
    fleet.connect(URI, taken, name="feed")
    socket = await transport.accept()
    await socket.feed("a")
    await fleet.connections["feed"].send("b")
    assert await socket.next_sent() == "b"
    while taken != ["a"]:
        await asyncio.sleep(0)


async def test_a_context_entered_and_left_in_tasks_that_are_over() -> None:
    """The tasks that enter and leave the context may end before, and need not be the task of the body."""
    transport = FakeTransport()
    fleet = Fleet(transport=transport)
    connection = fleet.connect(URI)
    await asyncio.create_task(fleet.__aenter__())
    await transport.accept()
    await connection.wait_open()
    await asyncio.create_task(fleet.__aexit__(None, None, None))
    assert connection.state is State.CLOSED


@pytest.mark.parametrize("again", ["serve", "context", "run"])
@pytest.mark.parametrize("when", ["running", "ended"])
async def test_a_second_start_is_refused(when: str, again: str) -> None:
    """A fleet runs once: while it runs and after its end, each way to start it raises FleetError."""
    fleet = Fleet(transport=FakeTransport())

    async def start() -> None:
        with pytest.raises(FleetError):
            if again == "serve":
                await fleet.serve()
            elif again == "context":
                await fleet.__aenter__()
            else:
                await asyncio.to_thread(fleet.run)

    async with fleet:
        if when == "running":
            await start()
    if when == "ended":
        await start()


async def test_run_inside_a_running_loop_mentions_run_async() -> None:
    """run() in a coroutine raises an error that mentions run_async(), and the fleet can still be started."""
    fleet = Fleet(transport=FakeTransport())
    with pytest.raises(FleetError, match="run_async"):
        fleet.run()
    async with fleet:
        pass


async def test_declarations_before_and_after_the_start_take_effect() -> None:
    """Connections, processors and subscriptions start at once, whether they are declared before or after the start."""
    transport = FakeTransport()
    fleet = Fleet(transport=transport)
    early, late, own = Taken(), Taken(), Taken()
    fleet.process(">", name="early")(early)
    fleet.connect(URI, name="one")
    async with fleet:
        one = await transport.accept("one")
        await one.feed("1")
        fleet.process(">", name="late")(late)
        subscription = fleet.subscribe("two")
        two = fleet.connect(URI, own, name="two")
        assert two.state is State.CONNECTING
        socket = await transport.accept("two")
        await socket.feed("2")
        await one.feed("3")
        assert (await anext(subscription)).data == "2"
        assert [*fleet.connections] == ["one", "two"]
        assert set(fleet.subscriptions) == {"early", "late", "sub-1", "two"}
        subscription.close()
    assert (early, late, own) == (["1", "2", "3"], ["2", "3"], ["2"])


async def test_nothing_is_declared_once_the_end_has_begun() -> None:
    """After close(), declarations, and after the end publish(), raise FleetError."""
    fleet = Fleet(transport=FakeTransport())
    raised = []

    async def processor(message: Message[str]) -> None:
        asking = asyncio.create_task(fleet.close())
        await asyncio.sleep(0)
        assert fleet.publish("drain", "x") == 0
        for declare in declarations:
            try:
                declare()
            except FleetError as error:
                raised.append(error)
        asking.cancel()

    declarations = [
        lambda: fleet.connect(URI),
        lambda: fleet.process("x")(processor),
        lambda: fleet.subscribe("x"),
    ]
    fleet.process("go")(processor)
    async with fleet:
        fleet.publish("go", "")
        await fleet.wait()
    assert len(raised) == 3
    for declare in (*declarations, lambda: fleet.publish("x", "")):
        with pytest.raises(FleetError):
            declare()


async def test_close_before_the_start() -> None:
    """close() before the start ends the fleet: connections are CLOSED, waits and loops end, and it
    cannot be started.
    """
    fleet = Fleet(transport=FakeTransport())
    connection = fleet.connect(URI)
    subscription = fleet.subscribe(">")
    waiting = asyncio.create_task(connection.wait_open())
    looping = asyncio.create_task(anext(subscription))
    await asyncio.sleep(0)
    await fleet.close()
    await fleet.close()
    assert connection.state is State.CLOSED
    with pytest.raises(errors.NotOpen):
        await waiting
    with pytest.raises(StopAsyncIteration):
        await looping
    await fleet.wait()
    with pytest.raises(FleetError):
        await fleet.serve()
    assert fleet.stats().balanced


async def test_a_connection_closed_before_the_start_is_gone() -> None:
    """close() of a connection before the start frees its name and ends waits for it to open."""
    transport = FakeTransport()
    fleet = Fleet(transport=transport)
    first = fleet.connect(URI, name="feed")
    waiting = asyncio.create_task(first.wait_open())
    await asyncio.sleep(0)
    await first.close()
    with pytest.raises(errors.NotOpen):
        await waiting
    second = fleet.connect(URI, name="feed")
    async with fleet:
        await transport.accept("feed")
        await second.wait_open()
        assert first.state is State.CLOSED


async def test_close_and_wait_after_the_end_return() -> None:
    """close() and wait() after the end of the fleet return at once; restart() and send() raise NotOpen."""
    fleet = Fleet(transport=FakeTransport())
    connection = fleet.connect(URI)
    async with fleet:
        pass
    await fleet.close()
    await fleet.wait()
    await connection.close()
    with pytest.raises(errors.NotOpen):
        connection.restart()
    with pytest.raises(errors.NotOpen):
        await connection.send("x")


def test_stats_and_close_work_in_another_loop_after_run() -> None:
    """After run(), stats() and close() work without the fleet's loop and thread."""
    transport = FakeTransport()
    fleet = Fleet(transport=transport)
    transport.refuse(HandshakeRejected(404))
    connection = fleet.connect(URI, name="feed")
    fleet.run()
    assert fleet.stats().balanced
    assert connection.state is State.FAILED

    async def late() -> None:
        await fleet.close()
        await fleet.wait()
        await connection.close()

    asyncio.run(late())


@pytest.mark.looptime
async def test_a_fleet_without_endpoints_waits_for_close() -> None:
    """A fleet without endpoints runs until close()."""
    fleet = Fleet(transport=FakeTransport())
    serving = asyncio.create_task(fleet.serve())
    await asyncio.sleep(600.0)
    assert not serving.done()
    await fleet.close()
    await serving


@pytest.mark.looptime
async def test_wait_returns_when_every_endpoint_has_ended() -> None:
    """wait() and serve() end when the last endpoint is CLOSED or FAILED, and not before."""
    transport = FakeTransport()
    fleet = Fleet(transport=transport)
    one, two = fleet.connect(URI, name="one"), fleet.connect(URI, name="two")
    serving = asyncio.create_task(fleet.serve())
    await transport.accept("one")
    await two_waits(transport, fleet, one)
    transport.refuse(HandshakeRejected(410))
    await serving
    await fleet.wait()
    assert (one.state, two.state) == (State.CLOSED, State.FAILED)


async def two_waits(transport: FakeTransport, fleet: Fleet, one: Connection) -> None:
    await one.close()
    waiting = asyncio.create_task(fleet.wait())
    await asyncio.sleep(60.0)
    assert not waiting.done()
    waiting.cancel()
    await asyncio.sleep(0)
    assert waiting.cancelled()


async def test_wait_before_the_start_raises() -> None:
    """wait() for a fleet that was not started raises an error instead of waiting for ever."""
    with pytest.raises(FleetError, match="not started"):
        await Fleet(transport=FakeTransport()).wait()


@pytest.mark.looptime
async def test_cancelling_wait_or_close_does_not_affect_the_fleet() -> None:
    """Cancelling a wait cancels nothing else; a close() that has begun continues."""
    transport = FakeTransport()
    fleet = Fleet(transport=transport)
    busy = asyncio.Event()

    async def processor(message: Message[str]) -> None:
        busy.set()
        await asyncio.sleep(5.0)

    connection = fleet.connect(URI, processor)
    serving = asyncio.create_task(fleet.serve())
    socket = await transport.accept()
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(fleet.wait(), 1.0)
    await socket.feed("x")
    await busy.wait()
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(fleet.close(), 1.0)
    assert connection.state is State.OPEN
    await serving
    assert connection.state is State.CLOSED
    assert fleet.stats().subscriptions[0].processed == 1


@pytest.mark.looptime
@pytest.mark.parametrize("state", ["CONNECTING", "on_open", "OPEN", "BACKOFF", "FAILED", "CLOSED"])
async def test_a_connection_is_closed_in_every_state(state: str) -> None:
    """close() works in each state: CLOSED, the name is free, the row is added to $retired, and the counts balance."""
    transport = FakeTransport()

    async def on_open(session: object) -> None:
        if state == "on_open":
            await asyncio.sleep(10**6)

    if state == "BACKOFF":
        transport.refuse(ConnectFailed("tcp", "no"))
    if state == "FAILED":
        transport.refuse(HandshakeRejected(404))
    fleet = Fleet(transport=transport)
    taken = Taken()
    connection = fleet.connect(URI, taken, name="feed", on_open=on_open, reconnect=Reconnect(initial_s=9, jitter=0.0))
    fleet.connect("ws://other.test/", name="other")
    async with fleet:
        await asyncio.sleep(1.0)
        if state in ("on_open", "OPEN", "CLOSED"):
            socket = await transport.accept("feed")
            await socket.feed("a", "b")
            await asyncio.sleep(1.0)
        if state == "CLOSED":
            await connection.close()
        assert connection.state.value == {"on_open": "CONNECTING"}.get(state, state)
        await connection.close()
        assert connection.state is State.CLOSED
        assert "feed" not in fleet.connections
        assert "feed" not in fleet.subscriptions
        stats = fleet.stats()
        assert stats.balanced
        assert [row.name for row in stats.endpoints] == ["other", "$retired"]
        assert stats.endpoints[-1].received == len(taken) + stats.endpoints[-1].discarded
        again = fleet.connect(URI, name="feed")
        await transport.accept("feed")
        await again.wait_open()
        assert connection.state is State.CLOSED
    assert taken == (["a", "b"] if state in ("OPEN", "CLOSED") else [])


@pytest.mark.looptime
async def test_closing_lets_the_own_processor_finish() -> None:
    """Pending messages are processed for up to drain_s; then a hanging call is cancelled, and the rest dropped."""
    transport = FakeTransport()
    fleet = Fleet(transport=transport, drain_s=10.0)
    done: list[str] = []

    async def quick(message: Message[str]) -> None:
        await asyncio.sleep(2.0)
        done.append(message.data)

    async def slow(message: Message[str]) -> None:
        await asyncio.sleep(10**6)

    one, two = fleet.connect(URI, quick, name="one"), fleet.connect(URI, slow, name="two")
    fleet.connect(URI, name="stays")
    async with fleet:
        for name in ("one", "two"):
            await (await transport.accept(name)).feed("a", "b", "c")
        loop = asyncio.get_running_loop()
        began = loop.time()
        await one.close()
        assert done == ["a", "b", "c"]
        assert loop.time() - began == pytest.approx(6.0)
        began = loop.time()
        await two.close()
        assert loop.time() - began == pytest.approx(10.0)
        row = fleet.stats().subscriptions[-1]
        assert (row.name, row.processed, row.failed, row.dropped, row.pending) == ("$retired", 3, 1, 2, 0)
        assert fleet.stats().balanced


@pytest.mark.looptime
@pytest.mark.parametrize("where", ["processor", "a processor's task", "on_open"])
@pytest.mark.parametrize("what", ["connection", "fleet"])
async def test_close_in_a_processor_or_on_open_does_not_wait(where: str, what: str) -> None:
    """A processor or on_open that closes its connection or the fleet continues to its end, and is not waited for.

    This includes a task that the processor awaits, for example in `asyncio.wait_for` up to Python 3.11.
    """
    transport = FakeTransport()
    fleet = Fleet(transport=transport)
    after: list[str] = []

    async def close() -> None:
        closing = fleet.close() if what == "fleet" else fleet.connections["feed"].close()
        await (asyncio.create_task(closing) if where == "a processor's task" else closing)
        after.append("returned")

    async def processor(message: Message[str]) -> None:
        if where != "on_open":
            await close()
            await asyncio.sleep(1.0)
            after.append("finished")

    async def on_open(session: object) -> None:
        if where == "on_open":
            await close()

    connection = fleet.connect(URI, processor, name="feed", on_open=on_open)
    serving = asyncio.create_task(fleet.serve())
    socket = await transport.accept()
    if where != "on_open":
        await socket.feed("x")
    await serving
    assert after == (["returned", "finished"] if where != "on_open" else ["returned"])
    assert connection.state is State.CLOSED
    assert fleet.stats().balanced
    assert sum(row.failed for row in fleet.stats().subscriptions) == 0


@pytest.mark.looptime
async def test_two_processors_that_close_each_others_connection() -> None:
    """Two processors that close each other's connections both finish, without a deadlock."""
    transport = FakeTransport()
    fleet = Fleet(transport=transport)
    ended: list[str] = []

    async def closes_two(message: Message[str]) -> None:
        await two.close()
        ended.append("one")

    async def closes_one(message: Message[str]) -> None:
        await one.close()
        ended.append("two")

    one, two = fleet.connect(URI, closes_two, name="one"), fleet.connect(URI, closes_one, name="two")
    serving = asyncio.create_task(fleet.serve())
    sockets = [await transport.accept("one"), await transport.accept("two")]
    await asyncio.gather(*(socket.feed("x") for socket in sockets))
    await serving
    assert sorted(ended) == ["one", "two"]
    assert asyncio.get_running_loop().time() < 1.0


@pytest.mark.looptime
async def test_a_loop_over_a_connection_ends_with_it() -> None:
    """`async for` returns pending messages, then ends after CLOSED, and raises EndpointFailed after FAILED."""
    transport = FakeTransport()
    fleet = Fleet(transport=transport)
    one = fleet.connect(URI, name="one")
    two = fleet.connect(URI, name="two", reconnect=Reconnect(max_restarts=0))
    fleet.connect(URI, name="stays")

    async def take(connection: Connection, taken: list[str]) -> None:
        async for message in connection:
            taken.append(message.data)
            await asyncio.sleep(1.0)

    async with fleet:
        first, second = await transport.accept("one"), await transport.accept("two")
        ones: list[str] = []
        twos: list[str] = []
        taking = [asyncio.create_task(take(one, ones)), asyncio.create_task(take(two, twos))]
        await asyncio.sleep(0)
        await first.feed("a", "b", "c")
        await second.feed("a", "b", "c")
        await one.close()
        second.lose()
        await taking[0]
        with pytest.raises(errors.EndpointFailed):
            await taking[1]
        assert (ones, twos) == (["a", "b", "c"], ["a", "b", "c"])
        assert fleet.stats().balanced


async def test_stats_before_during_and_after() -> None:
    """stats() works at any time; a snapshot does not change."""
    transport = FakeTransport()
    fleet = Fleet(transport=transport, name="watched")
    connection = fleet.connect(URI, name="feed")
    before = fleet.stats()
    assert (before.name, before.uptime_s, before.balanced) == ("watched", 0.0, True)
    async with fleet:
        socket = await transport.accept()
        await connection.wait_open()
        during = fleet.stats()
        await socket.feed("x")
        assert during.endpoints[0].received == 0
        assert fleet.stats().endpoints[0].received == 1
        assert connection.stats() == fleet.stats().endpoints[0]
    after = fleet.stats()
    assert after.endpoints[0].state == "CLOSED"
    assert after == fleet.stats()


async def test_subscriptions_end_with_the_fleet() -> None:
    """Every loop over a subscription ends with the fleet."""
    fleet = Fleet(transport=FakeTransport())
    looping: list[asyncio.Task[list[object]]] = []

    async def take(subscription: Subscription) -> list[object]:
        return [message.data async for message in subscription]

    async with fleet:
        looping = [asyncio.create_task(take(fleet.subscribe("x"))) for _ in range(2)]
        await asyncio.sleep(0)
        fleet.publish("x", 1)
        await asyncio.sleep(0.01)
    assert [await task for task in looping] == [[1], [1]]


def test_process_names_all_faults() -> None:
    """process() raises one ConfigError with the faults of the pattern, the name and all options."""
    with pytest.raises(ConfigError) as caught:
        Fleet().process("a..b", name="a b", concurrency=0, timeout_s=-1)
    assert [field for field, _ in caught.value.faults] == ["pattern", "name", "concurrency", "timeout_s"]
