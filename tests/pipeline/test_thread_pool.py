"""Plain functions run in their own threads, so the loop is not blocked, with the same counts for each message."""

import asyncio
import random
import threading
import time
from typing import Any

import pytest

from tests.support.flows import DROP_OLDEST, balanced, feeding, opened, row, turns, until
from wsfleet import Buffer, Fleet, FleetError, Message, Overflow, Retry, State
from wsfleet.pipeline import thread_pool
from wsfleet.testing import FakeTransport


def fleet_of(**options: Any) -> tuple[Fleet, FakeTransport]:
    transport = FakeTransport()
    return Fleet(transport=transport, **options), transport


class Gate:
    """A plain processor whose calls end when the test lets them."""

    def __init__(self) -> None:
        self.begun: list[Any] = []
        self.ended: list[Any] = []
        self.threads: set[threading.Thread] = set()
        self.most = 0
        self._running: dict[Any, threading.Event] = {}
        self._open = False

    def __call__(self, message: Message[Any]) -> None:
        data = message.data
        self.threads.add(threading.current_thread())
        event = self._running[data] = threading.Event()
        self.begun.append(data)
        self.most = max(self.most, len(self._running))
        if not self._open:
            assert event.wait(60)
        del self._running[data]
        self.ended.append(data)

    def end(self, data: Any) -> None:
        self._running[data].set()

    def open(self) -> None:
        self._open = True
        for event in list(self._running.values()):
            event.set()


class Clock:
    """Replaces `time` where the pool checks whether a call has timed out."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(thread_pool, "time", clock)
    return clock


async def test_a_plain_function_does_not_block_the_loop() -> None:
    """A `def` processor runs in a daemon thread with the processor's name, while the loop continues."""
    fleet, transport = fleet_of()
    gate = Gate()
    fleet.connect("ws://feed.test/", gate, name="feed")
    async with feeding(fleet, transport) as socket:
        await socket.feed("1", "2")
        await until(lambda: gate.begun == ["1"])
        assert row(fleet, "feed").pending == 2
        gate.end("1")
        await until(lambda: gate.begun == ["1", "2"])
        gate.open()
        await until(lambda: row(fleet, "feed").processed == 2)
        (thread,) = gate.threads
        assert thread.daemon and "feed" in thread.name
        balanced(fleet)
    assert not thread.is_alive()


@pytest.mark.parametrize("concurrency", [1, 3])
async def test_concurrency_is_the_number_of_threads(concurrency: int) -> None:
    """There are `concurrency` threads, so never more concurrent calls; with one thread, calls are in order."""
    fleet, _ = fleet_of()
    gate = Gate()
    fleet.process("t", name="p", concurrency=concurrency)(gate)
    async with fleet:
        for n in range(200):
            fleet.publish("t", n)
        await until(lambda: len(gate.begun) == concurrency)
        await asyncio.sleep(0.02)
        assert len(gate.begun) == concurrency
        gate.open()
        await until(lambda: row(fleet, "p").processed == 200)
    assert gate.most == concurrency == len(gate.threads)
    if concurrency == 1:
        assert gate.ended == list(range(200))


async def test_the_order_for_each_key_holds_over_threads() -> None:
    """With `key`, calls of one key never overlap and are in order; other keys are processed meanwhile."""
    fleet, _ = fleet_of()
    chance = random.Random(1)
    seen: dict[str, list[int]] = {}
    running: set[str] = set()
    overlaps = []
    lock = threading.Lock()

    def handle(message: Message[tuple[str, int]]) -> None:
        key, n = message.data
        with lock:
            if key in running:
                overlaps.append(key)
            running.add(key)
        if n % 7 == 0:
            time.sleep(0.001)
        seen.setdefault(key, []).append(n)
        with lock:
            running.remove(key)
        if n % 11 == 0:
            raise ValueError

    fleet.process("t", name="p", concurrency=4, key=lambda m: m.data[0], buffer=Buffer(5000))(handle)
    async with fleet:
        for n in range(2000):
            fleet.publish("t", (chance.choice("aaabc"), n))
            if n % 50 == 0:
                balanced(fleet)
                await turns(1)
        await until(lambda: row(fleet, "p").pending == 0)
    assert not overlaps
    assert sum(map(len, seen.values())) == 2000
    assert all(numbers == sorted(numbers) for numbers in seen.values())


