"""Exceptions of user code that is called between the socket and the mailbox, or for an endpoint."""

import asyncio
import dataclasses
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from tests.support.flows import endpoint_row, opened, until
from wsfleet import Buffer, Endpoint, Fleet, Liveness, Message, Overflow, Reconnect, Session, State
from wsfleet.core.errors import ConnectFailed, Fatal, FleetError
from wsfleet.testing import FakeTransport

URI = "ws://feed.test/"
AGAIN = Reconnect(initial_s=0.0, max_s=0.0)


class Panic(BaseException):
    """Like the PanicException of pyo3, which Rust extensions raise: not derived from Exception."""


def bad(error: BaseException) -> Callable[[Any], Any]:
    """A function of one argument that raises if the data are "bad"."""

    def look(given: Any) -> Any:
        data = getattr(given, "data", given)
        if data in ("bad", {"id": "bad"}, '{"id": "bad"}'):
            raise error
        return "good"

    return look


def declare(fleet: Fleet, place: str, error: BaseException, seen: list[Any]) -> None:
    """Declare an endpoint "feed-1" whose code raises at `place`, and a processor of all its messages."""

    async def work(message: Message[Any]) -> None:
        seen.append(message.data)

    look = bad(error)
    if place == "match":
        fleet.pool(URI, 1, work, name="feed", match=lambda data: look(data) and None)
        return
    options: dict[str, Any] = {
        "decode": {"decode": lambda payload: look(payload) and payload},
        "topic": {"topic": look},
        "latest": {"buffer": Buffer(overflow=Overflow.LATEST, key=look)},
        "key": {"concurrency": 2, "key": look},
    }
    fleet.connect(URI, work, name="feed-1", **options[place])


PLACES = ["decode", "topic", "match", "latest", "key"]


@pytest.mark.parametrize("place", PLACES)
async def test_an_exception_of_user_code_affects_only_its_message(place: str) -> None:
    """A BaseException of user code for a message affects only that message: the next one arrives."""
    transport = FakeTransport()
    fleet = Fleet(transport=transport)
    seen: list[Any] = []
    declare(fleet, place, Panic("at the edge"), seen)
    async with fleet:
        socket = await opened(fleet, transport, "feed-1")
        await socket.feed('{"id": "bad"}' if place == "match" else "bad")
        await socket.feed('{"id": "good"}' if place == "match" else "good")
        await until(lambda: any("good" in (data, *getattr(data, "values", tuple)()) for data in seen))
        assert fleet.connections["feed-1"].state is State.OPEN
        assert fleet.stats().balanced
        assert endpoint_row(fleet, "feed-1").malformed == (place in ("decode", "topic"))


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt()])
@pytest.mark.parametrize("place", [*PLACES, "heartbeat"])
def test_exit_exceptions_of_user_code_end_the_fleet_in_order(place: str, error: BaseException) -> None:
    """SystemExit or KeyboardInterrupt in user code ends the fleet in order, and is raised to the caller."""
    transport = FakeTransport()
    fleet = Fleet(transport=transport)
    if place == "heartbeat":
        liveness = Liveness(heartbeat=lambda: bad(error)("bad"), heartbeat_s=0.001)
        fleet.connect(URI, name="feed-1", liveness=liveness)
    else:
        declare(fleet, place, error, [])

    async def main() -> None:
        async with fleet:
            socket = await opened(fleet, transport, "feed-1")
            await socket.feed('{"id": "bad"}' if place == "match" else "bad")
            await asyncio.sleep(30.0)

    with pytest.raises(type(error)) as caught:
        asyncio.run(main())
    assert caught.value is error
    assert fleet.connections["feed-1"].state is State.CLOSED
    assert fleet.stats().balanced


async def test_a_panic_of_a_builtin_decoder_affects_only_its_message() -> None:
    """If a decoder in C or Rust, which gets a whole read, raises a BaseException, the rest of the read is published."""
    transport = FakeTransport()
    fleet = Fleet(transport=transport)
    hook = msgspec.json.Decoder(Any).decode
    connection = fleet.connect(URI, name="feed", decode=_Builtin(hook))
    subscription = fleet.subscribe("feed")
    async with fleet, subscription:
        supervisor = fleet._registry.supervisors["feed"]
        supervisor.ingest.factory = _chunked(supervisor.ingest.factory)
        socket = await opened(fleet, transport)
        await socket.feed("1", "panic", "2")
        assert [(await anext(subscription)).data for _ in range(2)] == [1, 2]
        assert (connection.state, endpoint_row(fleet).malformed) == (State.OPEN, 1)
        assert fleet.stats().balanced


