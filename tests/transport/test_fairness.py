"""Reads and losses of many sockets are distributed over several loop iterations."""

import asyncio
import time

import pytest

from tests.support.wirekit import Collector, Pipe, open_protocol, open_wire
from wsfleet.core.time_slice import SLICE_S
from wsfleet.transport.fairness import LOSS_S, ReadScheduler


async def test_many_losses_give_the_loop_its_turn() -> None:
    """Simultaneous losses are processed in order, over several loop iterations."""
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


async def test_charged_time_counts_towards_the_slice(monkeypatch: pytest.MonkeyPatch) -> None:
    """Charged time counts towards the slice like the time of the clock."""
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


async def test_few_losses_are_reported_in_one_iteration(monkeypatch: pytest.MonkeyPatch) -> None:
    """The time that supervisors need for losses counts, so simultaneous losses take many iterations."""
    Clock(monkeypatch)
    scheduler = ReadScheduler()
    lost: list[Collector] = []
    for _ in range(60):
        collector = Collector()
        lost.append(collector)
        wire = open_wire(Pipe(), open_protocol(1024), scheduler=scheduler)
        collector.start(wire)
        wire.connection_lost(None)
    ended = 0
    while ended < 60:
        await asyncio.sleep(0)
        before, ended = ended, sum(each.ended.done() for each in lost)
        assert ended - before <= 1 + SLICE_S / LOSS_S
    assert ended == 60


async def test_a_failing_callback_does_not_stop_the_others() -> None:
    """An exception in one callback is reported by the loop, and the others still run."""
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


async def test_later_callbacks_are_scheduled_again() -> None:
    """After the queue is empty, a new callback is scheduled again."""
    scheduler = ReadScheduler()
    ended: list[int] = []
    for number in (1, 2):
        scheduler.call_soon(lambda number=number: ended.append(number))
        await asyncio.sleep(0)
        assert ended[-1:] == [number]


class Clock:
    """A clock that is advanced by the test."""

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
    """Reads of one iteration share a slice of a millisecond; later reads are deferred to the next iteration."""
    scheduler, clock = ReadScheduler(), Clock(monkeypatch)
    assert [read(scheduler, clock, 0.000_3) for _ in range(6)] == [False, False, False, False, True, True]
    await asyncio.sleep(0)
    assert [read(scheduler, clock, 0.000_3) for _ in range(6)] == [False, False, False, False, True, True]


async def test_a_read_after_something_else_is_not_late(monkeypatch: pytest.MonkeyPatch) -> None:
    """After other work of the loop, a new slice starts."""
    scheduler, clock = ReadScheduler(), Clock(monkeypatch)
    for _ in range(20):
        assert not read(scheduler, clock, 0.000_9)
        clock.now += 0.000_1


async def test_reads_in_fast_iterations_are_not_deferred(monkeypatch: pytest.MonkeyPatch) -> None:
    """A read in each of many fast iterations is never deferred."""
    scheduler, clock = ReadScheduler(), Clock(monkeypatch)
    for _ in range(20):
        assert not read(scheduler, clock, 0.000_4)
        await asyncio.sleep(0)


def test_another_loop_starts_without_old_callbacks() -> None:
    """Callbacks of a closed loop are dropped, and those of the next loop run."""
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
