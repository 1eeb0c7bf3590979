"""Sending, and waiting for a connection: over fake sockets where time matters, otherwise over real ones."""

import asyncio
import dataclasses
import socket as sockets
from typing import Any

import msgspec
import pytest

from wsfleet import Buffer, Fleet, Message, Reconnect, Session, State
from wsfleet.core import errors
from wsfleet.core.errors import ConnectFailed, ConnectionLost, FleetError, HandshakeRejected, NotOpen
from wsfleet.testing import FakeTransport, FeedServer
from wsfleet.testing.fake import FakeWire

URI = "ws://feed.test/"


def clock() -> float:
    return asyncio.get_running_loop().time()


@dataclasses.dataclass
class Order:
    id: int
    side: str


class Subscribe(msgspec.Struct):
    topics: list[str]


@pytest.mark.looptime
@pytest.mark.parametrize(
    ("data", "sent"),
    [
        ("text", "text"),
        ("", ""),
        (b"binary", b"binary"),
        (bytearray(b"b"), b"b"),
        (memoryview(b"m"), b"m"),
        ({"op": "ping", "n": 1}, '{"op":"ping","n":1}'),
        (["a", None, True], '["a",null,true]'),
        (7, "7"),
        (None, "null"),
        (Order(1, "buy"), '{"id":1,"side":"buy"}'),
        (Subscribe(["é"]), '{"topics":["é"]}'),
    ],
)
async def test_send_encodes_data_by_type(data: Any, sent: str | bytes) -> None:
    """str is sent as text, bytes as binary, anything else as JSON text, by the connection and in on_open."""
    transport = FakeTransport()
    fleet = Fleet(transport=transport)

    async def on_open(session: Session) -> None:
        await session.send(data)

    connection = fleet.connect(URI, on_open=on_open)
    async with fleet:
        socket = await transport.accept()
        await connection.wait_open()
        await connection.send(data)
        assert socket.sent == [sent, sent]
        assert connection.stats().sent == 2


@pytest.mark.looptime
async def test_data_that_are_no_json_are_rejected_before_sending() -> None:
    """Data that cannot be encoded as JSON raise TypeError, and the connection stays open."""
    transport = FakeTransport()
    fleet = Fleet(transport=transport)
    connection = fleet.connect(URI)
    async with fleet:
        socket = await transport.accept()
        await connection.wait_open()
        with pytest.raises(TypeError):
            await connection.send(object())
        await connection.send("x")
        assert socket.sent == ["x"]


@pytest.mark.looptime
async def test_send_raises_not_open_at_once_where_it_is_not_open() -> None:
    """send() raises NotOpen before the start, while connecting, in on_open, during a wait, when FAILED and when
    CLOSED.
    """
    transport = FakeTransport()
    fleet = Fleet(transport=transport)
    go_on = asyncio.Event()

    async def on_open(session: Session) -> None:
        await go_on.wait()

    connection = fleet.connect(URI, on_open=on_open)

    async def refused(state: State) -> None:
        assert connection.state is state
        with pytest.raises(NotOpen, match=connection.name):
            await connection.send("x")

    await refused(State.CONNECTING)
    async with fleet:
        await refused(State.CONNECTING)
        socket = await transport.accept()
        await asyncio.sleep(1.0)
        await refused(State.CONNECTING)
        go_on.set()
        await connection.wait_open()
        socket.lose()
        with pytest.raises(NotOpen):  # the supervisor may not have noticed it yet
            await connection.send("x")
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        await refused(State.BACKOFF)
        transport.refuse(HandshakeRejected(404))
        with pytest.raises(errors.EndpointFailed):
            await connection.wait_open()
        await refused(State.FAILED)
        connection.restart()
        await transport.accept()
        await connection.wait_open()
        await connection.close()
        await refused(State.CLOSED)
    assert connection.stats().sent == 0


async def test_wait_open_needs_a_fleet_that_was_started() -> None:
    """Waiting for an endpoint or a pool of a fleet that was never started raises FleetError."""
    fleet = Fleet(transport=FakeTransport())
    connection, pool = fleet.connect(URI), fleet.pool(URI, 2)
    for waiting in (connection.wait_open(), pool.wait_open(), pool.request({})):
        with pytest.raises(FleetError, match="has not been started"):
            await waiting


