"""Messages whose call fails, times out or is cancelled."""

import asyncio
import itertools
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from tests.support.flows import balanced, feeding, row, turns, until
from wsfleet import Buffer, Fleet, Message, Overflow, Retry, State
from wsfleet.pipeline import processor
from wsfleet.pipeline.mailbox import Mailbox
from wsfleet.pipeline.queue import Calls
from wsfleet.testing import FakeTransport


def fleet_of(**options: Any) -> tuple[Fleet, FakeTransport]:
    transport = FakeTransport()
    return Fleet(transport=transport, **options), transport


def burying(fleet: Fleet, name: str = "p") -> list[Any]:
    """The dead letters of the processor `name`, in order."""
    dead: list[Any] = []

    async def bury(message: Message[Any]) -> None:
        dead.append(message.data)

    fleet.process(f"$dead.{name}", name="undertaker")(bury)
    return dead


# Failures


async def test_a_failure_is_one_dead_letter_with_one_attempt() -> None:
    """Without `retry`, a failed message makes a DeadLetter with attempts=1, and the next one is processed."""
    fleet, _ = fleet_of()
    dead = burying(fleet)
    seen = []

    async def handle(message: Message[int]) -> None:
        if message.data % 2:
            raise ValueError(message.data)
        seen.append(message.data)

    fleet.process("t", name="p")(handle)
    async with fleet:
        for n in range(4):
            fleet.publish("t", n)
        await until(lambda: len(dead) == 2)
    assert seen == [0, 2]
    assert [(d.message.data, d.attempts, d.error.args) for d in dead] == [(1, 1, (1,)), (3, 1, (3,))]
    assert dead[0].message.topic == "t"
    assert (row(fleet, "p").processed, row(fleet, "p").failed) == (2, 2)
    balanced(fleet)


async def test_a_failing_dollar_message_makes_no_other() -> None:
    """A `$` message whose call fails is counted as failed, without a dead letter."""
    fleet, _ = fleet_of()
    calls = 0

    async def fail(message: Message[Any]) -> None:
        nonlocal calls
        calls += 1
        raise ValueError

    fleet.process("t", name="p")(fail)
    fleet.process("$dead.*", name="undertaker")(fail)
    async with fleet:
        fleet.publish("t", 1)
        await until(lambda: calls == 2)
        await turns(10)
    assert calls == 2
    assert row(fleet, "undertaker").failed == 1
    balanced(fleet)


async def test_a_repeated_failure_logs_one_traceback(caplog: pytest.LogCaptureFixture) -> None:
    """A processor that fails for every message logs one traceback, not one for each message."""
    fleet, _ = fleet_of()

    async def fail(message: Message[Any]) -> None:
        raise ValueError("no good")

    fleet.process("t", name="p")(fail)
    async with fleet:
        for n in range(100):
            fleet.publish("t", n)
        await until(lambda: row(fleet, "p").failed == 100)
    assert caplog.text.count("a message failed") == 1


@pytest.mark.parametrize("options", [{}, {"timeout_s": 5.0}, {"concurrency": 3}])
async def test_a_cancelled_error_of_the_users_own_is_a_failure(options: Any) -> None:
    """A CancelledError that user code raised, or got from its own task, fails only that message."""
    fleet, _ = fleet_of()
    dead = burying(fleet)

    async def handle(message: Message[str]) -> None:
        if message.data == "raise":
            raise asyncio.CancelledError
        if message.data == "task":
            task = asyncio.ensure_future(asyncio.sleep(60))
            task.cancel()
            await task

    fleet.process("t", name="p", **options)(handle)
    async with fleet:
        for data in ("raise", "task", "fine"):
            fleet.publish("t", data)
        await until(lambda: row(fleet, "p").pending == 0)
    assert (row(fleet, "p").processed, row(fleet, "p").failed, len(dead)) == (1, 2, 2)
    assert isinstance(dead[0].error, asyncio.CancelledError)