async def test_a_busy_key_in_one_thread_does_not_block_others() -> None:
    """A thread that hangs in a call of one key does not block other keys in other threads."""
    fleet, _ = fleet_of()
    gate = Gate()
    fleet.process("t", name="p", concurrency=2, key=lambda m: m.data[0])(gate)
    async with fleet:
        for data in ("a1", "a2", "b1"):
            fleet.publish("t", data)
        await until(lambda: set(gate.begun) == {"a1", "b1"})
        gate.end("b1")
        await until(lambda: row(fleet, "p").processed == 1)
        fleet.publish("t", "c1")
        await until(lambda: "c1" in gate.begun)
        assert "a2" not in gate.begun
        gate.open()
    assert row(fleet, "p").processed == 4


# Waiting messages and messages in hand


async def test_a_message_handed_to_a_thread_can_still_be_dropped() -> None:
    """Until its call begins, DROP_OLDEST may drop a message that was handed to a thread, the oldest first."""
    fleet, _ = fleet_of()
    gate = Gate()
    fleet.process("t", name="p", buffer=Buffer(4, overflow=DROP_OLDEST))(gate)
    async with fleet:
        for n in range(4):
            fleet.publish("t", n)
        await until(lambda: gate.begun == [0])
        for n in range(4, 7):
            assert fleet.publish("t", n) == 1
        assert (row(fleet, "p").dropped, row(fleet, "p").pending) == (3, 4)
        balanced(fleet)
        gate.open()
        await until(lambda: row(fleet, "p").processed == 4)
    assert gate.ended == [0, 4, 5, 6]


async def test_the_oldest_goes_first_wherever_it_waits() -> None:
    """The oldest message is dropped first, whether it is set aside for a busy key, handed to a thread
    or in the queue.
    """
    fleet, _ = fleet_of()
    gate = Gate()
    fleet.process("t", name="p", concurrency=1, key=lambda m: m.data[0], buffer=Buffer(6, overflow=DROP_OLDEST))(gate)
    async with fleet:
        for data in ("a1", "a2", "b1", "a3", "c1", "b2"):  # a1 runs, b1 and c1 are handed over, the others set aside
            fleet.publish("t", data)
        await until(lambda: gate.begun == ["a1"])
        await turns()
        for n in range(3):
            fleet.publish("t", f"d{n}")  # replaces a2, b1, a3
        assert row(fleet, "p").dropped == 3
        gate.open()
        await until(lambda: row(fleet, "p").pending == 0)
    assert set(gate.ended) == {"a1", "c1", "b2", "d0", "d1", "d2"}
    balanced(fleet)


async def test_latest_replaces_a_message_that_no_thread_has_begun() -> None:
    """Under LATEST, a message can be replaced until its call begins: a slow thread gets the newest."""
    fleet, _ = fleet_of()
    gate = Gate()
    fleet.process("t", name="p", buffer=Buffer(10, overflow=Overflow.LATEST))(gate)
    async with fleet:
        fleet.publish("t", 0)
        await until(lambda: gate.begun == [0])
        for n in range(1, 50):
            fleet.publish("t", n)
            await turns(1)
        assert (row(fleet, "p").pending, row(fleet, "p").dropped) == (2, 48)
        gate.open()
        await until(lambda: row(fleet, "p").pending == 0)
    assert gate.ended == [0, 49]


