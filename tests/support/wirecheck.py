"""The wire compared with websockets' own parser: the same bytes must have the same result, however they arrive."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from websockets.extensions.permessage_deflate import PerMessageDeflate
from websockets.protocol import OPEN

from tests.support.wirekit import BINARY, CONT, TEXT, Collector, Pipe, open_protocol, open_wire, written_frames
from wsfleet.core.time_slice import READ_BYTES
from wsfleet.transport import fairness, protocol
from wsfleet.transport.fragments import FragmentedProtocol
from wsfleet.transport.protocol import WebSocketWire


@dataclass
class Expected:
    """The result of websockets for a stream: messages (with whether they are text), its answers, and its end."""

    messages: list[tuple[bytes, bool]] = field(default_factory=list)
    written: bytes = b""
    code: int = 1006
    reason: str = ""


CLOSED_BY_US = (1001, "we go")
MAX_FRAGMENTS = 4


def oracle(stream: bytes, limit: int, deflate: bool, close_at: int | None = None) -> Expected:
    """The expected result of `stream` on an open connection that the client begins to close after `close_at` bytes."""
    return judged(stream, open_protocol(limit, extensions(deflate)), MAX_FRAGMENTS, close_at)


def judged(stream: bytes, protocol: FragmentedProtocol, most: int, close_at: int | None = None) -> Expected:
    """Feed websockets' Sans-I/O client byte by byte, and assemble messages like its Assembler.

    A message may have `most` fragments.
    """
    expected = Expected()
    parts: list[bytes] = []
    text = failed = closing = False
    for place in range(len(stream) + 1):
        if place == close_at and protocol.state is OPEN:
            protocol.send_close(*CLOSED_BY_US)
            closing = True
        expected.written += b"".join(protocol.data_to_send())
        protocol.receive_data(stream[place : place + 1])
        for event in protocol.events_received():
            if failed or closing or event.opcode not in (CONT, TEXT, BINARY):
                continue
            if event.opcode != CONT:
                text = event.opcode == TEXT
            elif len(parts) >= most:
                protocol.fail(1009, "too many fragments")
                failed = True
                continue
            parts.append(bytes(event.data))
            if not event.fin:
                continue
            payload = b"".join(parts)
            parts.clear()
            try:
                if text:
                    payload.decode()
            except UnicodeDecodeError as exc:
                protocol.fail(1007, f"{exc.reason} at position {exc.start}")
                failed = True
            else:
                expected.messages.append((payload, text))
    failed = failed or (protocol.parser_exc is not None and not closing)
    close = protocol.close_sent if failed else protocol.close_rcvd
    if close is not None:
        expected.code, expected.reason = int(close.code), close.reason
        if failed and close.code == 1009:  # the error names the option; the close frame does not
            option = "max_fragments" if "fragments" in close.reason else "max_size"
            expected.reason += f"; limited by the option {option}"
    elif closing:
        expected.code, expected.reason = CLOSED_BY_US[0], "closed by us; the peer did not answer"
    return expected


def extensions(deflate: bool) -> list[PerMessageDeflate]:
    return [PerMessageDeflate(False, False, 15, 15)] if deflate else []


@dataclass(frozen=True)
class Conversation:
    """The bytes of a peer, and the negotiated options."""

    stream: bytes
    limit: int
    deflate: bool


@dataclass(frozen=True)
class Case:
    """How a stream arrives and is processed: reads, the receiver's batch sizes, pauses, slices, and a close."""

    cuts: list[int]
    as_text: bool = True
    chunk: int = 256
    pause_every: int = 0
    sliced: bool = False
    early: bool = False
    turns: int = 1
    close_after: int | None = None


def reads_of(stream: bytes, cuts: list[int]) -> list[bytes]:
    """Cut `stream` into reads of the given sizes, repeatedly; one read if there are none."""
    reads, pos, number = [], 0, 0
    while pos < len(stream):
        size = cuts[number % len(cuts)] * (1 if number < 200 else 1000) if cuts else len(stream)
        reads.append(stream[pos : pos + size])
        pos, number = pos + size, number + 1
    return reads


@contextmanager
def bounds(everything_put_off: bool) -> Iterator[None]:
    """No time at all, so that the wire defers each read, and again after each chunk, or any amount."""
    before = protocol.SLICE_S, fairness.SLICE_S, fairness.GAP_S
    protocol.SLICE_S = fairness.SLICE_S = -1.0 if everything_put_off else 1e9
    fairness.GAP_S = 1e9 if everything_put_off else 0.0
    try:
        yield
    finally:
        protocol.SLICE_S, fairness.SLICE_S, fairness.GAP_S = before


async def settle(collector: Collector, pipe: Pipe) -> None:
    """Run until all data have been delivered, with or without pauses."""
    await pipe.settle()
    while collector.paused:
        collector.resume()
        await pipe.settle()


async def through_the_wire(conversation: Conversation, case: Case) -> tuple[Collector, Pipe, int | None]:
    """The output of the wire, and the number of bytes after which the client began to close."""
    pipe = Pipe()
    collector = Collector(as_text=case.as_text, chunk=case.chunk, pause_every=case.pause_every)
    reads = reads_of(conversation.stream, case.cuts)
    early = reads.pop(0) if case.early and reads else b""
    wire = open_wire(
        pipe, open_protocol(conversation.limit, extensions(conversation.deflate)), early, max_fragments=MAX_FRAGMENTS
    )
    collector.start(wire)
    most = 2 * conversation.limit + 2 * READ_BYTES + len(early) + 64
    fed, close_at = len(early), None
    for number, read in enumerate([*reads, b""]):
        if number == case.close_after:
            await settle(collector, pipe)
            close_at = fed
            wire.close(*CLOSED_BY_US)
        if read:
            pipe.incoming.append(read)
            fed += len(read)
        for _ in range(case.turns):
            handed_over = len(collector.batches)
            pipe.read()
            if case.sliced:
                assert len(collector.batches) <= handed_over + 1, "two chunks in one iteration of the loop"
            await asyncio.sleep(0)
        assert held(wire) <= most, "more data in memory than a message, its last frame, and two reads"
    await settle(collector, pipe)
    pipe.ending = True
    await settle(collector, pipe)
    return collector, pipe, close_at


def held(wire: WebSocketWire) -> int:
    """The number of the peer's bytes that the wire has in memory, and has not delivered."""
    return len(wire._rest) + len(wire._tail) + len(wire._fragments._data) + len(wire._protocol.reader.buffer)


def check(collector: Collector, pipe: Pipe, expected: Expected) -> None:
    """The messages, answers and end of the wire must be as expected."""
    as_text = collector.as_text
    messages = [payload.decode() if text and as_text else payload for payload, text in expected.messages]
    assert collector.messages == messages
    assert written_frames(bytes(pipe.written)) == written_frames(expected.written)
    error = collector.error
    assert error is not None
    assert error.code == expected.code
    if expected.code != 1006:
        assert error.reason == expected.reason
    assert max(map(len, collector.batches), default=0) <= collector.chunk
    assert all(collector.batches), "an empty batch"
    assert collector.while_paused == 0


async def compare(conversation: Conversation, case: Case) -> None:
    """For a conversation, the result of the wire must be that of websockets."""
    with bounds(case.sliced):
        collector, pipe, close_at = await through_the_wire(conversation, case)
        expected = oracle(conversation.stream, conversation.limit, conversation.deflate, close_at)
    check(collector, pipe, expected)
