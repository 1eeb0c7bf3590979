"""A blocked loop is detected while it is blocked, and the blocking function is reported."""

import asyncio
import gc
import inspect
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import websockets
from websockets.asyncio.server import ServerConnection

from tests.support.flows import feeding, opened, turns, until
from wsfleet import Fleet, Message, Overflow, Reconnect, Session
from wsfleet.core import loop_watchdog as watchdog_module
from wsfleet.core.loop_watchdog import Watchdog
from wsfleet.core.message import StateChange
from wsfleet.core.options import Buffer
from wsfleet.testing import FakeTransport


@pytest.fixture(scope="module")
def uvloop_loop() -> Callable[[], asyncio.AbstractEventLoop]:
    """Return a factory of uvloop loops. The first loop opens a pipe that stays open until the process ends."""
    uvloop = pytest.importorskip("uvloop")
    uvloop.new_event_loop().close()
    return uvloop.new_event_loop  # type: ignore[no-any-return]


class Records(logging.Handler):
    """Collects watchdog records, with whether the loop was blocked; ignores delays of a busy machine."""

    def __init__(self) -> None:
        super().__init__()
        self.blocking = False
        self.seen: list[tuple[str, bool]] = []
        self.logged = threading.Event()
        self._ignored = False

    def emit(self, record: logging.LogRecord) -> None:
        event = getattr(record, "event", None)
        if event == "loop.blocked":
            by = record.by  # type: ignore[attr-defined]
            self._ignored = not self.blocking and by in (watchdog_module.OUTSIDE, watchdog_module.INSIDE)
        if event in ("loop.blocked", "loop.was_blocked") and not self._ignored:
            self.seen.append((record.getMessage(), self.blocking))
            self.logged.set()

    def block(self) -> None:
        """Block the loop until the block is logged."""
        self.blocking = True
        assert self.logged.wait(60), "the block was not logged"
        self.blocking = False


@pytest.fixture
def records() -> Iterator[Records]:
    handler = Records()
    logging.getLogger("wsfleet").addHandler(handler)
    yield handler
    logging.getLogger("wsfleet").removeHandler(handler)


def fleet_of() -> tuple[Fleet, FakeTransport]:
    transport = FakeTransport()
    return Fleet(transport=transport), transport


def line_of(function: Callable[..., Any], text: str) -> str:
    """Return the place of the line with `text` in `function`, as the watchdog reports it."""
    lines, first = inspect.getsourcelines(function)
    place = next(n for n, line in enumerate(lines) if text in line)
    return f"test_loop_watchdog.py:{first + place} in "


async def blocked_by(fleet: Fleet, records: Records) -> tuple[str, str]:
    """Return the function and the line that were reported during a block, after the end of the block is logged."""
    await until(lambda: len(records.seen) >= 2)
    text, while_blocking = records.seen[0]
    assert while_blocking
    block = fleet.stats().blocked
    assert block is not None and text == f"the loop is blocked by {block.by} at {block.where}"
    assert block.seconds >= watchdog_module.BLOCKED_S
    shown = {"by": block.by, "where": block.where, "seconds": block.seconds}
    assert fleet.stats().to_dict()["blocked"] == shown | {"times": block.times, "total_s": block.total_s}
    return block.by, block.where


@pytest.mark.parametrize("options", [{}, {"timeout_s": 60.0}, {"concurrency": 2}, {"batch": 2}], ids=str)
async def test_a_processor_that_blocks_is_named_while_it_does(options: Any, records: Records) -> None:
    """An async processor that blocks is logged with its line before it returns, and appears in the stats."""
    fleet, _ = fleet_of()

    async def handle(message: Any) -> None:
        records.block()  # here

    fleet.process("t", name="greedy", **options)(handle)
    async with fleet:
        fleet.publish("t", 1)
        by, where = await blocked_by(fleet, records)
    assert by == "greedy"
    assert where.startswith(line_of(handle, "# here"))
    assert "threading.py" in where  # the innermost line


