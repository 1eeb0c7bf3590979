"""The steps of a shutdown, by return, exception, cancellation and signal; afterwards nothing is left."""

import asyncio
import base64
import contextlib
import hashlib
import logging
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from websockets.asyncio.server import ServerConnection, serve

from wsfleet import Buffer, Connection, Fleet, Liveness, Message, State
from wsfleet.core import errors
from wsfleet.core.errors import ConnectFailed, HandshakeRejected
from wsfleet.core.stats import SubscriptionStats
from wsfleet.testing import FakeSocket, FakeTransport, FeedServer

URI = "ws://feed.test/"


def clock() -> float:
    return asyncio.get_running_loop().time()


def row(fleet: Fleet, name: str) -> SubscriptionStats:
    return next(each for each in fleet.stats().subscriptions if each.name == name)


class Slow:
    """A processor that needs this number of seconds for each message."""

    def __init__(self, seconds: float = 1.0) -> None:
        self.seconds = seconds
        self.done: list[str] = []
        self.cancelled: list[str] = []

    async def __call__(self, message: Message[str]) -> None:
        try:
            await asyncio.sleep(self.seconds)
        except asyncio.CancelledError:
            self.cancelled.append(message.data)
            raise
        self.done.append(message.data)


@pytest.mark.looptime
async def test_return_drains() -> None:
    """Leaving the context lets processors finish waiting messages; then everything is CLOSED and balanced."""
    transport, slow = FakeTransport(), Slow()
    fleet = Fleet(transport=transport)
    connection = fleet.connect(URI, slow, name="feed")
    async with fleet:
        socket = await transport.accept()
        await socket.feed("a", "b", "c")
    assert slow.done == ["a", "b", "c"]
    assert connection.state is State.CLOSED
    assert fleet.stats().balanced
    assert clock() == pytest.approx(3.0)


@pytest.mark.looptime
async def test_an_exception_ends_the_fleet_at_once_and_is_raised_unchanged() -> None:
    """An exception of the body is raised unwrapped and unchained, without a drain."""
    transport, slow = FakeTransport(), Slow()
    fleet = Fleet(transport=transport)
    fleet.connect(URI, slow, name="feed")
    mine = ZeroDivisionError("mine")
    with pytest.raises(ZeroDivisionError) as caught:
        async with fleet:
            socket = await transport.accept()
            await socket.feed("a", "b", "c")
            await asyncio.sleep(0.5)
            raise mine
    assert caught.value is mine
    assert (mine.__cause__, mine.__context__) == (None, None)
    assert (slow.done, slow.cancelled) == ([], ["a"])
    feed = row(fleet, "feed")
    assert (feed.processed, feed.failed, feed.dropped, feed.pending) == (0, 1, 2, 0)
    assert fleet.stats().balanced
    assert clock() == pytest.approx(0.5)


@pytest.mark.looptime
@pytest.mark.parametrize("how", ["serve", "context"])
async def test_cancelling_skips_the_drain(how: str) -> None:
    """Cancelling serve() or the context's task ends the fleet without waiting for processors."""
    transport, slow = FakeTransport(), Slow(100.0)
    fleet = Fleet(transport=transport)
    fleet.connect(URI, slow, name="feed")

    async def context() -> None:
        async with fleet:
            await asyncio.sleep(10**6)

    running = asyncio.create_task(fleet.serve() if how == "serve" else context())
    socket = await transport.accept()
    await socket.feed("a", "b")
    await asyncio.sleep(1.0)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert clock() < 2.0
    assert slow.cancelled == ["a"]
    feed = row(fleet, "feed")
    assert (feed.failed, feed.dropped, feed.pending) == (1, 1, 0)
    assert fleet.stats().balanced


