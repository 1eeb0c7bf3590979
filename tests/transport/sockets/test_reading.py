"""An open socket: reading, pausing, writing, closing, and its loss."""

import asyncio
import contextlib
import struct

import pytest
from websockets.frames import BINARY, CLOSE, PING, PONG, TEXT

from tests.support.peers import HOST, accept, listening, reset, sending, until_gone
from tests.support.wirekit import frame, written_frames
from wsfleet.core.errors import NotOpen

TLS = pytest.mark.parametrize("encrypted", [False, True], ids=["ws", "wss"])


@pytest.fixture
def sides(authority, encrypted):
    """The scheme, the server's context and the client's options, without and with TLS."""
    if encrypted:
        return "wss", authority.server(), {"ssl": authority.client()}
    return "ws", None, {}


async def until(condition):
    """Wait for a condition; the timeout of the test limits the wait."""
    while not condition():
        await asyncio.sleep(0.005)


async def settled(count):
    """Wait until a count stops growing."""
    seen = -1
    while count() != seen:
        seen = count()
        await asyncio.sleep(0.2)
    return seen


async def fill(wire):
    """Write until the wire and all buffers behind it are full, and return the number of bytes."""
    sent = stalled = 0
    while stalled < 3:
        if wire.writable:
            wire.write(bytes(100_000))
            sent += 100_000
            stalled = 0
            await asyncio.sleep(0)
        else:
            stalled += 1
            await asyncio.sleep(0.02)
    return sent


# Reading and not reading


@TLS
async def test_pausing_stalls_the_server(connect, sides):
    """A paused wire delivers nothing and blocks the server's writes; after `resume`, no message is missing."""
    scheme, server_side, options = sides
    count, size = 4000, 16_000
    sent = 0

    async def flood(reader, writer):
        nonlocal sent
        await accept(reader, writer)
        for number in range(count):
            writer.write(frame(BINARY, struct.pack("!I", number) + bytes(size)))
            await writer.drain()
            sent += 1
        await until_gone(reader)

    async with listening(flood, tls=server_side) as port:
        _, collector = await connect(f"{scheme}://localhost:{port}", pause_every=1, **options)
        await until(lambda: collector.paused)
        stalled = await settled(lambda: sent)
        assert stalled < count, "64 MB went into the buffers of a socket that nobody reads"
        assert len(collector.batches) == 1
        assert collector.while_paused == 0
        collector.pause_every = 0
        collector.resume()
        await until(lambda: len(collector.messages) == count)
    assert [struct.unpack("!I", message[:4])[0] for message in collector.messages] == list(range(count))


@TLS
async def test_a_paused_wire_is_read_to_its_end_afterwards(connect, sides):
    """After `resume`, a paused wire delivers all messages that the server sent before its close, and the code."""
    scheme, server_side, options = sides
    sent = b"".join(frame(TEXT, b"%03d" % number + b"x" * 300) for number in range(500)) + frame(CLOSE, b"\x03\xf3bye")
    async with listening(sending(sent), tls=server_side) as port:
        wire, collector = await connect(f"{scheme}://localhost:{port}", started=False, **options)
        wire.pause()
        collector.start(wire)
        await asyncio.sleep(0.1)
        wire.resume()
        error = await collector.ended
    assert [int(message[:3]) for message in collector.messages] == list(range(500))
    assert (error.code, error.reason) == (1011, "bye")


@TLS
async def test_unread_says_whether_data_waits(connect, sides):
    """`unread` is true while data or the end of the stream waits to be read, and false before and after."""
    scheme, server_side, options = sides
    say, end = asyncio.Event(), asyncio.Event()

    async def talk(reader, writer):
        await accept(reader, writer)
        await say.wait()
        writer.write(frame(TEXT, b"data"))
        await end.wait()

    async with listening(talk, tls=server_side) as port:
        wire, collector = await connect(f"{scheme}://localhost:{port}", **options)
        await until(lambda: not wire.unread)
        wire.pause()
        say.set()
        await until(lambda: wire.unread)
        assert collector.messages == []
        wire.resume()
        await until(lambda: collector.messages == ["data"])
        assert not wire.unread
        wire.pause()
        end.set()
        await until(lambda: wire.unread)
        wire.resume()
        await collector.ended
        assert not wire.unread


