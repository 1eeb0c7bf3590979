"""Processors: the number of concurrent calls, their order, and the size of batches."""

import asyncio
import random
from collections import Counter, defaultdict
from typing import Any

import pytest

from tests.support.flows import DROP_OLDEST, balanced, feeding, row, turns, until
from wsfleet import Buffer, Fleet, Message, Overflow, Retry
from wsfleet.pipeline import key_order
from wsfleet.testing import FakeTransport


def fleet_of(**options: Any) -> tuple[Fleet, FakeTransport]:
    transport = FakeTransport()
    return Fleet(transport=transport, **options), transport


class Gate:
    """A processor whose calls end when the test lets them."""

    def __init__(self) -> None:
        self.begun: list[Any] = []
        self.running: dict[Any, asyncio.Future[None]] = {}
        self.most = 0

    async def __call__(self, message: Message[Any]) -> None:
        data = message.data
        self.begun.append(data)
        self.running[data] = asyncio.get_running_loop().create_future()
        self.most = max(self.most, len(self.running))
        try:
            await self.running[data]
        finally:
            del self.running[data]

    def end(self, data: Any, error: BaseException | None = None) -> None:
        if error is None:
            self.running[data].set_result(None)
        else:
            self.running[data].set_exception(error)

    async def end_all(self) -> None:
        while self.running:
            for future in list(self.running.values()):
                if not future.done():
                    future.set_result(None)
            await turns()


async def test_one_worker_takes_one_message_after_the_other() -> None:
    """With `concurrency=1` the next call begins when the previous one has ended, in the order of arrival."""
    fleet, transport = fleet_of()
    seen: list[Any] = []
    running = 0

    async def handle(message: Message[str]) -> None:
        nonlocal running
        running += 1
        assert running == 1
        await asyncio.sleep(0)
        seen.append(message.data)
        running -= 1

    fleet.connect("ws://feed.test/", handle, name="feed")
    async with feeding(fleet, transport) as socket:
        await socket.feed(*map(str, range(300)))
        await until(lambda: row(fleet, "feed").processed == 300)
        balanced(fleet)
    assert seen == list(map(str, range(300)))


@pytest.mark.parametrize("concurrency", [2, 5])
async def test_there_are_never_more_calls_than_concurrency(concurrency: int) -> None:
    """`concurrency=N` makes N calls at a time if there are enough messages, and never more."""
    fleet, _ = fleet_of()
    gate = Gate()
    fleet.process("t", name="p", concurrency=concurrency)(gate)
    async with fleet:
        for n in range(20):
            fleet.publish("t", n)
        await turns(5)
        assert gate.begun == list(range(concurrency))
        stats = row(fleet, "p")
        assert stats.pending == 20 and stats.processed == 0
        await gate.end_all()
    assert gate.begun == list(range(20)) and gate.most == concurrency
    assert row(fleet, "p").processed == 20
    balanced(fleet)


async def test_a_busy_key_does_not_delay_other_keys() -> None:
    """Messages of other keys overtake one whose key is busy; it is processed as soon as its key is free."""
    fleet, _ = fleet_of()
    gate = Gate()
    fleet.process("t", name="p", concurrency=2, key=lambda m: m.data[0])(gate)
    async with fleet:
        for data in ("a1", "a2", "a3", "b1", "c1"):
            fleet.publish("t", data)
        await turns(5)
        assert gate.begun == ["a1", "b1"]
        gate.end("b1")
        await turns(5)
        assert gate.begun == ["a1", "b1", "c1"]
        gate.end("a1")
        await turns(5)
        assert gate.begun == ["a1", "b1", "c1", "a2"]
        balanced(fleet)
        await gate.end_all()
    assert gate.begun[-1] == "a3"


async def test_a_key_is_free_again_after_a_failure() -> None:
    """After a failed message, the next one of its key is processed."""
    fleet, _ = fleet_of()
    gate = Gate()
    fleet.process("t", name="p", concurrency=3, key=lambda m: m.data[0])(gate)
    async with fleet:
        fleet.publish("t", "a1")
        fleet.publish("t", "a2")
        await turns()
        gate.end("a1", ValueError())
        await turns(5)
        assert gate.begun == ["a1", "a2"]
        await gate.end_all()
    assert (row(fleet, "p").processed, row(fleet, "p").failed) == (1, 1)