@pytest.mark.looptime
@pytest.mark.parametrize("times", [1, 2, 5])
@pytest.mark.parametrize("how", ["serve", "context"])
async def test_cancelling_during_the_drain_ends_it(how: str, times: int) -> None:
    """A cancellation during the drain ends the drain; further ones have no effect; everything is released."""
    transport, slow = FakeTransport(), Slow(8.0)
    fleet = Fleet(transport=transport)
    connection = fleet.connect(URI, slow, name="feed")

    async def context() -> None:
        async with fleet:
            await fleet.wait()

    running = asyncio.create_task(fleet.serve() if how == "serve" else context())
    socket = await transport.accept()
    await socket.feed("a", "b")
    closing = asyncio.create_task(fleet.close())
    await asyncio.sleep(1.0)
    for _ in range(times):
        running.cancel()
        await asyncio.sleep(0)
    with pytest.raises(asyncio.CancelledError):
        await running
    await closing
    assert clock() < 2.0
    assert connection.state is State.CLOSED
    assert (row(fleet, "feed").failed, row(fleet, "feed").dropped) == (1, 1)
    assert fleet.stats().balanced


@pytest.mark.looptime
async def test_a_timeout_around_the_context_is_a_timeout() -> None:
    """asyncio.timeout around the fleet raises TimeoutError, after the fleet has ended."""
    fleet = Fleet(transport=FakeTransport())
    connection = fleet.connect(URI)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(5.0), fleet:
            await asyncio.sleep(10**6)
    assert connection.state is State.CLOSED


@pytest.mark.looptime
async def test_a_processor_that_hangs_is_cancelled_after_drain_s() -> None:
    """After drain_s the current call is failed and the rest dropped; other processors have finished before."""
    transport, hangs, quick = FakeTransport(), Slow(10**6), Slow(0.1)
    fleet = Fleet(transport=transport, drain_s=7.0)
    fleet.connect(URI, hangs, name="hangs")
    fleet.connect(URI, quick, name="quick")
    async with fleet:
        for name in ("hangs", "quick"):
            await (await transport.accept(name)).feed("a", "b", "c")
        began = clock()
    assert clock() - began == pytest.approx(7.0)
    assert (row(fleet, "hangs").failed, row(fleet, "hangs").dropped) == (1, 2)
    assert row(fleet, "quick").processed == 3
    assert fleet.stats().balanced


@pytest.mark.looptime
async def test_drain_s_of_zero_cancels_at_once() -> None:
    """With drain_s = 0 the shutdown cancels at once."""
    transport, slow = FakeTransport(), Slow()
    fleet = Fleet(transport=transport, drain_s=0.0)
    fleet.connect(URI, slow, name="feed")
    async with fleet:
        await (await transport.accept()).feed("a", "b")
        await asyncio.sleep(0)
    assert clock() == pytest.approx(0.0)
    assert slow.done == []
    assert fleet.stats().balanced


