"""`required=True`: if this endpoint fails, the fleet fails."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from wsfleet import Connection, Endpoint, Fleet, Message, Session, State
from wsfleet.core.errors import EndpointFailed, Fatal, HandshakeRejected
from wsfleet.testing import FakeTransport

URI = "ws://feed.test/"


def fleet_with_one_required(transport: FakeTransport) -> tuple[Fleet, Connection]:
    fleet = Fleet(transport=transport)
    fleet.connect("ws://other.test/", name="other")
    return fleet, fleet.connect(URI, name="feed", required=True)


async def fail(transport: FakeTransport) -> None:
    """Let the required endpoint open, run for a while, and then fail for good."""
    await transport.accept("other")
    socket = await transport.accept("feed")
    await asyncio.sleep(5.0)
    transport.refuse(HandshakeRejected(403))
    socket.lose()


def check(error: BaseException, connection: Connection) -> None:
    assert type(error) is EndpointFailed
    assert error.name == "feed"
    assert "403" in str(error)
    assert isinstance(error.__cause__, HandshakeRejected)
    assert connection.state is State.FAILED


@pytest.mark.looptime
async def test_serve_raises_one_endpoint_failed() -> None:
    """serve() raises EndpointFailed with the endpoint's name, not a group, after the fleet has ended."""
    transport = FakeTransport()
    fleet, connection = fleet_with_one_required(transport)
    failing = asyncio.create_task(fail(transport))
    with pytest.raises(EndpointFailed) as caught:
        await fleet.serve()
    await failing
    check(caught.value, connection)
    assert fleet.connections["other"].state is State.CLOSED
    assert fleet.stats().balanced


@pytest.mark.looptime
async def test_the_body_is_cancelled_and_the_context_raises() -> None:
    """Whatever the body awaits, it is cancelled; the context raises EndpointFailed; the task is not cancelled
    afterwards.
    """
    transport = FakeTransport()
    fleet, connection = fleet_with_one_required(transport)
    failing = asyncio.create_task(fail(transport))
    body: list[BaseException] = []
    with pytest.raises(EndpointFailed) as caught:
        async with fleet:
            try:
                await asyncio.sleep(10**6)
            except BaseException as exc:
                body.append(exc)
                raise
    await failing
    check(caught.value, connection)
    assert [type(exc) for exc in body] == [asyncio.CancelledError]
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0
    await asyncio.sleep(1.0)


@pytest.mark.looptime
async def test_wait_in_the_body_raises_and_so_does_the_context() -> None:
    """A body that is in wait() gets EndpointFailed there, and the context raises it once."""
    transport = FakeTransport()
    fleet, connection = fleet_with_one_required(transport)
    failing = asyncio.create_task(fail(transport))
    seen: list[BaseException] = []
    with pytest.raises(EndpointFailed) as caught:
        async with fleet:
            try:
                await fleet.wait()
            except BaseException as exc:
                seen.append(exc)
                raise
    await failing
    check(caught.value, connection)
    assert seen == [caught.value]


@pytest.mark.looptime
async def test_a_body_that_suppresses_the_error_of_wait_does_not_hide_it() -> None:
    """The context raises EndpointFailed even if the body has caught it, or its cancellation."""
    for waiting in ("wait", "sleep"):
        transport = FakeTransport()
        fleet, connection = fleet_with_one_required(transport)
        failing = asyncio.create_task(fail(transport))
        with pytest.raises(EndpointFailed) as caught:
            async with fleet:
                try:
                    await (fleet.wait() if waiting == "wait" else asyncio.sleep(10**6))
                except (EndpointFailed, asyncio.CancelledError):
                    pass
        await failing
        check(caught.value, connection)
        task = asyncio.current_task()
        assert task is not None
        assert task.cancelling() == 0


@pytest.mark.looptime
async def test_wait_in_other_tasks_raises_too() -> None:
    """Each waiter gets the error: tasks in wait() raise it, and the context does."""
    transport = FakeTransport()
    fleet, connection = fleet_with_one_required(transport)
    failing = asyncio.create_task(fail(transport))
    waiting: list[asyncio.Task[None]] = []
    with pytest.raises(EndpointFailed):
        async with fleet:
            waiting = [asyncio.create_task(fleet.wait()) for _ in range(3)]
            await asyncio.sleep(10**6)
    await failing
    for result in await asyncio.gather(*waiting, return_exceptions=True):
        assert isinstance(result, EndpointFailed)
        check(result, connection)
    with pytest.raises(EndpointFailed):
        await fleet.wait()


@pytest.mark.looptime
async def test_a_task_group_in_the_body_is_cancelled_with_it() -> None:
    """A body with a TaskGroup ends with all of its tasks, and one EndpointFailed is raised."""
    transport = FakeTransport()
    fleet, connection = fleet_with_one_required(transport)
    ended: list[int] = []

    async def child(n: int) -> None:
        try:
            await asyncio.sleep(10**6)
        finally:
            ended.append(n)

    with pytest.raises(EndpointFailed) as caught:
        async with fleet, asyncio.TaskGroup() as group:
            group.create_task(fail(transport))
            for n in range(3):
                group.create_task(child(n))
    check(caught.value, connection)
    assert sorted(ended) == [0, 1, 2]


