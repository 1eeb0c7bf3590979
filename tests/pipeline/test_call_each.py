"""`MessageIterator._call_each`, with which a worker makes its calls, compiled and in Python."""

import asyncio
import math
from typing import Any

import pytest

from tests.support.flows import turns
from wsfleet.core.message import Message
from wsfleet.core.options import Buffer
from wsfleet.pipeline.mailbox import Mailbox
from wsfleet.pipeline.queue import BoundedQueue, Fifo, MessageIterator


class Calls(MessageIterator):
    """The iterator of a processor: a message that it takes stays in hand until the next one is requested."""

    def __init__(self, box: Mailbox) -> None:
        super().__init__(box, keeps=True)
        self.box = box

    async def _slow(self) -> Message[Any]:
        if not await self.box.turn(self):
            raise StopAsyncIteration
        return self._take()


def filled(*data: Any) -> Mailbox:
    box = Mailbox("mine", "news", Buffer(), lambda *_: None)
    for each in data:
        box.inject(Message(each, "news", size=1))
    return box


def counts(box: Mailbox) -> tuple[int, int, int]:
    return box.processed, box.in_hand, len(box.waiting)


async def test_within_its_time_slice_it_does_not_yield() -> None:
    """While the time slice lasts and messages wait, none takes the slow path, which yields to the loop."""
    box = filled(1, 2, 3)

    class Hasty(Calls):
        async def _slow(self) -> Message[Any]:
            raise AssertionError("the long way")

    calls = Hasty(box)
    calls._restart()
    calls._until = math.inf
    assert [(await anext(calls)).data for _ in range(3)] == [1, 2, 3]


async def test_a_subclass_must_provide_its_methods() -> None:
    """A mailbox that must be notified when messages leave, and a consumer that waits, require a class with these
    methods.
    """
    bare = BoundedQueue(Fifo(), 10, 10, plain=True)
    bare.append_all([Message(1, "news", size=1)], 1)
    bare.watched = True
    with pytest.raises(NotImplementedError):
        bare.hand_out()
    with pytest.raises(NotImplementedError):
        await MessageIterator(bare)._slow()


async def test_it_returns_when_no_more_will_come() -> None:
    """Calls are made in order, with the message in hand only during its call, and end with the mailbox."""
    box = filled(1, 2, 3)
    seen: list[Any] = []

    async def see(message: Message[Any]) -> None:
        seen.append((message.data, counts(box)))
        await asyncio.sleep(0)

    task = asyncio.create_task(Calls(box)._call_each(see))  # type: ignore[arg-type]
    await turns(20)
    assert seen == [(1, (0, 1, 2)), (2, (1, 1, 1)), (3, (2, 1, 0))]
    assert not task.done() and counts(box) == (3, 0, 0)
    box.finish()
    assert await task is None


async def test_a_call_that_raises_leaves_its_message_in_hand() -> None:
    """If a call raises, immediately or later, the loop ends with the message still in hand, and the caller gets the
    error.
    """

    async def at_once(message: Message[Any]) -> None:
        raise LookupError(message.data)

    async def later(message: Message[Any]) -> None:
        await asyncio.sleep(0)
        raise LookupError(message.data)

    def not_async(message: Message[Any]) -> Any:
        raise LookupError(message.data)

    for number, function in enumerate((at_once, later, not_async)):
        box = filled(number, "next")
        calls = Calls(box)
        with pytest.raises(LookupError, match=str(number)):
            await calls._call_each(function)
        assert counts(box) == (0, 1, 1)
        message = calls._give_back()
        assert message is not None and message.data == number
        assert calls._give_back() is None


async def test_it_goes_on_after_a_failure() -> None:
    """When called again, it continues with the next message, and counts none twice."""
    box = filled(*range(4))
    box.finish()
    calls = Calls(box)
    seen: list[int] = []

    async def odd_ones(message: Message[int]) -> None:
        seen.append(message.data)
        if message.data % 2 == 0:
            raise ValueError

    failed = 0
    while True:
        try:
            await calls._call_each(odd_ones)
            break
        except ValueError:
            message = calls._give_back()
            assert message is not None
            failed += 1
            box.failed += 1
            box.settled(message)
    assert (seen, failed, counts(box), box.pending_bytes) == ([0, 1, 2, 3], 2, (2, 0, 0), 0)


async def test_a_call_may_be_anything_that_can_be_awaited() -> None:
    """A function may return a future or another awaitable instead of a coroutine; any other value is an error."""
    box = filled(1)
    box.finish()
    future = asyncio.get_running_loop().create_future()
    task = asyncio.create_task(Calls(box)._call_each(lambda _: future))  # type: ignore[arg-type]
    await turns()
    assert counts(box) == (0, 1, 0)
    future.set_result("anything")
    await task
    assert counts(box) == (1, 0, 0)
    box = filled(1)
    with pytest.raises(TypeError, match="await"):
        await Calls(box)._call_each(lambda _: 7)  # type: ignore[arg-type, return-value]


@pytest.mark.parametrize("copes", [False, True])
async def test_cancelled_in_a_call(copes: bool) -> None:
    """A cancellation is passed to the current call; if the call suppresses it, the next one is made."""
    box = filled(1, 2)
    seen: list[Any] = []

    async def call(message: Message[Any]) -> None:
        seen.append(message.data)
        try:
            if message.data == 1:
                await asyncio.sleep(1000)
        except asyncio.CancelledError:
            seen.append("cancelled")
            if not copes:
                raise

    task = asyncio.create_task(Calls(box)._call_each(call))  # type: ignore[arg-type]
    await turns()
    task.cancel()
    await turns()
    if copes:
        assert seen == [1, "cancelled", 2] and counts(box) == (2, 0, 0) and not task.done()
        box.close()
        await task
    else:
        assert seen == [1, "cancelled"] and counts(box) == (0, 1, 1) and task.cancelled()


async def test_cancelled_while_nothing_waits() -> None:
    """When it is cancelled between calls, no message is in hand, and the mailbox keeps no reference to it."""
    box = filled()
    calls = Calls(box)
    for _ in range(2):  # the first wait takes another path

        async def see(message: Message[Any]) -> None:
            pass

        task = asyncio.create_task(calls._call_each(see))  # type: ignore[arg-type]
        await turns()
        box.inject(Message(0, "news", size=1))
        await turns()
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled() and calls._give_back() is None and not box.waiters
    assert counts(box) == (2, 0, 0)


async def test_closed_during_a_call() -> None:
    """When it is closed during a call, the call is closed too, and the message stays in hand."""
    box = filled(1)
    closed: list[bool] = []

    async def call(message: Message[Any]) -> None:
        try:
            await asyncio.sleep(1000)
        finally:
            closed.append(True)

    calls = Calls(box)

    calling: Any = calls._call_each(call)
    calling.send(None)  # the slow path, which the first wait takes
    calling.send(None)
    calling.close()
    assert closed == [True] and counts(box) == (0, 1, 0)


async def test_calls_that_await_nothing_yield_to_the_loop() -> None:
    """A function that awaits nothing occupies the loop for about 2 ms at a time, however many messages wait."""
    box = filled(*range(500))
    box.finish()
    seen = 0

    async def careless(message: Message[Any]) -> None:
        nonlocal seen
        seen += 1
        until = asyncio.get_running_loop().time() + 0.000_1
        while asyncio.get_running_loop().time() < until:
            pass

    task = asyncio.create_task(Calls(box)._call_each(careless))  # type: ignore[arg-type]
    stops = set()
    while not task.done():
        stops.add(seen)
        await asyncio.sleep(0)
    assert len(stops) > 500 // 20
