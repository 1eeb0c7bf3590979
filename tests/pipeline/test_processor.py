"""Processors and sinks get one message at a time, in order; a failure is counted and logged and affects
no other one.
"""

import asyncio
import functools
import inspect
import json
import logging
import threading
from pathlib import Path
from typing import Any
from unittest.mock import AsyncMock

import pytest

from tests.support.flows import (
    DROP_OLDEST,
    balanced,
    burn,
    endpoint_row,
    feeding,
    keeper,
    opened,
    row,
    turns,
    turns_while,
)
from wsfleet import Buffer, Fleet, Message, sinks
from wsfleet.core.errors import ConfigError, FleetError
from wsfleet.core.message import DeadLetter
from wsfleet.testing import FakeTransport

URI = "ws://feed.test/"


def fleet_of(**options: Any) -> tuple[Fleet, FakeTransport]:
    transport = FakeTransport()
    return Fleet(transport=transport, **options), transport


class Recorder:
    """A sink that keeps its messages, and behaves as the test specifies."""

    name = "recorder"
    batch = 3

    def __init__(self, *, opening: Exception | None = None, writing: list[BaseException] | None = None) -> None:
        self.calls: list[Any] = []
        self.opening = opening
        self.writing = writing or []

    async def open(self) -> None:
        self.calls.append("open")
        if self.opening is not None:
            raise self.opening

    async def write(self, messages: list[Message[Any]]) -> None:
        self.calls.append([message.data for message in messages])
        if self.writing:
            raise self.writing.pop(0)

    async def close(self) -> None:
        self.calls.append("close")


# Accepted kinds of processors


class Called:
    def __init__(self) -> None:
        self.seen: list[Any] = []

    async def __call__(self, message: Message[Any]) -> None:
        self.seen.append(message.data)

    async def method(self, message: Message[Any]) -> None:
        self.seen.append(message.data)

    async def with_more(self, more: str, message: Message[Any]) -> None:
        self.seen.append(message.data)

    @staticmethod
    async def static(message: Message[Any]) -> None:
        everything.append(message.data)

    @classmethod
    async def of_class(cls, message: Message[Any]) -> None:
        everything.append(message.data)


everything: list[Any] = []


class Wrapped:
    """The object of a decorator with a plain function in an attribute that `functools.partial` also has."""

    def __init__(self) -> None:
        self.func = print
        self.seen: list[Any] = []

    async def __call__(self, message: Message[Any]) -> None:
        self.seen.append(message.data)


async def test_anything_that_can_be_awaited_is_a_processor() -> None:
    """Async functions, methods, callable objects, partials of any of them, and mocks are accepted as processors."""
    fleet, _ = fleet_of()
    everything.clear()
    objects = [Called() for _ in range(5)]
    wrapped, mock = Wrapped(), AsyncMock()
    targets: list[Any] = [
        objects[0],
        objects[1].method,
        functools.partial(objects[2].with_more, "more"),
        functools.partial(objects[3]),
        functools.partial(functools.partial(Called.with_more, objects[4]), "more"),
        wrapped,
        mock,
        Called.static,
        Called.of_class,
    ]
    for target in targets:
        assert fleet.process("news")(target) is target
    assert list(fleet.subscriptions) == [
        "Called",
        "method",
        "with_more",
        "Called-2",
        "with_more-2",
        "Wrapped",
        "AsyncMock",
        "static",
        "of_class",
    ]
    async with fleet:
        assert fleet.publish("news", 7) == len(targets)
        await turns(5)
        assert [each.seen for each in (*objects, wrapped)] == [[7]] * 6
        assert everything == [7, 7]
        assert mock.await_args is not None and mock.await_args.args[0].data == 7
        balanced(fleet)


def plain(message: Message[Any]) -> None:
    raise AssertionError


class Plain:
    def __call__(self, message: Message[Any]) -> None:
        raise AssertionError


class HalfASink:
    async def open(self) -> None:
        raise AssertionError


@pytest.mark.parametrize("target", [plain, Plain(), functools.partial(plain), print, len])
def test_plain_functions_are_processors(target: Any) -> None:
    """Any callable is accepted; if it is no async function, it runs in a thread."""
    fleet, _ = fleet_of()
    assert fleet.process("news", name="mine")(target) is target
    fleet.connect(URI, target, name="feed")
    assert list(fleet.subscriptions) == ["mine", "feed"]


