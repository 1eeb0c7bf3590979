"""The session in on_open, and messages that arrive while it runs."""

import asyncio
from typing import Any

import msgspec
import pytest

from wsfleet import Buffer, Fleet, Message, Reconnect, Session, State
from wsfleet.core import errors, time_slice
from wsfleet.core.errors import ConnectFailed, ConnectionLost, Fatal, FleetError
from wsfleet.core.message import Gap, StateChange
from wsfleet.core.stats import EndpointStats
from wsfleet.testing import FakeTransport, FeedServer

URI = "ws://feed.test/"
AT_ONCE = Reconnect(initial_s=0.0)


def counts(stats: EndpointStats) -> tuple[int, int, int, int, int]:
    return stats.received, stats.answered, stats.held, stats.discarded, stats.published


class Taken(list[Any]):
    async def __call__(self, message: Message[Any]) -> None:
        self.append((message.session, message.index, message.data))


@pytest.mark.looptime
async def test_a_login_that_waits_for_its_answer() -> None:
    """on_open sends, waits for the answer, and the endpoint is OPEN only afterwards; on every connect."""
    transport, taken = FakeTransport(), Taken()
    fleet = Fleet(transport=transport)

    async def login(session: Session) -> None:
        await session.send({"op": "login"})
        assert (await session.recv()).data == {"ok": True}
        await session.send({"op": "subscribe"})

    connection = fleet.connect(URI, taken, decode="json", on_open=login)
    async with fleet:
        for number in (1, 2):
            socket = await transport.accept()
            assert await socket.next_sent() == '{"op":"login"}'
            await asyncio.sleep(1.0)
            assert connection.state is State.CONNECTING
            await socket.feed('{"ok":true}')
            assert await socket.next_sent() == '{"op":"subscribe"}'
            await connection.wait_open()
            await socket.feed('{"price":1}')
            assert connection.session_count == number
            socket.lose()
    assert taken == [(1, 2, {"price": 1}), (2, 4, {"price": 1})]
    assert counts(fleet.stats().endpoints[0]) == (4, 2, 0, 0, 2)
    assert fleet.stats().balanced


@pytest.mark.looptime
async def test_messages_that_recv_skips_are_published_in_order() -> None:
    """recv(match) returns the first message that matches; the others are held, and published first, in their order."""
    transport, taken = FakeTransport(), Taken()
    fleet = Fleet(transport=transport)
    got: list[tuple[int, str]] = []

    async def on_open(session: Session) -> None:
        for wanted in ("c", "a"):
            message = await session.recv(match=lambda message, wanted=wanted: message.data == wanted)
            got.append((message.index, message.data))
        got.append(((await session.recv()).index, "next"))
        await asyncio.sleep(1.0)

    connection = fleet.connect(URI, taken, name="feed", on_open=on_open)
    async with fleet:
        socket = await transport.accept()
        await socket.feed("x", "a", "y", "c", "z")
        await asyncio.sleep(0.5)
        assert got == [(4, "c"), (2, "a"), (1, "next")]
        assert counts(connection.stats()) == (5, 3, 2, 0, 0)
        assert fleet.stats().balanced
        await socket.feed("w")
        await connection.wait_open()
        await socket.feed("v")
    assert taken == [(1, 3, "y"), (1, 5, "z"), (1, 6, "w"), (1, 7, "v")]
    assert counts(fleet.stats().endpoints[0]) == (7, 3, 0, 0, 4)
    assert fleet.stats().balanced


@pytest.mark.looptime
async def test_recv_returns_a_whole_message() -> None:
    """The result of recv has the fields of any message."""
    transport = FakeTransport()
    fleet = Fleet(transport=transport)
    got: list[Message[Any]] = []

    async def on_open(session: Session) -> None:
        got.append(await session.recv())

    connection = fleet.connect(URI, name="feed", on_open=on_open)
    async with fleet:
        socket = await transport.accept()
        await socket.feed("höre")
        await connection.wait_open()
    (message,) = got
    assert (message.data, message.topic, message.endpoint) == ("höre", "feed", "feed")
    assert (message.index, message.session, message.size) == (1, 1, 5)
    assert message.received_at > 1.6e9