async def test_writing_and_pings_go_on_while_paused(connect):
    """A paused wire can still send messages and pings."""
    received = b""

    async def listen(reader, writer):
        nonlocal received
        await accept(reader, writer)
        while data := await reader.read(1000):
            received += data

    async with listening(listen) as port:
        wire, _ = await connect(f"ws://{HOST}:{port}")
        wire.pause()
        wire.write("hello")
        wire.ping()
        wire.write(b"bytes")
        await until(lambda: len(received) >= 6 + 5 + 6 + 8 + 6 + 5)
    frames = written_frames(received)
    assert [opcode for opcode, _ in frames] == [TEXT, PING, BINARY]
    assert [payload for _, payload in frames if payload in (b"hello", b"bytes")] == [b"hello", b"bytes"]


async def test_pings_and_their_answers(connect):
    """A pong sets the latency and answers all earlier pings; an unknown pong has no effect."""
    say = asyncio.Queue()
    pings = []

    async def answer(reader, writer):
        await accept(reader, writer)
        received = b""
        while len(pings) < 3:
            received += await reader.read(1000)
            pings[:] = [payload for opcode, payload in written_frames(received) if opcode == PING]
        while True:
            writer.write(frame(PONG, await say.get()))

    async with listening(answer) as port:
        wire, _ = await connect(f"ws://{HOST}:{port}")
        assert wire.ping_sent is None
        wire.ping()
        first = wire.ping_sent
        for _ in range(2):
            await asyncio.sleep(0.01)
            wire.ping()
        assert wire.ping_sent == first
        await until(lambda: len(pings) == 3)
        assert len(set(pings)) == 3
        last_frame = wire.last_frame
        say.put_nowait(b"stray")
        await until(lambda: wire.last_frame > last_frame)
        assert (wire.latency_s, wire.ping_sent) == (None, first)
        say.put_nowait(pings[1])
        await until(lambda: wire.latency_s is not None)
        assert wire.ping_sent > first
        assert wire.latency_s > 0
        say.put_nowait(pings[2])
        await until(lambda: wire.ping_sent is None)


# Ends


@TLS
@pytest.mark.parametrize("paused", [True, False], ids=["paused", "reading"])
async def test_a_failed_write_destroys_no_data(connect, sides, paused):
    """Messages that have arrived are delivered although a ping or a message could not be written after them."""
    scheme, server_side, options = sides

    async def handle(reader, writer):
        await accept(reader, writer)
        for number in range(50):
            writer.write(frame(TEXT, b"%d" % number))
        await writer.drain()
        writer.transport.abort()  # the socket answers what is written now with a reset

    async with listening(handle, tls=server_side) as port:
        wire, collector = await connect(f"{scheme}://localhost:{port}", started=False, **options)
        wire.pause()
        if paused:
            collector.start(wire)
        await until(lambda: wire.unread)
        await asyncio.sleep(0.05)  # all of it has arrived, and the end
        while wire._open:
            wire.ping()
            await asyncio.sleep(0.01)
        if paused:
            await until(lambda: collector.losses)  # reported at once, before the messages
            assert collector.messages == [] and not collector.ended.done()
        else:
            collector.start(wire)
        wire.resume()
        error = await collector.ended
    assert collector.messages == [str(number) for number in range(50)]
    assert error.code == 1006