async def test_a_plain_function_runs_in_another_thread() -> None:
    """A plain function is called in another thread, with one message at a time, in order."""
    fleet, transport = fleet_of()
    seen: list[tuple[str, bool]] = []
    loops_thread = threading.get_ident()

    def remember(message: Message[str]) -> None:
        seen.append((message.data, threading.get_ident() == loops_thread))

    fleet.connect(URI, remember, name="feed")
    async with feeding(fleet, transport) as socket:
        await socket.feed("1", "2", "3")
    assert seen == [("1", False), ("2", False), ("3", False)]
    balanced(fleet)


@pytest.mark.parametrize("target", [Called, Plain, HalfASink(), None, 7, "jsonl:x", {}])
def test_an_invalid_processor_is_rejected(target: Any) -> None:
    """An object that is neither a function nor a sink raises ConfigError at declaration, and uses no name."""
    fleet, _ = fleet_of()
    with pytest.raises(ConfigError):
        fleet.process("news", name="mine")(target)
    if target is not None:
        with pytest.raises(ConfigError):
            fleet.connect(URI, target, name="mine")
    fleet.process("news", name="mine")(keeper([]))
    assert not fleet.connections and list(fleet.subscriptions) == ["mine"]


# Calls


async def test_one_message_at_a_time_in_order() -> None:
    """The next call begins when the previous one has ended, whatever it awaited."""
    fleet, transport = fleet_of()
    running = 0
    seen = []

    async def careful(message: Message[str]) -> None:
        nonlocal running
        running += 1
        assert running == 1
        await turns(int(message.data) % 3)
        seen.append(message.data)
        running -= 1

    fleet.connect(URI, careful, name="feed")
    numbers = [str(n) for n in range(50)]
    async with feeding(fleet, transport) as socket:
        await socket.feed(*numbers[:25])
        await turns(3)
        await socket.feed(*numbers[25:])
        while len(seen) < 50:
            await turns()
            balanced(fleet)
        assert seen == numbers


async def test_a_message_in_hand_is_pending() -> None:
    """A message is pending from the beginning of its call until it is counted as processed."""
    fleet, transport = fleet_of()
    go = asyncio.Event()

    async def waits(message: Message[str]) -> None:
        await go.wait()

    fleet.connect(URI, waits, name="feed")
    async with feeding(fleet, transport) as socket:
        await socket.feed("abc", "de")
        await turns()
        mine = row(fleet, "feed")
        assert (mine.offered, mine.pending, mine.pending_bytes, mine.processed) == (2, 2, 5, 0)
        go.set()
        await turns()
        mine = row(fleet, "feed")
        assert (mine.pending, mine.pending_bytes, mine.processed) == (0, 0, 2)
        balanced(fleet)


class Odd(BaseException):
    """A BaseException that does not end a program, like that of a test framework's `fail()`."""


@pytest.mark.parametrize(
    "error", [ValueError("no"), StopAsyncIteration(), asyncio.CancelledError(), TimeoutError(), Odd()]
)
async def test_a_call_that_raises_is_a_failed_message(error: BaseException) -> None:
    """Any exception of a processor, even its own CancelledError, fails that message, and the next one is processed."""
    fleet, transport = fleet_of()
    seen = []

    async def sometimes(message: Message[str]) -> None:
        if message.data == "bad":
            raise error
        seen.append(message.data)

    fleet.connect(URI, sometimes, name="feed")
    async with feeding(fleet, transport) as socket, fleet.subscribe("$dead.feed") as dead:
        await socket.feed("1", "bad", "2", "bad")
        await turns(5)
        assert seen == ["1", "2"]
        letters = [(await anext(dead)) for _ in range(2)]
        assert [letter.topic for letter in letters] == ["$dead.feed"] * 2
        assert all(isinstance(letter.data, DeadLetter) for letter in letters)
        assert [letter.data.message.index for letter in letters] == [2, 4]
        assert all(letter.data.error is error and letter.data.attempts == 1 for letter in letters)
        mine = row(fleet, "feed")
        assert (mine.processed, mine.failed, mine.pending) == (2, 2, 0)
        assert endpoint_row(fleet).state == "OPEN"
        balanced(fleet)


async def test_a_call_that_fails_before_it_awaits_is_a_failed_message() -> None:
    """A processor that cannot be called with a message, despite its signature, fails that message."""
    fleet, _ = fleet_of()

    async def wants_more(message: Message[Any], more: int) -> None:
        raise AssertionError

    wants_more.__signature__ = inspect.signature(keeper([]))  # type: ignore[attr-defined]
    fleet.process("news")(wants_more)
    async with fleet:
        fleet.publish("news", 1)
        await turns()
        assert row(fleet, "wants_more").failed == 1


