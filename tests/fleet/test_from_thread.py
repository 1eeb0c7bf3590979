"""A fleet belongs to the thread of its loop; other threads use `from_thread`."""

import asyncio
import concurrent.futures
import inspect
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from wsfleet import Fleet, Session
from wsfleet.core.errors import FleetError, NotOpen
from wsfleet.testing import FakeTransport

URI = "ws://feed.test/"


class Running:
    """A fleet that runs in another thread than the test."""

    def __init__(self) -> None:
        self.transport = FakeTransport()
        self.fleet = Fleet(transport=self.transport)
        self.connection = self.fleet.connect(URI, name="feed")
        self.subscription = self.fleet.subscribe(">")
        self.sessions: list[Session] = []
        self.thread = threading.Thread(target=self.fleet.run, name="the fleet's")

    def start(self) -> None:
        self.thread.start()
        while True:
            try:
                self.fleet.from_thread(self.transport.accept)
                return
            except FleetError:  # it has not started yet
                time.sleep(0.001)

    def stop(self) -> None:
        try:
            self.fleet.from_thread(self.fleet.close)
        except FleetError:
            pass
        self.thread.join()


@contextmanager
def running() -> Iterator[Running]:
    it = Running()
    it.start()
    try:
        yield it
    finally:
        it.stop()


def test_functions_and_coroutines_return_their_results() -> None:
    """from_thread calls the function in the thread of the loop, awaits an awaitable result, and returns it."""
    with running() as it:
        call = it.fleet.from_thread
        assert call(threading.get_ident) == it.thread.ident
        assert call(lambda *args: args, 1, 2) == (1, 2)

        async def double(n: int) -> int:
            await asyncio.sleep(0.001)
            return 2 * n

        assert call(double, 21) == 42
        assert call(lambda: asyncio.get_running_loop().create_task(double(4))) == 8
        assert call(it.fleet.publish, "x.y", 1) == 1
        assert call(it.connection.send, "x") is None
        assert call(it.fleet.stats).balanced
        late = call(it.fleet.subscribe, "late")
        call(late.close)
        call(it.subscription.close)


@pytest.mark.parametrize("error", [ValueError("mine"), TimeoutError("mine"), KeyError("mine")])
def test_exceptions_are_raised_in_the_calling_thread(error: Exception) -> None:
    """An exception of the function or coroutine is raised in the calling thread, and the fleet continues."""

    def plain() -> None:
        raise error

    async def later() -> None:
        await asyncio.sleep(0.001)
        raise error

    with running() as it:
        for function in (plain, later):
            with pytest.raises(type(error)) as caught:
                it.fleet.from_thread(function)
            assert caught.value is error
        with pytest.raises(NotOpen):
            it.fleet.from_thread(send_too_early, it.fleet)
        assert it.fleet.from_thread(lambda: "alive") == "alive"


async def send_too_early(fleet: Fleet) -> None:
    await fleet.connect("ws://early.test/").send("x")


def test_a_cancelled_awaitable_raises_cancelled_error() -> None:
    """A cancelled awaitable raises CancelledError in the calling thread, not FleetError."""

    async def cancelled() -> None:
        future = asyncio.get_running_loop().create_future()
        future.cancel()
        await future

    with running() as it, pytest.raises(asyncio.CancelledError):
        it.fleet.from_thread(cancelled)


def test_before_the_start_and_after_the_end() -> None:
    """Without a running loop, from_thread raises FleetError."""
    with running() as it:
        pass
    for fleet in (it.fleet, Fleet(transport=FakeTransport())):
        with pytest.raises(FleetError):
            fleet.from_thread(lambda: None)


async def test_from_the_fleets_own_thread() -> None:
    """In the thread of the loop, from_thread raises FleetError at once, because it would wait for itself."""
    async with Fleet(transport=FakeTransport()) as fleet:
        with pytest.raises(FleetError, match="own"):
            fleet.from_thread(lambda: None)


def test_the_fleet_ends_while_it_waits() -> None:
    """A call that waits when the fleet ends raises FleetError, and its coroutine is cancelled."""
    ended: list[str] = []

    async def forever() -> None:
        try:
            await asyncio.sleep(10**6)
        finally:
            ended.append("cancelled")

    with running() as it, concurrent.futures.ThreadPoolExecutor(4) as pool:
        waiting = [pool.submit(it.fleet.from_thread, forever) for _ in range(4)]
        while it.fleet.from_thread(lambda: len(it.fleet._lifecycle.thread_calls.tasks)) < 4:
            time.sleep(0.001)
        it.fleet.from_thread(it.fleet.close)
        for future in waiting:
            with pytest.raises(FleetError, match="ended"):
                future.result()
    assert ended == ["cancelled"] * 4


def test_many_threads_at_once() -> None:
    """Concurrent calls from many threads each get their own result."""
    with running() as it, concurrent.futures.ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda n: it.fleet.from_thread(lambda: n), range(200))) == list(range(200))
        it.fleet.from_thread(it.subscription.close)


