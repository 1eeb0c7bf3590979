"""Runs the user's function, or a sink, over one mailbox. What one does wrong stays with it."""

from __future__ import annotations

import asyncio
import logging
import random
import threading
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import replace
from functools import cached_property, partial
from typing import Any

from wsfleet.core.error_text import is_ours, shown
from wsfleet.core.loop_watchdog import calls_user_code
from wsfleet.core.message import DeadLetter, Message
from wsfleet.core.retry import Backoff
from wsfleet.core.time_slice import TimeSlice
from wsfleet.pipeline.failure_log import FailureLog, log_sink
from wsfleet.pipeline.handler import Function, Plan, RetryDelays, Sink, is_async, is_sink
from wsfleet.pipeline.hub import Hub
from wsfleet.pipeline.key_order import KeyOrder
from wsfleet.pipeline.mailbox import Mailbox
from wsfleet.pipeline.process_pool import ProcessCall, check_not_importing, check_picklable
from wsfleet.pipeline.queue import MessageIterator
from wsfleet.pipeline.thread_pool import AHEAD, Call, Slot, ThreadCall, ThreadPool

__all__ = ["Processor", "Work"]

log = logging.getLogger("wsfleet")

Work = Callable[[], Coroutine[Any, Any, None]]


class Processor:
    """The workers over one mailbox: tasks for an async function or a sink, threads for a plain one, or processes."""

    def __init__(
        self, mailbox: Mailbox, target: Function | Sink, plan: Plan, hub: Hub, remove: Callable[[Mailbox], None]
    ) -> None:
        self.mailbox = mailbox
        self.tasks: set[asyncio.Task[None]] = set()
        self.opened = False
        self.sink = target if is_sink(target) else None
        self._function: Function = target.write if is_sink(target) else target
        self._plan = plan
        if self.sink is not None and plan.batch is None:
            self._plan = replace(plan, batch=min(self.sink.batch, mailbox.buffer.messages))
        self._hub = hub
        self._remove = remove
        self._has_crew = plan.offload is not None or not is_async(self._function)
        self._thread_pool: ThreadPool | None = None
        self._complaints = FailureLog(mailbox.name, of_sink=self.sink is not None)

    @cached_property
    def _key_order(self) -> KeyOrder:
        # Made when needed: the short path does without, and there may be ten thousand of them.
        return KeyOrder(self.mailbox, self._plan.key, self._hub.request_exit)

    # Its life

    def check_not_importing(self) -> None:
        """End the process, where it was spawned for such calls and imports a program that starts this fleet."""
        if self._plan.offload == "process":
            check_not_importing()

    async def open(self) -> None:
        """Open the sink, if it is one, or look whether the function can be sent. Raises what the sink raises."""
        if self._plan.offload == "process":
            check_picklable(self._function, declaring=False)
        if self.sink is not None and not self.opened:
            await self.sink.open()
            self.opened = True

    async def close(self) -> None:
        """Close the sink, after the last message."""
        if self.sink is not None and self.opened:
            try:
                await self.sink.close()
            except BaseException as exc:
                if is_ours(exc):
                    raise
                log_sink(self.name, "closing the sink failed", shown(exc))
            self.opened = False

    def work(self) -> list[Work]:
        """Return the workers, each to be called in its own task. Cancelling one fails its call; the rest waits on."""
        self.check_not_importing()
        return [self.another() for _ in range(1 if self._has_crew else self._plan.concurrency)]

    def another(self) -> Work:
        """Return one worker, to go on where one was cancelled."""
        return partial(self._work, self._feed_crew if self._has_crew else self._call_for_each)

    def give_up(self) -> None:
        """There will be no other worker: leave nothing behind."""
        self.mailbox.close()
        if self._thread_pool is not None:
            self._thread_pool.abandon()
            self._thread_pool.dismiss()

    async def _work(self, work: Callable[[], Awaitable[None]]) -> None:
        try:
            await work()
        except Exception:
            # A fault of ours: it ends this subscription, never the fleet.
            log.exception("%s: its worker failed; it gets no more messages", self.name)
            self._remove(self.mailbox)

    @property
    def name(self) -> str:
        """The subscription's name."""
        return self.mailbox.name

    @property
    def threads(self) -> list[threading.Thread]:
        """The threads that make its calls."""
        return self._thread_pool.threads if self._thread_pool is not None else []

    @property
    def over(self) -> bool:
        """Whether nobody works here, not yet or no longer."""
        return not self.tasks

    # Async functions and sinks

    async def _call_for_each(self) -> None:
        try:
            await self.open()
        except BaseException as exc:
            if is_ours(exc):
                raise
            log_sink(self.name, "the sink could not be opened, its messages are dropped", shown(exc))
            self._remove(self.mailbox)
            return
        if self._plan.is_plain:
            await self._one_by_one(self._function)
        else:
            await self._as_planned()
        # Its subscription was closed. At the fleet's end a sink is closed after the drain instead.
        await self.close()

    @calls_user_code("self")
    async def _one_by_one(self, function: Function) -> None:
        """The short path: one worker, one attempt, one message at a time."""
        calls = _Calls(self.mailbox)
        while True:
            try:
                await calls._call_each(function)
            except BaseException as exc:
                message = calls._give_back()
                if message is None:
                    raise
                self._failed([message], exc, 1)
                if is_ours(exc):
                    raise
            else:
                return

    async def _as_planned(self) -> None:
        mailbox = self.mailbox
        time_slice = TimeSlice()
        while True:
            taken, keys, _ = self._key_order.take(self._plan.batch or 1)
            if not taken:
                if self._key_order.more:
                    await time_slice.yield_to_loop()
                elif self._is_over():
                    return
                else:
                    await mailbox.news()
                    time_slice.restart()
                continue
            mailbox.in_hand += len(taken)
            try:
                await self._attempts(taken)
            finally:
                self._key_order.free(keys)
                if keys:
                    mailbox.wake()  # whoever found this key busy
            if time_slice.expired():
                await time_slice.yield_to_loop()

    def _is_over(self) -> bool:
        mailbox = self.mailbox
        return mailbox.closed or (mailbox.finishing and not mailbox.waiting and not mailbox.set_aside)

    async def _attempts(self, messages: list[Message[Any]]) -> None:
        """Call the function for `messages`, which are in hand, until it succeeds or has had all its attempts."""
        plan, mailbox = self._plan, self.mailbox
        delays = Backoff(RetryDelays(plan.retry.initial_s, plan.retry.max_s), random.random) if plan.retry else None
        attempt = 0
        try:
            while True:
                attempt += 1
                try:
                    # A list that it may take apart, at every attempt.
                    await self._call(messages.copy() if plan.batch is not None else messages[0])
                except BaseException as exc:
                    if is_ours(exc) or delays is None or attempt >= plan.attempts:
                        raise
                    await asyncio.sleep(delays.next())
                else:
                    break
        except BaseException as exc:
            self._failed(messages, exc, attempt)
            if is_ours(exc):
                raise
        else:
            mailbox.processed += len(messages)
            for message in messages:
                mailbox.settled(message)

    @calls_user_code("self")
    async def _call(self, payload: Any) -> None:
        timeout_s = self._plan.timeout_s
        if timeout_s is None:
            await self._function(payload)
            return
        late = f"no end within timeout_s = {timeout_s:g} s"
        try:
            async with asyncio.timeout(timeout_s) as scope:
                await self._function(payload)
        except TimeoutError as exc:
            if scope.expired():
                raise TimeoutError(late) from exc
            raise
        if scope.expired():  # it kept the cancellation to itself; what it did after its time does not count
            raise TimeoutError(late)

    # Threads and processes

    async def _feed_crew(self) -> None:
        """Hand what waits to threads, as far as they have room for it."""
        mailbox, plan, key_order = self.mailbox, self._plan, self._key_order
        # A message that LATEST may still replace is not handed over before a thread can begin with it.
        ahead = 1 if plan.batch is not None or mailbox.may_replace else AHEAD
        try:
            thread_pool = self._thread_pool or self._start_crew()
            while True:
                taken = key_order.take(plan.batch or 1) if thread_pool.room(ahead) else None
                if taken is not None and taken.messages:
                    mailbox.set_aside += len(taken.messages)
                    mailbox.aside[thread_pool.give(taken)] = None
                elif taken is not None and key_order.more:
                    await asyncio.sleep(0)
                elif self._is_over() and not mailbox.set_aside:
                    break
                else:
                    await mailbox.news()
        except asyncio.CancelledError:
            # By the fleet, which closes the mailbox first; or else another worker goes on with the same crew.
            if mailbox.closed:
                self.give_up()
                await self._crew_gone()
            raise
        except BaseException:
            self.give_up()
            raise
        await self._crew_gone()

    def _start_crew(self) -> ThreadPool:
        plan = self._plan
        if plan.offload == "process":
            call: Callable[[], Call] = partial(ProcessCall, self._function, plan.timeout_s)
            timeout_s = None  # the call sees to it
        else:
            call, timeout_s = partial(ThreadCall, self._function), plan.timeout_s
        thread_pool = self._thread_pool = ThreadPool(
            self.name, plan, call, self._settled_by_crew, self._crew_returned, timeout_s
        )
        thread_pool.start()
        return thread_pool

    async def _crew_gone(self) -> None:
        if self._thread_pool is not None:
            await self._thread_pool.stop()

    def _settled_by_crew(self, slot: Slot, error: BaseException | None) -> None:
        mailbox = self.mailbox
        del mailbox.aside[slot]
        messages = list(slot.messages)
        if error is None:
            mailbox.processed += len(messages)
        else:
            mailbox.failed += len(messages)
        for message in messages:
            mailbox.settled_aside(message)
        if error is not None:
            self._tell(messages, error, slot.attempts)
        mailbox.wake()

    def _crew_returned(self, slot: Slot) -> None:
        # Not before: two calls for one key at the same time would not be in order, whatever became of the first.
        self._key_order.free(slot.keys)
        self.mailbox.wake()

    # Failures

    def _failed(self, messages: list[Message[Any]], error: BaseException, attempts: int) -> None:
        mailbox = self.mailbox
        mailbox.failed += len(messages)
        for message in messages:
            mailbox.settled(message)
        self._tell(messages, error, attempts)

    def _tell(self, messages: list[Message[Any]], error: BaseException, attempts: int) -> None:
        self._complaints.tell(error, messages)
        topic = f"$dead.{self.mailbox.name}"
        told: BaseException | None = None
        for message in messages:
            # What a $ message does never makes another.
            if not message.topic.startswith("$") and self._hub.wants(topic):
                told = shown(error) if told is None else told
                self._hub.inject(topic, DeadLetter(message, told, attempts))


class _Calls(MessageIterator):
    """The messages of one worker, each in hand until the next one is asked for."""

    __slots__ = ("_mailbox",)

    def __init__(self, mailbox: Mailbox) -> None:
        super().__init__(mailbox, keeps=True)
        self._mailbox = mailbox

    async def _slow(self) -> Message[Any]:
        if not await self._mailbox.turn(self):
            raise StopAsyncIteration
        return self._take()
