"""Limits per host: the order of attempts, the number of concurrent ones, and the effects of a cancelled one."""

import asyncio
import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsfleet import Fleet, Limits, Reconnect, State
from wsfleet.core.errors import ConnectFailed
from wsfleet.endpoint.connect_limiter import AT_ONCE, GATES, ConnectLimiter
from wsfleet.testing import FakeSocket, FakeTransport
from wsfleet.transport.base import DialRequest, Progress, Wire

HOST = "feed.test"
CROWD = 200


def clock() -> float:
    return asyncio.get_running_loop().time()


class Turns:
    """Connects to one host under the given limits, and records which attempts were admitted."""

    def __init__(self, limits: Limits) -> None:
        self.limiter = ConnectLimiter(limits)
        self.entered: list[str] = []
        self.inside = 0
        self.gone_on = asyncio.Event()

    async def visit(self, name: str, *, again: bool = False) -> None:
        leave = await self.limiter.enter(HOST, again=again)
        self.entered.append(name)
        self.inside += 1
        try:
            await self.gone_on.wait()
        finally:
            self.inside -= 1
            leave()


@pytest.mark.looptime
async def test_reconnects_do_not_wait_behind_first_connects() -> None:
    """Reconnects and first connects of one host alternate, each in their own order."""
    turns = Turns(Limits(handshakes=1))
    async with asyncio.TaskGroup() as tasks:
        for number in range(4):
            tasks.create_task(turns.visit(f"first-{number}"))
        await asyncio.sleep(0)
        for number in range(2):
            tasks.create_task(turns.visit(f"again-{number}", again=True))
        await asyncio.sleep(1.0)
        turns.gone_on.set()
    assert turns.entered == ["first-0", "again-0", "first-1", "again-1", "first-2", "first-3"]


@pytest.mark.looptime
async def test_waiting_for_the_pace_or_a_hold_uses_no_handshake() -> None:
    """The limit applies to handshakes in progress; an attempt that may not begin yet does not count."""
    turns = Turns(Limits(handshakes=2, connects_per_s=1.0))
    turns.gone_on.set()
    turns.limiter.hold(HOST, 10.0)
    began = clock()
    async with asyncio.TaskGroup() as tasks:
        for number in range(5):
            tasks.create_task(turns.visit(f"first-{number}"))
        tasks.create_task(turns.visit("again", again=True))
    assert turns.entered[:2] in (["first-0", "again"], ["again", "first-0"])
    assert clock() - began == pytest.approx(15.0, abs=0.01)


@pytest.mark.looptime
async def test_a_longer_hold_delays_waiting_attempts() -> None:
    """If a hold is extended while an attempt waits for its end, the attempt waits until the new end."""
    turns = Turns(Limits())
    turns.gone_on.set()
    turns.limiter.hold(HOST, 10.0)
    began = clock()
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(turns.visit("one"))
        await asyncio.sleep(5.0)
        turns.limiter.hold(HOST, 20.0)
    assert clock() - began == pytest.approx(25.0, abs=0.01)


@given(
    steps=st.lists(st.tuples(st.booleans(), st.integers(0, 3), st.booleans()), max_size=30),
    most=st.integers(1, 4),
)
def test_a_cancelled_attempt_affects_no_other(steps: list[tuple[bool, int, bool]], most: int) -> None:
    """If an attempt is cancelled while it waits, when it is admitted or later, the limit holds and all others are
    admitted.
    """

    async def scenario() -> None:
        turns = Turns(Limits(handshakes=most))
        visits: list[asyncio.Task[None]] = []
        for number, (again, wait, cancel) in enumerate(steps):
            visits.append(asyncio.create_task(turns.visit(str(number), again=again)))
            for _ in range(wait):
                await asyncio.sleep(0)
            if cancel:
                visits[number // 2].cancel()
            assert turns.inside <= most
        turns.gone_on.set()
        await asyncio.gather(*visits, return_exceptions=True)
        kept = [number for number, visit in enumerate(visits) if not visit.cancelled()]
        assert set(turns.entered) >= {str(number) for number in kept}
        async with asyncio.timeout(1.0):
            for _ in range(most):
                await turns.visit("last")

    asyncio.run(scenario())


class Stormy(FakeTransport):
    """A host that answers after a moment, and refuses while it is `down`; it records the attempts."""

    def __init__(self) -> None:
        super().__init__()
        self.down = False
        self.times: list[float] = []
        self.most_in_flight = 0
        self._in_flight = 0

    async def open(self, target: DialRequest, progress: Progress) -> Wire:
        if HOST not in target.uri:
            return await super().open(target, progress)
        self.times.append(clock())
        self._in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self._in_flight)
        try:
            await asyncio.sleep(0.01)
            if self.down:
                raise ConnectFailed("tcp", "connection refused")
            return await super().open(target, progress)
        finally:
            self._in_flight -= 1


