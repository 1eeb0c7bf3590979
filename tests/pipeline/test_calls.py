"""`Calls`, with which a worker makes its calls, compiled and in Python."""

import asyncio
import contextvars
import itertools
import time
from collections.abc import Callable
from typing import Any

import pytest

from tests.support.flows import turns
from wsfleet.core.message import Message
from wsfleet.core.options import Buffer
from wsfleet.core.time_slice import SLICE_S
from wsfleet.pipeline.mailbox import Mailbox
from wsfleet.pipeline.queue import BoundedQueue, Calls, Fifo, MessageIterator


def filled(*data: Any) -> Mailbox:
    box = Mailbox("mine", "news", Buffer(), lambda *_: None)
    for each in data:
        box.inject(Message(each, "news", size=1))
    return box


async def awaiting(calls: Calls) -> None:
    await calls


def counts(box: Mailbox) -> tuple[int, int, int]:
    return box.processed, box.in_hand, len(box.waiting)


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

    task = asyncio.create_task(awaiting(Calls(box, see)))
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
        calls = Calls(box, function)
        with pytest.raises(LookupError, match=str(number)):
            await calls
        assert counts(box) == (0, 1, 1)
        message, error = calls.give_back()
        assert message is not None and message.data == number and error is None
        assert calls.give_back() == (None, None)


async def test_it_goes_on_after_a_failure() -> None:
    """When called again, it continues with the next message, and counts none twice."""
    box = filled(*range(4))
    box.finish()
    seen: list[int] = []

    async def odd_ones(message: Message[int]) -> None:
        seen.append(message.data)
        if message.data % 2 == 0:
            raise ValueError

    calls = Calls(box, odd_ones)
    failed = 0
    while True:
        try:
            await calls
            break
        except ValueError:
            message, _ = calls.give_back()
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
    task = asyncio.create_task(awaiting(Calls(box, lambda _: future)))
    await turns()
    assert counts(box) == (0, 1, 0)
    future.set_result("anything")
    await task
    assert counts(box) == (1, 0, 0)
    box = filled(1)
    with pytest.raises(TypeError, match="await"):
        await Calls(box, lambda _: 7)


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

    task = asyncio.create_task(awaiting(Calls(box, call)))
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

    async def see(message: Message[Any]) -> None:
        pass

    calls = Calls(box, see)
    for _ in range(2):
        task = asyncio.create_task(awaiting(calls))
        await turns()
        box.inject(Message(0, "news", size=1))
        await turns()
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled() and calls.give_back() == (None, None) and not box.waiters
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

    calling: Any = Calls(box, call).__await__()
    while not box.in_hand:  # on a busy machine it first yields to the loop
        calling.send(None)
    calling.close()
    assert closed == [True] and counts(box) == (0, 1, 0)


async def calls_in_iterations(count: int, lasts: float) -> list[int]:
    """Let calls take `lasts` seconds without awaiting anything. Return how many were made in each iteration."""
    box = filled(*range(count))
    box.finish()

    async def careless(message: Message[Any]) -> None:
        until = time.perf_counter() + lasts
        while time.perf_counter() < until:
            pass

    task = asyncio.create_task(awaiting(Calls(box, careless)))
    made = [0]
    while not task.done():
        await asyncio.sleep(0)
        made.append(box.processed)
    return [after - before for before, after in itertools.pairwise(made)]


async def test_calls_that_await_nothing_yield_to_the_loop() -> None:
    """A function that awaits nothing occupies the loop for about 2 ms at a time, however many messages wait."""
    made = await calls_in_iterations(500, 0.000_1)
    assert sum(made) == 500 and sum(map(bool, made)) > 500 // 20


async def test_a_function_that_blocks_is_called_once_in_an_iteration_of_the_loop() -> None:
    """If each call takes longer than a time slice, the loop goes on after each of them."""
    made = await calls_in_iterations(8, 2 * SLICE_S)
    assert sum(made) == 8 and max(made) == 1


# Calls that begin within a read

SOON = 1e9


class Idle:
    """A worker that waits for messages, in a task with a context of its own."""

    def __init__(self, function: Callable[[Message[Any]], Any]) -> None:
        self.box = filled()
        self.context = contextvars.copy_context()
        self.calls = Calls(self.box, function, self.context)
        self.task = asyncio.create_task(awaiting(self.calls), context=self.context)

    async def read(self, *data: Any, until: float | None = None) -> None:
        """Deliver messages and begin calls, as a read does: in a callback of the loop, outside of all tasks."""
        done = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().call_soon(self._read, data, time.perf_counter() + 60 if until is None else until)
        asyncio.get_running_loop().call_soon(done.set_result, None)
        await done

    def _read(self, data: tuple[Any, ...], until: float) -> None:
        assert self.box.append_all([Message(each, "news", size=1) for each in data], len(data), False)
        assert self.box.idle_calls is self.calls
        self.calls.begin(until)

    async def end(self) -> None:
        self.box.close()
        await asyncio.wait([self.task])


async def idle(function: Callable[[Message[Any]], Any]) -> Idle:
    worker = Idle(function)
    await turns()
    return worker


async def test_a_call_begins_within_the_read() -> None:
    """Calls that do not wait are made and counted within the read, and the task is not woken."""
    seen: list[Any] = []

    async def see(message: Message[Any]) -> None:
        seen.append((message.data, counts(worker.box), asyncio.current_task() is worker.task))

    worker = await idle(see)
    await worker.read(1, 2)
    assert seen == [(1, (0, 1, 1), True), (2, (1, 1, 0), True)]
    assert counts(worker.box) == (2, 0, 0) and worker.box.pending_bytes == 0
    assert worker.box.idle_calls is worker.calls and not worker.box.waiters[0].done()
    await worker.end()