async def test_processors_do_not_affect_each_other() -> None:
    """A processor that raises and one that hangs do not affect another one on the same endpoint."""
    fleet, transport = fleet_of(drain_s=0)
    seen: list[str] = []

    async def raises(message: Message[Any]) -> None:
        raise ValueError

    async def hangs(message: Message[Any]) -> None:
        await asyncio.Event().wait()

    fleet.process("feed")(raises)
    fleet.process("feed", buffer=Buffer(5, overflow=DROP_OLDEST))(hangs)
    fleet.connect(URI, keeper(seen), name="feed")
    async with feeding(fleet, transport) as socket:
        for n in range(100):
            await socket.feed(str(n))
            await turns()
        assert seen == [str(n) for n in range(100)]
        assert row(fleet, "raises").failed == 100
        assert (row(fleet, "hangs").pending, row(fleet, "hangs").dropped) == (5, 95)
        balanced(fleet)
    assert (row(fleet, "hangs").failed, row(fleet, "hangs").dropped) == (1, 99)
    balanced(fleet)


@pytest.mark.looptime
async def test_a_failing_processor_does_not_flood_the_log(caplog: pytest.LogCaptureFixture) -> None:
    """A processor that fails for every message is logged once in ten seconds, with the number of the others."""
    fleet, transport = fleet_of()

    async def raises(message: Message[Any]) -> None:
        raise ValueError("what happened")

    fleet.connect(URI, raises, name="feed")
    async with feeding(fleet, transport) as socket:
        caplog.set_level(logging.ERROR, "wsfleet")
        for _ in range(3):
            await socket.feed(*["x"] * 100)
            await turns()
        assert len(caplog.records) == 1
        assert "feed" in caplog.text and "what happened" in caplog.text
        await asyncio.sleep(11)
        await socket.feed("x", "x")
        await turns()
        assert len(caplog.records) == 2
        assert "299 more" in caplog.records[1].getMessage()


async def test_a_processor_that_never_awaits_yields_to_the_loop() -> None:
    """A backlog processed by a function that awaits nothing yields to the loop after about two milliseconds each."""
    fleet, _ = fleet_of()
    seen: list[int] = []

    async def careless(message: Message[int]) -> None:
        burn(0.000_1)
        seen.append(message.data)

    fleet.process("news", name="mine", buffer=Buffer(10**6))(careless)
    for n in range(2000):
        fleet.publish("news", n)

    async def work() -> None:
        while row(fleet, "mine").pending:
            await asyncio.sleep(0)

    async with fleet:
        assert await turns_while(work()) >= 2000 // 20
        assert seen == list(range(2000))


async def test_a_task_cancelled_from_outside_is_replaced(caplog: pytest.LogCaptureFixture) -> None:
    """Cancelling a processor's task from outside fails the current call, and the processor continues."""
    fleet, transport = fleet_of()
    seen = []

    async def cancels(message: Message[str]) -> None:
        if message.data == "bad":
            task = asyncio.current_task()
            assert task is not None
            task.cancel()
            await asyncio.sleep(0)
        seen.append(message.data)

    fleet.connect(URI, cancels, name="feed")
    async with feeding(fleet, transport) as socket:
        await socket.feed("1", "bad", "2")
        await turns(10)
        assert seen == ["1", "2"]
        assert (row(fleet, "feed").processed, row(fleet, "feed").failed) == (2, 1)
        assert "cancelled from outside" in caplog.text
        balanced(fleet)
    balanced(fleet)


async def test_cancelling_all_tasks_ends_all_workers() -> None:
    """If a program cancels all of its tasks, no worker is replaced and nothing hangs."""
    fleet, transport = fleet_of()

    async def hangs(message: Message[str]) -> None:
        await asyncio.Event().wait()

    fleet.connect(URI, hangs, name="feed")

    async def main() -> None:
        async with feeding(fleet, transport) as socket:
            await socket.feed("1", "2")
            await asyncio.Event().wait()

    mine = asyncio.create_task(main())
    while not fleet.stats().subscriptions[0].pending:
        await turns()
    for task in asyncio.all_tasks() - {asyncio.current_task()}:
        if task.get_name().startswith("wsfleet") or task is mine:
            task.cancel()
    await asyncio.wait([mine])
    balanced(fleet)
    assert row(fleet, "feed").pending == 0