async def test_a_block_of_half_a_second_is_detected(records: Records, monkeypatch: pytest.MonkeyPatch) -> None:
    """A block of half a second is detected, whenever it begins."""
    assert watchdog_module.ASK_S + watchdog_module.BLOCKED_S <= 0.5
    monkeypatch.setattr(watchdog_module, "QUIET_S", 0.0)
    fleet, _ = fleet_of()

    async def handle(message: Message[int]) -> None:
        await asyncio.sleep(message.data / 37)
        records.logged.clear()
        records.block()

    fleet.process("t", name="greedy")(handle)
    async with fleet:
        for n in range(4):
            fleet.publish("t", n)
        await until(lambda: len([text for text, _ in records.seen if "is blocked by greedy" in text]) == 4)


async def test_repeated_blocks_are_logged_as_a_count(records: Records, monkeypatch: pytest.MonkeyPatch) -> None:
    """After the first logged block, further blocks of the same function are counted, and logged together later."""
    monkeypatch.setattr(watchdog_module, "QUIET_S", 1e9)
    fleet, _ = fleet_of()

    limits = fleet._registry.services.watchdog._limits

    def noticed() -> tuple[int, int]:
        return len(records.seen), limits["greedy"]._suppressed if "greedy" in limits else 0

    async def handle(message: Message[int]) -> None:
        before = noticed()
        while noticed() == before:
            time.sleep(0.01)  # noqa: ASYNC251 - the subject of the test

    fleet.process("t", name="greedy")(handle)
    async with fleet:
        fleet.publish("t", 0)
        await until(lambda: len(records.seen) == 2)
        limit = fleet._registry.services.watchdog._limits["greedy"]
        for count in (1, 2):
            fleet.publish("t", 0)
            await until(lambda count=count: limit._suppressed == count)
        assert len(records.seen) == 2
        limit._until = 0.0
        fleet.publish("t", 0)
        await until(lambda: len(records.seen) == 4)
    assert "is blocked by greedy" in records.seen[2][0]
    assert records.seen[2][0].endswith(" (2 more since the last report)")


