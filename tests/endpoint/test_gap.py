"""The records of gaps: what they say about the time and the messages before a reconnect."""

import asyncio
import time

import pytest

from wsfleet import Fleet, Gap, Liveness, Reconnect, Session
from wsfleet.testing import FakeTransport

URI = "ws://feed.test/"
AT = 1_700_000_000.0
AGAIN = Reconnect(initial_s=4.0, max_s=4.0, jitter=0.0)


@pytest.fixture
def wall_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the wall clock follow the simulated clock of the loop."""
    monkeypatch.setattr(time, "time", lambda: AT + asyncio.get_running_loop().time())


@pytest.mark.looptime
@pytest.mark.usefixtures("wall_clock")
async def test_a_gap_begins_at_the_last_message() -> None:
    """The record has the times of the last message and of the last frame before a silent loss."""
    transport = FakeTransport()
    async with Fleet(transport=transport) as fleet, fleet.subscribe("$gap.feed") as gaps:
        fleet.connect(URI, name="feed", reconnect=AGAIN, liveness=Liveness(ping_s=10.0, pong_s=5.0))
        socket = await transport.accept()
        await asyncio.sleep(12.0)
        await socket.feed("last")
        message_at = time.time()
        await asyncio.sleep(9.0)
        frame_at = AT + 20.0  # the pong of the second ping
        socket.answers_pings = False
        await transport.accept()
        message = await gaps.next()
        gap: Gap = message.data
        assert gap.last_message_at == pytest.approx(message_at, abs=0.1)
        assert gap.last_frame_at == pytest.approx(frame_at, abs=0.1)
        assert gap.down_s == pytest.approx(4.0, abs=0.1)
        assert message.received_at - message_at == pytest.approx(18.0 + 5.0 + 4.0, abs=0.2)


@pytest.mark.looptime
@pytest.mark.usefixtures("wall_clock")
async def test_a_connection_without_messages_keeps_the_time_of_the_last_one() -> None:
    """The last message may have come over an earlier connection; None if there was none at all."""
    transport = FakeTransport()
    async with Fleet(transport=transport) as fleet, fleet.subscribe("$gap.feed") as gaps:
        fleet.connect(URI, name="feed", reconnect=AGAIN)
        (await transport.accept()).lose()
        socket = await transport.accept()
        assert (await gaps.next()).data.last_message_at is None
        await socket.feed("one")
        message_at = time.time()
        socket.lose()
        (await transport.accept()).lose()
        await transport.accept()
        assert (await gaps.next()).data.last_message_at == message_at
        assert (await gaps.next()).data.last_message_at == message_at


@pytest.mark.looptime
@pytest.mark.usefixtures("wall_clock")
async def test_messages_of_a_failed_login_are_not_the_last_ones() -> None:
    """Messages that were discarded because `on_open` failed do not move the begin of the gap."""
    transport = FakeTransport()
    fails = iter([False, True, False])

    async def on_open(session: Session) -> None:
        if next(fails):
            await session.recv()
            raise RuntimeError

    async with Fleet(transport=transport) as fleet, fleet.subscribe("$gap.feed") as gaps:
        fleet.connect(URI, name="feed", on_open=on_open, reconnect=AGAIN)
        socket = await transport.accept()
        await socket.feed("one")
        message_at = time.time()
        socket.lose()
        await (await transport.accept()).feed("discarded")
        await transport.accept()
        gap: Gap = (await gaps.next()).data
        assert (gap.last_message_at, gap.last_index, gap.session) == (message_at, 1, 3)