class _Builtin:
    def __init__(self, decode: Callable[[Any], Any]) -> None:
        self._decode = decode

    def __call__(self, payload: str) -> Any:
        if payload == "panic":
            raise Panic
        return self._decode(payload)


def _chunked(factory: Any) -> Any:
    """The intake for a decoder that is known to be fast, like a builtin function."""
    return dataclasses.replace(factory, chunk=256)


@pytest.mark.parametrize("place", ["uri", "headers", "on_open", "match", "decode"])
async def test_no_exception_of_an_attempt_ends_the_fleet(place: str) -> None:
    """A BaseException of uri, headers, on_open or a function called by recv() fails the attempt, and another one
    follows.
    """
    transport = FakeTransport()
    fleet = Fleet(transport=transport)
    calls = 0

    def first(where: str) -> None:
        nonlocal calls
        if where == place:
            calls += 1
            if calls == 1:
                raise Panic(place)

    async def uri() -> str:
        first("uri")
        return URI

    async def headers() -> dict[str, str]:
        first("headers")
        return {}

    def match(message: Message[Any]) -> bool:
        first("match")
        return True

    def decode(payload: str) -> str:
        first("decode")
        return payload

    async def on_open(session: Session) -> None:
        first("on_open")
        if place in ("match", "decode"):
            await session.recv(match, decode)

    async def serve() -> None:
        while True:
            socket = await transport.accept("feed")
            if place in ("match", "decode"):
                await socket.feed("hello", "again")

    connection = fleet.connect(Endpoint(uri, name="feed", headers=headers, on_open=on_open, reconnect=AGAIN))
    other = fleet.connect(URI, name="other")
    async with fleet:
        await opened(fleet, transport, "other")
        server = asyncio.create_task(serve())
        await connection.wait_open()
        server.cancel()
        assert connection.session_count == (2 if place in ("on_open", "match") else 1)
        assert other.state is State.OPEN
        assert fleet.stats().balanced


@pytest.mark.parametrize("error", [Panic("fatal"), asyncio.CancelledError("fatal")])
async def test_a_fatal_that_raises_anything_fails_its_endpoint(
    error: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    """Any exception of `fatal` makes that endpoint FAILED, never CLOSED, and affects no other one."""
    transport = FakeTransport()
    transport.refuse(ConnectFailed("tcp"))
    fleet = Fleet(transport=transport)

    def fatal(failure: Exception) -> bool:
        raise error

    connection = fleet.connect(URI, name="feed", reconnect=Reconnect(fatal=fatal))
    async with fleet:
        other = fleet.connect(URI, name="other")
        await opened(fleet, transport, "other")
        await until(lambda: connection.state is not State.CONNECTING)
        assert (connection.state, other.state) == (State.FAILED, State.OPEN)
        assert fleet.stats().balanced
    assert "feed: the supervisor failed: unexpected " in caplog.text


@pytest.mark.looptime
async def test_a_heartbeat_that_raises_anything_is_omitted(caplog: pytest.LogCaptureFixture) -> None:
    """A BaseException of the heartbeat function is logged, and only this heartbeat is omitted."""
    transport = FakeTransport()
    fleet = Fleet(transport=transport)
    beats = iter([Panic("heartbeat"), "beat"])

    def heartbeat() -> str:
        beat = next(beats, "beat")
        if isinstance(beat, BaseException):
            raise beat
        return beat

    fleet.connect(URI, name="feed", liveness=Liveness(heartbeat=heartbeat, heartbeat_s=1.0))
    async with fleet:
        socket = await opened(fleet, transport)
        assert await socket.next_sent() == "beat"
    assert "feed: heartbeat function failed" in caplog.text


@pytest.mark.parametrize("nested", [False, True])
async def test_fatal_in_a_group_is_fatal(nested: bool) -> None:
    """A Fatal raised out of a TaskGroup in on_open makes the endpoint FAILED, and is reported as the cause."""
    transport = FakeTransport()
    fleet = Fleet(transport=transport)

    async def refused() -> None:
        fault = Fatal("the account is closed")
        raise ExceptionGroup("inner", [ValueError(), fault]) if nested else fault

    async def on_open(session: Session) -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(refused())

    connection = fleet.connect(URI, name="feed", on_open=on_open, reconnect=AGAIN)
    async with fleet:
        await transport.accept("feed")
        with pytest.raises(FleetError, match="on_open: Fatal: the account is closed"):
            await connection.wait_open()
        assert connection.state is State.FAILED
