"""Decoding and topics: the data and topics that an endpoint makes of payloads, and the limits of a peer's influence."""

import asyncio
import dataclasses
import functools
import json
from collections.abc import Callable
from typing import Any, Literal, TypedDict

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.flows import balanced, endpoint_row, feeding, opened, turns
from wsfleet import Buffer, Endpoint, Fleet, Message, Reconnect
from wsfleet.core.errors import ConfigError
from wsfleet.core.message import Malformed
from wsfleet.endpoint.decode import compile_factory
from wsfleet.testing import FakeTransport

URI = "ws://feed.test/"


class Trade(msgspec.Struct, tag="trade"):
    symbol: str
    price: float = 0.0


class Quote(msgspec.Struct, tag="quote"):
    symbol: str


@dataclasses.dataclass
class Point:
    x: int
    y: int = 0


class Tick(TypedDict):
    symbol: str


async def through(payloads: list[str | bytes], **options: Any) -> tuple[list[Message[Any]], list[Malformed]]:
    """The messages of an endpoint with these options when these payloads arrive in one read."""
    transport = FakeTransport()
    fleet = Fleet(transport=transport)
    fleet.connect(URI, name="feed", **options)
    everything = fleet.subscribe(">", buffer=Buffer(10**5))
    malformed = fleet.subscribe("$malformed.feed", buffer=Buffer(10**5))
    async with everything, malformed, feeding(fleet, transport) as socket:
        await socket.feed(*payloads)
        stats = balanced(fleet).endpoints[0]
        assert stats.state == "OPEN"
        assert (stats.received, stats.malformed) == (len(payloads), malformed.stats().pending)
        sizes = [len(p if isinstance(p, bytes) else p.encode()) for p in payloads]
        assert stats.received_bytes == sum(sizes)
        messages = [await anext(everything) for _ in range(everything.stats().pending)]
        records = [(await anext(malformed)).data for _ in range(malformed.stats().pending)]
        places = sorted([m.index for m in messages] + [r.index for r in records])
        assert places == list(range(1, len(payloads) + 1))
        assert [m.size for m in messages] == [sizes[m.index - 1] for m in messages]
        assert all((m.endpoint, m.session) == ("feed", 1) for m in messages)
        assert len({m.received_at for m in messages}) <= 1, "the clock is read once for each read"
        return messages, records


TEXT = '{"symbol": "Ünï€", "price": 1.5, "type": "trade"}'


@pytest.mark.parametrize(
    ("decode", "payload", "data"),
    [
        ("text", "hé", "hé"),
        ("text", b"\xff\x00", b"\xff\x00"),
        ("bytes", "hé", "hé".encode()),
        ("bytes", b"\xff", b"\xff"),
        ("json", '{"a": [1, null, "é"]}', {"a": [1, None, "é"]}),
        ("json", b'"x"', "x"),
        (Trade, TEXT, Trade("Ünï€", 1.5)),
        (Trade, TEXT.encode(), Trade("Ünï€", 1.5)),
        (Trade | Quote, '{"type": "quote", "symbol": "A"}', Quote("A")),
        (Point, '{"x": 1}', Point(1)),
        (Tick, '{"symbol": "A", "more": 1}', {"symbol": "A"}),
        (list[int], "[1, 2]", [1, 2]),
        (dict[str, float], b'{"a": 1.5}', {"a": 1.5}),
        (int | None, "null", None),
        (int | str, '"1"', "1"),
        (Literal["a"], '"a"', "a"),
        (str, '"1"', "1"),
        (Any, "[1]", [1]),
        (json.loads, "[1]", [1]),
        (json.loads, b"[1]", [1]),
        (len, "hé", 2),
        (len, b"\xff\x00\x01", 3),
        (functools.partial(int, base=16), "ff", 255),
        (msgspec.json.Decoder(Point).decode, '{"x": 2}', Point(2)),
    ],
)
async def test_decode_returns_data_by_kind(decode: Any, payload: str | bytes, data: Any) -> None:
    """Each kind of `decode` returns its data from text and binary frames, the same for single and for
    several frames.
    """
    alone, _ = await through([payload], decode=decode)
    several, _ = await through([payload] * 5, decode=decode, topic=lambda data: "x")
    assert [m.data for m in alone + several] == [data] * 6
    assert type(alone[0].data) is type(data)