@TLS
async def test_a_failed_flush_destroys_no_data(connect, sides):
    """Messages that have arrived are delivered although the write buffer could not be flushed."""
    scheme, server_side, options = sides
    end = asyncio.Event()

    async def handle(reader, writer):
        await accept(reader, writer)
        writer.transport.pause_reading()
        for number in range(50):
            writer.write(frame(TEXT, b"%d" % number))
        await end.wait()
        reset(writer)

    async with listening(handle, tls=server_side) as port:
        wire, collector = await connect(f"{scheme}://localhost:{port}", started=False, **options)
        wire.pause()
        collector.start(wire)
        await until(lambda: wire.unread)
        await fill(wire)
        end.set()
        while wire._open:
            wire.ping()  # the system may have taken all of the buffer
            await asyncio.sleep(0.01)
        assert collector.messages == []
        wire.resume()
        error = await collector.ended
    assert collector.messages == [str(number) for number in range(50)]
    assert error.code == 1006


async def test_a_reset_in_the_middle_of_a_frame(connect):
    """A reset within a frame loses only this message, and the error describes it."""

    async def tear(reader, writer):
        await accept(reader, writer)
        writer.write(frame(TEXT, b"whole") + frame(TEXT, b"torn" * 100)[:50])
        await reader.read(1)
        reset(writer)

    async with listening(tear) as port:
        wire, collector = await connect(f"ws://{HOST}:{port}")
        await until(lambda: collector.messages == ["whole"])
        wire.write("go on")
        error = await collector.ended
    assert collector.messages == ["whole"]
    assert error.code == 1006
    assert isinstance(error.__cause__, ConnectionResetError)
    with pytest.raises(NotOpen):
        wire.write("too late")
    wire.ping()
    wire.close(1000)
    wire.abort()


@TLS
async def test_an_end_without_a_close_frame(connect, sides):
    """The end of the stream without a close frame is a loss with 1006, after all messages."""
    scheme, server_side, options = sides
    async with listening(sending(frame(TEXT, b"last") + frame(TEXT, b"torn")[:3]), tls=server_side) as port:
        _, collector = await connect(f"{scheme}://localhost:{port}", **options)
        error = await collector.ended
    assert collector.messages == ["last"]
    assert error.code == 1006
    assert "without a close frame" in error.reason


async def test_a_peer_that_ends_and_does_not_read_is_left_after_close_s(connect):
    """After the peer's end of the stream, unsent data is kept for `close_s` at most."""
    full = asyncio.Event()

    async def end(reader, writer):
        await accept(reader, writer)
        await full.wait()
        writer.write_eof()
        await asyncio.Event().wait()

    async with listening(end) as port:
        wire, collector = await connect(f"ws://{HOST}:{port}", close_s=0.05)
        await fill(wire)
        full.set()
        assert (await collector.ended).code == 1006


@pytest.mark.parametrize(
    ("sent", "code"),
    [
        (frame(TEXT, b"\xff"), 1007),
        (frame(TEXT, b"a", mask=b"mask"), 1002),
        (frame(TEXT, b"a", reserved=4), 1002),
        (frame(BINARY, bytes(11)), 1009),
        (frame(CLOSE, b"\x00\x01"), 1002),
    ],
)
async def test_a_protocol_error_fails_the_connection(connect, sent, code):
    """A protocol error fails the connection with the right code, and no later message is delivered."""
    received = b""

    async def break_rules(reader, writer):
        nonlocal received
        await accept(reader, writer)
        writer.write(frame(TEXT, b"good") + sent + frame(TEXT, b"late"))
        received = await until_gone(reader)

    async with listening(break_rules) as port:
        _, collector = await connect(f"ws://{HOST}:{port}", max_size=10, close_s=0.05)
        error = await collector.ended
        await until(lambda: received)
    assert collector.messages == ["good"]
    assert error.code == code
    [(opcode, payload)] = written_frames(received)
    assert opcode == CLOSE
    assert struct.unpack("!H", payload[:2])[0] == code


