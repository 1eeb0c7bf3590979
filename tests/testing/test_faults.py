"""Each connection fault has its effect on a fleet, and no number is lost beyond the fault."""

import asyncio

import pytest

from tests.testing.program import program
from wsfleet import Liveness, State
from wsfleet.core.errors import ConnectionLost
from wsfleet.testing import FeedServer, faults

ENDINGS = [
    (faults.Drop(after=10), 1006),
    (faults.Reset(after=10), 1006),
    (faults.Close(1000, after=10), 1000),
    (faults.Close(1012, "restarting", after=10), 1012),
    (faults.Close(4321, after=10), 4321),
    (faults.Close(1005, after=10), 1005),
    (faults.Close(1006, after=10), 1002),
    (faults.Close(999, after=10), 1002),
    (faults.Garbage(after=10), 1002),
    (faults.ReservedBits(after=10), 1002),
    (faults.ReservedBits(1, after=10), 1002),
    (faults.InvalidUTF8(after=10), 1007),
    (faults.Oversize(after=10), 1009),
    (faults.FragmentFlood(after=10), 1009),
]


@pytest.mark.parametrize(
    ("fault", "code"),
    ENDINGS,
    ids=lambda value: type(value).__name__ if isinstance(value, faults.ConnectionFault) else str(value),
)
async def test_a_fault_costs_one_connection(fault: faults.ConnectionFault, code: int) -> None:
    """The loss has the code of the fault, the feed reconnects, and only a destroying fault loses numbers."""
    async with FeedServer() as server, program(server) as running:
        server.script([fault])
        error = await running.goes_through(server)
        assert isinstance(error, ConnectionLost)
        assert error.code == code
        audit = server.audit(running.seen)
        assert audit.clean
        assert audit.sent == 20
        assert audit.arrived + len(audit.destroyed) == 20
        assert set(audit.destroyed) <= (set(range(1, 11)) if fault.destroys else set())
        assert running.seen == sorted(running.seen)
        assert running.fleet.connections["feed"].session_count == 2


async def test_a_compression_bomb_is_not_inflated() -> None:
    """A message that exceeds `max_size` after inflation ends its connection with 1009."""
    async with FeedServer(compression="deflate") as server, program(server, compression="deflate") as running:
        server.script([faults.CompressionBomb(after=10)])
        error = await running.goes_through(server)
        assert isinstance(error, ConnectionLost)
        assert error.code == 1009
        assert running.seen == list(range(1, 21))
        assert server.audit(running.seen).clean


async def test_a_compression_bomb_requires_compression() -> None:
    """A compression bomb without negotiated compression raises ValueError."""
    async with FeedServer() as server, program(server):
        await server.wait_clients(1)
        with pytest.raises(ValueError, match="deflate"):
            server.strike(faults.CompressionBomb())
        assert len(server.clients) == 1


async def test_a_stalled_server_is_found_by_pings() -> None:
    """A half-open connection is closed after a ping timeout, and no number is lost."""
    async with FeedServer() as server, program(server, liveness=Liveness(ping_s=0.1, pong_s=0.2)) as running:
        server.script([faults.Stall(after=10)])
        error = await running.goes_through(server)
        assert isinstance(error, ConnectionLost)
        assert "pong" in str(error) or "ping" in str(error)
        assert server.audit(running.seen).clean


async def test_a_silent_server_is_found_by_its_silence() -> None:
    """A server that sends only pongs is detected by `stale_s`."""
    liveness = Liveness(ping_s=0.05, pong_s=60.0, stale_s=0.3)
    async with FeedServer() as server, program(server, liveness=liveness) as running:
        server.script([faults.Silence(after=10)])
        error = await running.goes_through(server)
        assert isinstance(error, ConnectionLost)
        assert "no data" in str(error) or "stale" in str(error), error
        assert server.audit(running.seen).clean


@pytest.mark.parametrize(
    "fault", [faults.Stall(for_s=0.05), faults.Silence(for_s=0.05)], ids=lambda fault: type(fault).__name__
)
async def test_hanging_ends_when_it_is_asked_to(fault: faults.ConnectionFault) -> None:
    """With `for_s`, the server cuts the connection."""
    async with FeedServer() as server, program(server) as running:
        await server.wait_clients(1)
        server.strike(fault)
        error = await running.error()
        assert isinstance(error, ConnectionLost)
        assert error.code == 1006
        await server.wait_clients(1)


async def test_a_server_with_stalled_clients_stops_at_once() -> None:
    """A server with stalled clients stops without delay, and the feed reconnects after a restart."""
    async with FeedServer() as server, program(server) as running:
        await server.wait_clients(1)
        server.strike(faults.Stall())
        assert server.clients == ()
        await server.stop()
        await running.error()
        await server.start()
        await server.wait_clients(1)


async def test_a_flood_loses_nothing() -> None:
    """A flood larger than the mailbox pauses the connection, and all messages arrive."""
    async with FeedServer() as server, program(server) as running:
        await server.wait_clients(1)
        server.strike(faults.Flood(20_000))
        await asyncio.gather(server.send_numbered(5), running.until(5))
        assert running.seen == [1, 2, 3, 4, 5]
        row = running.fleet.stats().endpoints[0]
        assert row.received == 20_005
        assert running.fleet.connections["feed"].session_count == 1


async def test_a_server_that_accepts_and_closes() -> None:
    """A server that accepts and closes repeatedly meets growing delays, until an attempt succeeds."""
    async with FeedServer() as server, program(server) as running:
        server.script([faults.Close(1013, "try again later")] * 3)
        changes = [await running.change_to(State.BACKOFF) for _ in range(3)]
        await server.wait_clients(1)
        errors = [change.data.error for change in changes]
        assert [error.code for error in errors if isinstance(error, ConnectionLost)] == [1013] * 3
        assert [change.data.attempt for change in changes] == [1, 2, 3]


async def test_a_fault_after_some_time() -> None:
    """With `after_s`, the connection works until that time."""
    async with FeedServer() as server, program(server) as running:
        server.script([faults.Close(1012, after_s=0.05)])
        await server.send_numbered(1)
        error = await running.error()
        assert isinstance(error, ConnectionLost)
        assert error.code == 1012


async def test_strike_affects_only_the_given_client() -> None:
    """`strike` with a client does not affect other clients."""
    async with FeedServer() as server, program(server, "/one") as one, program(server, "/other") as other:
        await server.wait_clients(2)
        (client,) = (each for each in server.clients if each._trail.path == "/one")
        server.strike(faults.Drop(), client)
        await one.error()
        await server.wait_clients(2)
        assert other.fleet.connections["feed"].session_count == 1