async def test_a_block_that_outlasts_the_quiet_time_is_logged(
    records: Records, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A block that begins in the quiet time is logged when the quiet time ends, if it still lasts."""
    monkeypatch.setattr(watchdog_module, "QUIET_S", 1e9)
    fleet, _ = fleet_of()
    limits: list[Any] = []

    async def handle(message: Message[int]) -> None:
        if not records.logged.is_set():
            records.block()
            return
        records.logged.clear()
        threading.Thread(target=end_quiet).start()
        records.block()

    def end_quiet() -> None:
        while not limits[0]._suppressed:
            time.sleep(0.01)
        limits[0]._until = 0.0

    fleet.process("t", name="greedy")(handle)
    async with fleet:
        fleet.publish("t", 0)
        await until(lambda: len(records.seen) == 2)
        limits.append(fleet._registry.services.watchdog._limits["greedy"])
        fleet.publish("t", 0)
        await until(lambda: len(records.seen) == 4)
    text, while_blocking = records.seen[2]
    assert while_blocking and "is blocked by greedy" in text and "more" not in text


@pytest.mark.parametrize("what", ["decode", "topic", "match"])
async def test_a_function_of_an_endpoint_is_named_by_its_endpoint(what: str, records: Records) -> None:
    """A decode, topic or match function that blocks is reported with the name of its endpoint."""
    fleet, transport = fleet_of()

    def function(data: Any) -> Any:
        records.block()  # here
        return "x" if what != "match" else None

    options: dict[str, Any] = {what: function}
    if what == "match":
        fleet.pool("ws://feed.test/", 1, name="feed", decode="text", **options)
    else:
        fleet.connect("ws://feed.test/", name="feed-1", **options)
    async with fleet:
        socket = await opened(fleet, transport, "feed-1")
        await socket.feed("x")
        by, where = await blocked_by(fleet, records)
    assert by == "feed-1" and where.startswith(line_of(function, "# here"))


async def test_an_on_open_is_named_by_its_endpoint(records: Records) -> None:
    """An `on_open` that blocks in a helper function is reported with the name of its endpoint."""
    fleet, transport = fleet_of()

    def helper() -> None:
        records.block()

    async def on_open(session: Session) -> None:
        await asyncio.sleep(0)
        helper()  # here

    fleet.connect("ws://feed.test/", name="feed", on_open=on_open)
    async with feeding(fleet, transport):
        by, where = await blocked_by(fleet, records)
    assert by == "feed" and where.startswith(line_of(on_open, "# here"))


@pytest.mark.parametrize("which", ["processor", "buffer"])
async def test_a_key_function_is_named_by_its_subscription(which: str, records: Records) -> None:
    """A key function that blocks is reported with the name of its processor."""
    fleet, _ = fleet_of()

    def key(message: Message[Any]) -> str:
        if not records.seen:
            records.block()  # here
        return "x"

    async def handle(message: Message[Any]) -> None: ...

    if which == "processor":
        fleet.process("t", name="keyed", key=key, concurrency=2)(handle)
    else:
        fleet.process("t", name="keyed", buffer=Buffer(overflow=Overflow.LATEST, key=key))(handle)
    async with fleet:
        fleet.publish("t", 1)
        by, where = await blocked_by(fleet, records)
    assert by == "keyed" and where.startswith(line_of(key, "# here"))


async def test_a_block_in_other_code_is_reported_with_its_line(records: Records) -> None:
    """A block by other code of the program is reported as such, with its line."""
    fleet, _ = fleet_of()
    async with fleet:
        await asyncio.sleep(0)
        records.block()
        by, where = await blocked_by(fleet, records)
    assert by == "code outside wsfleet" and "threading.py" in where


async def test_a_block_in_wsfleet_is_reported_as_such(records: Records, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the innermost line is in wsfleet and no user function was called, no user function is reported."""
    monkeypatch.setattr(watchdog_module, "_OURS", os.path.dirname(__file__) + os.sep)
    fleet, _ = fleet_of()
    async with fleet:
        await asyncio.sleep(0)
        records.blocking = True
        while not records.seen:
            time.sleep(0.01)  # noqa: ASYNC251 - the subject of the test
        records.blocking = False
        by, where = await blocked_by(fleet, records)
    assert by == "wsfleet or a busy machine" and "test_loop_watchdog.py" in where


class Garbage:
    """A reference cycle that only the garbage collector frees, with a callback."""

    def __init__(self, ends: Callable[[], object]) -> None:
        self.cycle = self
        self.ends = ends

    def __del__(self) -> None:
        self.ends()


async def test_a_long_garbage_collection_is_logged(records: Records, monkeypatch: pytest.MonkeyPatch) -> None:
    """A long garbage collection is logged as such, without the line that it interrupted."""
    monkeypatch.setattr(watchdog_module, "BLOCKED_S", 0.1)
    fleet, _ = fleet_of()
    async with fleet:
        Garbage(lambda: sum(range(30_000_000)))
        gc.collect()
        await until(lambda: "by the garbage collector at generation 2" in str(records.seen))


async def test_blocks_are_added_up(records: Records, monkeypatch: pytest.MonkeyPatch) -> None:
    """The stats contain the number of blocks and their total duration."""
    monkeypatch.setattr(watchdog_module, "QUIET_S", 0.0)
    fleet, _ = fleet_of()

    async def handle(message: Message[Any]) -> None:
        records.logged.clear()
        records.block()

    fleet.process("t")(handle)
    blocked = []
    async with fleet:
        for count in (1, 2):
            fleet.publish("t", count)
            await until(lambda count=count: len(records.seen) == 2 * count)  # its begin and its end
            blocked.append(fleet.stats().blocked)
    first, second = blocked
    assert first is not None and second is not None
    assert (first.times, second.times) == (1, 2)
    assert (first.total_s, second.total_s) == (first.seconds, first.seconds + second.seconds)


class Asked(threading.Event):
    """Counts the callbacks of the watchdog."""

    count = 0

    def clear(self) -> None:
        self.count += 1
        super().clear()


async def test_nothing_is_logged_without_a_block(records: Records, monkeypatch: pytest.MonkeyPatch) -> None:
    """An idle loop, a loop with short callbacks, and the end of a fleet cause no records."""
    monkeypatch.setattr(watchdog_module, "BLOCKED_S", 60.0)  # no busy machine delays the loop for so long
    for _ in range(3):
        fleet, _ = fleet_of()
        asked = Asked()
        monkeypatch.setattr(fleet._registry.services.watchdog, "_answered", asked)

        async def handle(message: Message[Any]) -> None:
            time.sleep(0.002)  # noqa: ASYNC251 - short

        fleet.process("t")(handle)
        async with fleet:
            await until(lambda asked=asked: asked.count >= 2)
            while asked.count < 4:
                fleet.publish("t", None)
                await turns()
        assert fleet.stats().blocked is None
    assert not records.seen


def watchdogs() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "wsfleet-watchdog"]