async def test_wait_open_under_gather() -> None:
    """Waiting may begin in the iteration of the loop in which another task starts the fleet."""
    fleet = Fleet(transport=(transport := FakeTransport()))
    connection = fleet.connect(URI, name="feed")

    opened: list[State] = []

    async def use() -> None:
        await connection.wait_open()
        opened.append(connection.state)
        await fleet.close()

    await asyncio.gather(use(), fleet.run_async(), transport.accept("feed"))
    assert opened == [State.OPEN]


@pytest.mark.looptime
async def test_wait_open() -> None:
    """wait_open() returns when OPEN, raises EndpointFailed on FAILED and NotOpen on CLOSED, and can be cancelled
    safely.
    """
    transport = FakeTransport()
    fleet = Fleet(transport=transport)
    connection = fleet.connect(URI, name="feed")
    fleet.connect("ws://other.test/", name="other")
    before = asyncio.create_task(connection.wait_open())
    async with fleet:
        for _ in range(100):
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(connection.wait_open(), 0.01)
        assert len(connection._supervisor.open_waiters) == 1
        await transport.accept("feed")
        await before
        await connection.wait_open()
        await connection.close()
        with pytest.raises(NotOpen):
            await connection.wait_open()
        failing = fleet.connect(URI, name="feed")
        transport.refuse(ConnectFailed("tcp", "no"))
        waiting = [asyncio.create_task(failing.wait_open()) for _ in range(3)]
        await asyncio.sleep(5.0)
        transport.refuse(HandshakeRejected(401))
        for result in await asyncio.gather(*waiting, return_exceptions=True):
            assert isinstance(result, errors.EndpointFailed)
            assert result.name == "feed"
            assert isinstance(result.__cause__, HandshakeRejected)


@pytest.mark.looptime
@pytest.mark.parametrize("where", ["connection", "on_open"])
async def test_sends_per_s_paces(where: str) -> None:
    """With a rate limit, sends wait for their turn, in the order of their calls; also within on_open."""
    transport = FakeTransport()
    fleet = Fleet(transport=transport)
    times: list[float] = []

    async def send_all(sender: Any) -> None:
        async def one(n: int) -> None:
            await sender.send(str(n))
            times.append(clock())

        await asyncio.gather(*(one(n) for n in range(6)))

    async def on_open(session: Session) -> None:
        if where == "on_open":
            await send_all(session)

    connection = fleet.connect(URI, on_open=on_open, sends_per_s=2.0)
    async with fleet:
        socket = await transport.accept()
        await connection.wait_open()
        if where == "connection":
            await send_all(connection)
        assert socket.sent == [str(n) for n in range(6)]
        assert [at - times[0] for at in times] == pytest.approx([0.0, 0.5, 1.0, 1.5, 2.0, 2.5], abs=0.01)


@pytest.mark.looptime
async def test_a_cancelled_send_sends_nothing_and_takes_no_turn() -> None:
    """Cancelling a waiting send does not delay the others, however often it is done."""
    transport = FakeTransport()
    fleet = Fleet(transport=transport)
    connection = fleet.connect(URI, sends_per_s=1.0)
    async with fleet:
        socket = await transport.accept()
        await connection.wait_open()
        await connection.send("first")
        began = clock()
        for _ in range(8):
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(connection.send("given up"), 0.1)
        await connection.send("second")
        assert clock() - began == pytest.approx(1.0, abs=0.01)
        assert socket.sent == ["first", "second"]
        assert connection.stats().sent == 2


@pytest.mark.looptime
async def test_lost_while_waiting_for_a_turn() -> None:
    """A send whose connection is lost while it waits raises ConnectionLost at once."""
    transport = FakeTransport()
    fleet = Fleet(transport=transport)
    connection = fleet.connect(URI, sends_per_s=0.01)
    async with fleet:
        socket = await transport.accept()
        await connection.wait_open()
        await connection.send("first")
        waiting = [asyncio.create_task(connection.send(str(n))) for n in range(3)]
        await asyncio.sleep(1.0)
        socket.close(4000, "bye")
        for result in await asyncio.gather(*waiting, return_exceptions=True):
            assert isinstance(result, ConnectionLost)
            assert (result.code, result.reason) == (4000, "bye")
        assert clock() < 2.0
        assert socket.sent == ["first"]