def test_every_method_in_another_thread_mentions_from_thread() -> None:
    """In another thread, each method raises FleetError at the call, without an await, and mentions from_thread."""
    with running() as it:
        fleet, connection, subscription = it.fleet, it.connection, it.subscription
        pool = fleet.from_thread(lambda: fleet.pool(URI, 1, name="pool"))
        plain: list[Callable[[], Any]] = [
            lambda: fleet.connect(URI),
            lambda: fleet.pool(URI, 2),
            lambda: fleet.process("x"),
            lambda: fleet.subscribe("x"),
            lambda: fleet.publish("x", 1),
            lambda: fleet.stats(),
            lambda: connection.restart(),
            lambda: connection.stats(),
            lambda: aiter(connection),
            lambda: subscription.close(),
            lambda: subscription.stats(),
            lambda: aiter(subscription),
            lambda: subscription.batches(),
            lambda: subscription.next(),
            lambda: fleet.close(),
            lambda: fleet.wait(),
            lambda: fleet.idle(),
            lambda: fleet.reload(),
            lambda: fleet.snapshot(),
            lambda: fleet.totals(),
            lambda: connection.send("x"),
            lambda: connection.wait_open(),
            lambda: connection.close(),
            lambda: pool.send("x"),
            lambda: pool.request({}),
            lambda: pool.wait_open(),
            lambda: pool.close(),
        ]
        awaited: list[Callable[[], Any]] = [
            lambda: anext(subscription),
            lambda: subscription.__aexit__(None, None, None),
        ]
        for call in plain:
            with pytest.raises(FleetError, match="from_thread"):
                call()
        for call in awaited:

            async def await_it(call: Callable[[], Any] = call) -> None:
                await call()

            with pytest.raises(FleetError, match="from_thread"):
                asyncio.run(await_it())
        for start in (fleet.serve, fleet.__aenter__):

            async def start_it(start: Callable[[], Any] = start) -> None:
                await start()

            with pytest.raises(FleetError):
                asyncio.run(start_it())
        assert fleet.from_thread(lambda: connection.state.value) == "OPEN"
        fleet.from_thread(subscription.close)


def test_a_loop_takes_no_message_in_another_thread() -> None:
    """Loops that have begun take no message in another thread, not even without waiting; a context cannot be left
    there.
    """
    with running() as it:

        async def begun() -> list[Callable[[], Any]]:
            it.connection.__aiter__()  # from now on, it gets all messages
            it.fleet.publish("feed", 1)
            it.fleet.publish("feed", 2)
            await anext(it.subscription)
            batches, own = it.subscription.batches(), aiter(it.connection)
            it.subscription._until += 10**6
            return [lambda: anext(it.subscription), lambda: anext(batches), lambda: anext(own)]

        for take in it.fleet.from_thread(begun):

            async def taken(take: Callable[[], Any] = take) -> None:
                async with asyncio.timeout(60):
                    await take()

            with pytest.raises(FleetError, match="from_thread"):
                asyncio.run(taken())
        with pytest.raises(FleetError, match="from_thread"):
            asyncio.run(it.fleet.__aexit__(None, None, None))
        it.fleet.from_thread(it.subscription.close)


async def test_a_call_does_not_outlive_a_fleet_that_was_closed() -> None:
    """When close() has ended the fleet, calls of other threads end, although the context is not left yet."""
    async with Fleet(transport=FakeTransport()) as fleet:
        call = asyncio.create_task(asyncio.to_thread(fleet.from_thread, asyncio.sleep, 10**6))
        while not fleet._lifecycle.thread_calls.tasks:
            await asyncio.sleep(0)
        await fleet.close()
        assert not fleet._lifecycle.thread_calls.tasks
        with pytest.raises(FleetError, match="ended"):
            await call


def test_a_session_in_another_thread_mentions_from_thread() -> None:
    """The session of on_open also belongs to the thread of the loop."""
    with running() as it:

        async def on_open(session: Session) -> None:
            it.sessions.append(session)

        it.fleet.from_thread(lambda: it.fleet.connect(URI, name="second", on_open=on_open))
        it.fleet.from_thread(it.transport.accept, "second")
        while not it.sessions:
            time.sleep(0.001)
        for call in (lambda: it.sessions[0].send("x"), lambda: it.sessions[0].recv()):
            with pytest.raises(FleetError, match="from_thread"):
                call()


def test_after_the_end_any_thread_can_read_the_fleet() -> None:
    """After its end, a fleet can be read in any thread."""
    with running() as it:
        pass
    assert it.fleet.stats().balanced
    assert it.connection.stats().state == "CLOSED"
    assert it.subscription.stats().pending == 0
    it.subscription.close()


def test_declared_in_one_thread_and_run_in_another() -> None:
    """Before the start a fleet belongs to no thread; from then on to the thread that runs it."""
    with running() as it:
        it.fleet.from_thread(it.subscription.close)
        assert "sub-1" not in it.fleet.from_thread(lambda: dict(it.fleet.subscriptions))


async def test_a_coroutine_in_place_of_a_function_is_rejected() -> None:
    """from_thread(coroutine) raises an error with the correct call; the coroutine is closed."""
    fleet = Fleet()
    connection = fleet.connect("ws://feed.test/")
    coroutine = connection.send("x")
    with pytest.raises(TypeError, match="give the function and its arguments, not the coroutine"):
        fleet.from_thread(coroutine)  # type: ignore[arg-type]
    assert inspect.getcoroutinestate(coroutine) == inspect.CORO_CLOSED