async def test_the_thread_ends_with_the_fleet() -> None:
    """A running fleet has one watchdog thread, which ends with the fleet in all cases."""
    fleet, _ = fleet_of()
    async with fleet:
        (thread,) = watchdogs()
        assert thread.daemon
    assert not watchdogs()
    other, _ = fleet_of()
    other.connect("ws://feed.test/", name="feed")
    serving = asyncio.create_task(other.serve())
    await until(watchdogs)
    serving.cancel()
    await asyncio.gather(serving, return_exceptions=True)
    assert not watchdogs()


async def test_the_end_is_not_a_block(monkeypatch: pytest.MonkeyPatch, records: Records) -> None:
    """A watchdog that is stopped just before it schedules a callback ends at once and reports nothing."""
    dog = Watchdog()
    at_clear, go = threading.Event(), threading.Event()

    class Answered(threading.Event):
        def clear(self) -> None:
            at_clear.set()
            go.wait(60)
            super().clear()

        def wait(self, timeout: float | None = None) -> bool:
            return super().wait(60)  # so that a question without an answer would be seen

    monkeypatch.setattr(dog, "_answered", Answered())
    dog.start()
    await until(at_clear.is_set)
    threading.Timer(0.05, go.set).start()
    dog.stop()
    assert not records.seen and dog.last is None


async def test_each_fleet_of_a_loop_reports_a_block(records: Records) -> None:
    """Each fleet in a loop reports a block of this loop, with the blocking function."""
    one, _ = fleet_of()
    other, _ = fleet_of()

    dogs = [fleet._registry.services.watchdog for fleet in (one, other)]

    async def handle(message: Message[Any]) -> None:
        while not all(dog.last is not None and dog.last.by == "greedy" for dog in dogs):
            time.sleep(0.01)  # noqa: ASYNC251 - the subject of the test

    one.process("t", name="greedy")(handle)
    async with one, other:
        one.publish("t", 1)
        await until(lambda: one.stats().blocked and other.stats().blocked)
        for fleet in (one, other):
            block = fleet.stats().blocked
            assert block is not None and block.by == "greedy" and "test_loop_watchdog.py" in block.where


def test_a_blocking_processor_is_reported_on_uvloop(uvloop_loop: Any, records: Records) -> None:
    """On uvloop, a processor that blocks is reported with its line."""
    fleet, _ = fleet_of()

    async def handle(message: Message[Any]) -> None:
        records.block()  # here

    fleet.process("t", name="greedy")(handle)

    async def main() -> tuple[str, str]:
        async with fleet:
            fleet.publish("t", 1)
            return await blocked_by(fleet, records)

    with asyncio.Runner(loop_factory=uvloop_loop) as runner:
        by, where = runner.run(main())
    assert by == "greedy" and where.startswith(line_of(handle, "# here"))


