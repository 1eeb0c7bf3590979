"""Processors: functions and sinks, the options of their calls, and the checks of both."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeVar, runtime_checkable

from wsfleet.core.checks import check_arguments, check_count, check_seconds, refuse
from wsfleet.core.errors import ConfigError
from wsfleet.core.message import Message
from wsfleet.core.options import Buffer, Retry
from wsfleet.pipeline.process_pool import check_picklable

if TYPE_CHECKING:
    from typing_extensions import TypeIs

__all__ = [
    "BatchHandler",
    "Function",
    "Handler",
    "Plan",
    "RetryDelays",
    "Sink",
    "check_plan",
    "check_processor",
    "default_name",
    "is_async",
    "is_sink",
]

Function = Callable[[Any], Awaitable[Any] | Any]
T = TypeVar("T")


@runtime_checkable
class Sink(Protocol):
    """Writes messages to a destination. Used as a processor instead of a function. See `wsfleet.sinks`.

    `name` is the default name of the processor. `batch` is the default maximum of messages in one call of `write`.
    """

    name: str
    batch: int

    async def open(self) -> None:
        """Open the destination. Called once, when the fleet starts. An exception makes the start fail.

        If the sink is declared while the fleet runs, the exception is logged and the messages are dropped. It is
        cancelled if the start is cancelled; then it must leave nothing open.
        """

    async def write(self, messages: list[Message[Any]]) -> None:
        """Write all messages, or raise. After an exception they count as failed, or are passed again with `retry`.

        It is cancelled after `timeout_s` or at the end of the drain. Then all messages count as failed, even if some
        were written.
        """

    async def close(self) -> None:
        """Close the destination; called once, after the drain or when the subscription is closed, unless `open` failed.

        It must leave nothing open, even if it is cancelled. An exception is logged. The shutdown of the fleet waits
        for it, so operations that may hang need a timeout.
        """


Handler = Callable[[Message[T]], Any] | Sink
"""For type checkers: an async or a plain function of one message, or a sink."""

BatchHandler = Callable[[list[Message[T]]], Any] | Sink
"""For type checkers: a function of a list of messages, or a sink, with `batch`."""


def is_sink(target: object) -> TypeIs[Sink]:
    """Return whether `target` is a sink. A mock has every attribute, so the types of two attributes are checked."""
    # Checked first because it is cheap: isinstance with a protocol takes longer than the rest of a declaration.
    has_fields = isinstance(getattr(target, "name", None), str) and isinstance(getattr(target, "batch", None), int)
    return has_fields and isinstance(target, Sink)


def _unwrapped(target: Any) -> Any:
    while isinstance(target, partial):
        target = target.func
    return target


def default_name(target: Any) -> str:
    """Return the default name of a processor: that of the function or the sink."""
    if is_sink(target):
        return target.name
    target = _unwrapped(target)
    name = getattr(target, "__name__", None)
    return name if isinstance(name, str) else type(target).__name__


def is_async(target: Any) -> bool:
    """Return whether `target` is an async function or an object with an async `__call__`."""
    target = _unwrapped(target)
    return inspect.iscoroutinefunction(target) or inspect.iscoroutinefunction(type(target).__call__)


@dataclass(frozen=True, slots=True)
class Plan:
    """The keyword arguments of `Fleet.process`, except the buffer."""

    concurrency: int = 1
    key: Callable[[Message[Any]], Any] | None = None
    batch: int | None = None
    retry: Retry | None = None
    timeout_s: float | None = None
    offload: Literal["process"] | None = None

    @property
    def attempts(self) -> int:
        return self.retry.attempts if self.retry is not None else 1

    @property
    def is_plain(self) -> bool:
        """Whether all options are the defaults: one worker, one attempt, one message at a time: the fast path."""
        return self == _PLAIN


_PLAIN = Plan()


@dataclass(frozen=True, slots=True)
class RetryDelays:
    """The delays of a `Retry` for `Backoff`: the bound doubles, a delay is random between half of it and all of it."""

    initial_s: float
    max_s: float
    factor: float = 2.0
    jitter: float = 0.5


def check_plan(plan: Plan, buffer: Buffer) -> None:
    """Raise ConfigError, naming the field, if an option of a processor is invalid."""
    faults: list[tuple[str, str | None]] = []
    if not isinstance(buffer, Buffer):
        faults.append(("buffer", f"must be a Buffer, not {buffer!r}"))
    faults.append(("concurrency", check_count(plan.concurrency)))
    if plan.key is not None:
        faults.append(("key", check_arguments(plan.key) if callable(plan.key) else "must be a function of the message"))
    fault = check_count(plan.batch, none=True)
    if fault is None and plan.batch is not None and isinstance(buffer, Buffer) and plan.batch > buffer.messages:
        fault = f"must be at most the buffer's {buffer.messages} messages, not {plan.batch}"
    faults.append(("batch", fault))
    if plan.retry is not None and not isinstance(plan.retry, Retry):
        faults.append(("retry", f"must be a Retry or None, not {plan.retry!r}"))
    faults.append(("timeout_s", check_seconds(plan.timeout_s, none=True)))
    if plan.offload not in (None, "process"):
        faults.append(("offload", f"must be None or 'process', not {plan.offload!r}"))
    refuse("processor", faults)


_GENERATORS = (inspect.isgeneratorfunction, inspect.isasyncgenfunction)


def check_processor(processor: Any, plan: Plan) -> None:
    """Raise ConfigError if `processor` is neither a function nor a sink, or does not support an option of `plan`."""
    if is_sink(processor):
        given = {"concurrency": plan.concurrency != 1, "key": plan.key is not None, "offload": plan.offload is not None}
        faults = tuple(
            (name, "does not apply to a sink, which writes its batches in order") for name in given if given[name]
        )
        if faults:
            raise ConfigError("; ".join(f"processor: {name} {text}" for name, text in faults), faults)
        return
    target = _unwrapped(processor)
    fault = None
    if not callable(target) or isinstance(target, type):
        fault = f"must be a function or a sink, not {processor!r}"
    elif any(is_generator(each) for each in (target, target.__call__) for is_generator in _GENERATORS):
        fault = "must not be a generator: write a function without yield"
    else:
        fault = check_arguments(processor)
    if fault is not None:
        raise ConfigError(f"a processor {fault}", (("processor", fault),))
    if plan.offload == "process":
        check_picklable(processor)