async def test_a_processor_publishes_and_another_takes_it() -> None:
    """A processor may publish messages for another one; at the shutdown both are drained."""
    fleet, transport = fleet_of()
    seen: list[Any] = []

    async def relay(message: Message[str]) -> None:
        await asyncio.sleep(0)
        fleet.publish("relayed", message.data * 2)

    fleet.process("relayed", name="last")(keeper(seen))
    fleet.connect(URI, relay, name="feed")
    async with feeding(fleet, transport) as socket:
        await socket.feed("a", "b", "c")
    assert seen == ["aa", "bb", "cc"]
    assert balanced(fleet).hub.injected == 3


# Sinks


async def test_a_sink_gets_batches_and_is_opened_and_closed_once() -> None:
    """A sink is opened at the start, gets waiting messages in batches of its own size, and is closed
    after the drain.
    """
    fleet, transport = fleet_of()
    sink = Recorder()
    fleet.connect(URI, sink, name="feed")
    assert sink.calls == []
    async with fleet:
        socket = await opened(fleet, transport)
        await socket.feed(*"abcdefgh")
        await turns()
    assert sink.calls == ["open", ["a", "b", "c"], ["d", "e", "f"], ["g", "h"], "close"]
    assert row(fleet, "feed").processed == 8
    balanced(fleet)


async def test_all_messages_of_a_batch_that_cannot_be_written_fail() -> None:
    """If `write` raises, all messages of that batch fail, each with a dead letter, and the next batch is written."""
    fleet, transport = fleet_of()
    sink = Recorder(writing=[OSError("full"), asyncio.CancelledError()])
    fleet.process("feed", name="sink")(sink)
    fleet.connect(URI, name="feed")
    async with feeding(fleet, transport) as socket, fleet.subscribe("$dead.sink") as dead:
        await socket.feed(*"abcdefgh")
        await turns(6)
        assert dead.stats().offered == 6
        letters = [(await anext(dead)).data for _ in range(6)]
        assert [letter.message.data for letter in letters] == list("abcdef")
        assert (row(fleet, "sink").processed, row(fleet, "sink").failed) == (2, 6)
        balanced(fleet)


async def test_a_sink_that_cannot_be_opened_at_the_start_stops_the_start() -> None:
    """If a sink cannot be opened at the start, the start raises the error, and sinks opened before are closed."""
    fleet, _ = fleet_of()
    good, bad = Recorder(), Recorder(opening=PermissionError("no"))
    fleet.process("news", name="good")(good)
    fleet.process("news", name="bad")(bad)
    with pytest.raises(PermissionError, match="no"):
        async with fleet:
            raise AssertionError
    assert (good.calls, bad.calls) == (["open", "close"], ["open"])


