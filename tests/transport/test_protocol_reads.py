"""The wire reads once per loop iteration, with each event loop."""

import asyncio

from tests.support.wirekit import TEXT, Collector, Pipe, frame, open_protocol, open_wire
from wsfleet.core.time_slice import READ_BYTES


async def test_a_read_that_filled_the_buffer_is_followed_by_a_turn_of_the_loop():
    """After a read that filled the buffer, the wire pauses reading for an iteration, as uvloop would continue."""
    pipe = Pipe()
    wire = open_wire(pipe, open_protocol(2**20))
    collector = Collector()
    wire.start(collector)
    await pipe.settle()
    one = frame(TEXT, b"x" * 124, form=16)  # 128 bytes with a header of four: so many fill the buffer exactly
    pipe.incoming.extend([one * (READ_BYTES // 128)] * 4)
    for _ in range(4):
        assert pipe.read()
        assert not pipe.read()
        await asyncio.sleep(0)
    await pipe.settle()
    assert len(collector.messages) == 4 * READ_BYTES // 128
    wire.abort()
    await pipe.settle()
    await collector.ended
