"""Fragmented messages: memory, the number of fragments, and close frames within a message."""

import tracemalloc

import pytest
from websockets.asyncio.server import serve
from websockets.frames import BINARY, CLOSE, CONT, PING, PONG, TEXT

from tests.support.compiled import compiled
from tests.support.wirekit import Collector, Pipe, frame, open_protocol, open_wire, written_frames
from wsfleet import Endpoint, Fleet, Reconnect
from wsfleet.core.errors import ConnectionLost, EndpointFailed
from wsfleet.transport import protocol, scanner
from wsfleet.transport.fragments import most_fragments


@pytest.fixture(autouse=True, params=["python", "compiled"])
def scan(request, monkeypatch):
    """Both versions of the scanner."""
    twin = scanner if request.param == "python" else compiled("wsfleet.transport._scanner")
    monkeypatch.setattr(protocol, "scan", twin.scan)


async def through_the_wire(stream: bytes, *, max_size: int = 1000, max_fragments: int = 4096) -> tuple[Collector, Pipe]:
    """Let the wire read all of `stream`, and then the end of the stream."""
    pipe, collector = Pipe(), Collector()
    collector.start(open_wire(pipe, open_protocol(max_size), max_fragments=max_fragments))
    pipe.incoming.append(stream)
    pipe.ending = True
    await pipe.settle()
    return collector, pipe


def in_pieces(opcode: int, payload: bytes, size: int) -> bytes:
    """Return a message in frames of `size` bytes each, at least two."""
    starts = range(0, len(payload), size)
    return b"".join(
        frame(CONT if start else opcode, payload[start : start + size], fin=start == starts[-1]) for start in starts
    )


@pytest.mark.parametrize(("max_size", "most"), [(1, 4096), (2**20, 20_480), (2**22, 69_632)])
def test_the_bound_grows_with_max_size(max_size, most):
    """The default allows the largest message in fragments of 64 bytes, and any message in 4,096 fragments."""
    assert most_fragments(max_size) == most


@pytest.mark.parametrize("size", [64, 1000, 2**16])
async def test_a_large_message_may_come_in_small_pieces(size):
    """A message of 1 MiB in fragments of 64 bytes or more is received, in order with other messages."""
    payload = bytes(range(256)) * 2**12
    stream = frame(TEXT, b"before") + in_pieces(BINARY, payload, size) + frame(TEXT, b"after")
    collector, _ = await through_the_wire(stream, max_size=2**20, max_fragments=most_fragments(2**20))
    assert collector.messages == ["before", payload, "after"]


async def test_the_number_of_pieces_is_bounded():
    """The limit applies to the fragments of each message; one more fails the connection with 1009."""
    most = in_pieces(TEXT, b"abc", 1)
    collector, pipe = await through_the_wire(most + most + in_pieces(TEXT, b"abcd", 1), max_fragments=3)
    assert collector.messages == ["abc", "abc"]
    assert collector.error is not None
    assert (collector.error.code, collector.error.reason) == (
        1009,
        "too many fragments; limited by the option max_fragments",
    )
    assert written_frames(bytes(pipe.written)) == [(CLOSE, b"\x03\xf1too many fragments")]


async def test_empty_fragments_take_no_memory():
    """Empty fragments take no memory; only the wire's counter grows."""
    pipe, collector = Pipe(), Collector()
    collector.start(open_wire(pipe, open_protocol(1000), max_fragments=10**9))
    pipe.incoming.append(frame(TEXT, b"a", fin=False))
    empty = frame(CONT, fin=False) * 1000
    await pipe.settle()
    tracemalloc.start()
    try:
        for _ in range(5):
            pipe.incoming.append(empty)
            await pipe.settle()
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held < 5_000 * 8, "more than a pointer for each piece would take"
    pipe.incoming.append(frame(CONT, b"b"))
    await pipe.settle()
    assert collector.messages == ["ab"]
    pipe.abort()
    await pipe.settle()


async def test_controls_between_the_pieces_are_answered():
    """A ping within a message is answered, and the message is complete."""
    stream = frame(TEXT, b"a", fin=False) + frame(PING, b"p") + frame(CONT, b"b")
    collector, pipe = await through_the_wire(stream)
    assert collector.messages == ["ab"]
    assert written_frames(bytes(pipe.written)) == [(PONG, b"p")]


@pytest.mark.parametrize("after", [b"", frame(CONT, b"b"), frame(TEXT, b"b")], ids=["nothing", "the rest", "another"])
async def test_a_close_may_end_a_message_half_sent(after):
    """A close frame within a message is answered, and its code ends the connection; the rest is ignored."""
    goes = b"\x03\xe9going away"
    collector, pipe = await through_the_wire(frame(TEXT, b"a", fin=False) + frame(CLOSE, goes) + after)
    assert collector.messages == []
    assert collector.error is not None
    assert (collector.error.code, collector.error.reason) == (1001, "going away")
    assert written_frames(bytes(pipe.written)) == [(CLOSE, goes)]


async def test_a_forbidden_close_in_the_middle_of_a_message_fails_the_connection():
    """A close frame with a forbidden code fails the connection, also within a message."""
    collector, _ = await through_the_wire(frame(TEXT, b"a", fin=False) + frame(CLOSE, b"\x03\xed"))
    assert collector.error is not None
    assert collector.error.code == 1002


@pytest.mark.parametrize(("max_fragments", "received"), [(None, 1), (4, 1), (3, 0)])
async def test_an_endpoint_declares_how_many_pieces_a_message_may_have(max_fragments, received):
    """`max_fragments` of an endpoint is the limit of its connections."""

    async def say(peer):
        await peer.send(["a", "b", "c"])  # and an empty one, as websockets ends them

    once = Reconnect(fatal=lambda error: True)
    async with serve(say, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        async with Fleet() as fleet:
            endpoint = Endpoint(f"ws://127.0.0.1:{port}", max_fragments=max_fragments, reconnect=once)
            connection = fleet.connect(endpoint)
            with pytest.raises(EndpointFailed) as caught:
                async for message in connection:
                    assert message.data == "abc"
            assert connection.stats().received == received
    lost = caught.value.__cause__
    assert isinstance(lost, ConnectionLost)
    assert lost.code == (1000 if received else 1009)