async def test_close_drops_messages_handed_to_threads() -> None:
    """Closing the subscription drops messages that no thread has begun; the current calls finish, and
    the threads end.
    """
    fleet, _ = fleet_of()
    gate = Gate()
    fleet.process("t", name="p")(gate)
    async with fleet:
        for n in range(5):
            fleet.publish("t", n)
        await until(lambda: gate.begun == [0])
        fleet.subscriptions["p"].close()
        retired = balanced(fleet).subscriptions[-1]
        assert (retired.dropped, retired.pending) == (4, 1)
        gate.open()
        await until(lambda: balanced(fleet).subscriptions[-1].pending == 0)
        await until(lambda: not any(thread.is_alive() for thread in gate.threads))
        assert balanced(fleet).subscriptions[-1].processed == 1


async def test_the_counts_balance_at_any_time() -> None:
    """While threads work, fail and fall behind, every message is accounted for once at any time."""
    fleet, transport = fleet_of()
    calls: list[int] = []

    def handle(messages: list[Message[str]]) -> None:
        calls.extend(m.index for m in messages)
        if len(calls) % 5 == 0:
            raise ValueError
        if len(calls) % 7 == 0:
            time.sleep(0.0005)

    fleet.connect(
        "ws://feed.test/", handle, name="feed", concurrency=3, batch=4, buffer=Buffer(50, overflow=DROP_OLDEST)
    )
    async with feeding(fleet, transport) as socket:
        for n in range(300):
            await socket.feed(*map(str, range(n % 9)))
            assert balanced(fleet)
            await turns(n % 3)
        await until(lambda: row(fleet, "feed").pending == 0)
        stats = row(fleet, "feed")
        assert stats.processed + stats.failed == len(calls) == len(set(calls))
        assert stats.failed


# Failures


@pytest.mark.parametrize("error", [ValueError, SystemExit, KeyboardInterrupt, asyncio.CancelledError, GeneratorExit])
async def test_whatever_a_thread_raises_fails_its_message(error: type[BaseException]) -> None:
    """Whatever a call raises, the thread continues, and the message is counted as failed and made a dead letter."""
    fleet, _ = fleet_of()
    dead: list[Any] = []

    def handle(message: Message[int]) -> None:
        if message.data == 1:
            raise error

    async def bury(message: Message[Any]) -> None:
        dead.append(message.data)

    fleet.process("t", name="p")(handle)
    fleet.process("$dead.p")(bury)
    async with fleet:
        for n in range(3):
            fleet.publish("t", n)
        await until(lambda: dead)
        await until(lambda: row(fleet, "p").processed == 2)
    assert isinstance(dead[0].error, error) and (dead[0].message.data, dead[0].attempts) == (1, 1)


async def test_a_plain_function_that_returns_a_coroutine_fails() -> None:
    """A plain function that returns an awaitable has done nothing, so the message is counted as failed."""
    fleet, _ = fleet_of()
    dead: list[Any] = []

    async def really(message: Message[int]) -> None: ...

    async def bury(message: Message[Any]) -> None:
        dead.append(message.data.error)

    fleet.process("t", name="p")(lambda message: really(message))
    fleet.process("$dead.p")(bury)
    async with fleet:
        fleet.publish("t", 1)
        await until(lambda: dead)
    assert isinstance(dead[0], TypeError) and "async def" in str(dead[0])


async def test_retry_in_threads() -> None:
    """`retry` makes up to `attempts` calls in the thread; the message stays pending while it waits."""
    fleet, _ = fleet_of()
    attempts: list[int] = []
    dead: list[Any] = []

    def handle(message: Message[int]) -> None:
        attempts.append(message.data)
        if message.data == 1 or attempts.count(message.data) < 3:
            raise ValueError

    async def bury(message: Message[Any]) -> None:
        dead.append((message.data.message.data, message.data.attempts))

    fleet.process("t", name="p", retry=Retry(3, 0.01, 0.01))(handle)
    fleet.process("$dead.p")(bury)
    async with fleet:
        fleet.publish("t", 0)
        fleet.publish("t", 1)
        await until(lambda: attempts)
        assert row(fleet, "p").pending == 2
        await until(lambda: dead)
    assert dead == [(1, 3)] and attempts == [0, 0, 0, 1, 1, 1]
    assert (row(fleet, "p").processed, row(fleet, "p").failed) == (1, 1)


