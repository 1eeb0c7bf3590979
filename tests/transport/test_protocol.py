"""The wire without a network: loop iterations, slices, losses, and receivers that raise."""

import asyncio
import logging

import pytest
from websockets.frames import BINARY, CLOSE, CONT, PING, PONG, TEXT

from tests.support.wirekit import Collector, Pipe, frame, open_protocol, open_wire, written_frames
from wsfleet.transport import fairness as shared_turns
from wsfleet.transport import protocol
from wsfleet.transport.dial import Opening


@pytest.mark.looptime
async def test_close_s_is_the_bound_exactly():
    """The closing handshake is limited to exactly `close_s` seconds of the loop's time."""
    loop = asyncio.get_running_loop()
    pipe, collector = Pipe(), Collector()
    wire = open_wire(pipe, open_protocol(100), close_s=7.0)
    collector.start(wire)
    await asyncio.sleep(1)
    wire.close(1000)
    await asyncio.sleep(3)
    wire.close(1000)  # asking again gives no more time
    pipe.incoming.append(frame(TEXT, b"late"))
    while not collector.ended.done():
        pipe.read()
        await asyncio.sleep(0.5)
    assert loop.time() == pytest.approx(8.0, abs=0.5)
    assert collector.messages == []


async def test_a_long_reason_is_cut_at_a_character():
    """A close reason is cut to 123 bytes, at the boundary of a character."""
    pipe = Pipe()
    wire = open_wire(pipe, open_protocol(100))
    wire.close(1000, "x" + "é" * 100)
    Collector().start(wire)
    pipe.abort()
    await pipe.settle()
    [(opcode, payload)] = written_frames(bytes(pipe.written))
    assert opcode == CLOSE
    assert payload[2:].decode() == "x" + "é" * 61


async def sliced_wire(monkeypatch, collector, count=10):
    """A wire with `count` messages from one read, and a slice for one message."""
    monkeypatch.setattr(protocol, "SLICE_S", -1.0)
    monkeypatch.setattr(shared_turns, "SLICE_S", -1.0)
    pipe = Pipe()
    wire = open_wire(pipe, open_protocol(100))
    collector.start(wire)
    await asyncio.sleep(0)
    pipe.incoming.append(b"".join(frame(TEXT, b"%d" % number) for number in range(count)))
    pipe.read()
    return pipe, wire


async def test_the_loop_has_its_turn_between_slices(monkeypatch):
    """Messages beyond a slice are deferred: other callbacks run in between, and the socket is not read."""
    collector = Collector(chunk=2)
    pipe, wire = await sliced_wire(monkeypatch, collector)
    turns = []
    while len(collector.messages) < 10:
        assert not pipe.reading
        turns.append(len(collector.messages))
        await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert pipe.reading
    assert turns == [2, 4, 6, 8]
    wire.abort()
    await pipe.settle()


async def test_an_abort_between_slices_hands_over_nothing_more(monkeypatch):
    """After `abort`, deferred messages are not delivered, and the loss is reported once."""
    collector = Collector(chunk=1)
    pipe, wire = await sliced_wire(monkeypatch, collector)
    wire.abort("enough")
    await pipe.settle()
    assert collector.messages == ["0"]
    assert collector.error.reason == "enough"


async def test_a_loss_between_slices_comes_after_everything_that_was_read(monkeypatch):
    """A loss is reported after all deferred messages have been delivered, in slices."""
    collector = Collector(chunk=1)
    pipe, _ = await sliced_wire(monkeypatch, collector)
    pipe.abort(ConnectionResetError("reset"))
    turns = 0
    while not collector.ended.done():
        turns += 1
        await asyncio.sleep(0)
    assert collector.messages == [str(number) for number in range(10)]
    assert turns >= 9
    assert collector.error.reason == "reset"


async def test_a_deferred_ping_is_not_answered_after_a_loss(monkeypatch):
    """After a loss, a deferred ping is not answered."""
    collector = Collector(chunk=1)
    pipe, _ = await sliced_wire(monkeypatch, collector)
    pipe.incoming.append(frame(PING, b"p") + frame(TEXT, b"last"))
    await pipe.settle()
    assert written_frames(bytes(pipe.written)) == [(PONG, b"p")]
    pipe.incoming.append(frame(TEXT, b"a") + frame(PING, b"q") + frame(TEXT, b"\xff"))
    pipe.read()
    pipe.abort()
    await pipe.settle()
    assert collector.messages[-1] == "a"
    assert written_frames(bytes(pipe.written)) == [(PONG, b"p")]
    assert collector.error.code == 1007


async def test_a_loss_while_paused_is_reported_after_all_messages(monkeypatch):
    """A loss during a pause is reported after all messages, which still wait for `resume`."""
    collector = Collector(chunk=3, pause_every=1)
    pipe, _ = await sliced_wire(monkeypatch, collector)
    await asyncio.sleep(0)
    assert collector.messages == ["0", "1", "2"]
    pipe.abort()
    for read in (3, 6, 9):
        await pipe.settle()
        assert (len(collector.messages), collector.error) == (read, None)
        collector.resume()
    await pipe.settle()
    assert len(collector.messages) == 10
    assert collector.error.code == 1006


@pytest.mark.parametrize("way", ["abort", "close"])
async def test_closing_ends_a_loss_that_waits_for_resume(monkeypatch, way):
    """After a loss during a pause, `abort` and `close` discard the rest, and the loss is reported."""
    collector = Collector(chunk=3, pause_every=1)
    pipe, wire = await sliced_wire(monkeypatch, collector)
    await asyncio.sleep(0)
    pipe.abort()
    await pipe.settle()
    assert collector.error is None
    wire.abort() if way == "abort" else wire.close(1000)
    await pipe.settle()
    assert collector.messages == ["0", "1", "2"]
    assert collector.error.code == 1006