@pytest.mark.parametrize("overflow", list(Overflow))
@pytest.mark.parametrize("batch", [None, 1, 3])
@pytest.mark.parametrize("seed", range(2))
async def test_order_for_each_key_holds_under_any_schedule(overflow: Overflow, batch: int | None, seed: int) -> None:
    """Whatever fails, is dropped or takes long: calls of one key never overlap, and are in the order of arrival."""
    chance = random.Random(f"{overflow} {batch} {seed}")
    fleet, transport = fleet_of()
    busy: set[str] = set()
    seen: dict[str, list[int]] = defaultdict(list)
    calls = 0

    async def handle(payload: Any) -> None:
        nonlocal calls
        messages = payload if batch is not None else [payload]
        keys = {m.data["k"] for m in messages}
        assert not keys & busy
        assert 1 <= len(messages) <= (batch or 1)
        busy.update(keys)
        calls += 1
        assert calls <= 3
        for m in messages:
            seen[m.data["k"]].append(m.index)
        try:
            for _ in range(chance.randrange(4)):
                await asyncio.sleep(0)
            if chance.random() < 0.2:
                raise ValueError
        finally:
            calls -= 1
            busy.difference_update(keys)

    # The key of the buffer differs from that of the processor, as by default.
    fleet.connect(
        "ws://feed.test/",
        handle,
        name="feed",
        decode="json",
        topic="feed.{t}",
        concurrency=3,
        key=lambda m: m.data["k"],
        batch=batch,
        buffer=Buffer(10, overflow=overflow),
    )
    async with feeding(fleet, transport) as socket:
        for _ in range(60):
            count = chance.randrange(8)
            payloads = [f'{{"k":"{chance.choice("aab")}","t":{chance.randrange(5)}}}' for _ in range(count)]
            arriving = asyncio.create_task(socket.feed(*payloads))
            await turns(chance.randrange(6))
            balanced(fleet)
            if overflow is Overflow.FAIL and "feed" not in fleet.subscriptions:
                break
            await arriving
        await arriving
    balanced(fleet)
    if overflow is not Overflow.LATEST:  # with LATEST a newer message replaces an older one at its position
        assert all(indexes == sorted(indexes) for indexes in seen.values()), seen
    assert all(count == 1 for indexes in seen.values() for count in Counter(indexes).values())


async def test_messages_that_wait_for_their_key_are_dropped_like_others() -> None:
    """DROP_OLDEST drops the oldest message whose call has not begun, whether it is set aside for a busy key or not."""
    fleet, _ = fleet_of()
    gate = Gate()
    fleet.process("t", name="p", concurrency=2, key=lambda m: m.data[0], buffer=Buffer(4, overflow=DROP_OLDEST))(gate)
    async with fleet:
        for data in ("a1", "a2", "a3"):
            fleet.publish("t", data)
        await turns()
        fleet.publish("t", "b1")
        await turns()
        assert gate.begun == ["a1", "b1"]
        fleet.publish("t", "a4")  # replaces a2
        assert row(fleet, "p").dropped == 1
        await turns()
        fleet.publish("t", "c1")  # replaces a3
        assert (row(fleet, "p").dropped, row(fleet, "p").pending) == (2, 4)
        balanced(fleet)
        await gate.end_all()
    assert sorted(gate.begun) == ["a1", "a4", "b1", "c1"]


async def test_latest_replaces_a_message_that_waits_for_its_key() -> None:
    """Under LATEST, a message whose processor key is busy still waits, and is replaced by a newer one."""
    fleet, _ = fleet_of()
    gate = Gate()
    fleet.process("*", name="p", concurrency=2, key=lambda m: m.topic, buffer=Buffer(10, overflow=Overflow.LATEST))(
        gate
    )
    async with fleet:
        for n in range(5):
            fleet.publish("t", n)
            await turns()
        assert gate.begun == [0]
        assert (row(fleet, "p").dropped, row(fleet, "p").pending) == (3, 2)
        fleet.publish("u", 9)
        await turns()
        assert gate.begun == [0, 9]
        await gate.end_all()
    assert gate.begun == [0, 9, 4]
    balanced(fleet)


async def test_close_drops_messages_that_wait_for_their_key() -> None:
    """Closing a subscription drops messages that were set aside for a busy key; the current calls finish."""
    fleet, _ = fleet_of()
    gate = Gate()
    fleet.process("t", name="p", concurrency=2, key=lambda m: m.data[0])(gate)
    async with fleet:
        for data in ("a1", "a2", "a3"):
            fleet.publish("t", data)
        await turns()
        fleet.subscriptions["p"].close()
        retired = balanced(fleet).subscriptions[-1]
        assert (retired.dropped, retired.pending) == (2, 1)
        await gate.end_all()
        retired = balanced(fleet).subscriptions[-1]
        assert (retired.processed, retired.pending) == (1, 0)
    assert gate.begun == ["a1"]


class Unfriendly(Exception):
    pass