@pytest.mark.looptime
async def test_a_processor_that_suppresses_its_cancellation_is_cancelled_again_and_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A call that continues after being cancelled is cancelled until it ends, and the log contains its processor."""
    transport = FakeTransport()
    fleet = Fleet(transport=transport, drain_s=1.0)
    swallowed = 0

    async def stubborn(message: Message[str]) -> None:
        nonlocal swallowed
        while swallowed < 3:
            try:
                await asyncio.sleep(10**6)
            except asyncio.CancelledError:
                swallowed += 1

    fleet.connect(URI, stubborn, name="feed")
    async with fleet:
        await (await transport.accept()).feed("a", "b")
    assert swallowed == 3
    assert any("feed" in record.message for record in caplog.records if record.levelno == logging.WARNING)
    assert fleet.stats().balanced


@pytest.mark.looptime
async def test_during_the_drain_processors_still_send_and_publish() -> None:
    """During the drain sending works, published messages reach other processors, and those are drained too."""
    transport = FakeTransport()
    fleet = Fleet(transport=transport)
    reached: list[str] = []

    async def first(message: Message[str]) -> None:
        await asyncio.sleep(1.0)
        await connection.send(f"ack {message.data}")
        assert fleet.publish("second", message.data) == 1

    @fleet.process("second", name="second")
    async def second(message: Message[str]) -> None:
        await asyncio.sleep(0.7)
        reached.append(message.data)

    connection = fleet.connect(URI, first, name="feed")
    async with fleet:
        socket = await transport.accept()
        await socket.feed("a", "b", "c")
    assert socket.sent == ["ack a", "ack b", "ack c"]
    assert reached == ["a", "b", "c"]
    assert fleet.stats().balanced


@pytest.mark.looptime
async def test_reading_stops_when_the_end_begins() -> None:
    """Messages that arrive after the drain has begun are neither delivered nor counted, even if a mailbox has room
    again.
    """
    transport = FakeTransport()
    fleet = Fleet(transport=transport, drain_s=100.0)
    slow = Slow(1.0)
    fleet.connect(URI, slow, name="feed", buffer=Buffer(messages=4))
    fleet.connect(URI, name="other")
    async with fleet:
        socket, other = await transport.accept("feed"), await transport.accept("other")
        await socket.feed("a", "b", "c", "d")
        assert fleet.stats().endpoints[0].paused_by == ("feed",)
        late = [asyncio.create_task(each.feed("late")) for each in (socket, other)]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert fleet.stats().endpoints[1].received == 1
        late[1].cancel()
        late.append(asyncio.create_task(feed_after(other, 2.0)))
    assert slow.done == ["a", "b", "c", "d"]
    assert [each.received for each in fleet.stats().endpoints] == [4, 1]
    assert fleet.stats().balanced
    for result in await asyncio.gather(*late, return_exceptions=True):
        assert result is None or isinstance(result, errors.ConnectionLost)


async def feed_after(socket: FakeSocket, seconds: float) -> None:
    await asyncio.sleep(seconds)
    await socket.feed("later")


@pytest.mark.looptime
async def test_no_new_attempts_once_the_end_has_begun() -> None:
    """Waits and attempts end at once; a connection lost during the drain is not reconnected."""
    transport, slow = FakeTransport(), Slow(5.0)
    fleet = Fleet(transport=transport)
    transport.refuse(ConnectFailed("tcp", "no"))
    waits = fleet.connect(URI, name="waits")
    dials = fleet.connect(URI, name="dials")
    lost = fleet.connect(URI, slow, name="lost")
    async with fleet:
        socket = await transport.accept("lost")
        await socket.feed("a")
        closing = asyncio.create_task(fleet.close())
        await asyncio.sleep(1.0)
        assert (waits.state, dials.state, lost.state) == (State.CLOSED, State.CLOSED, State.OPEN)
        socket.lose()
        await asyncio.sleep(1.0)
        assert lost.state is State.CLOSED
        await closing
    assert slow.done == ["a"]
    assert [each.connects for each in fleet.stats().endpoints] == [0, 0, 1]


@pytest.mark.looptime
async def test_liveness_does_not_cut_a_long_drain() -> None:
    """When the fleet has stopped reading, silence is no timeout: sending works to the end of a long drain."""
    transport = FakeTransport()
    fleet = Fleet(transport=transport, drain_s=1000.0)

    async def processor(message: Message[str]) -> None:
        await asyncio.sleep(500.0)
        await connection.send("still here")

    connection = fleet.connect(URI, processor, liveness=Liveness(stale_s=5.0))
    async with fleet:
        socket = await transport.accept()
        await socket.feed("a")
    assert socket.sent == ["still here"]
    assert fleet.stats().subscriptions[0].processed == 1


async def test_the_close_frame_says_going_away() -> None:
    """At the shutdown each server gets a close frame 1001; closing one connection sends 1000."""
    codes: list[int | None] = []

    async def note(client: ServerConnection) -> None:
        await client.wait_closed()
        codes.append(client.close_code)

    async with serve(note, "127.0.0.1", 0) as server:
        uri = f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        async with Fleet() as fleet:
            connections = [fleet.connect(uri) for _ in range(3)]
            for connection in connections:
                await connection.wait_open()
            await connections[0].close()
            while not codes:
                await asyncio.sleep(0.001)
        while len(codes) < 3:
            await asyncio.sleep(0.001)
    assert codes == [1000, 1001, 1001]


@contextlib.asynccontextmanager
async def mute_server(events: list[str]) -> AsyncIterator[str]:
    """Accepts the handshake and answers nothing else, not even a close frame; records frames and closed sockets."""

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        key = next(line.split(": ")[1] for line in head.split("\r\n") if line.lower().startswith("sec-websocket-key"))
        answer = base64.b64encode(hashlib.sha1((key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11").encode()).digest())
        writer.write(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Accept: " + answer + b"\r\n\r\n"
        )
        while frame := await reader.read(2**16):
            events.append("close frame" if frame[0] == 0x88 else f"{frame[0]:x}")
        events.append("end")
        writer.close()

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    async with server:
        yield f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}"


async def test_close_s_limits_all_closing_handshakes_together() -> None:
    """All closing handshakes begin before the first one times out: close_s limits all of them together."""
    events: list[str] = []
    async with mute_server(events) as uri:
        connections = []
        async with Fleet() as fleet:
            connections = [fleet.connect(uri, close_s=0.5) for _ in range(20)]
            for connection in connections:
                await connection.wait_open()
        while len(events) < 40:
            await asyncio.sleep(0.001)
        assert events == ["close frame"] * 20 + ["end"] * 20
        assert {each.state for each in connections} == {State.CLOSED}


@pytest.mark.looptime
async def test_loops_over_subscriptions_end_and_waiting_messages_are_dropped() -> None:
    """At the shutdown loops over subscriptions end; messages that still wait for them are counted as dropped."""
    transport = FakeTransport()
    fleet = Fleet(transport=transport)
    subscription = fleet.subscribe("feed", name="pulled")
    fleet.connect(URI, name="feed")
    async with fleet:
        await (await transport.accept()).feed("a", "b", "c")
        assert (await anext(subscription)).data == "a"
    assert [message async for message in subscription] == []
    pulled = row(fleet, "pulled")
    assert (pulled.offered, pulled.processed, pulled.dropped, pulled.pending) == (3, 1, 2, 0)
    assert fleet.stats().balanced


@pytest.mark.looptime
async def test_the_end_keeps_the_row_of_a_loop_that_it_ended() -> None:
    """A subscription that its `async with` closes because the fleet ends keeps its row, however long the shutdown
    takes.
    """
    transport = FakeTransport()
    fleet = Fleet(transport=transport)

    async def take_a_second(message: Message[str]) -> None:
        await asyncio.sleep(1.0)

    async def loop() -> None:
        async with fleet.subscribe("feed", name="pulled") as subscription:
            async for _ in subscription:
                pass

    fleet.connect(URI, take_a_second, name="feed")
    async with fleet:
        looping = asyncio.create_task(loop())
        await asyncio.sleep(0.1)
        await (await transport.accept()).feed("a", "b", "c")
    await looping
    assert [each.name for each in fleet.stats().subscriptions] == ["feed", "pulled"]


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt()])
@pytest.mark.parametrize("how", ["context", "run", "on_open"])
def test_exit_exceptions_of_user_code_end_the_fleet_in_order(error: BaseException, how: str) -> None:
    """SystemExit or KeyboardInterrupt in a processor or on_open ends the fleet at once, in order, and is raised."""
    transport = FakeTransport()
    fleet = Fleet(transport=transport)

    async def processor(message: Message[str]) -> None:
        raise error

    async def on_open(session: object) -> None:
        if how == "on_open":
            raise error

    connection = fleet.connect(URI, processor, name="feed", on_open=on_open)
    other = fleet.connect(URI, name="other")

    @fleet.process("start")
    async def feed(message: Message[None]) -> None:
        await transport.accept("other")
        socket = await transport.accept("feed")
        if how != "on_open":
            await socket.feed("a", "b")

    fleet.publish("start", None)

    async def context() -> None:
        async with fleet:
            await asyncio.sleep(30.0)

    with pytest.raises(type(error)) as caught:
        if how == "context":
            asyncio.run(context())
        else:
            fleet.run()
    assert caught.value is error
    assert (connection.state, other.state) == (State.CLOSED, State.CLOSED)
    if how != "on_open":
        assert (row(fleet, "feed").failed, row(fleet, "feed").dropped) == (1, 1)
    assert fleet.stats().balanced


def test_a_fleet_that_was_never_left_is_cancelled_with_its_loop() -> None:
    """A fleet that was entered and never left is cancelled by asyncio.run, and leaves nothing open."""
    fleet = Fleet()
    ready = threading.Event()

    async def main() -> None:
        async with FeedServer() as server:
            connection = fleet.connect(server.uri, Slow(100.0), name="feed")
            await fleet.__aenter__()
            await connection.wait_open()
            await server.send("a", "b")
            while fleet.stats().endpoints[0].received < 2:
                await asyncio.sleep(0.001)
            ready.set()

    asyncio.run(main())
    assert ready.is_set()
    assert fleet.connections["feed"].state is State.CLOSED
    assert fleet.stats().balanced


class Sinking:
    """A sink that behaves at each step as the test specifies."""

    name, batch = "sink", 10

    def __init__(self, **steps: object) -> None:
        self.steps = steps
        self.seen: list[str] = []

    async def _do(self, step: str) -> None:
        self.seen.append(step)
        act = self.steps.get(step)
        if isinstance(act, BaseException):
            raise act
        if isinstance(act, float):
            await asyncio.sleep(act)

    async def open(self) -> None:
        await self._do("open")

    async def write(self, messages: list[Message[str]]) -> None:
        await self._do("write")

    async def close(self) -> None:
        await self._do("close")


@pytest.mark.looptime
async def test_a_sink_that_cannot_open_stops_the_start() -> None:
    """If opening a sink raises, the start raises this; sinks that were open are closed, and nothing runs."""
    good, bad = Sinking(), Sinking(open=OSError("no space"))
    fleet = Fleet(transport=FakeTransport())
    fleet.process("x", name="good")(good)
    fleet.process("x", name="bad")(bad)
    with pytest.raises(OSError, match="no space"):
        await fleet.serve()
    assert (good.seen, bad.seen) == (["open", "close"], ["open"])


@pytest.mark.looptime
async def test_the_start_can_be_cancelled_while_a_sink_opens() -> None:
    """Cancelling the start works while a sink's open() hangs."""
    fleet = Fleet(transport=FakeTransport())
    fleet.process("x")(Sinking(open=1e6))
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(fleet.serve(), 1.0)
    assert clock() < 3.0