async def test_closing_between_slices_discards_the_rest(monkeypatch):
    """`close` discards messages that were read but not delivered."""
    collector = Collector(chunk=1)
    pipe, wire = await sliced_wire(monkeypatch, collector)
    wire.close(1000)
    pipe.incoming.append(frame(CLOSE, b"\x03\xe8"))
    await pipe.settle()
    pipe.ending = True
    await pipe.settle()
    assert collector.messages == ["0"]
    assert collector.error.code == 1000


async def test_data_after_our_close_is_discarded(monkeypatch):
    """Messages after our close are skipped without websockets, but other frames are still processed."""
    collector, protocol = Collector(), open_protocol(100)
    pipe = Pipe()
    wire = open_wire(pipe, protocol)
    collector.start(wire)
    await pipe.settle()
    wire.close(1000)
    taken = []
    receive_data = protocol.receive_data
    monkeypatch.setattr(protocol, "receive_data", lambda data: (taken.append(bytes(data)), receive_data(data)))
    flood = frame(TEXT, b"late") * 2000
    halves = frame(TEXT, b"a", fin=False) + frame(CONT, b"b")
    pipe.incoming.extend([flood + frame(PING, b"?") + halves + flood[:-3], flood[-3:] + frame(CLOSE, b"\x0b\xb8")])
    await pipe.settle()
    pipe.ending = True
    await pipe.settle()
    assert (collector.messages, collector.error.code) == ([], 3000)
    assert {frame(PING, b"?"), frame(CLOSE, b"\x0b\xb8"), frame(CONT, b"b")} <= set(taken)
    assert len(taken) < 100


async def test_a_loss_reported_to_the_opening_reaches_the_wire():
    """A loss that a TLS transport reports to the opening protocol is forwarded to the wire."""
    pipe, opening, collector = Pipe(), Opening(), Collector()
    opening.connection_made(pipe)
    wire = open_wire(pipe, open_protocol(100), opening=opening)
    collector.start(wire)
    opening.connection_lost(ConnectionResetError("reset"))
    assert (await collector.ended).reason == "reset"


async def test_a_wire_that_is_never_started_can_be_dropped_or_closed():
    """Before `start`, `abort` and `close` work, and a later `start` reports the loss."""
    for end in ("abort", "close"):
        pipe, collector = Pipe(), Collector()
        wire = open_wire(pipe, open_protocol(100), early=frame(TEXT, b"early"))
        getattr(wire, end)(*([1000] if end == "close" else []))
        pipe.incoming.append(frame(CLOSE, b"\x03\xe8"))
        await pipe.settle()
        pipe.ending = True
        await pipe.settle()
        assert pipe.lost
        collector.start(wire)
        error = await collector.ended
        assert collector.messages == []
        assert error.code == (1006 if end == "abort" else 1000)


class Failing(Collector):
    def receive(self, payloads, at, until):
        if "bad" in payloads:
            raise ZeroDivisionError("in the receiver")
        super().receive(payloads, at, until)

    def lost(self, error):
        super().lost(error)
        raise ZeroDivisionError("in lost")


@pytest.mark.parametrize("sliced", [True, False])
async def test_a_receiver_that_raises_ends_its_connection_alone(monkeypatch, caplog, sliced):
    """An exception of the receiver fails the connection with 1011, is the cause of the loss, and is logged."""
    monkeypatch.setattr(protocol, "SLICE_S", -1.0 if sliced else 1e9)
    pipe, collector = Pipe(), Failing(chunk=1)
    wire = open_wire(pipe, open_protocol(100))
    collector.start(wire)
    await asyncio.sleep(0)
    pipe.incoming.append(frame(TEXT, b"good") + frame(TEXT, b"bad") + frame(TEXT, b"late"))
    await pipe.settle()
    pipe.incoming.append(frame(TEXT, b"later") + frame(CLOSE, b"\x03\xf3"))
    await pipe.settle()
    pipe.ending = True
    await pipe.settle()
    assert collector.messages == ["good"]
    assert collector.error.code == 1011
    assert isinstance(collector.error.__cause__, ZeroDivisionError)
    assert written_frames(bytes(pipe.written)) == [(CLOSE, b"\x03\xf3")]
    logged = [record for record in caplog.records if record.name == "wsfleet.wire" and record.levelno == logging.ERROR]
    assert len(logged) == 2
    assert all(record.exc_info for record in logged)


async def test_one_write_is_one_frame_of_its_kind():
    """str is sent as a text frame, bytes as a binary frame; a str that cannot be encoded raises an exception."""
    pipe = Pipe()
    wire = open_wire(pipe, open_protocol(10))
    Collector().start(wire)
    for payload in ("", "é", b"", b"\xff", "x" * 200, b"y" * 70_000):
        wire.write(payload)
    with pytest.raises(UnicodeEncodeError):
        wire.write("\ud800")
    wire.write("end")
    assert written_frames(bytes(pipe.written)) == [
        (TEXT, b""),
        (TEXT, "é".encode()),
        (BINARY, b""),
        (BINARY, b"\xff"),
        (TEXT, b"x" * 200),
        (BINARY, b"y" * 70_000),
        (TEXT, b"end"),
    ]
    wire.abort()
    await pipe.settle()