@pytest.mark.parametrize("kind", [BaseException, BaseExceptionGroup, StopAsyncIteration])
async def test_no_exception_of_user_code_ends_its_worker(kind: Any) -> None:
    """Exceptions that are not derived from `Exception` fail their message like others."""
    fleet, _ = fleet_of()

    async def handle(message: Message[int]) -> None:
        if message.data == 1:
            raise kind("", [BaseException()]) if kind is BaseExceptionGroup else kind("odd")

    fleet.process("t", name="p")(handle)
    async with fleet:
        for n in range(3):
            fleet.publish("t", n)
        await until(lambda: row(fleet, "p").processed == 2)
    assert row(fleet, "p").failed == 1


@pytest.mark.parametrize("concurrency", [1, 3])
async def test_a_worker_cancelled_from_outside_is_replaced(concurrency: int) -> None:
    """Cancelling the tasks of a processor fails their calls; the same number of tasks continues with other messages."""
    fleet, _ = fleet_of()
    begun: list[int] = []
    hang = asyncio.Event()

    async def handle(message: Message[int]) -> None:
        begun.append(message.data)
        await hang.wait()

    fleet.process("t", name="p", concurrency=concurrency)(handle)
    async with fleet:
        for n in range(4):
            fleet.publish("t", n)
        await turns()
        mine = [task for task in asyncio.all_tasks() if task.get_name() == "wsfleet-p-processor"]
        assert len(mine) == concurrency
        mine[0].cancel()
        await turns(5)
        assert row(fleet, "p").failed == 1
        assert len(begun) == concurrency + 1
        balanced(fleet)
        hang.set()
    assert row(fleet, "p").processed == 3


# Retry


@pytest.mark.looptime
async def test_retry_makes_attempts_calls_with_growing_waits() -> None:
    """`attempts` is the total number of calls; the waits grow to `max_s`, each between half of its bound and the
    bound.
    """
    fleet, _ = fleet_of()
    dead = burying(fleet)
    times: list[float] = []

    async def handle(message: Message[int]) -> None:
        times.append(asyncio.get_running_loop().time())
        raise ValueError

    fleet.process("t", name="p", retry=Retry(attempts=5, initial_s=10, max_s=30))(handle)
    async with fleet:
        fleet.publish("t", 1)
        await asyncio.sleep(12)
        assert len(times) == 2
        assert (row(fleet, "p").pending, row(fleet, "p").failed, dead) == (1, 0, [])
        balanced(fleet)
        await asyncio.sleep(100)
    waits = [b - a for a, b in itertools.pairwise(times)]
    assert len(times) == 5 and dead[0].attempts == 5
    for wait, bound in zip(waits, (10, 20, 30, 30), strict=True):
        assert bound / 2 - 0.1 <= wait <= bound + 0.1
    assert len(set(waits)) == 4


async def test_retry_stops_at_the_first_success() -> None:
    """A message that succeeds at its second attempt is processed once and makes no dead letter."""
    fleet, _ = fleet_of()
    dead = burying(fleet)
    calls = 0

    async def handle(message: Message[int]) -> None:
        nonlocal calls
        calls += 1
        if calls == 1:
            raise ValueError

    fleet.process("t", name="p", retry=Retry(3, 0, 0))(handle)
    async with fleet:
        fleet.publish("t", 1)
        await until(lambda: row(fleet, "p").processed)
    assert (calls, dead, row(fleet, "p").failed) == (2, [], 0)


async def test_one_attempt_is_no_retry() -> None:
    """`Retry(attempts=1)` makes one call."""
    fleet, _ = fleet_of()
    dead = burying(fleet)

    async def handle(message: Message[int]) -> None:
        raise ValueError

    fleet.process("t", name="p", retry=Retry(attempts=1))(handle)
    async with fleet:
        fleet.publish("t", 1)
        await until(lambda: dead)
    assert dead[0].attempts == 1


