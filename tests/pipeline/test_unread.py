"""A connection that is open but paused for long is logged once, with the name of the full mailbox."""

import asyncio
import logging
from typing import Any

import pytest

from tests.support.flows import opened
from wsfleet import Buffer, Fleet, Message, Reconnect, State
from wsfleet.testing import FakeTransport

URI = "ws://feed.test/"
AGAIN = Reconnect(initial_s=1.0, max_s=1.0, jitter=0.0)


async def hangs(message: Message[Any]) -> None:
    await asyncio.sleep(10**6)


def logged(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [r.getMessage() for r in caplog.records if getattr(r, "event", "") == "endpoint.paused"]


@pytest.mark.looptime
async def test_a_long_pause_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    """After ten seconds without reading, one warning names the pausing subscriptions; a reconnect does
    not repeat it.
    """
    transport = FakeTransport()
    fleet = Fleet(transport=transport, drain_s=0.0)
    fleet.process("feed", buffer=Buffer(messages=1))(hangs)
    fleet.connect(URI, name="feed", reconnect=AGAIN)
    async with fleet:
        socket = await opened(fleet, transport)
        await socket.feed("a", "b")
        await asyncio.sleep(9.0)
        assert not logged(caplog)
        await asyncio.sleep(60.0)
        assert logged(caplog) == ["feed: not read for 10 s: the mailbox of hangs is full"]
        socket.lose()
        await opened(fleet, transport)
        await asyncio.sleep(60.0)
        assert len(logged(caplog)) == 1
    assert all(r.levelno == logging.WARNING for r in caplog.records if getattr(r, "event", "") == "endpoint.paused")


@pytest.mark.looptime
async def test_the_next_pause_is_logged_again(caplog: pytest.LogCaptureFixture) -> None:
    """A connection that was read again and paused anew is logged again; a short pause is not logged."""
    transport = FakeTransport()
    fleet = Fleet(transport=transport, drain_s=0.0)
    slow = fleet.subscribe("feed", name="slow", buffer=Buffer(messages=1))
    fleet.connect(URI, name="feed")
    async with fleet, slow:
        socket = await opened(fleet, transport)
        for pause_s in (20.0, 5.0, 20.0):
            await socket.feed("a")
            await asyncio.sleep(pause_s)
            await anext(slow)
            await asyncio.sleep(1.0)
    line = "feed: not read for 10 s: the mailbox of slow is full, and no loop takes its messages"
    assert logged(caplog) == [line] * 2


@pytest.mark.looptime
async def test_many_pauses_of_one_mailbox_are_one_line(caplog: pytest.LogCaptureFixture) -> None:
    """Endpoints that wait for the same mailbox since the same time are logged in one line."""
    transport = FakeTransport()
    fleet = Fleet(transport=transport, drain_s=0.0)
    fleet.process("feed.*", buffer=Buffer(messages=1))(hangs)
    for number in range(100):
        fleet.connect(URI, name=f"feed-{number}", topic=f"feed.{number}")
    async with fleet:
        for number in range(100):
            await (await opened(fleet, transport, f"feed-{number}")).feed("a")
        await asyncio.sleep(60.0)
    assert logged(caplog) == ["feed-0 and 99 more: not read for 10 s: the mailbox of hangs is full"]


@pytest.mark.looptime
async def test_no_pause_is_logged_without_a_socket(caplog: pytest.LogCaptureFixture) -> None:
    """While the endpoint is down no pause is logged; it counts from the next opening."""
    transport = FakeTransport()
    fleet = Fleet(transport=transport, drain_s=0.0)
    fleet.process("feed", buffer=Buffer(messages=1))(hangs)
    connection = fleet.connect(URI, name="feed", reconnect=AGAIN)
    async with fleet:
        socket = await opened(fleet, transport)
        await socket.feed("a", "b")
        socket.lose()
        await asyncio.sleep(60.0)
        socket = await transport.accept("feed")
        await connection.wait_open()
        assert not logged(caplog)
        await asyncio.sleep(8.0)
        socket.close(1011, "keepalive ping timeout")
        while connection.state is State.OPEN:
            await asyncio.sleep(0.01)
        assert not logged(caplog)
        assert "closed by the peer after 8 s paused by hangs" in str(connection.stats().last_error)


@pytest.mark.looptime
async def test_the_pause_of_another_socket_is_no_reason_for_a_loss() -> None:
    """A pause that ended before this connection was open is not logged."""
    transport = FakeTransport()
    fleet = Fleet(transport=transport, drain_s=0.0)
    slow = fleet.subscribe("feed", buffer=Buffer(messages=1))
    connection = fleet.connect(URI, name="feed", reconnect=Reconnect(initial_s=0.0, max_s=0.0))
    async with fleet, slow:
        socket = await opened(fleet, transport)
        await socket.feed("a")
        await asyncio.sleep(30.0)
        await anext(slow)
        connection.restart()
        socket = await transport.accept("feed")
        await connection.wait_open()
        socket.close(1011, "keepalive ping timeout")
        while connection.stats().losses == 0:
            await asyncio.sleep(0.01)
        assert "paused by" not in str(connection.stats().last_error)