async def test_a_thread_waiting_for_its_next_attempt_does_not_delay_the_end() -> None:
    """A message that waits for its next attempt at the end of the drain is failed, and its thread ends at once."""
    fleet, _ = fleet_of(drain_s=0.05)
    begun = threading.Event()

    def handle(message: Message[int]) -> None:
        begun.set()
        raise ValueError

    fleet.process("t", name="p", retry=Retry(3, 600, 600))(handle)
    async with fleet:
        fleet.publish("t", 1)
        await until(begun.is_set)
    assert (row(fleet, "p").failed, row(fleet, "p").pending) == (1, 0)
    balanced(fleet)


# Timeouts


async def test_a_thread_past_its_time_has_failed_at_once(clock: Clock) -> None:
    """On `timeout_s` the message is failed at once and never retried; the later result of the thread is ignored."""
    fleet, _ = fleet_of()
    gate = Gate()
    dead: list[Any] = []

    async def bury(message: Message[Any]) -> None:
        dead.append(message.data)

    fleet.process("t", name="p", timeout_s=0.05, retry=Retry(5, 0, 0))(gate)
    fleet.process("$dead.p")(bury)
    async with fleet:
        fleet.publish("t", 0)
        await until(lambda: gate.begun)
        clock.now += 0.05
        await until(lambda: dead)
        assert gate.begun == [0] and not gate.ended
        assert isinstance(dead[0].error, TimeoutError) and dead[0].attempts == 1
        assert (row(fleet, "p").failed, row(fleet, "p").pending) == (1, 0)
        gate.open()
        await until(lambda: gate.ended == [0])
        fleet.publish("t", 1)
        await until(lambda: row(fleet, "p").processed == 1)
        balanced(fleet)
    assert gate.begun == [0, 1] and row(fleet, "p").failed == 1


async def test_the_slot_stays_taken_until_the_thread_returns(clock: Clock) -> None:
    """A thread that has timed out takes no other message before it returns; then it takes waiting
    messages by itself.
    """
    fleet, _ = fleet_of()
    gate = Gate()
    fleet.process("t", name="p", timeout_s=0.05, batch=1)(lambda messages: gate(messages[0]))
    async with fleet:
        fleet.publish("t", 0)
        fleet.publish("t", 1)
        await until(lambda: gate.begun)
        clock.now += 0.05
        await until(lambda: row(fleet, "p").failed == 1)
        await asyncio.sleep(0.1)
        assert gate.begun == [0]
        assert row(fleet, "p").pending == 1
        gate.open()
        await until(lambda: row(fleet, "p").processed == 1)
    assert gate.begun == [0, 1]


async def test_a_key_stays_busy_until_its_thread_returns() -> None:
    """Even after a timeout, the next call of that key does not begin until the thread has left the previous one."""
    fleet, _ = fleet_of()
    gate = Gate()
    fleet.process("t", name="p", timeout_s=0.05, concurrency=2, key=lambda m: m.data[0])(gate)
    async with fleet:
        fleet.publish("t", "a1")
        fleet.publish("t", "a2")
        await until(lambda: row(fleet, "p").failed == 1)
        await asyncio.sleep(0.1)
        assert gate.begun == ["a1"]
        gate.open()
        await until(lambda: row(fleet, "p").pending == 0)
    assert gate.begun == ["a1", "a2"]


