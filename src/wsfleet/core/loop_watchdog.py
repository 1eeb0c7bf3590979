"""Detects calls that block the event loop, while they block it, and reports the function and the line.

A thread schedules a callback on the loop a few times per second. If the callback does not run in time, the thread
inspects the stack of the loop's thread: the innermost line, and the frame that called user code. The calls themselves
have no overhead; the loop runs a few callbacks per second.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import CodeType, FrameType
from typing import Any, TypeVar

from wsfleet.core.stats import BlockStats

__all__ = ["Block", "Watchdog", "calls_user_code"]

log = logging.getLogger("wsfleet")

ASK_S = 0.2
"""Interval between callbacks that are scheduled on the loop, in seconds."""

BLOCKED_S = 0.3
"""The loop counts as blocked if a callback does not run for this time; each block of 0.5 s is detected."""

RECENT_S = 10.0
"""For this time after a block, errors mention it as their possible cause."""

QUIET_S = 60.0
"""Minimum time between log records about the same blocking function; the records between are counted."""

OUTSIDE = "code outside wsfleet"
INSIDE = "wsfleet or a busy machine"
COLLECTOR = "the garbage collector"

F = TypeVar("F", bound=Callable[..., Any])

_callers: dict[CodeType, str] = {}


def calls_user_code(variable: str) -> Callable[[F], F]:
    """Mark a function that calls user code. The name of its local `variable` is reported if the call blocks.

    This is its attribute `user_code` if it has one, or else `name`.

    Returns the function itself, so calls have no overhead.
    """

    def register(function: F) -> F:
        _callers[function.__code__] = variable
        return function

    return register


@dataclass(frozen=True, slots=True)
class Block:
    """One block of the loop: the blocking function, the line, the duration, and the end (`time.monotonic`)."""

    by: str
    where: str
    seconds: float
    until: float

    def __str__(self) -> str:
        return f"the loop was blocked for {self.seconds:.1f} s by {self.by} at {self.where}"


class _LogLimit:
    """Limits the log records about one blocking function to one per `QUIET_S`."""

    def __init__(self) -> None:
        self._until = float("-inf")
        self._suppressed = 0

    def allows(self, now: float, *, again: bool = False) -> bool:
        """Return whether to log a block now. `again`: the block continues and has been counted before."""
        if now < self._until:
            self._suppressed += not again
            return False
        self._suppressed -= again
        self._until = now + QUIET_S
        return True

    def more(self) -> str:
        """Return the number of blocks that were not logged, as the end of a line, and reset it."""
        suppressed, self._suppressed = self._suppressed, 0
        return f" ({suppressed} more since the last report)" if suppressed else ""


class Watchdog:
    """Watches one event loop. Each fleet has one."""

    def __init__(self) -> None:
        self.last: Block | None = None
        self._times, self._total_s = 0, 0.0
        self._answered = threading.Event()
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self._limits: dict[str, _LogLimit] = {}  # by blocking function
        self._collecting_since = 0.0
        self._collection: Block | None = None  # a long garbage collection that has ended and is not logged yet

    def start(self) -> None:
        """Start to watch the running loop."""
        self._answered.set()
        gc.callbacks.append(self._collector)
        loop, thread = asyncio.get_running_loop(), threading.get_ident()
        self._thread = threading.Thread(target=self._watch, args=(loop, thread), name="wsfleet-watchdog", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop. The thread has ended on return."""
        self._stopping.set()
        self._answered.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
            gc.callbacks.remove(self._collector)

    def recent(self) -> Block | None:
        """Return the last block if it ended less than `RECENT_S` ago."""
        last = self.last
        return last if last is not None and time.monotonic() - last.until < RECENT_S else None

    def stats(self) -> BlockStats | None:
        """Return the last block and the totals, for the statistics of the fleet."""
        last = self.last
        return BlockStats(last.by, last.where, last.seconds, self._times, self._total_s) if last is not None else None

    def _collector(self, phase: str, info: dict[str, int]) -> None:
        # A garbage collection in any thread holds the interpreter lock, so the watching thread cannot run. The
        # collection may interrupt a logging call, so the watching thread logs it later.
        now = time.monotonic()
        if phase == "start":
            self._collecting_since = now
        elif now - self._collecting_since >= BLOCKED_S:
            self._collection = Block(COLLECTOR, f"generation {info['generation']}", now - self._collecting_since, now)

    # In the thread

    def _watch(self, loop: asyncio.AbstractEventLoop, thread: int) -> None:
        asked, pause_s = 0.0, ASK_S
        # The callback does not wake this thread: with a busy loop, each switch of threads costs both milliseconds.
        while not self._stopping.wait(pause_s):
            now = time.monotonic()
            if self._collection is not None:
                collection, self._collection = self._collection, None
                self._count(collection)
                limit = self._limit_of(COLLECTOR)
                if limit.allows(now):
                    self._log_end(collection, limit.more())
                asked = now  # the delay of the callback is part of the same block
            if self._answered.is_set():
                self._answered.clear()
                if self._stopping.is_set():  # set by stop() before the event was cleared
                    return
                asked, pause_s = now, ASK_S
                try:
                    loop.call_soon_threadsafe(self._answered.set)
                except RuntimeError:
                    return  # the loop is closed
            elif now - asked >= BLOCKED_S:
                self._follow(asked, thread)
                pause_s = ASK_S
            else:
                pause_s = BLOCKED_S - (now - asked)

    def _follow(self, asked: float, thread: int) -> None:
        """Report one block, at its detection and at its end."""
        by, where = self._find_call(thread)
        now = time.monotonic()
        # This thread is late itself: the machine was suspended, or another thread held the interpreter lock. Without
        # a call of user code, and if the loop responds now, there is no function to report.
        late = now - asked > 2 * BLOCKED_S
        if late and by in (OUTSIDE, INSIDE) and self._answered.wait(ASK_S):
            return
        limit = self._limit_of(by)
        logged = limit.allows(now)
        if logged:
            self._log_begin(by, where, limit.more())
        self.last = Block(by, where, now - asked, now)
        while not self._answered.wait(BLOCKED_S):
            now = time.monotonic()
            self.last = Block(by, where, now - asked, now)
            if not logged and limit.allows(now, again=True):
                logged = True
                self._log_begin(by, where, limit.more())
        now = time.monotonic()
        block = Block(by, where, now - asked, now)
        self._count(block)
        if logged and not self._stopping.is_set():
            self._log_end(block)

    def _count(self, block: Block) -> None:
        self.last = block
        self._times += 1
        self._total_s += block.seconds

    def _limit_of(self, by: str) -> _LogLimit:
        return self._limits.setdefault(by, _LogLimit())

    def _log_begin(self, by: str, where: str, more: str) -> None:
        fields = {"event": "loop.blocked", "by": by, "where": where}
        log.warning("the loop is blocked by %s at %s%s", by, where, more, extra=fields)

    def _log_end(self, block: Block, more: str = "") -> None:
        fields = {"event": "loop.was_blocked", "by": block.by, "where": block.where, "seconds": block.seconds}
        log.warning("%s%s", block, more, extra=fields)

    def _find_call(self, thread: int) -> tuple[str, str]:
        """Return the blocking function's name, and the lines: in the called function, and the innermost one."""
        innermost = sys._current_frames().get(thread)
        if innermost is None:
            return OUTSIDE, "an unknown line"
        called: FrameType = innermost
        frame: FrameType | None = innermost
        while frame is not None:
            variable = _callers.get(frame.f_code)
            if variable is not None:
                owner = frame.f_locals.get(variable)
                here, there = _place(called), _place(innermost)
                where = here if called.f_code is innermost.f_code else f"{here}, which is at {there}"
                return str(getattr(owner, "user_code", None) or getattr(owner, "name", owner)), where
            if not frame.f_code.co_filename.startswith(_OURS):
                called = frame  # the last one is the outermost frame of user code
            frame = frame.f_back
        ours = innermost.f_code.co_filename.startswith(_OURS)
        return INSIDE if ours else OUTSIDE, _place(innermost)


_OURS = os.path.dirname(os.path.dirname(__file__)) + os.sep


def _place(frame: FrameType) -> str:
    return f"{os.path.basename(frame.f_code.co_filename)}:{frame.f_lineno} in {frame.f_code.co_qualname}"