class Reply(msgspec.Struct):
    id: int


@pytest.mark.looptime
async def test_recv_with_a_decode_of_its_own() -> None:
    """`decode` replaces the endpoint's decoder for one call; messages that it cannot decode are skipped and held."""
    transport, taken = FakeTransport(), Taken()
    fleet = Fleet(transport=transport)
    got: list[Any] = []

    async def on_open(session: Session) -> None:
        got.append((await session.recv(decode="json")).data)
        got.append((await session.recv(decode=Reply)).data)
        got.append((await session.recv(decode="bytes")).data)
        got.append((await session.recv(decode=str.upper)).data)

    connection = fleet.connect(URI, taken, name="feed", decode="text", on_open=on_open)
    async with fleet:
        socket = await transport.accept()
        await socket.feed("hello", '{"no":1}', '{"id":7}', "more", "rest")
        await connection.wait_open()
    assert got == [{"no": 1}, Reply(7), b"hello", "MORE"]
    assert taken == [(1, 5, "rest")]
    assert fleet.stats().balanced


@pytest.mark.looptime
@pytest.mark.parametrize(
    ("decode", "expected"),
    [("text", ["t", b"b"]), ("bytes", [b"t", b"b"]), (lambda payload: (payload,), [("t",), (b"b",)])],
)
async def test_held_messages_are_decoded_like_any_other(decode: Any, expected: list[Any]) -> None:
    """A held message is published as it would have been without on_open."""
    for held in (True, False):
        transport, taken = FakeTransport(), Taken()
        fleet = Fleet(transport=transport)
        go_on = asyncio.Event()

        async def on_open(session: Session, go_on: asyncio.Event = go_on) -> None:
            await go_on.wait()

        connection = fleet.connect(URI, taken, name="feed", decode=decode, on_open=on_open)
        async with fleet:
            socket = await transport.accept()
            if not held:
                go_on.set()
                await connection.wait_open()
            await socket.feed("t", b"b")
            go_on.set()
            await connection.wait_open()
        assert [data for _, _, data in taken] == expected


@pytest.mark.looptime
async def test_a_held_message_that_is_malformed_is_counted_when_it_is_published() -> None:
    """If a held message turns out to be malformed later, the counts balance before and after."""
    transport, taken = FakeTransport(), Taken()
    fleet = Fleet(transport=transport)

    async def on_open(session: Session) -> None:
        await asyncio.sleep(1.0)

    connection = fleet.connect(URI, taken, decode="json", on_open=on_open)
    async with fleet:
        socket = await transport.accept()
        await socket.feed("{", "1")
        assert fleet.stats().balanced
        await connection.wait_open()
    assert taken == [(1, 2, 1)]
    row = fleet.stats().endpoints[0]
    assert (row.received, row.malformed, row.published, row.received_bytes) == (2, 1, 1, 2)


@pytest.mark.looptime
@pytest.mark.parametrize("over", [False, True])
async def test_held_messages_are_bounded(over: bool) -> None:
    """The number of held messages is that of a Buffer; with one more the attempt fails with this reason."""
    transport, taken = FakeTransport(), Taken()
    fleet = Fleet(transport=transport)

    async def on_open(session: Session) -> None:
        await asyncio.sleep(5.0)

    connection = fleet.connect(URI, taken, name="feed", on_open=on_open)
    async with fleet:
        socket = await transport.accept()
        most = Buffer().messages
        await socket.feed(*["x"] * (most + over))
        await asyncio.sleep(6.0)
        if over:
            assert connection.state is not State.OPEN
            assert "on_open" in str(connection.stats().last_error)
            assert str(most) in str(connection.stats().last_error)
            assert counts(connection.stats()) == (most + 1, 0, 0, most + 1, 0)
        else:
            assert connection.state is State.OPEN
            assert counts(connection.stats()) == (most, 0, 0, 0, most)
        assert fleet.stats().balanced


