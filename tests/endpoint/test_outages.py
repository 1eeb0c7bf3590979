"""After its outage or its pause, the endpoints of a host are back soon, and not all at once."""

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from tests.support.flows import until
from wsfleet import Fleet, Reconnect, State
from wsfleet.core.errors import ConnectFailed, ConnectionLost, HandshakeRejected
from wsfleet.core.retry import is_host_failure
from wsfleet.endpoint.outages import HOSTS, PROOF_S, Outages
from wsfleet.endpoint.spread import SPREAD_S
from wsfleet.testing import FakeSocket, FakeTransport
from wsfleet.transport.base import DialRequest, Progress, Wire

HOST = "feed.test"
URI = f"ws://{HOST}/"
CROWD = 100


def clock() -> float:
    return asyncio.get_running_loop().time()


def refused() -> Exception:
    return ConnectFailed("tcp", "connection refused")


class Server(FakeTransport):
    """Accepts every attempt, and while it is `down` lets it fail with `error()`. Paths in `broken` always fail."""

    def __init__(self) -> None:
        super().__init__()
        self.down = False
        self.error = refused
        self.broken: set[str] = set()
        self.open_for_s: float | None = None
        self.times: list[float] = []
        self.names: list[str] = []
        self.sockets: list[FakeSocket] = []

    async def open(self, target: DialRequest, progress: Progress) -> Wire:
        self.times.append(clock())
        self.names.append(target.name)
        await asyncio.sleep(0.01)
        if self.down or target.name in self.broken:
            raise self.error()
        return await super().open(target, progress)

    async def serve(self) -> None:
        while True:
            socket = await self.accept()
            self.sockets.append(socket)
            if self.open_for_s is not None:
                asyncio.get_running_loop().call_later(self.open_for_s, socket.lose)

    def stop(self) -> None:
        self.down = True
        for socket in self.sockets:
            socket.lose()
        self.sockets.clear()

    def busiest(self, since: float) -> int:
        """Return the number of attempts in the fullest 100 ms."""
        return max(Counter(int((at - since) * 10) for at in self.times if at >= since).values())


@asynccontextmanager
async def running(fleet: Fleet, server: Server) -> AsyncIterator[None]:
    async with fleet:
        serving = asyncio.create_task(server.serve())
        yield
        serving.cancel()
        await asyncio.wait([serving])


async def until_back(fleet: Fleet) -> list[float]:
    """Return how long it took each endpoint to be open, in order."""
    began = clock()

    async def back(name: str) -> float:
        await fleet.connections[name].wait_open()
        return clock() - began

    return sorted(await asyncio.gather(*(back(name) for name in fleet.connections)))