class Stuffed:
    """A server that does not read until it is released, and a connection whose write buffer it fills."""

    def __init__(self) -> None:
        self.readers: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def fill(self, fleet: Fleet, server: FeedServer) -> tuple[Any, Any, list[str]]:
        connection = fleet.connect(server.uri, max_size=2**26)
        await connection.wait_open()
        await server.wait_clients(1)
        (client,) = server.clients
        client.transport.pause_reading()
        sock = client.transport.get_extra_info("socket")
        sock.setsockopt(sockets.SOL_SOCKET, sockets.SO_RCVBUF, 2**14)
        sent = []
        session = connection._supervisor.session
        assert session is not None
        while session.wire.writable:
            payload = f"{len(sent)}".ljust(2**16)
            await connection.send(payload)
            sent.append(payload)
            await asyncio.sleep(0)
        return connection, client, sent


async def test_backpressure_keeps_the_order_and_loses_nothing() -> None:
    """While the server does not read, sends wait; once it reads, all arrive in the order of their calls."""
    async with FeedServer() as server, Fleet() as fleet:
        connection, client, sent = await Stuffed().fill(fleet, server)
        waiting = [asyncio.create_task(connection.send(f"waited {n}")) for n in range(20)]
        cancelled = asyncio.create_task(connection.send("never"))
        for _ in range(20):
            await asyncio.sleep(0)
        assert not any(task.done() for task in waiting)
        cancelled.cancel()
        await asyncio.sleep(0)
        assert cancelled.cancelled()
        before = connection.stats().sent
        assert before == len(sent)
        client.transport.resume_reading()
        await asyncio.gather(*waiting)
        expected = [*sent, *(f"waited {n}" for n in range(20))]
        while len(server.received) < len(expected):
            await asyncio.sleep(0.001)
        assert server.received == expected
        assert connection.stats().sent == len(expected)


async def test_lost_while_waiting_for_room() -> None:
    """A send that waits for room when the connection is lost raises ConnectionLost; the next one raises NotOpen."""
    async with FeedServer() as server, Fleet() as fleet:
        connection, _, _ = await Stuffed().fill(fleet, server)
        waiting = [asyncio.create_task(connection.send("x")) for _ in range(3)]
        for _ in range(5):
            await asyncio.sleep(0)
        server.refuse(503)
        server.drop()
        for result in await asyncio.gather(*waiting, return_exceptions=True):
            assert isinstance(result, ConnectionLost)
        with pytest.raises(NotOpen):
            await connection.send("x")


async def test_closing_while_sends_wait_for_room() -> None:
    """Sends that wait when the connection is closed raise ConnectionLost, and the close does not wait for them."""
    async with FeedServer() as server, Fleet() as fleet:
        connection, _, _ = await Stuffed().fill(fleet, server)
        waiting = [asyncio.create_task(connection.send("x")) for _ in range(3)]
        for _ in range(5):
            await asyncio.sleep(0)
        await connection.close()
        for result in await asyncio.gather(*waiting, return_exceptions=True):
            assert isinstance(result, ConnectionLost | NotOpen)


async def test_a_send_does_not_overtake_one_that_waits_for_room() -> None:
    """A message that is sent when the buffer has room again follows those that have waited for it."""
    async with FeedServer() as server, Fleet() as fleet:
        connection, client, sent = await Stuffed().fill(fleet, server)
        first = asyncio.create_task(connection.send("first"))
        await asyncio.sleep(0)
        second = asyncio.create_task(connection.send("second"))
        connection._supervisor.session.wire.resume_writing()
        await asyncio.gather(first, second)
        client.transport.resume_reading()
        while len(server.received) < len(sent) + 2:
            await asyncio.sleep(0.001)
        assert server.received[-2:] == ["first", "second"]


@pytest.mark.looptime
async def test_concurrent_sends_go_out_in_the_order_of_their_calls() -> None:
    """Messages of many tasks that send at once are sent in the order of their calls."""
    transport = FakeTransport()
    fleet = Fleet(transport=transport)
    connection = fleet.connect(URI)
    async with fleet:
        socket = await transport.accept()
        await connection.wait_open()
        await asyncio.gather(*(connection.send(str(n)) for n in range(100)))
        assert socket.sent == [str(n) for n in range(100)]