@pytest.mark.looptime
async def test_a_message_waiting_for_its_next_attempt_fails_with_the_fleet() -> None:
    """If the drain ends during the wait between two attempts, the message is failed; messages behind it are dropped."""
    fleet, _ = fleet_of(drain_s=5)

    async def handle(message: Message[int]) -> None:
        raise ValueError

    fleet.process("t", name="p", retry=Retry(3, 1000, 1000))(handle)
    async with fleet:
        fleet.publish("t", 1)
        fleet.publish("t", 2)
        await turns()
    stats = row(fleet, "p")
    assert (stats.failed, stats.dropped, stats.pending) == (1, 1, 0)
    balanced(fleet)


async def test_a_message_in_hand_is_not_dropped_between_attempts() -> None:
    """A message whose first call has begun is never dropped by the policy, even while it waits for the next attempt."""
    fleet, _ = fleet_of(drain_s=0)
    calls = []

    async def handle(message: Message[int]) -> None:
        calls.append(message.data)
        raise ValueError

    fleet.process("t", name="p", retry=Retry(3, 60, 60), buffer=Buffer(1, overflow=Overflow.DROP_OLDEST))(handle)
    async with fleet:
        fleet.publish("t", 1)
        await turns()
        assert fleet.publish("t", 2) == 0
        assert (row(fleet, "p").pending, row(fleet, "p").dropped) == (1, 1)
        fleet.subscriptions["p"].close()
        assert balanced(fleet).subscriptions[-1].pending == 1
    assert calls == [1]


# Timeouts


@pytest.mark.looptime
async def test_timeout_bounds_each_attempt() -> None:
    """Each attempt has its own `timeout_s`; the failure is a TimeoutError with this reason."""
    fleet, _ = fleet_of()
    dead = burying(fleet)
    begun: list[float] = []

    async def handle(message: Message[int]) -> None:
        begun.append(asyncio.get_running_loop().time())
        await asyncio.sleep(1000)

    fleet.process("t", name="p", timeout_s=7, retry=Retry(3, 0, 0))(handle)
    async with fleet:
        fleet.publish("t", 1)
        await asyncio.sleep(22)
    assert len(begun) == 3 and dead[0].attempts == 3
    assert all(6.9 < b - a < 7.1 for a, b in itertools.pairwise(begun))
    assert isinstance(dead[0].error, TimeoutError) and "timeout_s = 7 s" in str(dead[0].error)


@pytest.mark.looptime
async def test_an_attempt_within_timeout_s_succeeds() -> None:
    """Calls that take less than `timeout_s` succeed, however many there are."""
    fleet, _ = fleet_of()

    async def handle(message: Message[int]) -> None:
        await asyncio.sleep(6)

    fleet.process("t", name="p", timeout_s=7)(handle)
    async with fleet:
        for n in range(5):
            fleet.publish("t", n)
        await asyncio.sleep(31)
    assert row(fleet, "p").processed == 5


@pytest.mark.looptime
async def test_a_call_that_suppresses_its_cancellation_has_failed() -> None:
    """After `timeout_s` an attempt is failed, even if the function suppresses the cancellation and returns."""
    fleet, _ = fleet_of()
    dead = burying(fleet)

    async def handle(message: Message[int]) -> None:
        try:
            await asyncio.sleep(1000)
        except asyncio.CancelledError:
            await asyncio.sleep(1)

    fleet.process("t", name="p", timeout_s=7)(handle)
    async with fleet:
        fleet.publish("t", 1)
        fleet.publish("t", 2)
        await asyncio.sleep(17)
    assert len(dead) == 2
    assert isinstance(dead[0].error, TimeoutError) and row(fleet, "p").processed == 0
    balanced(fleet)


@pytest.mark.looptime
async def test_the_users_own_timeout_error_is_reported_unchanged() -> None:
    """A TimeoutError that the function raises within its time is reported unchanged."""
    fleet, _ = fleet_of()
    dead = burying(fleet)

    async def handle(message: Message[int]) -> None:
        async with asyncio.timeout(1):
            await asyncio.sleep(1000)

    fleet.process("t", name="p", timeout_s=7)(handle)
    async with fleet:
        fleet.publish("t", 1)
        await asyncio.sleep(2)
    assert isinstance(dead[0].error, TimeoutError) and "timeout_s" not in str(dead[0].error)