@pytest.mark.looptime
@pytest.mark.parametrize("error", [refused, lambda: HandshakeRejected(503), lambda: ConnectFailed("dns", "no name")])
async def test_after_an_outage_everybody_is_back_soon(error, monkeypatch: pytest.MonkeyPatch) -> None:
    """The waits that an outage of 10 s has grown end with it, spread over a few seconds."""
    monkeypatch.setattr(random, "random", random.Random(4).random)
    server = Server()
    server.error = error
    fleet = Fleet(transport=server)
    for number in range(CROWD):
        fleet.connect(URI, name=f"feed-{number}")
    async with running(fleet, server):
        await until_back(fleet)
        server.times.clear()
        server.stop()
        await asyncio.sleep(10.0)
        server.down = False
        began = clock()
        took = await until_back(fleet)
        assert took[len(took) * 99 // 100] <= 5.0
        assert took[-1] <= 8.0
        assert server.busiest(began) <= len(server.times) * 0.05


@pytest.mark.looptime
async def test_a_host_that_flaps_meets_growing_waits() -> None:
    """A host that loses its connections again and again is not proved to work, so the waits grow as for any failure."""
    server = Server()
    fleet = Fleet(transport=server)
    for number in range(20):
        fleet.connect(URI, name=f"feed-{number}", reconnect=Reconnect(jitter=0.5))
    async with running(fleet, server):
        await until_back(fleet)
        server.times.clear()
        began = clock()
        while clock() < began + 300.0:
            server.stop()
            await asyncio.sleep(3.0)
            server.down = False
            await asyncio.sleep(4.5)
        # Six waits up to 32 s, then at least 30 s each: 15 attempts. With waits that begin afresh it would be 60.
        assert len(server.times) <= 20 * 20


@pytest.mark.looptime
async def test_each_proof_takes_longer_than_the_last() -> None:
    """A host that fails after it was proved to work must stay up for twice as long, until it was calm for minutes."""
    outages = Outages()

    async def proof_s() -> float:
        waiting = outages.failed(HOST, clock())
        began = clock()
        outages.opened(HOST, "one")
        await waiting
        outages.lost(HOST, "one")
        return clock() - began

    assert [await proof_s() for _ in range(8)] == pytest.approx([1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0])
    await asyncio.sleep(200.0)
    assert await proof_s() == pytest.approx(1.0)


@pytest.mark.looptime
@pytest.mark.parametrize("open_for_s", [0.01, 0.9])
async def test_accepting_and_closing_at_once_proves_nothing(open_for_s: float) -> None:
    """A connection that does not stay open is a failure of the host, and ends no wait."""
    server = Server()
    server.open_for_s = open_for_s
    fleet = Fleet(transport=server)
    for number in range(10):
        fleet.connect(URI, name=f"feed-{number}", reconnect=Reconnect(jitter=0.0))
    async with running(fleet, server):
        await asyncio.sleep(300.0)
        # 0.5 + 1 + ... + 32 s, then a minute apart.
        assert len(server.times) <= 10 * (7 + 5)
        server.open_for_s = None
        took = await until_back(fleet)
        assert took[-1] <= 60.0 + 1.0


@pytest.mark.looptime
async def test_after_a_host_closed_at_once_everybody_is_back_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """The waits end also after a time in which the host accepted every connection and closed it at once."""
    monkeypatch.setattr(random, "random", random.Random(4).random)
    server = Server()
    server.open_for_s = 0.1
    fleet = Fleet(transport=server)
    for number in range(30):
        fleet.connect(URI, name=f"feed-{number}")
    async with running(fleet, server):
        await asyncio.sleep(60.0)
        server.open_for_s = None
        assert (await until_back(fleet))[-1] <= 8.0


@pytest.mark.looptime
async def test_an_endpoint_that_always_fails_gains_nothing_from_the_others() -> None:
    """One endpoint with a fault of its own is not retried more often because others of its host come and go."""
    server = Server()
    server.broken = {"broken"}
    fleet = Fleet(transport=server)
    fleet.connect(URI, name="broken", reconnect=Reconnect(jitter=0.0))
    others = [fleet.connect(URI, name=f"feed-{number}") for number in range(5)]
    async with running(fleet, server):
        while clock() < 900.0:
            await asyncio.sleep(2.0)
            random.Random(int(clock())).choice(others).restart()
        # Its own waits alone are 7 attempts and then one in a minute.
        assert Counter(server.names)["broken"] <= 2 * (7 + 15)


@pytest.mark.looptime
async def test_a_failure_that_began_before_the_end_is_no_news() -> None:
    """An attempt that hung through the end of the outage is repeated soon, not after the grown wait."""
    outages = Outages()
    waiting = outages.failed(HOST, clock())
    began_at = clock()
    outages.opened(HOST, "other")
    await asyncio.sleep(PROOF_S + 0.1)
    assert waiting.done()
    late = outages.failed(HOST, began_at)
    fresh = outages.failed(HOST, clock())
    await asyncio.sleep(0.1)
    assert late.done()
    assert not fresh.done()
    fresh.cancel()


@pytest.mark.looptime
async def test_the_loss_of_the_proof_stops_the_return() -> None:
    """If the host is down again while the endpoints come back, the others go on waiting."""
    outages = Outages()
    waits = [outages.failed(HOST, clock()) for _ in range(300)]
    outages.opened(HOST, "one")
    await asyncio.sleep(PROOF_S + SPREAD_S / 2)
    outages.lost(HOST, "one")
    came = sum(wait.done() for wait in waits)
    assert 100 < came < 200
    await asyncio.sleep(60.0)
    assert sum(wait.done() for wait in waits) == came
    outages.opened(HOST, "two")
    await asyncio.sleep(2 * PROOF_S + SPREAD_S + 0.1)
    assert all(wait.done() for wait in waits)


@pytest.mark.looptime
async def test_a_host_without_an_outage_is_forgotten() -> None:
    """However many hosts fail once, few are remembered; one at which an endpoint waits is."""
    outages = Outages()
    waiting = outages.failed("waiting.test", clock())
    for number in range(3 * HOSTS):
        outages.failed(f"host-{number}.test", clock()).cancel()
        await asyncio.sleep(0)
        assert len(outages._hosts) <= HOSTS
    outages.opened("waiting.test", "one")
    await asyncio.sleep(PROOF_S + 0.1)
    assert waiting.done()


def caused(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        *[(ConnectFailed(stage), True) for stage in ("dns", "tcp", "proxy", "tls", "http")],
        (ConnectFailed("uri"), False),
        (ConnectFailed("on_open"), False),
        (caused(ConnectFailed("on_open"), ConnectionLost(1006)), True),
        (ConnectFailed("proxy", status=502), True),
        (ConnectFailed("proxy", status=403), False),
        *[(HandshakeRejected(status), status >= 500) for status in (302, 400, 404, 429, 500, 503, 599)],
        (ConnectionLost(1006), False),
    ],
)
def test_failures_of_the_host(error: Exception, expected: bool) -> None:
    """A failure that other endpoints of the host would probably have too is one of the host."""
    assert is_host_failure(error) == expected


@pytest.mark.looptime
@pytest.mark.parametrize("refusals", [64, 10])
async def test_after_its_pause_a_host_gets_no_herd(refusals: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a Retry-After of 4 s nobody comes earlier, and no 100 ms has more than 5 % of the attempts."""
    monkeypatch.setattr(random, "random", random.Random(4).random)
    server = Server()
    fleet = Fleet(transport=server)
    for number in range(200):
        fleet.connect(URI, name=f"feed-{number}")
    for _ in range(refusals):
        server.refuse(HandshakeRejected(429, {}, 4.0))
    async with running(fleet, server):
        await until(lambda: not server._refusals)
        held_at = server.times[0] + 0.01  # the first refusal
        took = await until_back(fleet)
    late = [at for at in server.times if at > held_at]
    assert min(late) == pytest.approx(held_at + 4.0, abs=1e-6)
    assert server.busiest(held_at) <= len(server.times) * 0.05
    assert took[-1] <= 4.0 + SPREAD_S + 2.0
    assert {connection.state for connection in fleet.connections.values()} == {State.CLOSED}