@pytest.mark.looptime
async def test_a_processor_may_send_on_any_connection() -> None:
    """A message from one connection can be answered on it, or sent over another one."""
    transport = FakeTransport()
    fleet = Fleet(transport=transport)

    async def bridge(message: Message[str]) -> None:
        await fleet.connections["one"].send(f"got {message.data}")
        await fleet.connections["two"].send(message.data)

    fleet.connect(URI, bridge, name="one")
    two = fleet.connect(URI, name="two")
    async with fleet:
        first, second = await transport.accept("one"), await transport.accept("two")
        await two.wait_open()
        await first.feed("a")
        assert await first.next_sent() == "got a"
        assert await second.next_sent() == "a"


async def test_a_fake_socket_accepts_the_same_types_as_a_real_one() -> None:
    """Data other than str and bytes raise TypeError at once, as with the real wire."""
    transport = FakeTransport()
    fleet = Fleet(transport=transport)
    fleet.connect("ws://feed.test/", name="feed")
    async with fleet:
        socket = await transport.accept("feed")
        with pytest.raises(TypeError, match="str or bytes, not int"):
            FakeWire(socket).write(7)  # type: ignore[arg-type]
        assert not socket.sent


async def test_a_server_that_chooses_no_subprotocol_is_refused() -> None:
    """By default the connection fails with a clear error; `subprotocol_required=False` accepts the server."""
    async with FeedServer() as server, Fleet() as fleet:
        strict = fleet.connect(server.uri, name="strict", subprotocols=["v1"], proxy=False)
        lax = fleet.connect(server.uri, name="lax", subprotocols=["v1"], subprotocol_required=False, proxy=False)
        await lax.wait_open()
        assert lax.subprotocol is None
        while strict.stats().last_error is None:
            await asyncio.sleep(0.01)
        assert str(strict.stats().last_error).startswith("http: the server chose none of the subprotocols")


async def test_a_connection_shows_its_handshake() -> None:
    """The subprotocol and the headers are those of the current connection, and empty without one."""
    async with FeedServer(subprotocols=["v2"]) as server, Fleet() as fleet:
        feed = fleet.connect(server.uri, name="feed", subprotocols=["v2"], headers={"X-Mine": "7"}, proxy=False)
        assert (feed.subprotocol, dict(feed.request_headers), dict(feed.response_headers)) == (None, {}, {})
        await feed.wait_open()
        assert feed.subprotocol == "v2"
        assert feed.request_headers["x-mine"] == "7"
        assert feed.response_headers["UPGRADE"] == "websocket"
    assert feed.subprotocol is None


async def test_a_send_that_waits_ends_with_a_loss_during_a_pause(caplog: pytest.LogCaptureFixture) -> None:
    """A send that waits for room raises ConnectionLost although the pause, which it may cause itself, goes on.

    The loss is reported at once. The messages that arrived before it are processed afterwards.
    """
    go_on = asyncio.Event()
    done: list[str] = []

    async def slow(message: Message[str]) -> None:
        await go_on.wait()
        done.append(message.data)

    async with FeedServer() as server, Fleet() as fleet:
        plan = Reconnect(initial_s=3600.0, jitter=0.0)
        connection = fleet.connect(server.uri, slow, name="feed", buffer=Buffer(messages=2), reconnect=plan)
        await server.wait_clients(1)
        await server.send("a", "b")
        while not connection.stats().paused_by:
            await asyncio.sleep(0.01)
        await server.send("c", "d")
        server.clients[0].transport.pause_reading()

        async def fill() -> None:
            while True:
                await connection.send(bytes(100_000))

        filling = asyncio.create_task(fill())
        sent = -1
        while sent != connection.stats().sent:
            sent = connection.stats().sent
            await asyncio.sleep(0.1)
        server.drop()
        with pytest.raises(ConnectionLost):
            await filling
        assert done == []
        assert connection.state is State.OPEN
        assert "connection lost: 1006" in connection.stats().last_error
        events = [record.event for record in caplog.records if record.levelname == "WARNING"]
        assert events == ["endpoint.lost_while_paused"]
        with pytest.raises(NotOpen, match="feed: the connection is closing or lost"):
            await connection.send("too late")
        go_on.set()
        while connection.state is State.OPEN:
            await asyncio.sleep(0.01)
        while len(done) < 4:
            await asyncio.sleep(0.01)
        assert done == ["a", "b", "c", "d"]
