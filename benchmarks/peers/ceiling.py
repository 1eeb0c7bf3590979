"""No sockets: decoding, creating wsfleet's envelope and awaiting the same processor, over a list in memory.

The list contains the messages of one block of the feed, as they are on the wire: if they are compressed,
decoding includes that. No program that receives messages with these decoders can be faster.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from itertools import repeat
from typing import Any

import msgspec

from benchmarks.contender import Meter
from benchmarks.feed import deflated, payloads
from benchmarks.scenarios import Target
from wsfleet import Message


def inflater() -> Callable[[bytes], bytes]:
    inflate = zlib.decompressobj(wbits=-15).decompress
    return lambda payload: inflate(payload + b"\x00\x00\xff\xff")


async def run(target: Target, meter: Meter) -> None:
    decode = msgspec.json.Decoder().decode
    process = meter.process
    plain = payloads(target.load.size)
    block = deflated(plain) if target.load.deflate else plain

    async def begin() -> None:
        for _ in range(target.load.connections):
            inflate = inflater() if target.load.deflate else None
            done = 0
            while done < target.load.messages:
                came = block[: target.load.messages - done]
                if inflate is not None:
                    came = list(map(inflate, came))
                messages: list[Message[Any]] = list(
                    map(
                        Message,
                        map(decode, came),
                        repeat("feed-0"),
                        repeat("feed-0"),
                        range(done + 1, done + 1 + len(came)),
                        repeat(1),
                        repeat(0.0),
                        map(len, came),
                    )
                )
                for message in messages:
                    await process(message)
                done += len(came)

    await meter.flow(begin)
