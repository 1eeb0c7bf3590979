"""Loops over the messages of a fleet that has not been started."""

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from wsfleet import Fleet, FleetError
from wsfleet.core.context import UNSTARTED_S
from wsfleet.testing import FakeTransport

URI = "ws://feed.test/"


async def over(messages: Any) -> list[Any]:
    return [message.data async for message in messages]


async def over_batches(fleet: Fleet) -> None:
    async with fleet.subscribe(">") as subscription:
        async for _ in subscription.batches():
            pass


async def next_one(fleet: Fleet) -> None:
    async with fleet.subscribe(">") as subscription:
        await subscription.next(timeout=1000)


WAITS: dict[str, Callable[[Fleet], Coroutine[Any, Any, object]]] = {
    "connection": lambda fleet: over(fleet.connect(URI)),
    "member": lambda fleet: over(fleet.pool(URI, 2).connections[1]),
    "batches": over_batches,
    "next": next_one,
}


@pytest.mark.looptime
@pytest.mark.parametrize("wait", WAITS)
async def test_a_loop_that_would_wait_for_ever_raises(wait: str) -> None:
    """Without another task that could start the fleet, waiting for a message raises FleetError at once."""
    with pytest.raises(FleetError, match="the fleet has not been started, so no message would come"):
        await WAITS[wait](Fleet(transport=FakeTransport()))
    assert asyncio.get_running_loop().time() == 0


@pytest.mark.looptime
async def test_messages_that_wait_are_handed_out_first() -> None:
    """Messages that were published before the start are handed out before the error."""
    fleet = Fleet(transport=FakeTransport())
    async with fleet.subscribe(">") as subscription:
        fleet.publish("a", 1)
        assert (await subscription.next()).data == 1
        with pytest.raises(FleetError, match="not been started"):
            await subscription.next()


@pytest.mark.looptime
@pytest.mark.parametrize("delay_s", [0, 2 * UNSTARTED_S])
async def test_a_loop_may_begin_before_another_task_starts_the_fleet(
    delay_s: float, caplog: pytest.LogCaptureFixture
) -> None:
    """A loop waits for a fleet that another task starts, and a late start is logged once."""
    fleet = Fleet(transport=(transport := FakeTransport()))
    first, second = fleet.connect(URI, name="first"), fleet.connect(URI, name="second")

    async def run() -> None:
        await asyncio.sleep(delay_s)
        async with fleet:
            for name in ("first", "second"):
                await (await transport.accept(name)).feed(name)

    ended = await asyncio.gather(over(first), over(second), run())
    assert ended[:2] == [["first"], ["second"]]
    logged = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    late = "first-iter: a loop waits for messages, but the fleet has not been started"
    assert logged == ([late] if delay_s else [])


@pytest.mark.looptime
async def test_a_loop_that_has_ended_is_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    """A loop whose connection is closed before the start ends, and is not logged as waiting."""
    fleet = Fleet(transport=FakeTransport())
    connection = fleet.connect(URI)
    loop = asyncio.create_task(over(connection))
    await asyncio.sleep(1)
    await connection.close()
    assert await loop == []
    await asyncio.sleep(2 * UNSTARTED_S)
    assert not caplog.records


@pytest.mark.looptime
async def test_a_loop_over_an_ended_fleet_ends() -> None:
    """After the end of the fleet, a loop ends at once."""
    fleet = Fleet(transport=FakeTransport())
    connection, subscription = fleet.connect(URI), fleet.subscribe(">")
    async with fleet:
        pass
    assert await over(connection) == await over(subscription) == []
    with pytest.raises(StopAsyncIteration):
        await subscription.next()
