"""What thousands of sockets bring or lose in one moment is spread over turns of the loop."""

import asyncio
import time

import pytest

from tests.support.wirekit import Collector, Pipe, open_protocol, open_wire
from wsfleet.core.time_slice import SLICE_S
from wsfleet.transport.fairness import LOSS_S, ReadScheduler


async def test_many_losses_give_the_loop_its_turn() -> None:
    """However many sockets go in one moment, what is to be done about them is spread over turns, in their order."""
    scheduler = ReadScheduler()
    ended: list[int] = []

    def end(number: int) -> None:
        until = time.perf_counter() + 0.000_1
        while time.perf_counter() < until:
            pass
        ended.append(number)

    for number in range(200):
        scheduler.call_soon(lambda number=number: end(number))
    assert not ended
    while len(ended) < 200:
        before = len(ended)
        await asyncio.sleep(0)
        assert len(ended) - before <= 11
    assert ended == list(range(200))


async def test_what_a_callback_causes_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """What others will do because of a callback is time of the same slice, whether the clock has gone on or not."""
    Clock(monkeypatch)
    scheduler = ReadScheduler()
    ended: list[int] = []

    def end(number: int) -> None:
        ended.append(number)
        scheduler.spend(SLICE_S / 4)

    for number in range(12):
        scheduler.call_soon(lambda number=number: end(number))
    await asyncio.sleep(0)
    assert len(ended) == 5
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert ended == list(range(12))


async def test_few_losses_are_told_in_one_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    """What its supervisor has to do about a loss counts as well, so those of one moment are told over many turns."""
    Clock(monkeypatch)
    scheduler = ReadScheduler()
    lost: list[Collector] = []
    for _ in range(60):
        collector = Collector()
        lost.append(collector)
        wire = open_wire(Pipe(), open_protocol(1024), scheduler=scheduler)
        collector.start(wire)
        wire.connection_lost(None)
    told = 0
    while told < 60:
        await asyncio.sleep(0)
        before, told = told, sum(each.ended.done() for each in lost)
        assert told - before <= 1 + SLICE_S / LOSS_S
    assert told == 60


async def test_one_that_fails_does_not_keep_the_others() -> None:
    """An error in one is the loop's to report, and the others are ended all the same."""
    scheduler = ReadScheduler()
    ended: list[int] = []
    reported: list[BaseException] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: reported.append(context["exception"]))

    def fail() -> None:
        raise ZeroDivisionError

    scheduler.call_soon(fail)
    scheduler.call_soon(lambda: ended.append(1))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert ended == [1]
    assert [type(error) for error in reported] == [ZeroDivisionError]


async def test_later_ones_are_scheduled_anew() -> None:
    """Once all is done, another loss begins it again."""
    scheduler = ReadScheduler()
    ended: list[int] = []
    for number in (1, 2):
        scheduler.call_soon(lambda number=number: ended.append(number))
        await asyncio.sleep(0)
        assert ended[-1:] == [number]


class Clock:
    """A clock that goes on when it is told to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        monkeypatch.setattr("wsfleet.transport.fairness.time.perf_counter", lambda: self.now)


def read(scheduler: ReadScheduler, clock: Clock, seconds: float) -> bool:
    """One connection's read, handed over in `seconds` unless the slice has expired; return whether it has."""
    expired = scheduler.expired()
    if not expired:
        clock.now += seconds
    scheduler.done()
    return expired


async def test_reads_of_one_turn_share_a_slice(monkeypatch: pytest.MonkeyPatch) -> None:
    """Once the reads of a turn have taken a millisecond together, the others are late, until the next turn."""
    scheduler, clock = ReadScheduler(), Clock(monkeypatch)
    assert [read(scheduler, clock, 0.000_3) for _ in range(6)] == [False, False, False, False, True, True]
    await asyncio.sleep(0)
    assert [read(scheduler, clock, 0.000_3) for _ in range(6)] == [False, False, False, False, True, True]


async def test_a_read_after_something_else_is_not_late(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the loop has done something else since the last read, the slice begins anew."""
    scheduler, clock = ReadScheduler(), Clock(monkeypatch)
    for _ in range(20):
        assert not read(scheduler, clock, 0.000_9)
        clock.now += 0.000_1


async def test_turns_that_follow_each_other_at_once_are_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    """A read in each of many turns is never late, however little time lies between them."""
    scheduler, clock = ReadScheduler(), Clock(monkeypatch)
    for _ in range(20):
        assert not read(scheduler, clock, 0.000_4)
        await asyncio.sleep(0)


def test_another_loop_begins_anew() -> None:
    """What a loop left undone when it was closed neither is done in the next one nor keeps it from its own."""
    scheduler, done = ReadScheduler(), list[str]()

    async def leave() -> None:
        scheduler.call_soon(lambda: done.append("left"))
        asyncio.get_running_loop().stop()

    async def begin() -> None:
        scheduler.call_soon(lambda: done.append("begun"))
        await asyncio.sleep(0)

    loop = asyncio.new_event_loop()
    left = loop.create_task(leave())
    loop.run_forever()
    assert left.done()
    loop.close()
    asyncio.run(begin())
    assert done == ["begun"]
