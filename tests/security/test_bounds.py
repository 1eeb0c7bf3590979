"""A hostile server can use only a bounded amount of a client's memory and time."""

import asyncio
import struct

import pytest

from tests.support.peers import HOST, listening, request
from tests.support.wirekit import (
    CLOSE,
    PING,
    PONG,
    TEXT,
    Collector,
    Pipe,
    frame,
    open_protocol,
    open_wire,
    written_frames,
)
from wsfleet import Fleet, Reconnect
from wsfleet.transport.protocol import WebSocketWire


def opened() -> tuple[Pipe, WebSocketWire, Collector]:
    """An open connection without a network."""
    pipe = Pipe()
    wire = open_wire(pipe, open_protocol(2**20))
    collector = Collector()
    collector.start(wire)
    return pipe, wire, collector


async def test_a_flood_of_pings_costs_no_memory() -> None:
    """While there is no room to write, only the last ping is kept, and it is answered when there is room."""
    pipe, wire, collector = opened()
    wire.pause_writing()
    for number in range(1000):
        pipe.incoming.append(frame(PING, struct.pack("!I", number)))
    pipe.incoming.append(frame(TEXT, b"data goes on"))
    await pipe.settle()
    assert pipe.written == b""
    assert collector.messages == ["data goes on"]
    wire.resume_writing()
    await pipe.settle()
    assert written_frames(bytes(pipe.written)) == [(PONG, struct.pack("!I", 999))]
    pipe.incoming.append(frame(PING, b"soon"))
    await pipe.settle()
    assert written_frames(bytes(pipe.written))[1:] == [(PONG, b"soon")]
    wire.abort()
    await collector.ended


@pytest.mark.parametrize("ours", [True, False], ids=["our close", "the peer's close"])
async def test_no_pong_follows_a_close_frame(ours: bool) -> None:
    """A close is sent at once, even without room in the buffer, and no pong is sent after it."""
    pipe, wire, collector = opened()
    wire.pause_writing()
    pipe.incoming.append(frame(PING, b"owed"))
    await pipe.settle()
    if ours:
        wire.close(1000)
    else:
        pipe.incoming.append(frame(CLOSE, struct.pack("!H", 1000)))
        await pipe.settle()
    wire.resume_writing()
    await pipe.settle()
    assert [opcode for opcode, _ in written_frames(bytes(pipe.written))] == [CLOSE]
    wire.abort()
    await collector.ended


@pytest.mark.parametrize("opcode", [TEXT, PING, CLOSE])
@pytest.mark.parametrize("length", [2**63, 2**64 - 1, 2**63 - 1, 2**32, 2**20 + 1])
async def test_too_large_a_length_ends_the_connection_at_once(opcode: int, length: int) -> None:
    """A frame with too large a length is rejected by its header; its data are neither awaited nor stored."""
    pipe, _, collector = opened()
    pipe.incoming.append(bytes([0x80 | opcode, 127]) + struct.pack("!Q", length))
    await pipe.settle()
    ((written, payload),) = written_frames(bytes(pipe.written))
    assert written == CLOSE
    assert struct.unpack_from("!H", payload)[0] in (1002, 1009)
    pipe.abort()
    assert (await asyncio.wait_for(collector.ended, 60)).code in (1002, 1009)


@pytest.mark.parametrize("head", [b"", b"HTTP/1.1 101 x\r\n", b"HTTP/1.1 401 x\r\n"], ids=["silence", "101", "401"])
async def test_open_s_limits_a_slow_handshake(head: bytes) -> None:
    """A server that keeps sending headers, a few bytes at a time, is abandoned after `open_s`."""

    async def trickle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await request(reader)
        writer.write(head)
        while not writer.transport.is_closing():
            writer.write(b"X: y\r\n" if head else b"")
            await asyncio.sleep(0.02)

    fleet = Fleet()
    states = fleet.subscribe("$state.feed")
    async with listening(trickle) as port:
        fleet.connect(f"ws://{HOST}:{port}", name="feed", open_s=0.5, reconnect=Reconnect(initial_s=60.0, jitter=0.0))
        async with fleet:
            error = (await anext(aiter(states))).data.error
    assert str(error).startswith("http: ")
    assert "open_s = 0.5 s" in str(error) or "head" in str(error) or "header" in str(error)
