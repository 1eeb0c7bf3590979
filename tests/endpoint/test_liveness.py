"""Pings, stale detection and heartbeats, in simulated time except for blocked loops."""

import asyncio
import gc
import time
import weakref
from typing import Any

import pytest

from wsfleet import Buffer, Connection, Fleet, Liveness, Message, Reconnect, Session, State
from wsfleet.endpoint import liveness
from wsfleet.endpoint.ingest import Ingest
from wsfleet.testing import FakeSocket, FakeTransport, FeedServer
from wsfleet.testing.fake import FakeWire

URI = "ws://feed.test/"
NOT_AGAIN = Reconnect(initial_s=10**6, max_s=10**6, jitter=0.0)


@pytest.fixture(autouse=True)
def rare_sweeps(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """Simulated hours run faster if the check is not made twice a second."""
    if request.node.get_closest_marker("looptime"):
        monkeypatch.setattr(liveness, "LOOK_S", 3600.0)


def clock() -> float:
    return asyncio.get_running_loop().time()


async def lost(connection: Connection) -> float:
    """Wait until the connection is lost, and return the time."""
    while connection.state is State.OPEN:
        await asyncio.sleep(0.05)
    return clock()


async def opened(fleet: Fleet, transport: FakeTransport, **options: Any) -> tuple[Connection, FakeSocket]:
    connection = fleet.connect(URI, reconnect=NOT_AGAIN, **options)
    socket = await transport.accept()
    await connection.wait_open()
    return connection, socket


@pytest.mark.looptime
async def test_pings_go_out_every_ping_s() -> None:
    """An open connection is pinged every ping_s; with None never."""
    transport = FakeTransport()
    async with Fleet(transport=transport) as fleet:
        _, pinged = await opened(fleet, transport, liveness=Liveness(ping_s=5.0))
        _, quiet = await opened(fleet, transport, liveness=Liveness(ping_s=None))
        await asyncio.sleep(60.5)
        assert (pinged.pings, quiet.pings) == (12, 0)
        await asyncio.sleep(60.0)
        assert pinged.pings == 24


@pytest.mark.looptime
async def test_a_silent_peer_is_found() -> None:
    """If a ping is not answered within pong_s, the connection is closed, and the error contains this."""
    transport = FakeTransport()
    async with Fleet(transport=transport) as fleet:
        connection, socket = await opened(fleet, transport, liveness=Liveness(ping_s=20.0, pong_s=15.0))
        began = clock()
        socket.answers_pings = False
        assert await lost(connection) - began == pytest.approx(35.0, abs=0.1)
        assert connection.stats().last_error == "connection lost: 1006 no answer to a ping for 15 s"
        assert connection.stats().losses == 1


@pytest.mark.looptime
async def test_any_frame_proves_that_the_peer_is_there() -> None:
    """A peer that sends data but answers no ping is not closed."""
    transport = FakeTransport()
    async with Fleet(transport=transport) as fleet:
        connection, socket = await opened(fleet, transport, liveness=Liveness(ping_s=20.0, pong_s=15.0))
        socket.answers_pings = False
        for _ in range(60):
            await asyncio.sleep(10.0)
            await socket.feed("x")
        assert connection.state is State.OPEN
        began = clock()
        assert await lost(connection) - began <= 20.0 + 15.0 + 0.1


@pytest.mark.looptime
async def test_without_pong_s_no_answer_is_required() -> None:
    """pong_s=None sends pings without requiring an answer."""
    transport = FakeTransport()
    async with Fleet(transport=transport) as fleet:
        connection, socket = await opened(fleet, transport, liveness=Liveness(pong_s=None))
        socket.answers_pings = False
        await asyncio.sleep(1000.0)
        assert connection.state is State.OPEN


@pytest.mark.looptime
async def test_stale_data_is_found_although_pongs_come() -> None:
    """Without a data message for stale_s the connection is reconnected, even if pings are answered; data restart the
    time.
    """
    transport = FakeTransport()
    async with Fleet(transport=transport) as fleet:
        connection, socket = await opened(fleet, transport, liveness=Liveness(ping_s=5.0, stale_s=30.0))
        await asyncio.sleep(20.0)
        await socket.feed("x")
        began = clock()
        assert await lost(connection) - began == pytest.approx(30.0, abs=0.1)
        assert connection.stats().last_error == "connection lost: 1006 no data for 30 s"


@pytest.mark.looptime
async def test_staleness_counts_from_open() -> None:
    """A slow login does not make a feed stale before its first message can arrive."""
    transport = FakeTransport()

    async def on_open(session: Session) -> None:
        await asyncio.sleep(10.0)

    async with Fleet(transport=transport) as fleet:
        connection, _ = await opened(fleet, transport, on_open=on_open, liveness=Liveness(stale_s=5.0))
        began = clock()
        assert await lost(connection) - began == pytest.approx(5.0, abs=0.1)


@pytest.mark.looptime
async def test_a_quiet_feed_without_stale_s_stays_open() -> None:
    """By default a feed may be silent for any time."""
    transport = FakeTransport()
    async with Fleet(transport=transport) as fleet:
        connection, _ = await opened(fleet, transport)
        await asyncio.sleep(1000.0)
        assert (connection.state, connection.stats().losses) == (State.OPEN, 0)


@pytest.mark.looptime
async def test_heartbeats() -> None:
    """A payload, or the result of a function, is sent every heartbeat_s; None from the function skips one heartbeat."""
    transport = FakeTransport()
    beats = iter([b"1", None, b"3"])
    async with Fleet(transport=transport) as fleet:
        _, fixed = await opened(fleet, transport, liveness=Liveness(heartbeat="ping", heartbeat_s=10.0))
        _, made = await opened(fleet, transport, liveness=Liveness(heartbeat=lambda: next(beats), heartbeat_s=10.0))  # type: ignore[arg-type,return-value]
        await asyncio.sleep(30.5)
        assert (fixed.sent, made.sent) == (["ping"] * 3, [b"1", b"3"])


@pytest.mark.looptime
@pytest.mark.parametrize("error", [ZeroDivisionError("beat"), asyncio.CancelledError()])
async def test_a_heartbeat_function_that_raises_omits_one_heartbeat(
    error: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    """An exception of the heartbeat function is logged with the endpoint's name; pings, timeouts and
    others continue.
    """
    transport = FakeTransport()

    def broken() -> str:
        raise error

    async with Fleet(transport=transport) as fleet:
        sick, one = await opened(
            fleet, transport, name="sick", liveness=Liveness(ping_s=7.0, heartbeat=broken, heartbeat_s=10.0)
        )
        _, two = await opened(fleet, transport, liveness=Liveness(heartbeat="x", heartbeat_s=10.0))
        await asyncio.sleep(35.5)
        assert sick.state is State.OPEN
        assert (one.pings, one.sent, two.sent) == (5, [], ["x"] * 3)
        one.answers_pings = False
        await lost(sick)
    assert sum("sick" in record.message and record.levelname == "ERROR" for record in caplog.records) >= 3


@pytest.mark.looptime
async def test_heartbeats_count_among_sends_per_s() -> None:
    """A heartbeat does not wait for room in the write buffer, but the next send does."""
    transport = FakeTransport()
    async with Fleet(transport=transport) as fleet:
        connection, socket = await opened(
            fleet, transport, sends_per_s=0.5, liveness=Liveness(heartbeat="beat", heartbeat_s=10.0)
        )
        await asyncio.sleep(10.1)
        assert socket.sent == ["beat"]
        began = clock()
        await connection.send("x")
        assert clock() - began == pytest.approx(1.9, abs=0.05)


@pytest.mark.looptime
async def test_ten_minutes_for_each_message_under_pause_keep_the_connection() -> None:
    """While reading is paused, the pong and stale timeouts are suspended, however often it is paused."""
    transport = FakeTransport()
    done: list[str] = []

    async def slow(message: Message[str]) -> None:
        await asyncio.sleep(600.0)
        done.append(message.data)

    fleet = Fleet(transport=transport, drain_s=0.0)
    async with fleet:
        connection = fleet.connect(
            URI, slow, buffer=Buffer(messages=2), liveness=Liveness(stale_s=30.0), reconnect=NOT_AGAIN
        )
        socket = await transport.accept()
        # Two messages are one read of the socket.
        arriving = asyncio.gather(socket.feed(*("x" * 40_000 for _ in range(12))))
        while not arriving.done():
            await asyncio.sleep(10.0)
            assert connection.state is State.OPEN, connection.stats().last_error
        await arriving
        # Pings are still sent while reading is paused.
        assert socket.pings >= len(done) * 600 / 20 - 1
        assert connection.stats().paused_s >= 5000.0
        assert len(done) >= 9


@pytest.mark.looptime
@pytest.mark.parametrize("pauses", [1, 3, 30])
async def test_deadlines_stand_still_while_paused_and_go_on_afterwards(pauses: int) -> None:
    """Paused time does not count towards pong_s, however many pauses there are; time between them does."""
    transport = FakeTransport()
    fleet = Fleet(transport=transport)
    async with fleet:
        connection, socket = await opened(fleet, transport, liveness=Liveness(ping_s=10.0, pong_s=20.0))
        feed = connection._supervisor.ingest
        mailbox = fleet._registry.hub.add("other", "x", Buffer())
        socket.answers_pings = False
        await asyncio.sleep(10.5)  # the last ping was half a second ago
        for _ in range(pauses):
            feed.hold(mailbox)
            await asyncio.sleep(100.0)
            assert connection.state is State.OPEN
            feed.release(mailbox)
            await asyncio.sleep(0.5)
        began = clock()
        left_s = 20.0 - 0.5 - pauses * 0.5
        took_s = await lost(connection) - began
        if pauses <= 3:
            assert took_s == pytest.approx(left_s, abs=0.1)
        else:  # only a limited number of pauses is kept, and a later end is better than an earlier one
            assert left_s <= took_s <= 20.0


@pytest.mark.looptime
async def test_a_keepalive_close_while_paused_names_the_pause() -> None:
    """The error contains how long reading was paused, and by which subscription."""
    transport = FakeTransport()

    async def slow(message: Message[str]) -> None:
        await asyncio.sleep(10**6)

    fleet = Fleet(transport=transport, drain_s=0.0)
    async with fleet:
        connection = fleet.connect(URI, slow, name="feed", buffer=Buffer(messages=2), reconnect=NOT_AGAIN)
        socket = await transport.accept()
        await socket.feed("a", "b")
        await asyncio.sleep(41.2)
        socket.close(1011, "keepalive ping timeout")
        await lost(connection)
        error = "connection lost: 1011 closed by the peer after 41 s paused by feed (keepalive ping timeout)"
        assert connection.stats().last_error == error


async def test_a_keepalive_close_that_is_only_read_after_the_pause() -> None:
    """Over a real socket the peer's close is noticed when reading resumes; the error still mentions the pause."""
    go_on = asyncio.Event()

    async def slow(message: Message[str]) -> None:
        await go_on.wait()

    async with FeedServer() as server:
        fleet = Fleet()
        async with fleet:
            connection = fleet.connect(server.uri, slow, name="feed", buffer=Buffer(messages=2), reconnect=NOT_AGAIN)
            await server.wait_clients(1)
            await server.send("a", "b")
            while not connection.stats().paused_by:
                await asyncio.sleep(0.001)
            server.close(1011, "keepalive ping timeout")
            while connection.stats().paused_s < 1.1:
                await asyncio.sleep(0.01)
            assert connection.state is State.OPEN
            go_on.set()
            await lost(connection)
            assert "closed by the peer after 1 s paused by feed" in str(connection.stats().last_error)


@pytest.mark.parametrize("loop_held_s", [0.6])
async def test_a_blocked_loop_does_not_kill_healthy_peers(loop_held_s: float) -> None:
    """Pongs and data that arrive while a processor blocks the loop are read before a connection is closed as dead."""
    async with FeedServer() as server:
        fleet = Fleet()
        lively = Liveness(ping_s=0.2, pong_s=0.3, stale_s=0.4)
        connections = [fleet.connect(server.uri, liveness=lively) for _ in range(20)]
        async with fleet:
            for connection in connections:
                await connection.wait_open()
            await server.wait_clients(20)
            for _ in range(3):
                for _ in range(10):
                    await server.send("x")
                    await asyncio.sleep(0.02)
                await server.send("x")
                time.sleep(loop_held_s)  # noqa: ASYNC251
            await server.send("x")
            await asyncio.sleep(0.05)
            lag_s = fleet.stats().loop_lag_s
            assert [connection.stats().losses for connection in connections] == [0] * 20
    assert lag_s >= 0.0


def freeze(seconds: float) -> None:
    """Let the loop's clock jump, as after a call that blocks or a process that was stopped."""
    loop: Any = asyncio.get_running_loop()
    loop.setup_looptime(start=loop.time() + seconds)


@pytest.mark.looptime
@pytest.mark.parametrize("liveness", [Liveness(ping_s=0.5, pong_s=0.5), Liveness(ping_s=0.5, stale_s=0.5)])
async def test_a_busy_loop_gives_up_a_dead_peer(liveness: Liveness) -> None:
    """Calls that block the loop one after another put off the end of a dead peer once, not each time."""
    transport = FakeTransport()
    async with Fleet(transport=transport) as fleet:
        connection, socket = await opened(fleet, transport, liveness=liveness)
        socket.answers_pings = liveness.pong_s is None or liveness.stale_s is not None
        began = clock()
        while connection.state is State.OPEN and clock() - began < 60.0:
            await asyncio.sleep(0.01)
            freeze(0.3)
        assert connection.state is State.BACKOFF
        assert clock() - began <= 0.5 + 0.5 + 3 * 0.31


@pytest.mark.looptime
@pytest.mark.parametrize("frozen_s", [2.0, 30.0, 3600.0])
@pytest.mark.parametrize("pinged", [True, False])
async def test_after_a_freeze_a_dead_peer_is_given_up_in_time(frozen_s: float, pinged: bool) -> None:
    """However long the process was frozen, a dead peer is given up at most ping_s + pong_s after it wakes."""
    transport = FakeTransport()
    async with Fleet(transport=transport) as fleet:
        connection, socket = await opened(fleet, transport, liveness=Liveness(ping_s=10.0, pong_s=5.0))
        socket.answers_pings = False
        await asyncio.sleep(11.0 if pinged else 9.0)
        freeze(frozen_s)
        woke = clock()
        assert await lost(connection) - woke <= 10.0 + 5.0 + 0.1


@pytest.mark.looptime
async def test_an_answer_that_comes_after_a_freeze_counts() -> None:
    """Where the whole machine was frozen, the answer arrives after it wakes: the peer is alive, each time anew."""
    transport = FakeTransport()
    async with Fleet(transport=transport) as fleet:
        connection, socket = await opened(fleet, transport, liveness=Liveness(ping_s=10.0, pong_s=5.0))
        for _ in range(5):
            pings, socket.answers_pings = socket.pings, False
            while socket.pings == pings:
                await asyncio.sleep(0.1)
            freeze(60.0)
            await asyncio.sleep(1.0)
            assert connection.state is State.OPEN
            socket._pong()
            socket.answers_pings = True


@pytest.mark.looptime
async def test_unread_data_puts_off_the_end_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A peer whose data waits unread is given up later, but at most by its limit: its data may be no answer."""
    transport = FakeTransport()
    monkeypatch.setattr(FakeWire, "unread", True)
    async with Fleet(transport=transport) as fleet:
        connection, socket = await opened(fleet, transport, liveness=Liveness(ping_s=10.0, pong_s=5.0))
        socket.answers_pings = False
        began = clock()
        assert await lost(connection) - began == pytest.approx(10.0 + 5.0 + 5.0, abs=0.1)


async def test_latency_is_the_pings_round_trip() -> None:
    """latency_s is None before the first pong, and a round-trip time afterwards."""
    async with FeedServer() as server, Fleet() as fleet:
        connection = fleet.connect(server.uri, liveness=Liveness(ping_s=0.05))
        await connection.wait_open()
        assert connection.stats().latency_s is None
        while (latency_s := connection.stats().latency_s) is None:
            await asyncio.sleep(0.01)
        assert 0.0 < latency_s < 5.0


@pytest.mark.looptime
async def test_liveness_begins_afresh_with_every_session() -> None:
    """Pings, heartbeats and timeouts belong to one session and do not affect the next one."""
    transport = FakeTransport()
    fleet = Fleet(transport=transport)
    plan = Liveness(ping_s=10.0, pong_s=8.0, heartbeat="beat", heartbeat_s=15.0)
    connection = fleet.connect(URI, liveness=plan, reconnect=Reconnect(initial_s=0.0))
    async with fleet:
        for number in (1, 2, 3):
            socket = await transport.accept()
            socket.answers_pings = False
            await connection.wait_open()
            began = clock()
            assert await lost(connection) - began == pytest.approx(18.0, abs=0.1)
            assert (socket.pings, socket.sent, connection.session_count) == (1, ["beat"], number)


async def test_a_lost_session_is_released_at_once() -> None:
    """A session that has ended is released at once, not at the time of its next ping."""
    async with FeedServer() as server, Fleet() as fleet:
        connection = fleet.connect(server.uri, name="feed", liveness=Liveness(ping_s=3000.0), reconnect=NOT_AGAIN)
        await connection.wait_open()
        session = fleet._registry.supervisors["feed"].session
        assert session is not None
        kept = weakref.ref(session)
        del session
        await server.wait_clients(1)
        server.drop()
        await lost(connection)
        assert kept() is None


async def test_a_closed_endpoint_is_released_at_once() -> None:
    """An endpoint that was closed is released at once, with all messages that it kept for replay."""
    transport = FakeTransport()
    async with Fleet(transport=transport) as fleet:
        connection = fleet.connect(URI, name="goes", liveness=Liveness(ping_s=3000.0), keep_last=1)
        await (await transport.accept()).feed("a")
        await connection.close()
        del connection
        await asyncio.sleep(0.01)
        gc.collect()
        assert not [feed for feed in gc.get_objects() if isinstance(feed, Ingest) and feed.factory.name == "goes"]


@pytest.mark.looptime
async def test_reconnects_leave_nothing_with_the_sweep() -> None:
    """An endpoint has one entry in the schedule, however often its connection is lost, and is still pinged on time."""
    transport = FakeTransport()
    async with Fleet(transport=transport) as fleet:
        again = Reconnect(initial_s=1.0, max_s=1.0, jitter=0.0)
        fleet.connect(URI, liveness=Liveness(ping_s=20.0), reconnect=again)
        for _ in range(30):
            socket = await transport.accept()
            await asyncio.sleep(0.5)
            socket.lose()
        assert len(fleet._registry.services.sweep._heap) == 1
        socket = await transport.accept()
        await asyncio.sleep(19.5)
        assert socket.pings == 0
        await asyncio.sleep(1.0)
        assert socket.pings == 1
