"""Runs a user's function or a sink over one mailbox. Its errors do not affect other subscriptions."""

from __future__ import annotations

import asyncio
import logging
import random
import threading
from collections.abc import Callable, Coroutine
from contextvars import Context
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
from wsfleet.pipeline.queue import Calls
from wsfleet.pipeline.thread_pool import AHEAD, Call, Slot, ThreadCall, ThreadPool

__all__ = ["Processor", "Work"]

log = logging.getLogger("wsfleet")

Work = Callable[[Context], Coroutine[Any, Any, None]]


class Processor:
    """The workers of one mailbox: tasks for an async function or a sink, threads for a plain function, or processes."""

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
        self._uses_threads = plan.offload is not None or not is_async(self._function)
        self._thread_pool: ThreadPool | None = None
        self._failure_log = FailureLog(mailbox.name, of_sink=self.sink is not None)

    @cached_property
    def _key_order(self) -> KeyOrder:
        # Created on first use: the fast path does not need it, and there may be ten thousand processors.
        return KeyOrder(self.mailbox, self._plan.key, self._hub.request_exit)

    # Lifecycle

    def check_not_importing(self) -> None:
        """Exit if this process was spawned to run calls, and imports a program that starts the fleet again."""
        if self._plan.offload == "process":
            check_not_importing()

    async def open(self) -> None:
        """Open the sink, or check that the function can be sent to another process. Raises errors of the sink."""
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
        """Return the workers, each to be called in its own task, with the context of the task.

        Cancelling a task fails only its call in progress.
        """
        self.check_not_importing()
        return [self.another() for _ in range(1 if self._uses_threads else self._plan.concurrency)]

    def another(self) -> Work:
        """Return a worker to replace one that was cancelled."""
        return self._work

    def give_up(self) -> None:
        """Close the mailbox and the thread pool. No worker may be started afterwards."""
        self.mailbox.close()
        if self._thread_pool is not None:
            self._thread_pool.abandon()
            self._thread_pool.dismiss()

    @calls_user_code("self")
    async def _work(self, context: Context) -> None:
        # One coroutine for the fast path, one worker, one attempt, one message at a time: there may be ten thousand.
        try:
            if self._uses_threads:
                await self._feed_threads()
            elif self.sink is None and self._plan.is_plain:
                calls = Calls(self.mailbox, self._function, context)
                while True:
                    try:
                        await calls
                        return
                    except BaseException as exc:
                        self._call_failed(calls, exc)
            else:
                await self._call_with_options()
        except (KeyboardInterrupt, SystemExit) as exc:
            self._hub.request_exit(exc)
        except Exception:
            # A bug in wsfleet: it closes this subscription, but does not stop the fleet.
            log.exception("%s: its worker failed; the subscription is closed", self.name)
            self._remove(self.mailbox)

    @property
    def name(self) -> str:
        """The subscription's name."""
        return self.mailbox.name

    @property
    def threads(self) -> list[threading.Thread]:
        """The threads that run its calls."""
        return self._thread_pool.threads if self._thread_pool is not None else []

    @property
    def over(self) -> bool:
        """Whether no worker is running."""
        return not self.tasks

    # Async functions and sinks

    async def _call_with_options(self) -> None:
        try:
            await self.open()
        except BaseException as exc:
            if is_ours(exc):
                raise
            log_sink(self.name, "the sink could not be opened; its messages are dropped", shown(exc))
            self._remove(self.mailbox)
            return
        await self._with_options()
        # The subscription was closed. At shutdown the fleet closes the sink, after the drain.
        await self.close()

    async def _with_options(self) -> None:
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
                    mailbox.wake()  # other workers may have found these keys busy
            if time_slice.expired():
                await time_slice.yield_to_loop()

    def _is_over(self) -> bool:
        mailbox = self.mailbox
        return mailbox.closed or (mailbox.finishing and not mailbox.waiting and not mailbox.set_aside)

    async def _attempts(self, messages: list[Message[Any]]) -> None:
        """Call the function for `messages`, which are in hand, until a call succeeds or no attempts are left."""
        plan, mailbox = self._plan, self.mailbox
        delays = Backoff(RetryDelays(plan.retry.initial_s, plan.retry.max_s), random.random) if plan.retry else None
        attempt = 0
        try:
            while True:
                attempt += 1
                try:
                    # A new list at each attempt: the function may modify it.
                    await self._call(messages.copy() if plan.batch is not None else messages[0])
                except BaseException as exc:
                    messages = self._unwritten(messages, exc)
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
        timed_out = f"the call timed out after timeout_s = {timeout_s:g} s"
        try:
            async with asyncio.timeout(timeout_s) as scope:
                await self._function(payload)
        except TimeoutError as exc:
            if scope.expired():
                raise TimeoutError(timed_out) from exc
            raise
        if scope.expired():  # the function suppressed the cancellation; its late result does not count
            raise TimeoutError(timed_out)

    # Threads and processes

    async def _feed_threads(self) -> None:
        """Give waiting messages to the threads, as long as they have room."""
        mailbox, plan, key_order = self.mailbox, self._plan, self._key_order
        # LATEST replaces only waiting messages, so a message is handed over only when a thread is free.
        ahead = 1 if plan.batch is not None or mailbox.may_replace else AHEAD
        try:
            thread_pool = self._thread_pool or self._start_threads()
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
            # The fleet closes the mailbox before it cancels. Otherwise another worker continues with these threads.
            if mailbox.closed:
                self.give_up()
                await self._stop_threads()
            raise
        except BaseException:
            self.give_up()
            raise
        await self._stop_threads()

    def _start_threads(self) -> ThreadPool:
        plan = self._plan
        if plan.offload == "process":
            call: Callable[[], Call] = partial(ProcessCall, self._function, plan.timeout_s)
            timeout_s = None  # ProcessCall enforces it
        else:
            call, timeout_s = partial(ThreadCall, self._function), plan.timeout_s
        thread_pool = self._thread_pool = ThreadPool(
            self.name, plan, call, self._call_settled, self._thread_free, timeout_s
        )
        thread_pool.start()
        return thread_pool

    async def _stop_threads(self) -> None:
        if self._thread_pool is not None:
            await self._thread_pool.stop()

    def _call_settled(self, slot: Slot, error: BaseException | None) -> None:
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
            self._report(messages, error, slot.attempts)
        mailbox.wake()

    def _thread_free(self, slot: Slot) -> None:
        # Not at the timeout: a call that timed out still runs, and two calls for one key must not run at a time.
        self._key_order.free(slot.keys)
        self.mailbox.wake()

    # Failures

    def _call_failed(self, calls: Calls, exc: BaseException) -> None:
        """Count the message in hand as failed. Raise `exc` again if it is not an error of a call."""
        message, error = calls.give_back()
        if message is None:
            raise exc
        self._failed([message], exc if error is None else error, 1)
        if is_ours(exc):
            raise exc

    def _unwritten(self, messages: list[Message[Any]], error: BaseException) -> list[Message[Any]]:
        """Count the messages that a sink wrote before it failed as processed, and return the others."""
        written = getattr(error, "written", 0) if self.sink is not None and isinstance(error, OSError) else 0
        self.mailbox.processed += written
        for message in messages[:written]:
            self.mailbox.settled(message)
        return messages[written:]

    def _failed(self, messages: list[Message[Any]], error: BaseException, attempts: int) -> None:
        mailbox = self.mailbox
        mailbox.failed += len(messages)
        for message in messages:
            mailbox.settled(message)
        self._report(messages, error, attempts)

    def _report(self, messages: list[Message[Any]], error: BaseException, attempts: int) -> None:
        self._failure_log.report(error, messages)
        topic = f"$dead.{self.mailbox.name}"
        public: BaseException | None = None
        for message in messages:
            # A $ message must not cause another $ message.
            if not message.topic.startswith("$") and self._hub.wants(topic):
                public = shown(error) if public is None else public
                self._hub.inject(topic, DeadLetter(message, public, attempts))
