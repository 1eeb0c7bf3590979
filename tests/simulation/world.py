"""A simulated environment determined by a seed: time, random numbers, and the order of simultaneous events."""

import asyncio
import gc
import logging
import random
import warnings
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import looptime

EPOCH = 1_700_000_000.0
"""The wall clock's time at the start."""

HOUR = 3600.0

STEPS = 200_000
"""More iterations of the loop than any run needs: beyond it, something loops for ever."""


class Hung(AssertionError):
    """A coroutine has not ended in time."""


class NumberedTask(asyncio.Task[Any]):
    """A task whose hash is its number, not its address, because asyncio iterates over sets of tasks."""

    numbers = 0

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        NumberedTask.numbers += 1
        self.number = NumberedTask.numbers
        super().__init__(*args, **kwargs)

    def __hash__(self) -> int:
        return self.number

    def __eq__(self, other: object) -> bool:
        return self is other


class Loop(looptime.LoopTimeEventLoop, asyncio.SelectorEventLoop):  # type: ignore[misc]
    """A loop that jumps to the next timer when there is nothing else to do, and counts its iterations."""

    def __init__(self) -> None:
        super().__init__(noop_cycles=0)
        self.set_debug(False)  # thousands of runs
        self.turns = 0
        self.on_turn: Callable[[int], object] | None = None

    def _run_once(self) -> None:
        self.turns += 1
        if self.turns > STEPS:
            raise Hung(f"still going on after {STEPS:,} turns of the loop")
        if self.on_turn is not None:
            self.on_turn(self.turns)
        super()._run_once()  # type: ignore[misc]

    def timers(self) -> list[asyncio.TimerHandle]:
        """Return the timers that are still pending."""
        return [handle for handle in self._scheduled if not handle.cancelled()]  # type: ignore[attr-defined]


class Unexpected(logging.Handler):
    """Collects reports of wsfleet's own faults."""

    OURS = ("the supervisor failed", "its worker failed", "the sink could not be opened")

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.found: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if any(text in record.getMessage() for text in self.OURS):
            self.found.append(self.format(record))


class World:
    """Runs one coroutine under a seed. `faults` collects the complaints of asyncio and the log."""

    def __init__(self, seed: int | str) -> None:
        self.seed = seed
        self.loop = Loop()
        self.faults: list[str] = []
        self._clock = random.Random(f"{seed}, clock")
        self._ticks = 0.0

    def run(self, main: Coroutine[Any, Any, None], until: float = 24 * HOUR, *, collects: bool = True) -> None:
        """Run `main` to its end. Raises Hung if it does not end, and the exceptions of `main`.

        Unawaited coroutines and unretrieved exceptions are reported at its end if it `collects`, otherwise later.
        """
        NumberedTask.numbers = 0
        self.loop.set_task_factory(lambda loop, coro, **kwargs: NumberedTask(coro, loop=loop, **kwargs))
        self.loop.set_exception_handler(lambda loop, context: self.faults.append(_describe(context)))
        end = self.loop.call_at(until, self._too_late)
        log = Unexpected()
        try:
            with self._clocks(), _quiet(log), _own_garbage(), mock.patch("sys.unraisablehook", self._unraisable):
                self.loop.run_until_complete(main)
                if collects:
                    gc.collect()
        except KeyboardInterrupt:
            raise Hung(f"not over after {until:g} s of the loop's time") from None
        finally:
            end.cancel()
            self.faults += log.found
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # after a Hung, tasks are left
                self.loop.close()

    def _unraisable(self, unraisable: Any) -> None:
        # Complaints of destructors: a coroutine that was never awaited, a task whose exception was never retrieved.
        self.faults.append(f"{unraisable.err_msg}: {unraisable.exc_value!r} in {unraisable.object!r}")

    def _too_late(self) -> None:
        raise KeyboardInterrupt  # the only way to stop a loop from inside that no task can suppress

    @contextmanager
    def _clocks(self) -> Iterator[None]:
        """Make the clocks that limit time slices random, and the wall clock that of the loop."""
        state = random.getstate()
        random.seed(f"{self.seed}, wsfleet")
        with (
            mock.patch("time.perf_counter", self._tick),
            mock.patch("time.time", self._wall),
            mock.patch("wsfleet.core.loop_watchdog.Watchdog.start"),  # a thread, and real time
        ):
            yield
        random.setstate(state)

    def _wall(self) -> float:
        return EPOCH + self.loop.time()

    def _tick(self) -> float:
        # Mostly a few microseconds; sometimes a time slice is over.
        self._ticks += 2e-3 if self._clock.random() < 0.02 else 5e-6
        return self._ticks


def _describe(context: dict[str, Any]) -> str:
    return f"{context['message']}: {context.get('exception')!r}"


@contextmanager
def _quiet(handler: logging.Handler) -> Iterator[None]:
    logger = logging.getLogger("wsfleet")
    before = logger.propagate
    logger.propagate = False
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.propagate = before


@contextmanager
def _own_garbage() -> Iterator[None]:
    """Prevent the garbage collector from running at random times."""
    was = gc.isenabled()
    gc.disable()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            yield
        finally:
            if was:
                gc.enable()


def clock() -> float:
    """The loop's time."""
    return asyncio.get_running_loop().time()