# Closing from inside a call

Closing = Callable[[Fleet], Awaitable[None] | None]


@pytest.mark.parametrize("concurrency", [1, 2])
@pytest.mark.parametrize(
    "close",
    [lambda fleet: fleet.subscriptions["feed"].close(), lambda fleet: fleet.connections["feed"].close()],
    ids=["subscription", "connection"],
)
async def test_a_processor_may_close_its_subscription_or_connection(close: Closing, concurrency: int) -> None:
    """A processor that closes its own subscription or connection finishes its call, and the counts stay in balance."""
    fleet, transport = fleet_of()
    ended = []

    async def handle(message: Message[str]) -> None:
        result = close(fleet) if message.data else None
        if result is not None:
            await result
        await asyncio.sleep(0)
        ended.append(message.data)

    fleet.connect("ws://feed.test/", handle, name="feed", concurrency=concurrency)
    async with feeding(fleet, transport) as socket:
        await socket.feed("")  # the first batch of a topic is one message
        await turns()
        await socket.feed(*map(str, range(1, 5)))
        await until(lambda: "feed" not in fleet.subscriptions)
        await until(lambda: not [t for t in asyncio.all_tasks() if t.get_name() == "wsfleet-feed-processor"])
        retired = balanced(fleet).subscriptions[-1]
        assert retired.name == "$retired" and len(ended) >= 1
        assert retired.processed == len(ended) and retired.offered == 5 and retired.failed == 0


async def test_a_processor_may_close_its_fleet() -> None:
    """`fleet.close()` inside a processor returns at once: the call continues, waiting messages are processed, then it
    ends.
    """
    fleet, transport = fleet_of()
    ended: list[str] = []

    async def handle(message: Message[str]) -> None:
        await fleet.close()
        await asyncio.sleep(0)
        ended.append(message.data)

    fleet.connect("ws://feed.test/", handle, name="feed")
    async with feeding(fleet, transport) as socket:
        await socket.feed("1", "2", "3")
        await fleet.wait()
    assert ended == ["1", "2", "3"]
    assert fleet.connections["feed"].state is State.CLOSED
    balanced(fleet)


async def test_a_pools_rows_retire_with_its_processor() -> None:
    """A closed connection or pool leaves neither rows nor names, with or without its own processor."""
    fleet, transport = fleet_of()

    async def handle(message: Message[Any]) -> None: ...

    async with fleet:
        for _ in range(2):
            connection = fleet.connect("ws://feed.test/", handle, name="feed")
            pool = fleet.pool("ws://feed.test/", 2, handle, name="rpc")
            socket = await transport.accept("feed")
            await connection.wait_open()
            await socket.feed("1", "2")
            await connection.close()
            await pool.close()
            stats = balanced(fleet)
            assert [r.name for r in stats.subscriptions] == [r.name for r in stats.endpoints] == ["$retired"]
            assert not fleet.subscriptions and not fleet.connections
    assert balanced(fleet).subscriptions[-1].processed == 4


# Internal errors


async def test_an_internal_error_ends_only_its_subscription(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """An unexpected error in a worker ends its subscription and is logged; the fleet continues."""
    fleet, _ = fleet_of()
    seen = []

    async def broken(message: Message[int]) -> None: ...

    async def fine(message: Message[int]) -> None:
        seen.append(message.data)

    fleet.process("t", name="broken")(broken)
    fleet.process("t", name="fine")(fine)

    def planted(mailbox: Mailbox, *rest: Any) -> Calls:
        if mailbox.name == "broken":
            raise RuntimeError("planted")
        return Calls(mailbox, *rest)

    monkeypatch.setattr(processor, "Calls", planted)
    async with fleet:
        await turns()
        assert "broken" not in fleet.subscriptions
        fleet.publish("t", 1)
        await until(lambda: seen)
        balanced(fleet)
    assert "planted" in caplog.text
