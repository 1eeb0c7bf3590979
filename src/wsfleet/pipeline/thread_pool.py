"""Plain functions, in daemon threads of their own, so that the loop never waits for one.

The loop hands over slots; a thread claims a slot when its call begins. Until then the slot's messages wait like any
others, and the mailbox may still drop them. Counting happens on the loop alone.
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
"""Slots handed over for each thread, so that a thread that is done finds the next without asking the loop."""

THREADS_END_S = 0.5
"""How long idle threads have to leave at the end."""

Payload = Message[Any] | list[Message[Any]]


class Call(Protocol):
    """How one thread makes its calls."""

    def __call__(self, payload: Payload) -> None: ...

    def stop(self) -> None:
        """Give up what is under way, where that is possible. From any thread."""

    def close(self) -> None:
        """Leave nothing behind. From the thread that makes the calls."""


class ThreadCall:
    """Makes calls right here, in the thread."""

    def __init__(self, function: Callable[[Any], Any]) -> None:
        self._function = function

    def __call__(self, payload: Payload) -> None:
        result = self._function(payload)
        if inspect.isawaitable(result):
            if inspect.iscoroutine(result):
                result.close()
            raise TypeError(f"the function returned {type(result).__name__} to await: declare it with async def")

    def stop(self) -> None:
        """A thread cannot be stopped from outside."""

    def close(self) -> None:
        """Nothing to leave behind."""


class Slot:
    """One call to be made."""

    def __init__(self, taken: Taken, lock: threading.Lock) -> None:
        self.messages = deque(taken.messages)
        self.keys = taken.keys
        self.claimed = False
        self.over = False  # settled already: what the thread says later counts no more
        self.started: float | None = None
        self.attempts = 0
        self._lock = lock
        self._age = taken.age

    @property
    def age(self) -> float:
        return math.inf if self.claimed or not self.messages else self._age

    def drop_oldest(self) -> Message[Any] | None:
        """Give up the oldest message, unless the call has begun."""
        with self._lock:
            return None if self.claimed or not self.messages else self.messages.popleft()

    def droppable(self) -> Iterator[tuple[int, Message[Any]]]:
        """What may be given up, as long as the call has not begun."""
        return iter([] if self.claimed else [(self._age, message) for message in self.messages])

    def drop(self, message: Message[Any]) -> bool:
        """Give up this message, unless the call has begun."""
        with self._lock:
            if self.claimed:
                return False
            del self.messages[next(place for place, mine in enumerate(self.messages) if mine is message)]
            return True

    def claim(self) -> bool:
        """Begin the call; False where nothing is left of it."""
        with self._lock:
            self.claimed = bool(self.messages)
            return self.claimed


class ThreadPool:
    """The threads of one processor.

    On the loop and for each slot given, `settle(slot, error)` is called once, when its messages are to be counted, and
    `returned(slot)` when its thread is free again: after a timeout that is later, and otherwise at once.
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
        self._timeout_s = timeout_s  # None where the call itself sees to it
        self._lock = threading.Lock()
        self._given: dict[Slot, None] = {}
        self._queue: queue.SimpleQueue[Slot | None] = queue.SimpleQueue()
        self._done: deque[tuple[Slot, BaseException | None]] = deque()
        self._told = False
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
        """Whether another slot may be given, with at most `ahead` for each thread."""
        return len(self._given) < self._plan.concurrency * ahead

    def give(self, taken: Taken) -> Slot:
        """Let a thread make this call when it comes to it; the mailbox may take back what has not begun."""
        slot = Slot(taken, self._lock)
        self._given[slot] = None
        self._queue.put(slot)
        if self._timeout_s is not None and self._timer is None:
            self._timer = self._loop.call_later(self._timeout_s, self._check_time)
        return slot

    def _collect(self) -> None:
        self._told = False
        while self._done:
            slot, error = self._done.popleft()
            self._given.pop(slot, None)
            if not slot.over:
                slot.over = True
                self._settle(slot, error)
            self._returned(slot)

    def _check_time(self) -> None:
        """Fail the calls whose time is up. A call that begins after this look is not due before the next."""
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
                self._settle(slot, TimeoutError(f"no end within timeout_s = {timeout_s:g} s; the thread goes on"))
            else:
                soonest = min(soonest, left)
        self._timer = self._loop.call_later(soonest, self._check_time)

    def abandon(self) -> None:
        """Settle what has begun as failed, and let threads that go on do so unheard."""
        self._collect()
        for slot in list(self._given):
            if slot.claimed and not slot.over:
                slot.over = True
                self._settle(slot, asyncio.CancelledError("the fleet ended during the call"))

    def dismiss(self) -> None:
        """Let the threads go, as soon as each is done with its call. Idempotent."""
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
        """Dismiss the threads, and name those that are still in a call and cannot be stopped."""
        self.dismiss()
        until = time.monotonic() + THREADS_END_S
        pause = 0.0005
        while any(t.is_alive() for t in self.threads) and time.monotonic() < until:
            await asyncio.sleep(pause)
            pause = min(pause * 2, 0.05)
        self._collect()
        left = [t.name for t in self.threads if t.is_alive()]
        if left:
            told = {"event": "thread.left", "subscription": self._name}
            log.warning("%s: still in a call, and left behind: %s", self._name, ", ".join(left), extra=told)

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
            except BaseException as exc:  # whatever it is, it must not end the thread
                error: BaseException = exc
            else:
                return None
            finally:
                slot.started = None
            if slot.over or delays is None or slot.attempts >= plan.attempts or self._stopping.wait(delays.next()):
                return error

    def _report(self, slot: Slot, error: BaseException | None) -> None:
        self._done.append((slot, error))
        # One wake-up of the loop serves all reports until it looks.
        if not self._told:
            self._told = True
            try:
                self._loop.call_soon_threadsafe(self._collect)
            except RuntimeError:
                pass  # the loop is closed: nobody counts any more
