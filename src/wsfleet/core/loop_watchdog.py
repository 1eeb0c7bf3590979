"""Notices when something blocks the loop, while it does, and says who and where.

A thread asks the loop for a sign of life a few times a second. Where none comes, the thread looks at what the loop's
thread is doing: the innermost line, and, walking outwards, whose call it is. Nothing is paid for in the calls
themselves; a loop answers a few wake-ups a second.
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
"""How often the loop is asked."""

BLOCKED_S = 0.3
"""So long without an answer, and the loop counts as blocked: whatever blocks it for half a second is seen."""

RECENT_S = 10.0
"""For so long a block is worth mentioning beside what it may have caused."""

QUIET_S = 60.0
"""Who blocks again and again is logged once in so many seconds, with a count."""

OUTSIDE = "something outside of wsfleet"
INSIDE = "wsfleet itself or a busy machine"
COLLECTOR = "the garbage collector"

F = TypeVar("F", bound=Callable[..., Any])

_callers: dict[CodeType, str] = {}


def calls_user_code(variable: str) -> Callable[[F], F]:
    """Mark a function that calls user code: its local `variable` has the `name` to report when that call blocks.

    The function itself is returned, so a call costs nothing more.
    """

    def register(function: F) -> F:
        _callers[function.__code__] = variable
        return function

    return register


@dataclass(frozen=True, slots=True)
class Block:
    """One time that the loop was blocked: by whom, at which line, for how long, until when (`time.monotonic`)."""

    by: str
    where: str
    seconds: float
    until: float

    def __str__(self) -> str:
        return f"the loop was blocked for {self.seconds:.1f} s by {self.by} at {self.where}"


class _Quiet:
    """Which blocks of one culprit are logged: the first, and after that time a block that lasts or is new."""

    def __init__(self) -> None:
        self._until = float("-inf")
        self._untold = 0

    def passes(self, now: float, *, again: bool = False) -> bool:
        """Whether to log a block now; `again`: one that was counted already, and lasts."""
        if now < self._until:
            self._untold += not again
            return False
        self._untold -= again
        self._until = now + QUIET_S
        return True

    def more(self) -> str:
        """Return what was not logged, as the end of a line."""
        untold, self._untold = self._untold, 0
        return f" ({untold} more since the last report)" if untold else ""


class Watchdog:
    """Watches one event loop. There is one for each fleet."""

    def __init__(self) -> None:
        self.last: Block | None = None
        self._times, self._total_s = 0, 0.0
        self._answered = threading.Event()
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self._quiet: dict[str, _Quiet] = {}  # by who blocks
        self._collecting_since = 0.0
        self._collection: Block | None = None  # a long one that is over, and not told yet

    def start(self) -> None:
        """Begin to watch the running loop."""
        self._answered.set()
        gc.callbacks.append(self._collector)
        loop, thread = asyncio.get_running_loop(), threading.get_ident()
        self._thread = threading.Thread(target=self._watch, args=(loop, thread), name="wsfleet-watchdog", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End watching; the thread is gone on return."""
        self._stopping.set()
        self._answered.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
            gc.callbacks.remove(self._collector)

    def recent(self) -> Block | None:
        """Return the last block, where it is recent enough to be the cause of something now."""
        last = self.last
        return last if last is not None and time.monotonic() - last.until < RECENT_S else None

    def stats(self) -> BlockStats | None:
        """Return the last block as the fleet's counts show it."""
        last = self.last
        return BlockStats(last.by, last.where, last.seconds, self._times, self._total_s) if last is not None else None

    def _collector(self, phase: str, info: dict[str, int]) -> None:
        # A collection, whichever thread's, lets no other thread look meanwhile. It may come upon the log in the middle
        # of a line, so what there is to say of it is left to our thread.
        now = time.monotonic()
        if phase == "start":
            self._collecting_since = now
        elif now - self._collecting_since >= BLOCKED_S:
            self._collection = Block(COLLECTOR, f"generation {info['generation']}", now - self._collecting_since, now)

    # In the thread

    def _watch(self, loop: asyncio.AbstractEventLoop, thread: int) -> None:
        asked, pause_s = 0.0, ASK_S
        # An answer wakes nobody: beside a busy loop, each time that a thread gets the interpreter back costs both of
        # them milliseconds.
        while not self._stopping.wait(pause_s):
            now = time.monotonic()
            if self._collection is not None:
                collection, self._collection = self._collection, None
                self._over(collection)
                quiet = self._quiet_of(COLLECTOR)
                if quiet.passes(now):
                    self._tell_end(collection, quiet.more())
                asked = now  # whoever is late because of it is no other block
            if self._answered.is_set():
                self._answered.clear()
                if self._stopping.is_set():  # stop() does not wait for an answer to a question that it did not see
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
        """Tell of one block, now and at its end."""
        by, where = self._look(thread)
        now = time.monotonic()
        # This thread is late itself: the machine slept, or something kept the interpreter. If it was not a call of
        # user code, and the loop answers now, there is nobody to name.
        late = now - asked > 2 * BLOCKED_S
        if late and by in (OUTSIDE, INSIDE) and self._answered.wait(ASK_S):
            return
        quiet = self._quiet_of(by)
        told = quiet.passes(now)
        if told:
            self._tell_begin(by, where, quiet.more())
        self.last = Block(by, where, now - asked, now)
        while not self._answered.wait(BLOCKED_S):
            now = time.monotonic()
            self.last = Block(by, where, now - asked, now)
            if not told and quiet.passes(now, again=True):
                told = True
                self._tell_begin(by, where, quiet.more())
        now = time.monotonic()
        block = Block(by, where, now - asked, now)
        self._over(block)
        if told and not self._stopping.is_set():
            self._tell_end(block)

    def _over(self, block: Block) -> None:
        self.last = block
        self._times += 1
        self._total_s += block.seconds

    def _quiet_of(self, by: str) -> _Quiet:
        return self._quiet.setdefault(by, _Quiet())

    def _tell_begin(self, by: str, where: str, more: str) -> None:
        told = {"event": "loop.blocked", "by": by, "where": where}
        log.warning("the loop is blocked by %s at %s%s", by, where, more, extra=told)

    def _tell_end(self, block: Block, more: str = "") -> None:
        told = {"event": "loop.was_blocked", "by": block.by, "where": block.where, "seconds": block.seconds}
        log.warning("%s%s", block, more, extra=told)

    def _look(self, thread: int) -> tuple[str, str]:
        """Return who blocks the loop, and where: the line in the called function, and the innermost one."""
        innermost = sys._current_frames().get(thread)
        if innermost is None:
            return OUTSIDE, "an unknown place"
        called: FrameType = innermost
        frame: FrameType | None = innermost
        while frame is not None:
            variable = _callers.get(frame.f_code)
            if variable is not None:
                owner = frame.f_locals.get(variable)
                here, there = _place(called), _place(innermost)
                where = here if called.f_code is innermost.f_code else f"{here}, which is at {there}"
                return str(getattr(owner, "name", owner)), where
            if not frame.f_code.co_filename.startswith(_OURS):
                called = frame  # the last of these is the outermost
            frame = frame.f_back
        ours = innermost.f_code.co_filename.startswith(_OURS)
        return INSIDE if ours else OUTSIDE, _place(innermost)


_OURS = os.path.dirname(os.path.dirname(__file__)) + os.sep


def _place(frame: FrameType) -> str:
    return f"{os.path.basename(frame.f_code.co_filename)}:{frame.f_lineno} in {frame.f_code.co_qualname}"