@pytest.mark.looptime(noop_cycles=3)  # instead of 42 empty iterations of the loop before time moves on: no threads
async def test_a_storm_is_spread_and_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """After all connections are reset and refused for 10 s, they return without exceeding the limit of handshakes.

    No 100 ms have more than 5 % of the attempts, and an endpoint of another host is not affected.
    """
    monkeypatch.setattr(random, "random", random.Random(4).random)
    transport, sockets = Stormy(), list[FakeSocket]()
    fleet = Fleet(transport=transport, limits=Limits(handshakes=8))
    plan = Reconnect(initial_s=1.0)
    crowd = [fleet.connect(f"ws://{HOST}/", name=f"n{number}", reconnect=plan) for number in range(CROWD)]
    healthy = fleet.connect("ws://other.test/", name="healthy")

    async def accept() -> None:
        while True:
            sockets.append(await transport.accept())

    async with fleet, asyncio.TaskGroup() as group:
        accepting = group.create_task(accept())
        for connection in (healthy, *crowd):
            await connection.wait_open()
        transport.times.clear()
        transport.down = True
        began = clock()
        for socket in sockets:
            if HOST in socket.uri:
                socket.lose()
        await asyncio.sleep(10.0)
        transport.down = False
        await asyncio.sleep(60.0)
        assert all(connection.state is State.OPEN for connection in crowd)
        assert (healthy.session_count, healthy.stats().losses) == (1, 0)
        accepting.cancel()
    assert transport.most_in_flight == 8
    histogram = Counter(int((at - began) * 10) for at in transport.times)
    assert max(histogram.values()) <= len(transport.times) * 0.05


async def test_few_attempts_begin_in_each_iteration_of_the_loop() -> None:
    """Over all hosts only a few attempts begin in each iteration of the loop, and no host waits for another one."""
    limiter = ConnectLimiter(Limits())
    entered: list[str] = []

    async def enter(host: str) -> None:
        await limiter.enter(host)
        entered.append(host)

    async with asyncio.TaskGroup() as tasks:
        for host in ("a", "b", "c"):
            for _ in range(20):
                tasks.create_task(enter(host))
        await asyncio.sleep(0)  # the tasks begin
        rounds = []
        while len(entered) < 60:
            before = len(entered)
            await asyncio.sleep(0)
            rounds.append(entered[before:])
    assert max(map(len, rounds)) == AT_ONCE
    assert {len(each) for each in rounds} <= {0, AT_ONCE}
    share = Counter(entered[AT_ONCE:30])
    assert max(share.values()) - min(share.values()) <= 1


async def test_a_waiter_cancelled_before_its_turn_takes_no_slot() -> None:
    """If a slot becomes free after a waiter was cancelled, and before the waiter noticed it, the next
    waiter gets it.
    """
    limiter = ConnectLimiter(Limits(handshakes=1))
    leave = await limiter.enter(HOST)
    waiting = [asyncio.create_task(limiter.enter(HOST)) for _ in range(2)]
    await asyncio.sleep(0)
    waiting[0].cancel()
    leave()
    leave = await waiting[1]
    leave()
    with pytest.raises(asyncio.CancelledError):
        await waiting[0]
    (await limiter.enter(HOST))()


async def test_a_waiter_cancelled_with_a_slot_returns_it() -> None:
    """If a slot was given to a waiter that was cancelled, the slot is free again."""
    limiter = ConnectLimiter(Limits(handshakes=1))
    leave = await limiter.enter(HOST)
    waiting = asyncio.create_task(limiter.enter(HOST))
    await asyncio.sleep(0)
    leave()  # the waiter has the slot, and has not run yet
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    async with asyncio.timeout(5.0):
        (await limiter.enter(HOST))()


@pytest.mark.looptime
async def test_unused_gates_are_removed() -> None:
    """For any number of hosts, the number of gates is bounded; a gate that still limits attempts is kept until it does
    not.
    """
    limiter = ConnectLimiter(
        Limits(hosts={"paced.test": Limits(connects_per_s=0.1), "full.test": Limits(handshakes=1)})
    )
    limiter.hold("held.test", 10.0)
    (await limiter.enter("paced.test"))()
    leave = await limiter.enter("full.test")
    waiting = asyncio.create_task(limiter.enter("full.test"))
    for number in range(3 * GATES):
        (await limiter.enter(f"host-{number}.test"))()
        assert len(limiter._gates) <= GATES
    began = clock()
    (await limiter.enter("held.test"))()
    assert clock() - began == pytest.approx(10.0, abs=0.1)
    (await limiter.enter("paced.test"))()
    assert not waiting.done()
    leave()
    (await waiting)()
    for number in range(GATES):
        (await limiter.enter(f"other-{number}.test"))()
    assert not {"held.test", "full.test"} & limiter._gates.keys()
