"""Thousands of sockets that are lost at once end a few at a time."""

import asyncio
import time

from wsfleet.wire.losses import Losses


async def test_many_losses_give_the_loop_its_turn() -> None:
    """However many sockets go in one moment, what is to be done about them is spread over turns, in their order."""
    losses = Losses()
    ended: list[int] = []

    def end(number: int) -> None:
        until = time.perf_counter() + 0.000_1
        while time.perf_counter() < until:
            pass
        ended.append(number)

    for number in range(200):
        losses.soon(lambda number=number: end(number))
    assert not ended
    while len(ended) < 200:
        before = len(ended)
        await asyncio.sleep(0)
        assert len(ended) - before <= 11
    assert ended == list(range(200))


async def test_one_that_fails_does_not_keep_the_others() -> None:
    """An error in one is the loop's to report, and the others are ended all the same."""
    losses = Losses()
    ended: list[int] = []
    reported: list[BaseException] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: reported.append(context["exception"]))

    def fail() -> None:
        raise ZeroDivisionError

    losses.soon(fail)
    losses.soon(lambda: ended.append(1))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert ended == [1]
    assert [type(error) for error in reported] == [ZeroDivisionError]


async def test_later_ones_are_scheduled_anew() -> None:
    """Once all is done, another loss begins it again."""
    losses = Losses()
    ended: list[int] = []
    for number in (1, 2):
        losses.soon(lambda number=number: ended.append(number))
        await asyncio.sleep(0)
        assert ended[-1:] == [number]