@pytest.mark.looptime
async def test_sinks_are_closed_after_the_drain() -> None:
    """A sink gets all waiting messages, and is closed once, after the last one is written."""
    sink = Sinking(write=1.0)
    fleet = Fleet(transport=FakeTransport())
    fleet.process("x")(sink)
    async with fleet:
        for _ in range(25):
            fleet.publish("x", "y")
    assert sink.seen == ["open", "write", "write", "write", "close"]
    assert fleet.stats().subscriptions[0].processed == 25


@pytest.mark.looptime
async def test_a_cancelled_error_in_one_sinks_close_affects_no_other_sink() -> None:
    """A CancelledError of one sink's close() affects only this sink: the other sinks are closed, too."""
    bad, good = Sinking(close=asyncio.CancelledError()), Sinking()
    fleet = Fleet(transport=FakeTransport())
    fleet.process("x", name="bad")(bad)
    fleet.process("x", name="good")(good)
    async with fleet:
        pass
    assert bad.seen == good.seen == ["open", "close"]


@pytest.mark.looptime
async def test_a_cancelled_error_in_a_later_sinks_open_removes_its_subscription(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """If a sink that is declared while the fleet runs cannot be opened, this is logged, and its
    subscription removed.
    """
    fleet = Fleet(transport=FakeTransport())
    async with fleet:
        fleet.process("x", name="bad")(Sinking(open=asyncio.CancelledError()))
        fleet.publish("x", "y")
        await asyncio.sleep(1.0)
        assert "bad" not in fleet.subscriptions
    assert len([record for record in caplog.records if record.levelno >= logging.WARNING]) == 1


@pytest.mark.looptime
async def test_a_required_failure_at_the_very_start() -> None:
    """A required endpoint that fails while the context is entered ends it with one EndpointFailed."""
    transport = FakeTransport()
    transport.refuse(HandshakeRejected(401))
    fleet = Fleet(transport=transport)
    fleet.connect(URI, name="feed", required=True)
    with pytest.raises(errors.EndpointFailed) as caught:
        async with fleet:
            await asyncio.sleep(10**6)
    assert caught.value.name == "feed"
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0


PROGRAM = """
import asyncio, sys, time, signal
from wsfleet import Fleet
from wsfleet.testing import FakeTransport

mode = sys.argv[1]
transport = FakeTransport()
fleet = Fleet(transport=transport, drain_s=30.0)

async def processor(message):
    if mode == "blocks":
        print("ready", flush=True)
        time.sleep(60)
    if message.data == "first":
        print("ready", flush=True)
    await asyncio.sleep(60 if mode == "hangs" else 0.3)
    print("done", message.data, flush=True)

fleet.connect("ws://feed.test/", processor, name="feed")

@fleet.process("start")
async def start(message):
    socket = await transport.accept()
    await socket.feed("first", "second")

fleet.publish("start", None)
before = signal.signal(signal.SIGTERM, lambda number, frame: None)
earlier = signal.getsignal(signal.SIGTERM)
try:
    fleet.run()
except KeyboardInterrupt:
    print("interrupted", flush=True)
assert signal.getsignal(signal.SIGTERM) is earlier
assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
stats = fleet.stats()
row = stats.subscriptions[0]
print("balanced" if stats.balanced else "UNBALANCED", row.processed, row.failed, row.dropped)
"""


@contextlib.contextmanager
def program(tmp_path: Path, mode: str) -> "contextlib.AbstractContextManager[subprocess.Popen[str]]":  # type: ignore[misc]
    path = tmp_path / "program.py"
    path.write_text(textwrap.dedent(PROGRAM))
    with subprocess.Popen(
        [sys.executable, "-X", "dev", "-W", "error", str(path), mode],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_drains(tmp_path: Path, number: signal.Signals) -> None:
    """On SIGINT or SIGTERM, run() processes waiting messages and returns; earlier handlers are restored afterwards."""
    with program(tmp_path, "drains") as process:
        process.send_signal(number)
        out, err = process.communicate()
    assert (out, err, process.returncode) == ("done first\ndone second\nbalanced 2 0 0\n", "", 0)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_second_signal_stops_at_once(tmp_path: Path, number: signal.Signals) -> None:
    """The second signal cancels the drain, and run() raises KeyboardInterrupt."""
    with program(tmp_path, "hangs") as process:
        process.send_signal(number)
        # Two signals at once would count as one, because signals of a kind are not queued.
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(0.5)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate()
    assert (out, process.returncode) == ("interrupted\nbalanced 0 1 1\n", 0)
    assert "Traceback" not in err


def test_a_second_signal_interrupts_a_blocked_loop(tmp_path: Path) -> None:
    """If a processor blocks the loop, so that the first signal is not handled, the second one interrupts it."""
    with program(tmp_path, "blocks") as process:
        process.send_signal(signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(0.5)
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate()
    assert (out, process.returncode) == ("interrupted\nbalanced 0 1 1\n", 0)


@pytest.mark.parametrize("times", range(4))
async def test_a_connection_lost_while_it_closes(times: int) -> None:
    """For any behaviour of the peer during the close, the shutdown ends in the same state."""
    async with FeedServer() as server:
        fleet = Fleet()
        connections: list[Connection] = [fleet.connect(server.uri) for _ in range(8)]
        async with fleet:
            await server.wait_clients(8)
            for connection in connections:
                await connection.wait_open()
            closing = asyncio.create_task(fleet.close())
            for _ in range(times):
                await asyncio.sleep(0)
            server.drop()
            await closing
        assert {each.state for each in connections} == {State.CLOSED}
        assert fleet.stats().balanced


async def test_cancelled_at_every_step() -> None:
    """Whenever serve() is cancelled, from its first step on, everything is released and counted."""

    async def on_client(client: ServerConnection) -> None:
        await client.send("welcome")
        await client.send("x")

    async with FeedServer(on_client=on_client) as server:
        for steps in [*range(40), 60, 80, 120]:
            fleet = Fleet()
            connection = fleet.connect(server.uri, Slow(0.0), name="feed", on_open=lambda session: session.recv())
            serving = asyncio.create_task(fleet.serve())
            for _ in range(steps):
                await asyncio.sleep(0)
            serving.cancel()
            with pytest.raises(asyncio.CancelledError):
                await serving
            assert connection.state in (State.CLOSED, State.CONNECTING), steps
            assert (connection.state is State.CONNECTING) == (steps == 0)
            assert fleet.stats().balanced
            assert not [task for task in asyncio.all_tasks() if task.get_name().startswith("wsfleet")]
        await server.wait_clients(0)


async def test_left_at_every_step() -> None:
    """A context that is left by return after any number of steps releases and counts everything."""
    async with FeedServer() as server:
        for steps in [*range(40), 60, 80, 120]:
            fleet = Fleet()
            connection = fleet.connect(server.uri, Slow(0.0), name="feed")
            async with fleet:
                for _ in range(steps):
                    await asyncio.sleep(0)
            assert connection.state is State.CLOSED, steps
            assert fleet.stats().balanced
            assert not [task for task in asyncio.all_tasks() if task.get_name().startswith("wsfleet")]
        await server.wait_clients(0)


@pytest.mark.looptime
async def test_cancelling_every_task_closes_every_socket() -> None:
    """When a program cancels all tasks, as `asyncio.run` does at its end, all open sockets are closed."""
    transport = FakeTransport()
    fleet = Fleet(transport=transport)
    connection = fleet.connect(URI, Slow(), name="feed")
    me = asyncio.current_task()
    running = asyncio.create_task(fleet.serve())
    socket = await transport.accept()
    await connection.wait_open()
    for task in asyncio.all_tasks() - {me}:
        task.cancel()
    await asyncio.wait({running})
    with pytest.raises(errors.ConnectionLost):
        await socket.feed("a")
    assert connection.state is State.CLOSED
    assert fleet.stats().balanced


@pytest.mark.looptime
async def test_a_fleet_whose_root_is_cancelled_before_its_first_step_has_ended() -> None:
    """If the root task is cancelled before its first step, entering the fleet ends; it has ended, its endpoints
    CLOSED.
    """
    fleet = Fleet(transport=FakeTransport())
    connection = fleet.connect(URI, name="feed")
    entering = asyncio.create_task(fleet.__aenter__())
    await asyncio.sleep(0)
    for task in asyncio.all_tasks():
        if task.get_name() == "wsfleet-fleet":
            task.cancel()
    await asyncio.wait({entering})
    assert entering.cancelled()
    assert connection.state is State.CLOSED
    with pytest.raises(errors.FleetError, match="has ended"):
        fleet.publish("news", 1)