@pytest.mark.parametrize(
    ("decode", "good", "bad"),
    [
        ("json", "1", ["", "{", "nul", b"\xff", b"\xff\xff\xff", '{"a": 1} 2', "[" * 50_000]),
        (Trade, TEXT, ['{"type": "trade"}', '{"type": "quote", "symbol": "A"}', "[]", "", b"\xff"]),
        (Point, '{"x": 1}', ["{}", '{"x": "1"}', "7"]),
        (list[int], "[1]", ["{}", '["a"]', "[1, 1.5]"]),
        (int, "1", ["x", "", b"\xc3"]),
        (json.loads, "1", ["", "{", b"\xff"]),
    ],
)
@pytest.mark.parametrize("topic", [None, "feed.{missing}"])
async def test_a_payload_that_cannot_be_decoded_is_malformed(
    decode: Any, good: str, bad: list[Any], topic: str | None
) -> None:
    """A payload that cannot be decoded is counted and published with all its details; other messages
    are not affected.
    """
    payloads: list[Any] = [good]
    for payload in bad:
        payloads += [payload, good]
    messages, records = await through(payloads, decode=decode, topic=topic)
    assert [m.index for m in messages] == list(range(1, len(payloads) + 1, 2))
    assert [r.index for r in records] == list(range(2, len(payloads) + 1, 2))
    for record, payload in zip(records, bad, strict=True):
        assert (record.endpoint, record.session) == ("feed", 1)
        assert isinstance(record.error, Exception)
        raw, came = (p.encode() if isinstance(p, str) else p for p in (record.raw, payload))
        assert raw == came


async def test_a_decode_function_gets_text_as_str_and_binary_as_bytes() -> None:
    """A decode function gets str of a text frame and bytes of a binary one."""
    got: list[Any] = []
    await through(["é", b"\xff"], decode=lambda payload: got.append(payload))
    assert got == ["é", b"\xff"]


@pytest.mark.parametrize("error", [ValueError("no"), KeyError(), RecursionError(), MemoryError(), StopIteration()])
async def test_any_exception_of_a_decode_function_makes_a_malformed_message(error: Exception) -> None:
    """An exception of a decode function makes the message malformed, and the record contains the exception."""

    def decode(payload: str | bytes) -> str:
        if payload == "bad":
            raise error
        return str(payload)

    messages, records = await through(["a", "bad", "b"], decode=decode)
    assert [m.data for m in messages] == ["a", "b"]
    assert [r.error for r in records] == [error]


async def test_a_cancellation_raised_by_a_decode_function_is_its_own() -> None:
    """A CancelledError of user code makes the message malformed, and cancels nothing else."""

    def decode(payload: str | bytes) -> str:
        if payload == "bad":
            raise asyncio.CancelledError
        return str(payload)

    messages, records = await through(["a", "bad", "b"], decode=decode)
    assert [m.data for m in messages] == ["a", "b"] and len(records) == 1


async def test_a_decode_function_may_read_the_stats() -> None:
    """The counts balance even if they are read during a read, in a decode or topic function, with held messages or
    not.
    """
    transport = FakeTransport()
    fleet = Fleet(transport=transport)
    looks: list[bool] = []

    def look(payload: Any) -> Any:
        looks.append(fleet.stats().balanced)
        return payload

    async def on_open(session: Any) -> None:
        await session.recv(lambda message: message.data == "go")

    fleet.connect(URI, name="feed", decode=look, topic=look, on_open=on_open)
    async with fleet:
        socket = await transport.accept("feed")
        await socket.feed("1", "2", "go")
        await fleet.connections["feed"].wait_open()
        await socket.feed("3", "4")
        assert len(looks) >= 8 and all(looks)


@pytest.mark.parametrize(
    "bad", ["xml", None, object(), 7, Trade | Point, set[Any] | list[Any], Callable[[], int], type("Plain", (), {})]
)
def test_a_decode_that_cannot_work_is_refused(bad: Any) -> None:
    """An unknown kind of decoding, or a type that cannot be decoded from JSON, raises ConfigError and uses no name."""
    fleet = Fleet()
    with pytest.raises(ConfigError, match="decode"):
        fleet.connect(URI, name="feed", decode=bad)
    fleet.connect(URI, name="feed")


# Topics


