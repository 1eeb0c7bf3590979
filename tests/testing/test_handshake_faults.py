"""Each handshake fault has its effect on a fleet, and scripts apply a step to each attempt."""

import asyncio
import itertools

import pytest

from tests.testing.program import program
from wsfleet import Fleet, Liveness, State
from wsfleet.core.errors import ConnectFailed, ConnectionLost, HandshakeRejected
from wsfleet.testing import FeedServer, faults


@pytest.mark.parametrize("status", [401, 403, 404, 410])
async def test_a_fatal_answer_ends_the_attempts(status: int) -> None:
    """After a fatal answer, the fleet makes no more attempts."""
    async with FeedServer() as server, program(server) as running:
        server.script([faults.Refuse(status)])
        error = (await running.change_to(State.FAILED)).data.error
        assert isinstance(error, HandshakeRejected)
        assert error.status == status
        assert len(server.requests) == 1


@pytest.mark.parametrize("fault", [faults.Refuse(429, {"Retry-After": "0"}), faults.Refuse(503)], ids=["429", "503"])
async def test_a_temporary_answer_is_followed_by_another_attempt(fault: faults.Refuse) -> None:
    """After a temporary answer, the fleet tries again and connects."""
    async with FeedServer() as server, program(server) as running:
        server.script([fault])
        error = await running.error()
        assert isinstance(error, HandshakeRejected)
        assert error.status == fault.status
        assert error.retry_after_s == (0.0 if fault.headers else None)
        await server.wait_clients(1)


async def test_a_redirect_is_followed() -> None:
    """A redirect is followed to the feed."""
    async with FeedServer() as there, FeedServer() as here, program(here) as running:
        here.script([faults.Redirect(f"{there.uri}/moved".replace("ws:", "http:"), 307)])
        await there.send_numbered(3)
        await running.until(3)
        assert [request.path for request in there.requests] == ["/moved"]
        assert here.clients == ()


UNOPENED = [
    faults.NoAnswer(),
    faults.BadAnswer(),
    faults.SlowHandshake(byte_s=10.0),
    faults.EndlessHeaders(),
    faults.EndlessHeaders(line_bytes=10),
]


@pytest.mark.parametrize("fault", UNOPENED, ids=lambda fault: type(fault).__name__)
async def test_an_invalid_answer_fails_the_attempt(fault: faults.HandshakeFault) -> None:
    """The attempt fails at the stage http, within `open_s`, and the next one succeeds."""
    async with FeedServer() as server, program(server, open_s=0.5) as running:
        server.script([fault])
        error = await running.error()
        assert isinstance(error, ConnectFailed)
        assert error.stage == "http"
        server.heal()
        await server.send_numbered(2)
        await running.until(2)


async def test_a_slow_handshake_is_a_good_one() -> None:
    """After a slow handshake the connection works normally."""
    async with FeedServer() as server, program(server) as running:
        server.script([faults.SlowHandshake(byte_s=0.0005)])
        await server.send_numbered(2)
        await running.until(2)
        assert running.fleet.connections["feed"].session_count == 1


async def test_an_endless_handshake_does_not_delay_the_end() -> None:
    """An endless handshake does not delay the stop of the server or the end of the fleet."""
    async with FeedServer() as server, program(server):
        server.script(itertools.repeat(faults.NoAnswer()))
        while not server.requests:
            await asyncio.sleep(0.01)
        await server.stop()


async def test_a_script_has_a_step_for_each_attempt() -> None:
    """Each step of a script applies to one attempt; after the script, attempts succeed."""
    async with FeedServer() as server, program(server) as running:
        server.script([faults.Refuse(503), faults.Drop(after=10), faults.Well(), faults.Close(4000)])
        assert isinstance(await running.error(), HandshakeRejected)
        error = await running.goes_through(server, 20)
        assert isinstance(error, ConnectionLost)
        server.drop()
        assert isinstance(await running.error(), ConnectionLost)
        error = await running.error()
        assert isinstance(error, ConnectionLost)
        assert error.code == 4000
        await server.wait_clients(1)
        assert len(server.requests) == 5
        assert server.audit(running.seen).clean


async def test_a_script_may_be_endless_until_the_server_is_healed() -> None:
    """`heal` ends an endless script, cancels scheduled faults, and cuts held connections."""
    async with FeedServer() as server, program(server, liveness=Liveness(ping_s=60.0)) as running:
        server.script(itertools.cycle([faults.Stall(after=5), faults.Drop(after=5)]))
        await server.send_numbered(5)
        await running.until(5)
        assert server.clients == ()
        server.heal()
        await running.error()
        await server.wait_clients(1)
        server.strike(faults.Drop(after=3, after_s=3600.0))
        server.heal()
        await server.send_numbered(10)
        await running.until(15)
        assert running.fleet.connections["feed"].session_count == 2


async def test_feeds_of_one_server_are_audited_apart() -> None:
    """Numbers are sent to all clients, and a path selects the connections to audit."""
    async with FeedServer() as server, program(server, "/a") as one, program(server, "/b") as other:
        await server.wait_clients(2)
        await server.send_numbered(5)
        await asyncio.gather(one.until(5), other.until(5))
        assert server.audit(one.seen, "/a").arrived == 5
        assert server.audit([1, 2, 2, 9], "/b").lost == (3, 4, 5)
        assert server.audit([], "/nowhere").sent == 0


async def test_numbers_come_in_the_shape_that_is_asked_for() -> None:
    """`make` determines the message of a number."""
    async with FeedServer() as server, Fleet() as fleet:
        fleet.connect(server.uri, name="feed", topic="prices.{symbol}", decode="json", proxy=False)
        prices = fleet.subscribe("prices.AMBER")
        await server.send_numbered(2, lambda n: {"symbol": "AMBER", "price": n / 2})
        assert [(await anext(prices)).data["price"] for _ in range(2)] == [0.5, 1.0]
