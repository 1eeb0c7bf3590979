"""The optional argument of `uri` and `headers` functions, from which a server is asked to resume."""

import asyncio
import time
from typing import Any

import pytest

from wsfleet import Attempt, Buffer, ConfigError, Endpoint, Fleet, Message, Reconnect, Session
from wsfleet.testing import FakeTransport

AGAIN = Reconnect(initial_s=1.0, max_s=1.0, jitter=0.0)


@pytest.mark.looptime
async def test_an_attempt_has_what_was_received_not_what_was_processed(monkeypatch: pytest.MonkeyPatch) -> None:
    """While messages wait in a mailbox, an attempt has the last one that was received, so that none comes twice."""
    monkeypatch.setattr(time, "time", lambda: 1e9 + asyncio.get_running_loop().time())
    transport = FakeTransport()
    attempts: list[Attempt] = []
    processed: list[int] = []

    async def address(attempt: Attempt) -> str:
        attempts.append(attempt)
        return f"ws://feed.test/?after={attempt.last_index}"

    async def slow(message: Message[Any]) -> None:
        await asyncio.sleep(100.0)
        processed.append(message.index)

    async with Fleet(transport=transport, drain_s=0.0) as fleet:
        fleet.connect(address, slow, name="feed", reconnect=AGAIN, buffer=Buffer(messages=100))
        socket = await transport.accept()
        await asyncio.sleep(5.0)
        await socket.feed("a", "b", "c")
        at = time.time()
        await asyncio.sleep(5.0)
        socket.lose()
        socket = await transport.accept()
        assert processed == []
        assert attempts == [Attempt("feed", 0, None, 1), Attempt("feed", 3, at, 2)]
        assert socket.uri == "ws://feed.test/?after=3"


@pytest.mark.looptime
async def test_headers_and_members_of_a_pool_get_their_own_attempt() -> None:
    """A `headers` function gets the attempt of its own member, also as a method and with a failed login between."""
    transport = FakeTransport()
    fails = iter([False, True, False])

    class Credentials:
        async def headers(self, attempt: Attempt) -> dict[str, str]:
            return {"X-Resume": f"{attempt.endpoint} {attempt.session} {attempt.last_index}"}

    async def on_open(session: Session) -> None:
        if next(fails):
            await session.recv()
            raise RuntimeError

    async with Fleet(transport=transport) as fleet:
        fleet.pool("ws://feed.test/", 1, name="feed", headers=Credentials().headers, on_open=on_open, reconnect=AGAIN)
        sockets = [await transport.accept()]
        await sockets[0].feed("1")
        sockets[0].lose()
        sockets.append(await transport.accept())
        await sockets[1].feed("2")  # discarded
        sockets.append(await transport.accept())
        assert [socket.headers["X-Resume"] for socket in sockets] == ["feed-1 1 0", "feed-1 2 1", "feed-1 3 1"]


@pytest.mark.looptime
async def test_a_function_without_a_required_argument_gets_none() -> None:
    """A parameter with a default keeps its default: the function did not ask for the attempt."""
    transport = FakeTransport()

    async def address(base: str = "ws://feed.test/", *more: str, secure: bool = False) -> str:
        assert not more and not secure
        return base

    async with Fleet(transport=transport) as fleet:
        fleet.connect(address, name="feed")
        assert (await transport.accept()).uri == "ws://feed.test/"


@pytest.mark.parametrize("field", ["uri", "headers"])
def test_a_function_that_needs_more_arguments_is_refused(field: str) -> None:
    """A function that cannot be called with the attempt alone is a ConfigError when it is declared."""

    async def two(one: object, two: object) -> Any: ...

    async def named(*, name: str) -> Any: ...

    for function in (two, named):
        options: dict[str, Any] = {"uri": "ws://feed.test/", field: function}
        with pytest.raises(ConfigError, match=f"{field} must take no argument, or one: the Attempt"):
            Endpoint(name="feed", **options)