@pytest.mark.looptime
async def test_the_bodys_own_exception_is_raised() -> None:
    """If the cancelled body raises another exception, it is raised unchanged."""
    transport = FakeTransport()
    fleet, _ = fleet_with_one_required(transport)
    failing = asyncio.create_task(fail(transport))
    with pytest.raises(ZeroDivisionError):
        async with fleet:
            try:
                await asyncio.sleep(10**6)
            finally:
                raise ZeroDivisionError
    await failing


@pytest.mark.looptime
async def test_a_cancellation_from_outside_is_kept() -> None:
    """If the task of the body was also cancelled from outside, it stays cancelled."""
    transport = FakeTransport()
    fleet, _ = fleet_with_one_required(transport)

    async def context() -> None:
        async with fleet:
            try:
                await asyncio.sleep(10**6)
            except asyncio.CancelledError:
                running.cancel()  # a second one, before the first has ended the body
                raise

    running = asyncio.create_task(context())
    await fail(transport)
    with pytest.raises(asyncio.CancelledError):
        await running


@pytest.mark.looptime
async def test_a_failure_skips_the_drain() -> None:
    """The fleet ends at once: current calls are cancelled."""
    transport = FakeTransport()
    fleet, _ = fleet_with_one_required(transport)
    fleet.process("work", name="work")(hang)
    failing = asyncio.create_task(fail(transport))
    with pytest.raises(EndpointFailed):
        async with fleet:
            fleet.publish("work", 1)
            fleet.publish("work", 2)
            await fleet.wait()
    await failing
    row = next(each for each in fleet.stats().subscriptions if each.name == "work")
    assert (row.failed, row.dropped) == (1, 1)
    assert asyncio.get_running_loop().time() < 60.0


async def hang(message: Message[object]) -> None:
    await asyncio.sleep(10**6)


@pytest.mark.looptime
async def test_two_required_endpoints_that_fail_together_are_one_failure() -> None:
    """If several required endpoints fail, one exception is raised, with the first one."""
    transport = FakeTransport()
    fleet = Fleet(transport=transport)

    async def on_open(session: Session) -> None:
        raise Fatal("no")

    for n in range(5):
        fleet.connect(Endpoint(URI, name=f"n{n}", required=True, on_open=on_open))
    serving = asyncio.create_task(fleet.serve())
    for _ in range(5):
        await transport.accept()
    with pytest.raises(EndpointFailed) as caught:
        await serving
    assert caught.value.name == "n0"


@pytest.mark.looptime
async def test_the_failure_of_an_endpoint_that_is_not_required_affects_no_other() -> None:
    """FAILED of an endpoint that is not required raises nothing, and the others continue."""
    transport = FakeTransport()
    fleet = Fleet(transport=transport)
    transport.refuse(HandshakeRejected(404))
    failed = fleet.connect(URI, name="feed")
    other = fleet.connect("ws://other.test/", name="other")
    async with fleet:
        await transport.accept("other")
        await asyncio.sleep(60.0)
        assert (failed.state, other.state) == (State.FAILED, State.OPEN)
    assert failed.state is State.FAILED
    await fleet.wait()


@pytest.mark.looptime
async def test_closing_a_required_endpoint_is_no_failure() -> None:
    """A required endpoint that is closed, or restarted in time, does not end the fleet."""
    transport = FakeTransport()
    fleet, connection = fleet_with_one_required(transport)
    async with fleet:
        await transport.accept("feed")
        connection.restart()
        await transport.accept("feed")
        await connection.close()
        assert connection.state is State.CLOSED


def test_run_raises_it() -> None:
    """run() raises the one EndpointFailed."""
    transport = FakeTransport()
    transport.refuse(HandshakeRejected(401))
    fleet = Fleet(transport=transport)
    fleet.connect(URI, name="feed", required=True)
    with pytest.raises(EndpointFailed) as caught:
        fleet.run()
    assert caught.value.name == "feed"


@pytest.mark.looptime
async def test_a_context_entered_by_a_task_that_is_over() -> None:
    """If the task that entered has ended, as with a fixture, none is cancelled; leaving the context
    raises the error.
    """
    transport = FakeTransport()
    fleet, connection = fleet_with_one_required(transport)

    async def fixture() -> AsyncIterator[None]:
        async with fleet:
            yield

    setup = fixture()
    await asyncio.create_task(anext(setup))  # type: ignore[arg-type]
    await fail(transport)
    await asyncio.sleep(5.0)
    assert connection.state is State.FAILED
    with pytest.raises(EndpointFailed):
        await asyncio.create_task(anext(setup, None))  # type: ignore[arg-type]