@pytest.mark.parametrize("fault", ["raises", "cancels", "unhashable"])
async def test_a_key_function_that_fails_is_logged_once(fault: str, caplog: pytest.LogCaptureFixture) -> None:
    """Messages for which the key function fails are processed one by one, none is lost, and this is logged once."""
    fleet, _ = fleet_of()
    gate = Gate()

    def key(message: Message[Any]) -> Any:
        if fault == "raises":
            raise Unfriendly
        if fault == "cancels":
            raise asyncio.CancelledError
        return [message.data]

    fleet.process("t", name="p", concurrency=3, key=key)(gate)
    async with fleet:
        for n in range(4):
            fleet.publish("t", n)
        await turns()
        assert gate.begun == [0]
        balanced(fleet)
        await gate.end_all()
    assert gate.begun == [0, 1, 2, 3]
    assert row(fleet, "p").processed == 4
    assert caplog.text.count("the key function failed") == 1


async def test_many_messages_of_a_busy_key_do_not_block_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    """Setting aside many messages of one busy key yields to the loop, and messages behind them are found."""
    fleet, _ = fleet_of()
    gate = Gate()
    fleet.process("t", name="p", concurrency=2, key=lambda m: m.data[0], buffer=Buffer(10_000))(gate)
    async with fleet:
        fleet.publish("t", "a")
        await turns()
        monkeypatch.setattr(key_order, "SLICE_S", 0.0)  # the slice is over at each look at the clock
        for n in range(5000):
            fleet.publish("t", f"a{n}")
        fleet.publish("t", "b")
        await turns(3)
        assert gate.begun == ["a"]
        monkeypatch.undo()
        await until(lambda: gate.begun == ["a", "b"])
        fleet.subscriptions["p"].close()
        await gate.end_all()
    balanced(fleet)


# Batches


async def test_a_batch_has_waiting_messages_up_to_its_size() -> None:
    """`batch=n` passes a list of at most n waiting messages, in order; each message is counted."""
    fleet, _ = fleet_of()
    seen: list[list[int]] = []

    async def handle(messages: list[Message[int]]) -> None:
        seen.append([m.data for m in messages])

    fleet.process("t", name="p", batch=4)(handle)
    for n in range(10):
        fleet.publish("t", n)
    async with fleet:
        await until(lambda: row(fleet, "p").processed == 10)
    assert seen == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]


async def test_a_batch_of_one_is_a_list() -> None:
    """`batch=1` also passes a list."""
    fleet, _ = fleet_of()
    seen: list[Any] = []

    async def handle(messages: list[Message[int]]) -> None:
        seen.append(messages)

    fleet.process("t", batch=1)(handle)
    fleet.publish("t", 5)
    async with fleet:
        await until(lambda: seen)
    assert [m.data for m in seen[0]] == [5]


async def test_a_batch_may_hold_many_messages_of_one_key() -> None:
    """With `key` and `batch` one call takes all waiting messages of its keys, in order, and no other call does."""
    fleet, _ = fleet_of()
    calls: list[list[str]] = []
    release = asyncio.Event()

    async def handle(messages: list[Message[str]]) -> None:
        calls.append([m.data for m in messages])
        await release.wait()

    fleet.process("t", name="p", batch=2, concurrency=2, key=lambda m: m.data[0])(handle)
    for data in ("a1", "a2", "a3", "b1", "b2"):
        fleet.publish("t", data)
    async with fleet:
        await turns(5)
        assert calls == [["a1", "a2"], ["b1", "b2"]]
        assert row(fleet, "p").pending == 5
        release.set()
        await until(lambda: row(fleet, "p").processed == 5)
    assert calls[2:] == [["a3"]]


async def test_a_failed_batch_has_a_failure_and_a_dead_letter_per_message() -> None:
    """Retry and dead letters treat a batch as one call; there is one count and one dead letter for each message."""
    fleet, _ = fleet_of()
    dead: list[Any] = []
    calls: list[list[int]] = []

    async def handle(messages: list[Message[int]]) -> None:
        calls.append([m.data for m in messages])
        raise ValueError("bad")

    async def bury(message: Message[Any]) -> None:
        dead.append((message.data.message.data, message.data.attempts, str(message.data.error)))

    fleet.process("t", name="p", batch=3, retry=Retry(2, 0, 0))(handle)
    fleet.process("$dead.*")(bury)
    for n in range(3):
        fleet.publish("t", n)
    async with fleet:
        await until(lambda: len(dead) == 3)
    assert calls == [[0, 1, 2], [0, 1, 2]]
    assert dead == [(0, 2, "bad"), (1, 2, "bad"), (2, 2, "bad")]
    assert row(fleet, "p").failed == 3
    balanced(fleet)