@pytest.mark.looptime
async def test_held_messages_are_bounded_in_bytes() -> None:
    """The bound in bytes also applies to held messages."""
    transport = FakeTransport()
    fleet = Fleet(transport=transport)

    async def on_open(session: Session) -> None:
        await asyncio.sleep(5.0)

    connection = fleet.connect(URI, on_open=on_open)
    async with fleet:
        socket = await transport.accept()
        await socket.feed(*["x" * 2**20] * (Buffer().bytes // 2**20))
        assert connection.stats().held == Buffer().bytes // 2**20
        await socket.feed("x")
        await asyncio.sleep(1.0)
        assert connection.stats().held == 0
        assert "on_open" in str(connection.stats().last_error)


class LoginFailed(Exception):
    pass


@pytest.mark.looptime
async def test_raising_is_a_failed_attempt() -> None:
    """An exception in on_open is reported at stage on_open, as the cause; held messages are discarded."""
    transport, taken = FakeTransport(), Taken()
    fleet = Fleet(transport=transport)
    records = fleet.subscribe("$state.feed")
    attempts = 0

    async def on_open(session: Session) -> None:
        nonlocal attempts
        attempts += 1
        await session.recv(match=lambda message: message.data == "answer")
        if attempts == 1:
            raise LoginFailed("wrong answer")

    connection = fleet.connect(URI, taken, name="feed", on_open=on_open)
    async with fleet:
        socket = await transport.accept()
        await socket.feed("a", "answer", "b")
        change: StateChange = (await anext(records)).data
        assert (change.previous, change.state) == (State.CONNECTING, State.BACKOFF)
        assert isinstance(change.error, ConnectFailed)
        assert (change.error.stage, str(change.error)) == ("on_open", "on_open: LoginFailed: wrong answer")
        assert isinstance(change.error.__cause__, LoginFailed)
        assert counts(connection.stats()) == (3, 1, 0, 2, 0)
        assert connection.stats().losses == 0
        socket = await transport.accept()
        await socket.feed("answer", "c")
        await connection.wait_open()
        records.close()
    assert taken == [(2, 5, "c")]
    assert fleet.stats().balanced


@pytest.mark.looptime
async def test_fatal_makes_the_endpoint_failed() -> None:
    """Raising Fatal, also from another exception, makes the endpoint FAILED at the first attempt."""
    transport = FakeTransport()
    fleet = Fleet(transport=transport)

    async def on_open(session: Session) -> None:
        try:
            raise KeyError("account")
        except KeyError as exc:
            raise Fatal("the account is closed") from exc

    connection = fleet.connect(URI, name="feed", on_open=on_open)
    serving = asyncio.create_task(fleet.serve())
    await transport.accept()
    await serving
    assert connection.state is State.FAILED
    assert connection.session_count == 1
    with pytest.raises(errors.EndpointFailed, match="the account is closed"):
        await connection.wait_open()


@pytest.mark.looptime
async def test_open_s_limits_a_hanging_on_open() -> None:
    """open_s limits the attempt including on_open; the error contains on_open and the deadline."""
    transport = FakeTransport()
    fleet = Fleet(transport=transport)
    cancelled: list[float] = []

    async def on_open(session: Session) -> None:
        try:
            await session.recv()
        except asyncio.CancelledError:
            cancelled.append(asyncio.get_running_loop().time())
            raise

    connection = fleet.connect(URI, on_open=on_open, open_s=5.0, reconnect=AT_ONCE)
    began = asyncio.get_running_loop().time()
    async with fleet:
        await asyncio.sleep(2.0)
        await transport.accept()  # the handshake took two of the five seconds
        await transport.accept()
        assert [at - began for at in cancelled] == pytest.approx([5.0], abs=0.01)
        assert connection.stats().last_error == "on_open: not done within open_s = 5 s (0 messages received, 0 sent)"


@pytest.mark.looptime
async def test_a_timeout_of_the_users_own_is_not_open_s() -> None:
    """A TimeoutError that on_open raises itself is reported unchanged."""
    transport = FakeTransport()
    fleet = Fleet(transport=transport)

    async def on_open(session: Session) -> None:
        async with asyncio.timeout(1.0):
            await session.recv()

    connection = fleet.connect(URI, on_open=on_open, reconnect=AT_ONCE)
    async with fleet:
        await transport.accept()
        await asyncio.sleep(1.1)
        assert connection.stats().last_error == "on_open: TimeoutError"


@pytest.mark.looptime
@pytest.mark.parametrize("then", ["return", "raise"])
async def test_suppressing_the_deadline_does_not_open(then: str) -> None:
    """If on_open suppresses its cancellation, open_s has been exceeded nevertheless."""
    transport = FakeTransport()
    fleet = Fleet(transport=transport)

    async def on_open(session: Session) -> None:
        try:
            await asyncio.sleep(10**6)
        except asyncio.CancelledError:
            if then == "raise":
                raise LoginFailed from None

    connection = fleet.connect(URI, name="feed", on_open=on_open, open_s=5.0, reconnect=AT_ONCE)
    states = fleet.subscribe("$state.feed")
    async with fleet:
        socket = await transport.accept()
        await socket.feed("x")
        await transport.accept()
        assert connection.stats().last_error == "on_open: not done within open_s = 5 s (1 message received, 0 sent)"
        assert counts(connection.stats()) == (1, 0, 0, 1, 0)
        assert (await anext(states)).data.state is State.BACKOFF
        states.close()


@pytest.mark.looptime
@pytest.mark.parametrize("waiting_for", ["recv", "something else", "nothing: swallows"])
async def test_a_connection_lost_in_the_middle(waiting_for: str) -> None:
    """A lost connection ends the attempt at once, whatever on_open awaits, and the error is the loss."""
    transport = FakeTransport()
    fleet = Fleet(transport=transport)
    raised: list[BaseException] = []

    async def on_open(session: Session) -> None:
        try:
            await (session.recv() if waiting_for != "something else" else asyncio.sleep(10**6))
        except BaseException as exc:
            raised.append(exc)
            if not waiting_for.startswith("nothing"):
                raise

    connection = fleet.connect(URI, on_open=on_open, open_s=60.0, reconnect=AT_ONCE)
    async with fleet:
        socket = await transport.accept()
        await asyncio.sleep(1.0)
        socket.close(4001, "wrong password")
        await transport.accept()
        assert asyncio.get_running_loop().time() < 2.0
        assert connection.stats().last_error == "on_open: connection lost: 4001 wrong password"
        expected = asyncio.CancelledError if waiting_for == "something else" else ConnectionLost
        assert [type(exc) for exc in raised] == [expected]


@pytest.mark.looptime
async def test_messages_before_a_loss_can_still_be_received() -> None:
    """recv returns the messages that came before the loss, and then raises ConnectionLost with the peer's code."""
    transport = FakeTransport()
    fleet = Fleet(transport=transport)
    got: list[Any] = []
    go_on = asyncio.Event()

    async def on_open(session: Session) -> None:
        await go_on.wait()
        try:
            while True:
                got.append((await session.recv()).data)
        except ConnectionLost as exc:
            got.append(exc.code)
            raise

    fleet.connect(URI, on_open=on_open)
    async with fleet:
        socket = await transport.accept()
        await socket.feed("a", "b")
        go_on.set()
        socket.close(4001)
        await asyncio.sleep(0.1)
    assert got == ["a", "b", 4001]


@pytest.mark.looptime
async def test_a_loss_while_held_messages_are_published_loses_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """If on_open returns after a loss, the messages held before the loss are published, complete and in order."""
    monkeypatch.setattr(time_slice, "SLICE_S", 0.0)
    transport = FakeTransport()
    fleet = Fleet(transport=transport)
    seen: list[str] = []

    async def on_open(session: Session) -> None:
        await session.recv(lambda message: message.data == "welcome")

    async def take(message: Message[str]) -> None:
        seen.append(message.data)
        if message.data == "1":
            assert fleet.stats().endpoints[0].held
            socket.lose()

    feed = fleet.connect(URI, take, name="feed", on_open=on_open, decode=lambda payload: payload)
    async with fleet:
        socket = await transport.accept()
        await socket.feed(*map(str, range(10)), "welcome")
        await transport.accept()  # the endpoint has reconnected
        await asyncio.sleep(1.0)
        assert counts(feed.stats()) == (11, 1, 0, 0, 10)
    assert seen == list(map(str, range(10)))


@pytest.mark.looptime
async def test_concurrent_recvs_each_get_their_answer() -> None:
    """Two concurrent recv() with different `match` each get their own answer, in either order."""
    transport = FakeTransport()
    fleet = Fleet(transport=transport)
    got: list[Any] = []

    async def on_open(session: Session) -> None:
        one, two = await asyncio.gather(
            session.recv(match=lambda message: message.data == "1"),
            session.recv(match=lambda message: message.data == "2"),
        )
        got.extend([one.data, two.data])

    connection = fleet.connect(URI, on_open=on_open)
    async with fleet:
        socket = await transport.accept()
        for payload in ("x", "2", "y", "1"):
            await socket.feed(payload)
            await asyncio.sleep(0.1)
        await connection.wait_open()
        assert got == ["1", "2"]
        assert counts(connection.stats()) == (4, 2, 2, 0, 0)  # held for a later loop


@pytest.mark.looptime
async def test_a_match_that_raises_fails_the_attempt() -> None:
    """An exception in `match` is an exception in on_open."""
    transport = FakeTransport()
    fleet = Fleet(transport=transport)

    async def on_open(session: Session) -> None:
        await session.recv(match=lambda message: message.data["id"] == 1)

    connection = fleet.connect(URI, on_open=on_open)
    async with fleet:
        socket = await transport.accept()
        await socket.feed("x")
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert str(connection.stats().last_error).startswith("on_open: TypeError")


@pytest.mark.looptime
async def test_recv_after_on_open_raises() -> None:
    """A session that is used after on_open takes no messages from the subscriptions; sending still works."""
    transport = FakeTransport()
    fleet = Fleet(transport=transport)
    kept: list[Session] = []

    async def on_open(session: Session) -> None:
        kept.append(session)

    connection = fleet.connect(URI, on_open=on_open)
    async with fleet:
        socket = await transport.accept()
        await connection.wait_open()
        with pytest.raises(FleetError, match="on_open"):
            await kept[0].recv()
        await kept[0].send("x")
        assert await socket.next_sent() == "x"
        socket.lose()
        with pytest.raises(errors.NotOpen):
            await kept[0].send("x")


@pytest.mark.looptime
async def test_records_come_before_the_new_sessions_messages() -> None:
    """At each OPEN after the first one, `$state`, `$gap`, the held messages, and newer ones are published in this
    order.
    """
    transport = FakeTransport()
    fleet = Fleet(transport=transport)
    seen: list[Any] = []

    async def on_open(session: Session) -> None:
        await session.recv(match=lambda message: message.data == "welcome")

    connection = fleet.connect(URI, name="feed", on_open=on_open)
    everything = fleet.subscribe(">")
    states, gaps = fleet.subscribe("$state.feed"), fleet.subscribe("$gap.feed")
    order: list[str] = []
    original = fleet._registry.hub.deliver

    def deliver(route: Any, messages: list[Message[Any]], nbytes: int) -> Any:
        order.extend(f"{message.data}" for message in messages)
        return original(route, messages, nbytes)

    inject = fleet._registry.hub.inject

    def injected(topic: str, data: Any) -> int:
        order.append(topic)
        return inject(topic, data)

    fleet._registry.hub.deliver = deliver  # type: ignore[method-assign]
    fleet._registry.hub.inject = injected  # type: ignore[method-assign]
    async with fleet:
        socket = await transport.accept()
        await socket.feed("early", "welcome")
        await connection.wait_open()
        await socket.feed("late")
        socket.lose()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        order.clear()
        socket = await transport.accept()
        await asyncio.sleep(3.0)
        await socket.feed("early", "welcome", "early too")
        await connection.wait_open()
        await socket.feed("late")
        assert order == ["$state.feed", "$state.feed", "$gap.feed", "early", "early too", "late"]
        seen = [(await anext(states)).data.state.value for _ in range(4)]
        gap: Gap = (await anext(gaps)).data
        for subscription in (everything, states, gaps):
            subscription.close()
    assert seen == ["OPEN", "BACKOFF", "CONNECTING", "OPEN"]
    assert (gap.endpoint, gap.previous_session, gap.session, gap.last_index) == ("feed", 1, 2, 3)
    assert gap.down_s >= 3.0


@pytest.mark.looptime
async def test_a_gap_spans_sessions_that_never_opened() -> None:
    """A gap contains the last session that was open, its last index, and the total time without a connection."""
    transport = FakeTransport()
    fleet = Fleet(transport=transport)
    opened = 0

    async def on_open(session: Session) -> None:
        nonlocal opened
        opened += 1
        if opened == 2:
            await session.recv()
            raise LoginFailed

    connection = fleet.connect(URI, name="feed", on_open=on_open, reconnect=Reconnect(initial_s=10.0, jitter=0.0))
    gaps = fleet.subscribe("$gap.*")
    async with fleet:
        socket = await transport.accept()
        await connection.wait_open()
        await socket.feed("1", "2")
        socket.lose()
        socket = await transport.accept()
        await socket.feed("3")
        await transport.accept()
        await connection.wait_open()
        gap: Gap = (await anext(gaps)).data
        assert (gap.previous_session, gap.session, gap.last_index) == (1, 3, 2)
        assert gap.down_s == pytest.approx(30.0)
        assert fleet.stats().hub.injected == 1
        gaps.close()


async def test_the_attributes_of_a_session() -> None:
    """The session has the endpoint's name, a number, the handshake's headers in both directions, and
    the subprotocol.
    """
    seen: list[tuple[Any, ...]] = []

    async def on_open(session: Session) -> None:
        seen.append(
            (
                session.endpoint,
                session.number,
                session.request_headers["X-Mine"],
                session.response_headers["Upgrade"].lower(),
                session.subprotocol,
            )
        )

    async with FeedServer(subprotocols=["v2", "v1"]) as server, Fleet() as fleet:
        fleet.connect(server.uri, name="feed", on_open=on_open, headers={"X-Mine": "7"}, subprotocols=["v1", "v2"])
        while len(seen) < 2:
            await server.wait_clients(1)
            server.drop()
            await asyncio.sleep(0.01)
    assert seen[:2] == [("feed", 1, "7", "websocket", "v2"), ("feed", 2, "7", "websocket", "v2")]


@pytest.mark.looptime
async def test_a_paused_endpoint_can_log_in_again() -> None:
    """A new socket of a paused endpoint is read until on_open returns, and paused from then on."""
    transport = FakeTransport()
    fleet = Fleet(transport=transport, drain_s=0.0)

    async def stuck(message: Message[str]) -> None:
        await asyncio.sleep(10**6)

    async def on_open(session: Session) -> None:
        await session.recv(match=lambda message: message.data == "welcome")

    connection = fleet.connect(URI, stuck, name="feed", on_open=on_open, buffer=Buffer(messages=2), reconnect=AT_ONCE)
    async with fleet:
        for _ in range(2):
            socket = await transport.accept()
            await socket.feed("a", "b", "welcome")
            await connection.wait_open()
            await asyncio.sleep(0.1)
            assert connection.stats().paused_by == ("feed",)
            assert socket.paused
            feeding = asyncio.create_task(socket.feed("c"))
            await asyncio.sleep(60.0)
            assert not feeding.done()
            socket.lose()
            with pytest.raises(ConnectionLost):
                await feeding
        assert connection.stats().published == 4