async def test_each_attempt_in_a_thread_has_its_own_time(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """Attempts that each take less than `timeout_s` do not fail although together they take longer."""
    fleet, _ = fleet_of()
    attempts = 0

    def handle(message: Message[int]) -> None:
        nonlocal attempts
        attempts += 1
        clock.now += 0.04
        looks = len(looked)
        while len(looked) < looks + 2:
            time.sleep(0.001)
        if attempts < 4:
            raise ValueError

    looked: list[None] = []
    check = thread_pool.ThreadPool._check_time
    monkeypatch.setattr(thread_pool.ThreadPool, "_check_time", lambda pool: (looked.append(None), check(pool)))
    fleet.process("t", name="p", timeout_s=0.05, retry=Retry(4, 0, 0))(handle)
    async with fleet:
        fleet.publish("t", 1)
        await until(lambda: row(fleet, "p").pending == 0)
    assert row(fleet, "p").processed == 1


# Shutdown


async def test_the_drain_waits_for_threads() -> None:
    """At the shutdown, threads finish the pending messages, and then end."""
    fleet, transport = fleet_of()
    ended = []

    def handle(message: Message[str]) -> None:
        time.sleep(0.005)
        ended.append(message.data)

    fleet.connect("ws://feed.test/", handle, name="feed", concurrency=2)
    async with feeding(fleet, transport) as socket:
        await socket.feed(*map(str, range(20)))
    assert sorted(map(int, ended)) == list(range(20))
    assert row(fleet, "feed").processed == 20
    assert not [t for t in threading.enumerate() if t.name.startswith("wsfleet-")]


async def test_a_thread_still_running_at_the_end_is_named_and_left_behind(caplog: pytest.LogCaptureFixture) -> None:
    """At the end of the drain, a running call is failed, waiting messages are dropped, and the log names the thread."""
    fleet, _ = fleet_of(drain_s=0.05)
    gate = Gate()
    fleet.process("t", name="stuck")(gate)
    async with fleet:
        for n in range(3):
            fleet.publish("t", n)
        await until(lambda: gate.begun == [0])
    stats = row(fleet, "stuck")
    assert (stats.failed, stats.dropped, stats.pending) == (1, 2, 0)
    balanced(fleet)
    assert "were abandoned: wsfleet-stuck-1" in caplog.text
    gate.open()
    await until(lambda: not any(thread.is_alive() for thread in gate.threads))
    await turns()
    assert row(fleet, "stuck") == stats and gate.begun == [0]


async def test_cancelling_the_fleet_does_not_wait_for_threads() -> None:
    """Cancelling `serve()` skips the drain: the current call is failed, waiting messages are dropped."""
    fleet, _ = fleet_of(drain_s=1000)
    gate = Gate()
    fleet.connect("ws://feed.test/", name="feed")
    fleet.process("t", name="p")(gate)
    serving = asyncio.ensure_future(fleet.serve())
    await turns()
    fleet.publish("t", 0)
    fleet.publish("t", 1)
    await until(lambda: gate.begun == [0])
    serving.cancel()
    await asyncio.gather(serving, return_exceptions=True)
    assert (row(fleet, "p").failed, row(fleet, "p").dropped) == (1, 1)
    balanced(fleet)
    gate.open()
    await until(lambda: not any(thread.is_alive() for thread in gate.threads))


async def test_threads_go_on_where_their_task_was_cancelled_from_outside() -> None:
    """Cancelling the task that feeds the threads loses no message and no call."""
    fleet, _ = fleet_of()
    gate = Gate()
    fleet.process("t", name="p")(gate)
    async with fleet:
        for n in range(40):
            fleet.publish("t", n)
        await until(lambda: gate.begun == [0])
        for task in asyncio.all_tasks():
            if task.get_name() == "wsfleet-p-processor":
                task.cancel()
        await turns(5)
        balanced(fleet)
        gate.open()
        await until(lambda: row(fleet, "p").processed == 40)
    assert gate.ended == list(range(40)) and len(gate.threads) == 1


def test_no_thread_is_left_when_the_loop_cancels_everything() -> None:
    """A program that ends by cancelling all of its tasks leaves no thread behind."""
    seen = threading.Event()
    fleet, _ = fleet_of()
    fleet.process("t", name="p")(lambda message: seen.set())

    async def main() -> None:
        task = asyncio.ensure_future(fleet.serve())
        await turns()
        fleet.publish("t", 1)
        await until(seen.is_set)
        for each in asyncio.all_tasks() - {asyncio.current_task()}:  # type: ignore[arg-type]
            each.cancel()
        await asyncio.wait({task})

    asyncio.run(main())
    deadline = time.monotonic() + 60
    while (left := [t for t in threading.enumerate() if "wsfleet" in t.name]) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not left


# Calling the fleet from its threads


async def test_a_thread_may_publish_and_send_also_during_the_drain() -> None:
    """With `from_thread` a plain processor can publish and send, even while the fleet drains."""
    fleet, transport = fleet_of()
    replies: list[Any] = []

    def handle(message: Message[str]) -> None:
        fleet.from_thread(fleet.connections["feed"].send, f"got {message.data}")
        fleet.from_thread(fleet.publish, "replies", message.data)

    async def keep(message: Message[Any]) -> None:
        replies.append(message.data)

    fleet.connect("ws://feed.test/", handle, name="feed")
    fleet.process("replies")(keep)
    async with feeding(fleet, transport) as socket:
        await socket.feed(*map(str, range(10)))
    assert socket.sent == [f"got {n}" for n in range(10)]
    assert replies == list(map(str, range(10)))
    balanced(fleet)


@pytest.mark.parametrize("what", ["fleet", "connection", "pool"])
async def test_close_in_a_processors_thread_does_not_wait(what: str) -> None:
    """`close()` called in a plain processor returns at once, as in an async one, because the shutdown waits for that
    call.
    """
    fleet, transport = fleet_of(drain_s=60)
    ended: list[str] = []

    def handle(message: Message[str]) -> None:
        part: Any = {"fleet": fleet, "pool": pool, "connection": fleet.connections["feed-1"]}[what]
        fleet.from_thread(part.close)
        ended.append(message.data)

    pool = fleet.pool("ws://feed.test/", 1, handle, name="feed", decode="text", match=lambda data: None)
    async with asyncio.timeout(30):
        async with fleet:
            socket = await opened(fleet, transport, "feed-1")
            await socket.feed("1", "2")
            await until(lambda: ended == ["1", "2"])
            if what == "fleet":
                await fleet.wait()
            else:
                await until(lambda: "feed-1" not in fleet.connections)
    assert pool.connections[0].state is State.CLOSED
    balanced(fleet)


async def test_a_thread_left_behind_cannot_call_its_fleet() -> None:
    """After the shutdown, `from_thread` raises FleetError in a thread that still runs."""
    fleet, _ = fleet_of(drain_s=0)
    begun, release = threading.Event(), threading.Event()
    errors: list[BaseException] = []

    def handle(message: Message[int]) -> None:
        begun.set()
        release.wait(60)
        try:
            fleet.from_thread(fleet.publish, "t", 1)
        except FleetError as exc:
            errors.append(exc)

    fleet.process("t")(handle)
    async with fleet:
        fleet.publish("t", 0)
        await until(begun.is_set)
    release.set()
    await until(lambda: errors)


async def test_a_processor_without_a_thread_ends(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """If the system refuses more threads, that processor ends with an error in the log; the fleet continues."""
    fleet, _ = fleet_of()
    fleet.process("t", name="p", concurrency=2)(lambda message: None)
    start = threading.Thread.start

    def refuse(thread: threading.Thread) -> None:
        if thread.name == "wsfleet-p-2":
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", refuse)
    async with fleet:
        await until(lambda: "p" not in fleet.subscriptions)
        fleet.publish("t", 1)
        balanced(fleet)
    assert "p: its worker failed" in caplog.text
