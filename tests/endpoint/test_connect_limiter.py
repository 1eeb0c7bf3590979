"""Turns at one host: who goes when, how many at a time, and what a cancelled one leaves behind."""

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
    """Visits one host under given limits, and notes who was let in."""

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
async def test_what_was_open_does_not_wait_behind_first_connects() -> None:
    """Reconnects and first connects of one host take turns, each in their own order."""
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
async def test_whoever_waits_for_the_pace_or_a_hold_takes_no_handshake() -> None:
    """The limit is on handshakes under way; one that is not yet allowed to begin has not used it up."""
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
async def test_a_longer_hold_moves_those_who_wait() -> None:
    """A hold that is made longer while somebody waits for its end is waited out whole."""
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
def test_a_cancelled_turn_is_nobodys_loss(steps: list[tuple[bool, int, bool]], most: int) -> None:
    """Whoever is cancelled, waiting, just let in or inside, the bound holds and everybody else gets in."""

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
    """A host that answers after a moment, and while it is `down` refuses; what it was asked for is noted."""

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


@pytest.mark.looptime
async def test_a_storm_is_spread_and_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """All are reset at once, refused for 10 s, and come back: never more handshakes than the limit, no 100 ms with more
    than 5 % of the attempts, and an endpoint of another host loses nothing."""
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


async def test_attempts_begin_a_few_in_each_turn_of_the_loop() -> None:
    """Over all hosts a few attempts begin in each turn of the loop, and no host waits for another."""
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


async def test_one_cancelled_in_the_moment_of_its_turn_takes_nobodys() -> None:
    """Somebody leaves after a waiting one was cancelled, and before that one could see it: the next one goes in."""
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


async def test_one_cancelled_with_its_turn_in_hand_gives_it_back() -> None:
    """A place among the handshakes that was given, and taken by nobody as the one who waited was cancelled, is free."""
    limiter = ConnectLimiter(Limits(handshakes=1))
    leave = await limiter.enter(HOST)
    waiting = asyncio.create_task(limiter.enter(HOST))
    await asyncio.sleep(0)
    leave()  # the place is its own now, and it has not gone on yet
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    async with asyncio.timeout(5.0):
        (await limiter.enter(HOST))()


@pytest.mark.looptime
async def test_hosts_that_nobody_goes_to_are_forgotten() -> None:
    """However many hosts come and go, few are remembered; what holds anybody back is, until it does so no more."""
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