async def test_a_sink_that_cannot_be_opened_later_ends_its_subscription(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """If a sink that is declared while the fleet runs cannot be opened, this is logged, and its name is free again."""
    fleet, transport = fleet_of()
    async with fleet:
        fleet.process("news", name="mine")(Recorder(opening=PermissionError("no")))
        fleet.publish("news", 1)
        await turns(5)
        assert "could not be opened" in caplog.text
        assert "mine" not in fleet.subscriptions
        connection = fleet.connect(URI, Recorder(opening=PermissionError("no")), name="mine")
        socket = await opened(fleet, transport, "mine")
        await socket.feed("1")
        assert "mine" not in fleet.subscriptions and fleet.connections["mine"] is connection
        stats = balanced(fleet)
        assert stats.hub.unrouted == 1 and stats.subscriptions[-1].dropped == 1
        await connection.close()
        fleet.process("news", name="mine")(keeper([]))


async def test_a_sink_is_closed_with_its_subscription() -> None:
    """Closing a sink's subscription, or its connection, closes the sink; nothing else does."""
    fleet, transport = fleet_of()
    mine, own = Recorder(), Recorder()
    fleet.process("news", name="mine")(mine)
    connection = fleet.connect(URI, own, name="feed")
    async with feeding(fleet, transport) as socket:
        fleet.publish("news", 1)
        await socket.feed("a")
        await turns(5)
        fleet.subscriptions["mine"].close()
        await turns(5)
        assert mine.calls == ["open", [1], "close"]
        await socket.feed("b")
        await connection.close()
        assert own.calls == ["open", ["a"], ["b"], "close"]
        again = Recorder()
        fleet.process("news", name="mine")(again)
        fleet.process("news", name="back")(mine)
        await turns(5)
        fleet.publish("news", 2)
    assert again.calls == ["open", [2], "close"]
    assert mine.calls == ["open", [1], "close", "open", [2], "close"]
    assert own.calls.count("close") == 1
    balanced(fleet)


async def test_a_sink_serves_one_subscription() -> None:
    """The same sink for a second subscription raises ConfigError, because it would be opened and closed twice."""
    fleet, _ = fleet_of()
    sink = Recorder()
    fleet.process("a", name="a")(sink)
    with pytest.raises(ConfigError, match="already"):
        fleet.process("b", name="b")(sink)
    with pytest.raises(ConfigError, match="already"):
        fleet.connect(URI, sink, name="b")
    fleet.subscriptions["a"].close()
    fleet.process("b", name="b")(sink)


async def test_a_sink_whose_closing_fails_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """An exception from closing a sink is logged, and affects nothing else."""
    fleet, _ = fleet_of()

    class Clinging(Recorder):
        async def close(self) -> None:
            raise OSError("busy")

    fleet.process("news", name="mine")(Clinging())
    async with fleet:
        pass
    assert "busy" in caplog.text


async def test_messages_go_to_a_file_of_lines(tmp_path: Path) -> None:
    """`sinks.open("jsonl:PATH")` is accepted in place of a processor, and its default name is its kind."""
    fleet, transport = fleet_of()
    fleet.process(">")(sinks.open(f"jsonl:{tmp_path / 'all.jsonl'}"))
    fleet.connect(URI, sinks.open(f"jsonl:{tmp_path / 'own.jsonl'}"), name="feed", decode="json")
    assert list(fleet.subscriptions) == ["jsonl", "feed"]
    async with feeding(fleet, transport) as socket:
        await socket.feed('{"n": 1}', '{"n": 2}')
        fleet.publish("news", b"\x00")
    own, both = (
        [json.loads(text) for text in (tmp_path / f).read_text().splitlines()] for f in ("own.jsonl", "all.jsonl")
    )
    assert [line["data"] for line in own] == [{"n": 1}, {"n": 2}]
    assert [line["topic"] for line in both] == ["feed", "feed", "news"]
    assert both[2]["data"] == {"base64": "AA=="}
    assert [row(fleet, name).processed for name in ("jsonl", "feed")] == [3, 2]


async def test_a_sink_may_be_declared_while_the_fleet_runs(tmp_path: Path) -> None:
    """A sink declared while the fleet runs is opened, and closed with the fleet."""
    fleet, _ = fleet_of()
    async with fleet:
        fleet.process("news")(sinks.open(f"jsonl:{tmp_path / 'late.jsonl'}"))
        fleet.publish("news", 1)
    assert json.loads((tmp_path / "late.jsonl").read_text())["data"] == 1
    balanced(fleet)


class Refused(Exception):
    """An error of a client library that composes its own text."""

    def __init__(self, status: int, url: str) -> None:
        super().__init__(status, url)
        self.status = status

    def __str__(self) -> str:
        return f"{self.args[0]} for {self.args[1]}"


class Stubborn(Exception):
    """An error with the same text for any arguments."""

    def __str__(self) -> str:
        return "wss://x.test/?token=topsecret99"


SECRET = "https://x.test/?token=topsecret99"


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (Refused(401, SECRET), Refused),
        (ValueError(f"cannot reach {SECRET}"), ValueError),
        (Stubborn(), FleetError),
        (ValueError("harmless"), ValueError),
    ],
)
async def test_a_users_error_shows_no_secret(
    error: Exception, kind: type[Exception], caplog: pytest.LogCaptureFixture
) -> None:
    """In dead letters, in records of malformed messages and in the log, the text of an error is redacted, its type
    kept.
    """
    fleet, transport = fleet_of()

    async def raises(message: Message[Any]) -> None:
        try:
            raise OSError(SECRET)
        except OSError as cause:
            raise error from cause

    def decode(payload: str | bytes) -> str:
        if payload == "bad":
            raise error
        return str(payload)

    fleet.connect(URI, raises, name="feed", decode=decode)
    dead, malformed = fleet.subscribe("$dead.feed"), fleet.subscribe("$malformed.feed")
    async with dead, malformed, feeding(fleet, transport) as socket:
        await socket.feed("bad", "good")
        await turns(5)
        records = [(await anext(each)).data for each in (malformed, dead)]
    for record in records:
        assert type(record.error) is kind
        assert "topsecret99" not in str(record.error) + repr(record.error)
        assert getattr(record.error, "status", None) == getattr(error, "status", None)
    assert records[0].error.__traceback__ is not None
    assert "topsecret99" not in caplog.text and kind.__name__ in caplog.text