async def test_a_suspended_machine_is_not_a_block(records: Records, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the watchdog itself was late and the loop responds at once, no block is reported."""
    dog = Watchdog()
    real, asked = time.monotonic, []

    class Clock:
        @staticmethod
        def monotonic() -> float:
            # As after a sleep of a minute, between the question and the look at the clock.
            asked.append(1)
            return real() + 60 * len(asked)

    class Answered(threading.Event):
        looks = 0

        def is_set(self) -> bool:
            Answered.looks += 1
            return super().is_set() and Answered.looks != 2  # there is no answer yet to the first question

        def wait(self, timeout: float | None = None) -> bool:
            return super().wait(60)

    monkeypatch.setattr(watchdog_module, "time", Clock)
    monkeypatch.setattr(dog, "_answered", Answered())
    dog.start()
    await until(lambda: Answered.looks >= 3)
    dog.stop()
    assert not records.seen and dog.last is None


# Blocks and losses


@contextmanager
def pinging_server() -> Iterator[tuple[str, threading.Event]]:
    """Start a server with its own loop and short ping timeouts. The event is set after it has closed all clients."""

    async def serve(client: ServerConnection) -> None:
        given_up.clear()
        await client.send("block")
        while client.state is websockets.State.OPEN:
            await asyncio.sleep(0.01)
        given_up.set()
        await client.wait_closed()

    async def main() -> None:
        nonlocal uri
        async with websockets.serve(serve, "127.0.0.1", 0, ping_interval=0.1, ping_timeout=0.3) as server:
            uri = f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
            listening.set()
            while not over.is_set():
                await asyncio.sleep(0.01)

    uri = ""
    listening, given_up, over = threading.Event(), threading.Event(), threading.Event()
    thread = threading.Thread(target=lambda: asyncio.run(main()))
    thread.start()
    assert listening.wait(60)
    try:
        yield uri, given_up
    finally:
        over.set()
        thread.join()


async def test_a_close_caused_by_a_block_mentions_it() -> None:
    """For a 1011 close, the `$state` record, `last_error` and the log contain the block that may have caused it."""
    changes: list[StateChange] = []

    def error() -> str:
        """Return the first error that mentions a block; on a busy machine, connections may be lost before."""
        return next((text for text in (str(change.error) for change in changes) if "blocked for" in text), "")

    with pinging_server() as (uri, given_up):
        fleet = Fleet()
        dog = fleet._registry.services.watchdog

        async def handle(message: Message[Any]) -> None:
            assert given_up.wait(60)
            while dog.last is None or dog.last.by != "feed":
                threading.Event().wait(0.01)

        async def watch(message: Message[StateChange]) -> None:
            changes.append(message.data)

        fleet.connect(uri, handle, name="feed", reconnect=Reconnect(initial_s=0.01))
        fleet.process("$state.feed")(watch)
        async with fleet:
            await until(error)
            text = error()
            assert "1011" in text and "by feed at test_loop_watchdog.py:" in text
            assert text == fleet.connections["feed"].stats().last_error


@pytest.mark.parametrize(("code", "logged"), [(1011, True), (1006, True), (1000, False), (1001, False), (1009, False)])
async def test_a_close_not_caused_by_a_block_does_not_mention_it(code: int, logged: bool, records: Records) -> None:
    """A block is mentioned only with losses that it can explain."""
    fleet, transport = fleet_of()

    async def handle(message: Message[Any]) -> None:
        records.block()

    fleet.connect("ws://feed.test/", handle, name="feed")
    async with feeding(fleet, transport) as socket:
        await socket.feed("x")
        await until(lambda: len(records.seen) >= 2)
        socket.close(code)
        await until(lambda: fleet.connections["feed"].stats().last_error)
        assert ("blocked" in str(fleet.connections["feed"].stats().last_error)) is logged