TOPICS: list[tuple[str | None, Any, Any]] = [
    (None, {"a": 1}, "feed"),
    ("trades", {"a": 1}, "trades"),
    ("trades.all", [1], "trades.all"),
    ("trades.{symbol}", {"symbol": "BTC"}, "trades.BTC"),
    ("{symbol}", {"symbol": "BTC"}, "BTC"),
    ("{a.b}.{c}", {"a": {"b": "x"}, "c": 7}, "x.7"),
    ("t.{1}", ["a", "b"], "t.b"),
    ("t.{0.s}", [{"s": "x"}], "t.x"),
    ("t.{n}", {"n": 1.5}, "t.1_5"),
    ("t.{n}", {"n": True}, "t.true"),
    ("t.{n}", {"n": 0}, "t.0"),
    ("t.{n}", {"n": -3}, "t.-3"),
    ("t.{n}", {"n": ""}, "t._"),
    # Values that a peer may not use to forge a topic.
    ("t.{n}", {"n": "a.b"}, "t.a_b"),
    ("t.{n}", {"n": "*"}, "t._"),
    ("t.{n}", {"n": ">"}, "t._"),
    ("t.{n}", {"n": "a b\n\t\r\x00\x7f\x9f\u2028c"}, "t.a_b_______c"),
    ("{n}", {"n": "$state"}, "feed"),
    ("{n}.x", {"n": "$dead"}, "feed"),
    ("t.{n}", {"n": "$state"}, "t.$state"),
    ("{a}{b}", {"a": "$", "b": "x"}, "feed"),
    # Values that are missing, or are no token.
    ("t.{n}", {}, "feed"),
    ("t.{n}", {"n": None}, "feed"),
    ("t.{n}", {"n": [1]}, "feed"),
    ("t.{n}", {"n": {}}, "feed"),
    ("t.{n}", [1], "feed"),
    ("t.{n}", 7, "feed"),
    ("t.{n}", None, "feed"),
    ("t.{n.m}", {"n": "text"}, "feed"),
    ("t.{5}", [1], "feed"),
    ("t.{0}", "text", "feed"),
    ("t.{items}", {}, "feed"),
    ("t.{a.__class__}", {"a": 1}, ConfigError),
    ("t.{_a}", {"_a": 1}, ConfigError),
    ("t.{n!r}", {}, ConfigError),
    ("t.{n:>10}", {}, ConfigError),
    ("t.{}", {}, ConfigError),
    ("t.{n", {}, ConfigError),
    ("$t.{n}", {}, ConfigError),
    ("$t", {}, ConfigError),
    ("t.*", {}, ConfigError),
    ("t..{n}", {}, ConfigError),
    ("", {}, ConfigError),
]


async def test_topics_from_a_format_string() -> None:
    """A topic uses values of the data that exist and are safe; otherwise it is the name of the endpoint."""
    for topic, data, made in TOPICS:
        if made is ConfigError:
            fleet = Fleet()
            with pytest.raises(ConfigError):
                fleet.connect(URI, name="feed", decode="json", topic=topic)
            fleet.connect(URI, name="feed")
        else:
            factory = compile_factory(Endpoint(URI, decode="json", topic=topic), "feed")
            message = factory.message(json.dumps(data), 1, 1, 0.0)
            assert (message.topic, message.data) == (made, data), topic


async def test_a_format_string_takes_attributes_of_types() -> None:
    """`{symbol}` is a public attribute if the data are an object."""
    messages, _ = await through([TEXT], decode=Trade, topic="t.{symbol}.{price}")
    assert messages[0].topic == "t.Ünï€.1_5"


@pytest.mark.parametrize("decode", ["text", "bytes"])
def test_a_format_string_needs_decoded_data(decode: str) -> None:
    """A format string with fields for text or bytes raises ConfigError and uses no name; a fixed topic is accepted."""
    fleet = Fleet()
    with pytest.raises(ConfigError, match="topic"):
        fleet.connect(URI, name="feed", decode=decode, topic="t.{x}")
    fleet.connect(URI, name="feed", decode=decode, topic="t.x")


async def test_topics_from_a_function() -> None:
    """A topic function may return dots, but unsafe characters are replaced; an exception or no str
    makes it malformed.
    """
    made: dict[str, Any] = {
        "a": "x.y",
        "b": "x.*.>",
        "c": "$state.feed",
        "d": "a b\nc",
        "e": "",
        "f": ".x..y.",
        "g": None,
        "h": 7,
        "i": ["x"],
    }

    def topic(data: str) -> Any:
        return made[data]

    messages, records = await through([*made, "raises"], topic=topic)
    assert {m.data: m.topic for m in messages} == {
        "a": "x.y",
        "b": "x._._",
        "c": "feed",
        "d": "a_b_c",
        "e": "_",
        "f": "_.x._.y._",
    }
    assert [r.raw for r in records] == ["g", "h", "i", "raises"]
    assert [type(r.error) for r in records] == [TypeError, TypeError, TypeError, KeyError]


@given(
    st.recursive(
        st.none() | st.booleans() | st.text() | st.integers(), lambda v: st.lists(v) | st.dictionaries(st.text(), v)
    )
)
def test_no_data_forges_a_topic(data: Any) -> None:
    """For any payload, the topic has the form that the endpoint declared, or is the endpoint's name."""
    intakes = [
        compile_factory(Endpoint(URI, decode="json", topic=topic), "feed") for topic in ("a.{x}.b", "{x}", "{0}.c", str)
    ]
    for factory, tokens in zip(intakes, (3, 1, 2, None), strict=True):
        for each in (data, {"x": data}, [data]):
            topic = factory.message(json.dumps(each), 1, 1, 0.0).topic
            assert topic == "feed" or tokens is None or topic.count(".") == tokens - 1
            assert not topic.startswith("$") and all(topic.split("."))
            assert not any(c in "*>" or c.isspace() or not (c.isprintable() or ord(c) > 0x9F) for c in topic)


