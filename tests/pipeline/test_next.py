"""The awaitable that `anext` of a subscription returns: it takes a message when it is awaited, not before."""

import asyncio
import collections.abc
import weakref
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from tests.support.flows import balanced, turns
from wsfleet import Buffer, Fleet, Message, Subscription
from wsfleet.pipeline.mailbox import Mailbox
from wsfleet.pipeline.queue import MessageIterator
from wsfleet.testing import FakeTransport


@asynccontextmanager
async def subscribed() -> AsyncIterator[tuple[Fleet, Subscription]]:
    """A subscription that has waited before, because the first wait takes another path."""
    fleet = Fleet(transport=FakeTransport())
    async with fleet.subscribe("news") as subscription:
        first = asyncio.ensure_future(anext(subscription))
        await turns()
        fleet.publish("news", 0)
        assert (await first).data == 0
        yield fleet, subscription
        balanced(fleet)


def asked(subscription: Subscription) -> Any:
    return subscription.__anext__()


async def test_it_may_run_as_a_task() -> None:
    """It is recognized as a coroutine, so that it can run as a task, whether a message waits already or not."""
    async with subscribed() as (fleet, subscription):
        fleet.publish("news", 1)
        asking = asked(subscription)
        assert isinstance(asking, collections.abc.Coroutine)
        assert (await asyncio.create_task(asking)).data == 1
        task = asyncio.create_task(asked(subscription))
        await turns()
        fleet.publish("news", 2)
        assert (await task).data == 2


async def test_cancelled_before_its_first_step_it_takes_nothing() -> None:
    """If its task was cancelled before it began, or it was never awaited, no message is lost."""
    async with subscribed() as (fleet, subscription):
        fleet.publish("news", 1)
        task = asyncio.create_task(asked(subscription))
        task.cancel()
        await asyncio.wait([task])
        asked(subscription).close()
        assert subscription.stats().pending == 1
        assert (await anext(subscription)).data == 1


async def test_several_waiters_get_one_message_each() -> None:
    """Each message goes to one of the waiters; the others continue to wait."""
    async with subscribed() as (fleet, subscription):
        tasks = [asyncio.create_task(asked(subscription)) for _ in range(3)]
        await turns()
        for n in (1, 2):
            fleet.publish("news", n)
        await turns()
        assert sorted(task.result().data for task in tasks if task.done()) == [1, 2]
        fleet.publish("news", 3)
        await asyncio.wait(tasks)
        assert sorted(task.result().data for task in tasks) == [1, 2, 3]


async def test_it_waits_if_its_message_was_taken() -> None:
    """If the waiting message was taken by another consumer before it is awaited, it waits for the next one."""
    async with subscribed() as (fleet, subscription):
        fleet.publish("news", 1)
        late = asked(subscription)
        assert (await anext(subscription)).data == 1
        task = asyncio.create_task(late)
        await turns()
        assert not task.done()
        fleet.publish("news", 2)
        assert (await task).data == 2


@pytest.mark.parametrize("waits", [False, True])
async def test_cancelled_while_it_waits_it_takes_nothing(waits: bool) -> None:
    """If it is cancelled while it waits, it takes nothing, and the mailbox keeps no reference to it."""
    async with subscribed() as (fleet, subscription):
        if waits:
            fleet.publish("news", 1)
            late = asked(subscription)
            await anext(subscription)
        else:
            late = asked(subscription)
        task = asyncio.create_task(late)
        await turns()
        task.cancel()
        fleet.publish("news", 2)  # woken and cancelled in the same iteration of the loop
        await asyncio.wait([task])
        assert task.cancelled() and not subscription._mailbox.waiters
        assert (await anext(subscription)).data == 2


async def test_it_returns_one_message() -> None:
    """Awaiting it a second time raises an error and takes nothing."""
    async with subscribed() as (fleet, subscription):
        fleet.publish("news", 1)
        fleet.publish("news", 2)
        asking = asked(subscription)
        await asking
        with pytest.raises(RuntimeError):
            await asking
        assert subscription.stats().pending == 1


async def test_it_ends_with_its_subscription() -> None:
    """If its subscription is closed while it waits, the loop that it belongs to ends; later loops end at once."""
    async with subscribed() as (_, subscription):
        task = asyncio.create_task(asked(subscription))
        await turns()
        subscription.close()
        for late in (task, asked(subscription)):
            with pytest.raises(StopAsyncIteration):
                await late


async def test_it_references_its_subscription_until_it_returns() -> None:
    """It keeps its subscription alive while it is referenced; after it has returned its message, it references
    nothing.
    """
    fleet = Fleet(transport=FakeTransport())
    subscription = fleet.subscribe("news")
    fleet.publish("news", 1)
    asking, seen = asked(subscription), weakref.ref(subscription)
    del subscription
    alive = seen() is not None
    with pytest.warns(ResourceWarning, match="was not closed"):
        message = await asking  # the warning must come here, although `asking` still exists below
    assert alive and message.data == 1
    asking.close()
    balanced(fleet)


def test_it_may_be_driven_by_hand() -> None:
    """`send`, `throw` and `close` behave like those of a coroutine, whether it waits or has not begun."""

    async def main() -> None:
        other = asyncio.create_task(asyncio.sleep(1000))  # it might start the fleet, so waiting is no error
        async with subscribed() as (fleet, subscription):
            fleet.publish("news", 1)
            asking = asked(subscription)
            with pytest.raises(StopIteration) as stop:
                asking.send(None)
                asking.send(None)  # on a slow machine the time slice is over, and the loop runs first
            assert stop.value.value.data == 1
            for begun in (False, True):
                asking = asked(subscription)
                if begun:
                    assert asyncio.isfuture(asking.send(None))
                with pytest.raises(LookupError, match="mine"):
                    asking.throw(LookupError("mine"))
                asking = asked(subscription)
                if begun:
                    asking.send(None)
                asking.close()
            assert not subscription._mailbox.waiters
        other.cancel()

    asyncio.run(main())


async def test_a_subclass_may_override_anext() -> None:
    """`async for` uses an overridden `__anext__` of a subclass, although the inherited one has a faster path."""

    class Filled(MessageIterator):
        def __init__(self) -> None:
            super().__init__(Mailbox("box", "news", Buffer(), lambda *_: None))
            self._restart()
            self._bounded.waiting.extend([Message(1), Message(2)])

        def _slow(self) -> Any:  # on a busy machine, the time slice ends between two steps
            self._restart()
            return super().__anext__()

    class Doubled(Filled):
        async def __anext__(self) -> Any:
            return 2 * (await super().__anext__()).data

    first, second = Filled(), Doubled()
    assert (await anext(first)).data == 1
    assert await anext(second) == 2
    async for doubled in second:
        assert doubled == 4
        break
