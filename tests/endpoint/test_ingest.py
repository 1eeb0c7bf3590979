"""The batches made of one read neither block the loop nor change the messages."""

import asyncio
import json
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.flows import Clock, balanced, feeding, from_socket
from tests.support.wirekit import BINARY, TEXT, Pipe, frame, open_protocol, open_wire
from wsfleet import Buffer, Endpoint, Fleet, Message, Overflow
from wsfleet.core.time_slice import READ_BYTES
from wsfleet.endpoint.decode import compile_factory
from wsfleet.endpoint.envelopes import payload_size
from wsfleet.endpoint.ingest import Ingest
from wsfleet.endpoint.session import SessionCore
from wsfleet.pipeline.hub import Hub
from wsfleet.testing import FakeTransport
from wsfleet.transport import protocol as wire_protocol

URI = "ws://feed.test/"


async def turns_for_a_read(
    monkeypatch: pytest.MonkeyPatch, step_s: float, **options: Any
) -> tuple[int, list[Any], Ingest]:
    """The number of iterations of the loop for one read of tiny frames, if the clock advances by `step_s` at each
    look.
    """
    monkeypatch.setattr(wire_protocol, "time", FullClock(step_s))
    pipe, protocol = Pipe(), open_protocol(2**20)
    wire = open_wire(pipe, protocol)
    hub = Hub()
    box = hub.add("box", ">", Buffer(10**6))
    endpoint = Endpoint(URI, **options)
    feed = Ingest(compile_factory(endpoint, "feed"), hub)
    session = SessionCore(endpoint, feed, wire, 1)
    wire.start(session)
    await session.release()
    await asyncio.sleep(0)
    count = READ_BYTES // 3
    pipe.incoming.append(frame(TEXT, b"7") * count)
    turns = 0
    while len(box.waiting) < count:
        pipe.read()
        await asyncio.sleep(0)
        turns += 1
    wire.abort()
    await pipe.settle()
    return turns, [message.data for message in box.waiting], feed


class FullClock(Clock):
    """The wire also uses the wall clock."""

    def time(self) -> float:
        return 1.0


@pytest.mark.parametrize("decode", ["text", "json", int])
async def test_a_read_of_tiny_frames_yields_to_the_loop(monkeypatch: pytest.MonkeyPatch, decode: Any) -> None:
    """A read of thousands of tiny frames is delivered in time slices, complete and in order."""
    turns, data, feed = await turns_for_a_read(monkeypatch, 0.000_5, decode=decode)
    assert turns >= len(data) // (256 * 8)
    assert data == ["7" if decode == "text" else 7] * (READ_BYTES // 3)
    assert (feed.received, feed.published) == (len(data), len(data))


async def test_slow_user_code_yields_to_the_loop_after_each_call(monkeypatch: pytest.MonkeyPatch) -> None:
    """If decoding calls a user function, the clock is checked after each message, not after hundreds."""
    turns, data, _ = await turns_for_a_read(monkeypatch, 0.000_5, decode=lambda payload: payload)
    assert turns >= len(data) // 8


@given(st.lists(st.text() | st.binary(), max_size=20))
def test_sizes_are_bytes(payloads: list[str | bytes]) -> None:
    """The size of a payload is its number of bytes on the wire, for any characters."""
    for payload in payloads:
        assert payload_size(payload) == len(payload if isinstance(payload, bytes) else payload.encode())


JSON = st.recursive(st.none() | st.integers(0, 9) | st.text(max_size=3), lambda v: st.lists(v, max_size=3))
PIECE = JSON.map(json.dumps) | JSON.map(lambda v: json.dumps(v).encode()) | st.sampled_from(["{", b"\xff", ""])


@given(st.lists(PIECE, min_size=1, max_size=30), st.sampled_from([None, "t.{0}", "always"]))
def test_many_payloads_in_one_read_give_the_same_as_single_ones(payloads: list[str | bytes], topic: str | None) -> None:
    """Many payloads in one read give the same messages, counts and malformed records as single ones."""

    def outcome(batches: list[list[str | bytes]]) -> Any:
        hub = Hub()
        box = hub.add("box", ">", Buffer(10**6))
        malformed = hub.add("bad", "$malformed.>", Buffer(10**6))
        feed = Ingest(compile_factory(Endpoint(URI, decode="json", topic=topic), "feed"), hub)
        feed.wire = SimpleNamespace(last_frame=0.0)
        for batch in batches:
            # As the wire delivers them: JSON is decoded from bytes.
            feed.receive([p.encode() if isinstance(p, str) else p for p in batch], 5.0, 0.0)
        records = [(m.data.index, m.data.raw) for m in malformed.waiting]
        return list(box.waiting), records, feed.received, feed.received_bytes, feed.malformed, feed.published

    assert outcome([payloads]) == outcome([[payload] for payload in payloads])


async def test_a_message_is_shared_by_all_its_subscriptions() -> None:
    """All subscriptions get the same Message object, so it is decoded once."""
    transport = FakeTransport()
    fleet = Fleet(transport=transport)
    calls = []
    fleet.connect(URI, name="feed", decode=lambda payload: calls.append(payload) or [payload])
    one, two = fleet.subscribe(">"), fleet.subscribe("feed")
    async with one, two, feeding(fleet, transport) as socket:
        await socket.feed("x")
        assert await anext(one) is await anext(two)
        assert calls == ["x"]
        balanced(fleet)


async def test_binary_and_text_frames_of_one_read_keep_their_type(monkeypatch: pytest.MonkeyPatch) -> None:
    """With decode="text", a binary frame between text frames stays bytes, at its position."""
    pipe, protocol = Pipe(), open_protocol(2**20)
    wire = open_wire(pipe, protocol)
    hub = Hub()
    box = hub.add("box", ">", Buffer())
    endpoint = Endpoint(URI)
    session = SessionCore(endpoint, Ingest(compile_factory(endpoint, "feed"), hub), wire, 1)
    wire.start(session)
    await session.release()
    await asyncio.sleep(0)
    pipe.incoming.append(frame(TEXT, "é".encode()) + frame(BINARY, b"\xff") + frame(TEXT, b"x"))
    await pipe.settle()
    expected = [("é", 2), (b"\xff", 1), ("x", 1)]
    assert [(m.data, m.size) for m in box.waiting] == expected
    assert from_socket(1).session == 1 and all(isinstance(m, Message) for m in box.waiting)
    wire.abort()
    await pipe.settle()


@pytest.mark.looptime
@pytest.mark.parametrize(
    ("subscriptions", "key", "most"),
    [(0, None, 256), (1, None, 256), (20, None, 25), (1000, None, 1), (1, lambda message: 1, 1)],
)
async def test_the_size_of_a_batch_depends_on_its_mailboxes(subscriptions: int, key: Any, most: int) -> None:
    """A batch is not interrupted, so it is smaller if more mailboxes are involved, and one message if user code is.

    If the cost is unknown, as at the beginning, it is measured with one message.
    """
    transport = FakeTransport()
    buffer = Buffer(overflow=Overflow.LATEST, key=key) if key is not None else Buffer(overflow=Overflow.DROP_OLDEST)
    async with Fleet(transport=transport) as fleet:
        taking = [fleet.subscribe("feed", buffer=buffer) for _ in range(subscriptions)]
        connection = fleet.connect("ws://feed.test/", name="feed")
        socket = await transport.accept()
        await connection.wait_open()
        ingest = connection._supervisor.ingest
        assert ingest.chunk == 1
        await socket.feed("x")
        assert ingest.chunk == most
        assert len(taking) == subscriptions and all(each.stats().pending == 1 for each in taking)
