"""Runs plain functions in daemon threads, so that they do not block the event loop.

The loop hands over slots; a thread claims a slot when its call begins. Until then the mailbox may drop the
slot's messages like waiting ones. Messages are counted only on the loop.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import math
import queue
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, Protocol

from wsfleet.core.message import Message
from wsfleet.core.retry import Backoff
from wsfleet.pipeline.handler import Plan, RetryDelays
from wsfleet.pipeline.key_order import Taken

__all__ = ["Call", "Slot", "ThreadCall", "ThreadPool"]

log = logging.getLogger("wsfleet")

AHEAD = 32
"""Slots queued for each thread, so that a thread finds its next call without waiting for the loop."""

THREADS_END_S = 0.5
"""How long to wait for threads to end, in seconds."""

Payload = Message[Any] | list[Message[Any]]


class Call(Protocol):
    """Runs the calls of one thread."""

    def __call__(self, payload: Payload) -> None: ...

    def stop(self) -> None:
        """Abort the call in progress if possible. Callable from any thread."""

    def close(self) -> None:
        """Release all resources. Called in the thread that runs the calls."""


class ThreadCall:
    """Runs calls in the thread itself."""

    def __init__(self, function: Callable[[Any], Any]) -> None:
        self._function = function

    def __call__(self, payload: Payload) -> None:
        result = self._function(payload)
        if inspect.isawaitable(result):
            if inspect.iscoroutine(result):
                result.close()
            raise TypeError(f"the function returned an awaitable ({type(result).__name__}): declare it with async def")

    def stop(self) -> None:
        """Do nothing: a thread cannot be stopped from outside."""

    def close(self) -> None:
        """Do nothing: there are no resources."""


class Slot:
    """One call to be made."""

    def __init__(self, taken: Taken, lock: threading.Lock) -> None:
        self.messages = deque(taken.messages)
        self.keys = taken.keys
        self.claimed = False
        self.over = False  # settled: a later result of the thread is ignored
        self.started: float | None = None
        self.attempts = 0
        self._lock = lock
        self._age = taken.age

    @property
    def age(self) -> float:
        return math.inf if self.claimed or not self.messages else self._age

    def drop_oldest(self) -> Message[Any] | None:
        """Drop the oldest message, unless the call has started."""
        with self._lock:
            return None if self.claimed or not self.messages else self.messages.popleft()

    def droppable(self) -> Iterator[tuple[int, Message[Any]]]:
        """Return the messages that can be dropped; none once the call has started."""
        return iter([] if self.claimed else [(self._age, message) for message in self.messages])

    def drop(self, message: Message[Any]) -> bool:
        """Drop `message`, unless the call has started."""
        with self._lock:
            if self.claimed:
                return False
            del self.messages[next(place for place, mine in enumerate(self.messages) if mine is message)]
            return True

    def claim(self) -> bool:
        """Mark the call as started; return False if all its messages were dropped."""
        with self._lock:
            self.claimed = bool(self.messages)
            return self.claimed


class ThreadPool:
    """The threads of one processor.

    For each slot, both on the loop, `settle(slot, error)` is called once to count its messages, and `returned(slot)`
    when its thread is free again, which is later after a timeout.
    """

    def __init__(
        self,
        name: str,
        plan: Plan,
        make_call: Callable[[], Call],
        settle: Callable[[Slot, BaseException | None], None],
        returned: Callable[[Slot], None],
        timeout_s: float | None,
    ) -> None:
        self._name = name
        self._plan = plan
        self._make_call = make_call
        self._settle = settle
        self._returned = returned
        self._timeout_s = timeout_s  # None if the call enforces it
        self._lock = threading.Lock()
        self._given: dict[Slot, None] = {}
        self._queue: queue.SimpleQueue[Slot | None] = queue.SimpleQueue()
        self._done: deque[tuple[Slot, BaseException | None]] = deque()
        self._collect_scheduled = False
        self._stopping = threading.Event()
        self.threads: list[threading.Thread] = []
        self._calls: list[Call] = []
        self._timer: asyncio.TimerHandle | None = None

    # On the loop

    def start(self) -> None:
        self._loop = asyncio.get_running_loop()
        for number in range(self._plan.concurrency):
            call = self._make_call()
            thread = threading.Thread(
                target=self._work, args=(call,), name=f"wsfleet-{self._name}-{number + 1}", daemon=True
            )
            self._calls.append(call)
            self.threads.append(thread)
            thread.start()

    def room(self, ahead: int) -> bool:
        """Whether another slot can be given, with at most `ahead` for each thread."""
        return len(self._given) < self._plan.concurrency * ahead

    def give(self, taken: Taken) -> Slot:
        """Queue a call for the threads. The mailbox may drop its messages until it starts."""
        slot = Slot(taken, self._lock)
        self._given[slot] = None
        self._queue.put(slot)
        if self._timeout_s is not None and self._timer is None:
            self._timer = self._loop.call_later(self._timeout_s, self._check_time)
        return slot

    def _collect(self) -> None:
        self._collect_scheduled = False
        while self._done:
            slot, error = self._done.popleft()
            self._given.pop(slot, None)
            if not slot.over:
                slot.over = True
                self._settle(slot, error)
            self._returned(slot)

    def _check_time(self) -> None:
        """Fail the calls that have timed out. A call that starts later cannot time out before the next check."""
        self._timer = None
        timeout_s = self._timeout_s
        if timeout_s is None or not self._given:
            return
        now, soonest = time.monotonic(), timeout_s
        for slot in list(self._given):
            started = slot.started
            if started is None or slot.over:
                continue
            left = started + timeout_s - now
            if left <= 0:
                slot.over = True
                self._settle(
                    slot,
                    TimeoutError(f"the call timed out after timeout_s = {timeout_s:g} s; its thread is still running"),
                )
            else:
                soonest = min(soonest, left)
        self._timer = self._loop.call_later(soonest, self._check_time)

    def abandon(self) -> None:
        """Settle the calls in progress as failed, and ignore their results."""
        self._collect()
        for slot in list(self._given):
            if slot.claimed and not slot.over:
                slot.over = True
                self._settle(slot, asyncio.CancelledError("the fleet ended during the call"))

    def dismiss(self) -> None:
        """End each thread after its current call. Idempotent."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._stopping.is_set():
            return
        self._stopping.set()
        for call in self._calls:
            call.stop()
        for _ in self.threads:
            self._queue.put(None)

    async def stop(self) -> None:
        """Dismiss the threads, and log those that are still in a call after THREADS_END_S."""
        self.dismiss()
        until = time.monotonic() + THREADS_END_S
        pause = 0.0005
        while any(t.is_alive() for t in self.threads) and time.monotonic() < until:
            await asyncio.sleep(pause)
            pause = min(pause * 2, 0.05)
        self._collect()
        left = [t.name for t in self.threads if t.is_alive()]
        if left:
            fields = {"event": "thread.left", "subscription": self._name}
            log.warning(
                "%s: threads are still in a call and were abandoned: %s", self._name, ", ".join(left), extra=fields
            )

    # In the threads

    def _work(self, call: Call) -> None:
        while (slot := self._queue.get()) is not None:
            if slot.claim():
                self._report(slot, self._attempts(call, slot))
            else:
                self._report(slot, None)
        call.close()

    def _attempts(self, call: Call, slot: Slot) -> BaseException | None:
        plan, retry = self._plan, self._plan.retry
        messages = list(slot.messages)
        payload: Payload = messages if plan.batch is not None else messages[0]
        delays = Backoff(RetryDelays(retry.initial_s, retry.max_s), random.random) if retry is not None else None
        while True:
            slot.attempts += 1
            slot.started = time.monotonic()
            try:
                call(payload)
            except BaseException as exc:  # no exception may end the thread
                error: BaseException = exc
            else:
                return None
            finally:
                slot.started = None
            if slot.over or delays is None or slot.attempts >= plan.attempts or self._stopping.wait(delays.next()):
                return error

    def _report(self, slot: Slot, error: BaseException | None) -> None:
        self._done.append((slot, error))
        # One wake-up of the loop is enough for all results until it collects them.
        if not self._collect_scheduled:
            self._collect_scheduled = True
            try:
                self._loop.call_soon_threadsafe(self._collect)
            except RuntimeError:
                pass  # the loop is closed: results are no longer counted