async def test_from_a_task_the_current_task_is_restored() -> None:
    """A read that a test makes in its own task leaves that task the current one."""
    seen: list[Any] = []

    async def see(message: Message[Any]) -> None:
        seen.append(asyncio.current_task())

    worker = await idle(see)
    worker._read((1,), SOON)
    assert seen == [worker.task] and asyncio.current_task() is not worker.task
    await worker.end()


async def test_a_call_that_waits_is_continued_by_the_task() -> None:
    """A call that begins within a read may wait for anything; order, context and the current task are kept."""
    variable = contextvars.ContextVar("variable", default=0)
    seen: list[Any] = []
    answer = asyncio.get_running_loop().create_future()

    async def wait(message: Message[Any]) -> None:
        variable.set(variable.get() + 1)
        begun = variable.get()
        async with asyncio.timeout(1000):
            await (asyncio.sleep(0) if message.data == 1 else answer)
        assert variable.get() == begun and asyncio.current_task() is worker.task
        seen.append((message.data, begun))

    worker = await idle(wait)
    await worker.read(1, 2)
    await turns()
    assert seen == [(1, 1)] and counts(worker.box) == (1, 1, 0)
    worker.box.inject(Message(3, "news", size=1))
    answer.set_result(None)
    await turns()
    assert seen == [(1, 1), (2, 2), (3, 3)] and counts(worker.box) == (3, 0, 0)
    await worker.end()


async def test_a_call_that_raises_within_a_read_fails_in_the_task() -> None:
    """The task gets the exception of a call that raised within a read, with its message in hand."""

    async def fail(message: Message[Any]) -> None:
        raise LookupError(message.data)

    worker = await idle(fail)
    await worker.read(1, 2)
    assert counts(worker.box) == (0, 1, 1)
    await asyncio.wait([worker.task])
    with pytest.raises(LookupError, match="1"):
        await worker.task
    message, error = worker.calls.give_back()
    assert message is not None and message.data == 1 and isinstance(error, LookupError)


async def test_within_a_read_the_calls_end_with_the_time_slice() -> None:
    """After the end of the time slice no other call begins within the read; the task makes it."""
    seen: list[int] = []

    async def slow(message: Message[int]) -> None:
        seen.append(message.data)
        began = time.perf_counter()
        while time.perf_counter() < began + 0.001:
            pass

    worker = await idle(slow)
    within: list[int] = []
    asyncio.get_running_loop().call_soon(lambda: (worker._read((1, 2), 0.0), within.extend(seen)))
    await turns(5)
    assert within == [1] and seen == [1, 2]
    await worker.end()


async def test_after_a_call_that_blocks_the_next_one_does_not_begin_within_the_read() -> None:
    """A function that blocks longer than a time slice is called by the task, until one of its calls is short."""
    lasts = 2 * SLICE_S
    seen: list[int] = []

    async def blocking(message: Message[int]) -> None:
        seen.append(message.data)
        time.sleep(lasts)  # noqa: ASYNC251 - the subject

    worker = await idle(blocking)
    await worker.read(1, until=time.perf_counter() + SLICE_S)
    assert seen == [1] and worker.box.idle_calls is None
    worker.box.inject(Message(2, "news", size=1))
    assert seen == [1]
    await turns()
    assert seen == [1, 2] and worker.box.idle_calls is None
    lasts = 0.0
    while worker.box.idle_calls is None:  # on a busy machine, any call may take longer
        assert len(seen) < 1000
        worker.box.inject(Message(3, "news", size=1))
        await turns()
    assert worker.box.idle_calls is worker.calls
    await worker.end()


@pytest.mark.parametrize("copes", [False, True])
@pytest.mark.parametrize("on", ["nothing", "future", "task"])
async def test_cancelled_before_the_task_continues_the_call(on: str, copes: bool) -> None:
    """A cancellation right after the read reaches the call, and cancels the future or task that it waits for."""
    seen: list[Any] = []
    inner: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    if on == "task":
        inner = asyncio.create_task(asyncio.sleep(1000))

    async def wait(message: Message[Any]) -> None:
        try:
            await (asyncio.sleep(0) if on == "nothing" else inner)
        except asyncio.CancelledError:
            seen.append(message.data)
            if not copes:
                raise

    worker = await idle(wait)
    worker._read((1,), SOON)
    worker.task.cancel()
    await turns(6)
    assert seen == [1] and inner.cancelled() == (on != "nothing")
    assert worker.task.cancelled() == (not copes)
    assert counts(worker.box) == ((1, 0, 0) if copes else (0, 1, 0))
    inner.cancel()
    await worker.end()


async def test_cancelled_after_a_call_has_failed_within_the_read() -> None:
    """If the task is cancelled before it can report the error of a call, it ends, and the error is given back."""

    async def fail(message: Message[Any]) -> None:
        raise LookupError

    worker = await idle(fail)
    worker._read((1,), SOON)
    worker.task.cancel()
    await asyncio.wait([worker.task])
    assert worker.task.cancelled()
    message, error = worker.calls.give_back()
    assert message is not None and isinstance(error, LookupError)


async def test_closed_within_a_read() -> None:
    """A call within a read may close its mailbox: it ends as usual, and no other one begins."""
    seen: list[Any] = []

    async def once(message: Message[Any]) -> None:
        seen.append(message.data)
        worker.box.close()

    worker = await idle(once)
    await worker.read(1, 2)
    await asyncio.wait([worker.task])
    assert seen == [1] and counts(worker.box) == (1, 0, 0) and worker.box.dropped == 1