@TLS
@pytest.mark.parametrize("manner", ["silent", "talks on", "does not read"])
async def test_a_peer_that_never_closes_is_left_after_close_s(connect, sides, manner):
    """Closing ends within `close_s` for any peer, and no message is delivered after its start."""
    scheme, server_side, options = sides
    closing = asyncio.Event()

    async def stay(reader, writer):
        await accept(reader, writer)
        if manner == "talks on":
            with contextlib.suppress(ConnectionError):
                while True:
                    writer.write(frame(TEXT, b"after" if closing.is_set() else b"before"))
                    await writer.drain()
                    await asyncio.sleep(0.001)
        elif manner == "silent":
            await until_gone(reader)
        else:
            await asyncio.Event().wait()

    async with listening(stay, tls=server_side) as port:
        wire, collector = await connect(f"{scheme}://localhost:{port}", close_s=0.1, **options)
        if manner == "does not read":
            await fill(wire)
        wire.close(1001, "going")
        closing.set()
        with pytest.raises(NotOpen):
            wire.write("late")
        error = await collector.ended
    assert error.code == 1001
    assert "after" not in collector.messages


@TLS
async def test_closing_hands_over_what_came_before_and_is_answered(connect, sides):
    """After `close`, the peer's close frame ends the connection with its code, also on a paused wire."""
    scheme, server_side, options = sides

    async def answer(reader, writer):
        await accept(reader, writer)
        writer.write(frame(TEXT, b"before"))
        received = b""
        while not any(opcode == CLOSE for opcode, _ in written_frames(received)):
            received += await reader.read(1000)
        writer.write(frame(TEXT, b"after") + frame(CLOSE, b"\x0f\xa0so long"))
        await writer.drain()
        writer.close()

    async with listening(answer, tls=server_side) as port:
        wire, collector = await connect(f"{scheme}://localhost:{port}", pause_every=1, **options)
        await until(lambda: collector.paused)
        wire.close(1000, "é" * 100)
        error = await collector.ended
    assert collector.messages == ["before"]
    assert (error.code, error.reason) == (4000, "so long")


@TLS
async def test_aborting_is_at_once(connect, sides):
    """`abort` closes the socket without a close frame; its reason is used if the peer gave none."""
    scheme, server_side, options = sides

    async def stay(reader, writer):
        await accept(reader, writer)
        writer.write(frame(TEXT, b"hello"))
        await until_gone(reader)

    async with listening(stay, tls=server_side) as port:
        wire, collector = await connect(f"{scheme}://localhost:{port}", **options)
        await until(lambda: collector.messages)
        wire.abort("no data for 5 s")
        error = await collector.ended
    assert (error.code, error.reason) == (1006, "no data for 5 s")


# Writing


@TLS
async def test_a_peer_that_does_not_read_fills_the_write_buffer(connect, sides):
    """A full write buffer clears `writable`, and waiting tasks continue when the peer reads again."""
    scheme, server_side, options = sides
    read_on = asyncio.Event()
    received = 0

    async def wait(reader, writer):
        nonlocal received
        await accept(reader, writer)
        await read_on.wait()
        while data := await reader.read(2**16):
            received += len(data)

    async with listening(wait, tls=server_side) as port:
        wire, _ = await connect(f"{scheme}://localhost:{port}", **options)
        assert wire.writable
        await wire.wait_writable()
        sent, waited_in_vain = 0, False
        while not waited_in_vain:  # the system's buffers may still grow a little
            sent += await fill(wire)
            waiting = [asyncio.create_task(wire.wait_writable()) for _ in range(3)]
            waited_in_vain = not (await asyncio.wait(waiting, timeout=0.2, return_when=asyncio.FIRST_COMPLETED))[0]
        waiting[0].cancel()
        await asyncio.wait([waiting[0]])
        assert not waiting[1].done()
        read_on.set()
        await asyncio.gather(*waiting[1:])
        assert wire.writable
        await until(lambda: received >= sent)


async def test_waiting_for_room_ends_with_the_loss(connect):
    """Waiting for room in the write buffer ends with the loss of the socket."""

    async def wait(reader, writer):
        await accept(reader, writer)
        await asyncio.Event().wait()

    async with listening(wait) as port:
        wire, collector = await connect(f"ws://{HOST}:{port}")
        await fill(wire)
        waiting = asyncio.create_task(wire.wait_writable())
        await asyncio.sleep(0.01)
        assert not waiting.done()
        wire.abort()
        await waiting
        await collector.ended
    await wire.wait_writable()