# Numbers


async def test_indexes_and_sessions_go_on_over_reconnects() -> None:
    """`index` counts all messages that the endpoint received, malformed and answered ones included, in all sessions."""
    transport = FakeTransport()
    fleet = Fleet(transport=transport)

    async def login(session: Any) -> None:
        await session.recv(lambda message: message.data == "ok")

    fleet.connect(URI, name="feed", decode="json", on_open=login, reconnect=Reconnect(initial_s=0))
    async with fleet, fleet.subscribe(">") as everything, fleet.subscribe("$malformed.*") as malformed:
        for _ in range(3):
            socket = await transport.accept("feed")
            await socket.feed('"early"', '"ok"', "{")
            await fleet.connections["feed"].wait_open()
            await turns()
            await socket.feed('"a"', "}", '"é"')
            socket.lose()
        found = [await anext(everything) for _ in range(9)]
        assert [(m.session, m.index, m.data) for m in found] == [
            (session, (session - 1) * 6 + index, data)
            for session in (1, 2, 3)
            for index, data in ((1, "early"), (4, "a"), (6, "é"))
        ]
        records = [(await anext(malformed)).data for _ in range(6)]
        assert [(r.session, r.index) for r in records] == [
            (session, (session - 1) * 6 + index) for session in (1, 2, 3) for index in (3, 5)
        ]
        stats = endpoint_row(fleet)
        assert (stats.received, stats.answered, stats.malformed, stats.published) == (18, 3, 6, 9)
        assert stats.received_bytes == 3 * sum(map(len, ['"early"', '"ok"', "{", '"a"', "}", '"é"'.encode()]))
        balanced(fleet)


@pytest.mark.parametrize(("decode", "raw"), [("json", b"{"), (json.loads, "{"), (Trade, b"{")])
async def test_a_malformed_message_has_the_same_record_held_or_not(decode: Any, raw: str | bytes) -> None:
    """The record of a malformed message does not depend on whether it came before or after `on_open` returned."""
    transport = FakeTransport()
    fleet = Fleet(transport=transport)

    async def login(session: Any) -> None:
        await session.recv(lambda message: message.data == "go", decode="text")

    fleet.connect(URI, name="feed", decode=decode, on_open=login)
    async with fleet, fleet.subscribe("$malformed.feed") as malformed:
        socket = await transport.accept("feed")
        await socket.feed("{", "go")
        await fleet.connections["feed"].wait_open()
        await socket.feed("{")
        records = [(await anext(malformed)).data for _ in range(2)]
        assert [record.raw for record in records] == [raw, raw]
        assert [type(record.raw) for record in records] == [type(raw)] * 2
        balanced(fleet)


async def test_held_messages_come_first_and_are_decoded_as_declared() -> None:
    """Messages that `recv` skipped are published in order, with their index, by the endpoint's own
    decoder and topic.
    """
    transport = FakeTransport()
    fleet = Fleet(transport=transport)

    async def login(session: Any) -> None:
        answer = await session.recv(lambda message: message.data == b"[3]", decode="bytes")
        assert (answer.index, answer.session, answer.size) == (3, 1, 3)

    fleet.connect(URI, name="feed", decode="json", topic="t.{0}", on_open=login)
    async with fleet, fleet.subscribe(">") as everything:
        socket = await transport.accept("feed")
        await socket.feed("[1]", "[2]", "[3]", "[4]")
        await fleet.connections["feed"].wait_open()
        await socket.feed("[5]")
        found = [await anext(everything) for _ in range(4)]
        assert [(m.index, m.data, m.topic) for m in found] == [(n, [n], f"t.{n}") for n in (1, 2, 4, 5)]
        balanced(fleet)


async def test_each_endpoint_numbers_its_own_messages() -> None:
    """Each endpoint numbers its own messages."""
    transport = FakeTransport()
    fleet = Fleet(transport=transport)
    for name in ("one", "two"):
        fleet.connect(URI, name=name)
    async with fleet, fleet.subscribe(">") as everything:
        one, two = [await opened(fleet, transport, name) for name in ("one", "two")]
        await one.feed("a", "b")
        await two.feed("c")
        await one.feed("d")
        found = [await anext(everything) for _ in range(4)]
        assert [(m.endpoint, m.index, m.topic) for m in found] == [
            ("one", 1, "one"),
            ("one", 2, "one"),
            ("two", 1, "two"),
            ("one", 3, "one"),
        ]
