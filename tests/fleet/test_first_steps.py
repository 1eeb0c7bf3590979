"""Common mistakes in a first program are rejected at once, with the correct form in the error."""

import asyncio
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

import pytest

from wsfleet import Buffer, Fleet, Reconnect, Session, State
from wsfleet.core.errors import ConfigError, EndpointFailed
from wsfleet.testing import FakeTransport, FeedServer

URI = "ws://feed.test/"


def test_process_without_its_pattern() -> None:
    """@fleet.process without parentheses raises an error with the correct form, and leaves no processor behind."""
    fleet = Fleet()
    process: Any = fleet.process
    with pytest.raises(ConfigError, match=r'write @fleet.process\("pattern"\)'):

        @process
        async def handle(message: object) -> None: ...

    assert not fleet.subscriptions


@pytest.mark.parametrize("pattern", [None, 3, "", "a..b", b"a"])
def test_a_bad_pattern_is_refused_before_there_is_a_function(pattern: Any) -> None:
    """process(...) itself rejects its pattern, because the decorator may be used later or never."""
    with pytest.raises(ConfigError, match=r"pattern|empty token"):
        Fleet().process(pattern)


@pytest.mark.parametrize(
    ("option", "meant"),
    [
        ("extra_headers", "headers="),
        ("additional_headers", "headers="),
        ("ping_interval", "liveness=Liveness(ping_s=...)"),
        ("open_timeout", "open_s="),
        ("on_message", "the processor"),
        ("reconect", "'reconnect'"),
        ("subprotocol", "'subprotocols'"),
        ("concurency", "'concurrency'"),
    ],
)
def test_an_unknown_option_suggests_a_known_one(option: str, meant: str) -> None:
    """A typing error, or the name that another library uses, is answered with the right option; all faults at once."""
    options: Any = {option: 1}
    for declare in (lambda: Fleet().connect(URI, **options), lambda: Fleet().pool(URI, 2, **options)):
        with pytest.raises(TypeError, match=f"unknown option '{option}'; did you mean ") as caught:
            declare()
        assert meant in str(caught.value)
    with pytest.raises(TypeError, match=r"unknown option 'zzz'$"):
        Fleet().connect(URI, zzz=1)  # type: ignore[call-overload, unused-ignore]
    several: Any = {"decod": "json", "zzz": 1}
    with pytest.raises(TypeError, match=r"^unknown option 'decod'; did you mean 'decode'\?; unknown option 'zzz'$"):
        Fleet().connect(URI, **several)


def test_overflow_given_as_its_word() -> None:
    """The word used in configuration files is answered with the member to use in Python."""
    overflow: Any = "drop_oldest"
    with pytest.raises(ConfigError, match=r"use Overflow\.DROP_OLDEST"):
        Buffer(overflow=overflow)


def plain(session: Session) -> None: ...


async def yielding(session: Session) -> AsyncIterator[int]:
    yield 1


def unannotated(session):
    if session.number:
        return
    print(session)


def many(session, *, extra=None):
    extra.append(session)


class Handler:
    def method(self, session):
        print(session)

    def sends(self, session):
        return session.send("x")


PLAIN = [plain, unannotated, many, partial(many, extra=[]), Handler().method, lambda session: None]


@pytest.mark.parametrize("on_open", PLAIN)
def test_a_plain_on_open_is_refused(on_open: Any) -> None:
    """A plain function that returns nothing is refused by connect(), with one clear line."""
    with pytest.raises(ConfigError, match=r"^Endpoint: on_open must be an async function: declare it with async def$"):
        Fleet().connect(URI, on_open=on_open)


def test_an_on_open_with_yield_is_refused() -> None:
    """An async generator function is refused, since nothing would run it."""
    function: Any = yielding
    with pytest.raises(ConfigError, match=r"on_open must be an async function without yield$"):
        Fleet().connect(URI, on_open=function)


def raising(session):
    raise NotImplementedError


def perhaps(session):
    return session.send("x") or None


def either(session):
    return None if session.number else session.send("x")


SENDING = [lambda session: session.send("x"), Handler().sends, partial(Handler.sends, None), raising, perhaps, either]


@pytest.mark.parametrize("on_open", SENDING)
def test_a_plain_on_open_may_return_an_awaitable(on_open: Any) -> None:
    """A plain function with a return value may return what is awaited; only its call shows it."""
    Fleet().connect(URI, on_open=on_open)


async def test_an_on_open_that_returned_nothing_to_await() -> None:
    """If only the call shows it, the endpoint is FAILED at once, and the error has the correct form."""
    transport = FakeTransport()
    fleet = Fleet(transport=transport)
    on_open: Any = lambda session: session.number  # noqa: E731
    feed = fleet.connect(URI, name="feed", on_open=on_open)
    async with fleet:
        await transport.accept("feed")
        with pytest.raises(EndpointFailed, match="declare it with async def"):
            await feed.wait_open()
    assert feed.state is State.FAILED


async def test_a_send_that_fails_in_on_open_has_the_servers_close_code() -> None:
    """If on_open cannot send because the server is closing, the error has the server's code and reason."""
    async with FeedServer(on_client=lambda client: client.close(1008, "Invalid API key")) as server:
        fleet = Fleet()

        async def on_open(session: Session) -> None:
            while True:
                await session.send("login")
                await asyncio.sleep(0)

        feed = fleet.connect(server.uri, name="feed", on_open=on_open, reconnect=Reconnect(max_restarts=0))
        async with fleet:
            with pytest.raises(EndpointFailed, match="on_open: connection lost: 1008 Invalid API key"):
                await feed.wait_open()


def test_a_session_has_only_public_names() -> None:
    """dir(Session) has the documented names and no internals."""
    assert {name for name in dir(Session) if not name.startswith("_")} == {
        *("endpoint", "number", "request_headers", "response_headers", "subprotocol", "send", "recv")
    }


async def test_on_open_gets_a_session() -> None:
    """The argument is an instance of Session, and all of its attributes can be read."""
    got: list[object] = []

    async def on_open(session: Session) -> None:
        got.extend((isinstance(session, Session), session.endpoint, session.number, session.subprotocol))
        got.extend((dict(session.request_headers)["X-Mine"], dict(session.response_headers), repr(session)))

    transport = FakeTransport()
    fleet = Fleet(transport=transport)
    feed = fleet.connect(URI, name="feed", headers={"X-Mine": "7"}, subprotocols=["v1"], on_open=on_open)
    async with fleet:
        await transport.accept("feed")
        await feed.wait_open()
    assert got[:6] == [True, "feed", 1, "v1", "7", {}]
    assert str(got[6]).startswith("<Session 1 of Endpoint('ws://feed.test/'")
