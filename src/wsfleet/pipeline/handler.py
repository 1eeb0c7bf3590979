"""What can stand behind a mailbox, a function or a sink, and the options of its calls."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

from wsfleet.core.checks import check_arguments, check_count, check_seconds, refuse
from wsfleet.core.errors import ConfigError
from wsfleet.core.message import Message
from wsfleet.core.options import Buffer, Retry
from wsfleet.pipeline.process_pool import check_picklable

if TYPE_CHECKING:
    from typing_extensions import TypeIs

__all__ = [
    "Function",
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


@runtime_checkable
class Sink(Protocol):
    """Where messages can go instead of to a function. See `wsfleet.sinks`.

    `name` is what its processor is called by default, `batch` the most messages in one call of `write` where the
    processor says nothing else.
    """

    name: str
    batch: int

    async def open(self) -> None:
        """Get ready; called once, when the fleet starts. What it raises comes out of the start.

        Of a sink that is declared while the fleet runs, it is logged, and its messages are dropped. Cancelled with the
        start, leave nothing open.
        """

    async def write(self, messages: list[Message[Any]]) -> None:
        """Write all, or raise: then they have failed, or, with a `retry`, come again.

        It is cancelled when `timeout_s` or the drain is over, and the messages have failed whatever was written.
        """

    async def close(self) -> None:
        """Called once, after the drain or when its subscription was closed; not where `open` raised.

        Leave nothing open, cancelled or not. What it raises is logged. The fleet's end waits for it, so bound what may
        hang.
        """


def is_sink(target: object) -> TypeIs[Sink]:
    """Tell a sink from a function. A mock has every attribute, so the kinds of two are looked at."""
    # These first: a function has neither, and asking for a protocol costs more than all else about a declaration.
    kinds = isinstance(getattr(target, "name", None), str) and isinstance(getattr(target, "batch", None), int)
    return kinds and isinstance(target, Sink)


def _unwrapped(target: Any) -> Any:
    while isinstance(target, partial):
        target = target.func
    return target


def default_name(target: Any) -> str:
    """Return what a processor without a given name is called after: the function, or the sink."""
    if is_sink(target):
        return target.name
    target = _unwrapped(target)
    name = getattr(target, "__name__", None)
    return name if isinstance(name, str) else type(target).__name__


def is_async(target: Any) -> bool:
    """Tell an async function, or an object with an async `__call__`, from a plain one."""
    target = _unwrapped(target)
    return inspect.iscoroutinefunction(target) or inspect.iscoroutinefunction(type(target).__call__)


@dataclass(frozen=True, slots=True)
class Plan:
    """The keywords of `Fleet.process`, but for the buffer."""

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
        """Whether it is one worker and one attempt for one message at a time: the path that is kept short."""
        return self == _PLAIN


_PLAIN = Plan()


@dataclass(frozen=True, slots=True)
class RetryDelays:
    """A `Retry` as `Backoff` takes it: doubling, and drawn between half of the bound and the bound."""

    initial_s: float
    max_s: float
    factor: float = 2.0
    jitter: float = 0.5


def check_plan(plan: Plan, buffer: Buffer) -> None:
    """Raise ConfigError, naming the field, where a processor's options cannot work."""
    faults: list[tuple[str, str | None]] = []
    if not isinstance(buffer, Buffer):
        faults.append(("buffer", f"must be a Buffer, not {buffer!r}"))
    faults.append(("concurrency", check_count(plan.concurrency)))
    if plan.key is not None:
        faults.append(("key", check_arguments(plan.key) if callable(plan.key) else "must be a function of the message"))
    fault = check_count(plan.batch, none=True)
    if fault is None and plan.batch is not None and isinstance(buffer, Buffer) and plan.batch > buffer.messages:
        fault = f"of {plan.batch} is more than the buffer's {buffer.messages} messages"
    faults.append(("batch", fault))
    if plan.retry is not None and not isinstance(plan.retry, Retry):
        faults.append(("retry", f"must be a Retry or None, not {plan.retry!r}"))
    faults.append(("timeout_s", check_seconds(plan.timeout_s, none=True)))
    if plan.offload not in (None, "process"):
        faults.append(("offload", f"must be None or 'process', not {plan.offload!r}"))
    refuse("processor", faults)


_GENERATORS = (inspect.isgeneratorfunction, inspect.isasyncgenfunction)


def check_processor(processor: Any, plan: Plan) -> None:
    """Raise ConfigError where `processor` is neither a function nor a sink, or does not go with `plan`."""
    if is_sink(processor):
        given = {"concurrency": plan.concurrency != 1, "key": plan.key is not None, "offload": plan.offload is not None}
        faults = tuple((name, "is not for a sink, which writes its batches in order") for name in given if given[name])
        if faults:
            raise ConfigError("; ".join(f"processor: {name} {text}" for name, text in faults), faults)
        return
    target = _unwrapped(processor)
    fault = None
    if not callable(target) or isinstance(target, type):
        fault = f"is a function or a sink, not {processor!r}"
    elif any(is_generator(each) for each in (target, target.__call__) for is_generator in _GENERATORS):
        fault = "yields instead of doing its work: write a function without yield"
    else:
        fault = check_arguments(processor)
    if fault is not None:
        raise ConfigError(f"a processor {fault}", (("processor", fault),))
    if plan.offload == "process":
        check_picklable(processor)
