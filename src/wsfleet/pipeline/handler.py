"""What can stand behind a mailbox: a function of the user's, or a sink."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from wsfleet.core.checks import check_arguments
from wsfleet.core.errors import ConfigError
from wsfleet.core.message import Message
from wsfleet.pipeline.plan import Plan
from wsfleet.pipeline.process_pool import check_picklable

if TYPE_CHECKING:
    from typing_extensions import TypeIs

__all__ = ["Function", "Sink", "check_processor", "default_name", "is_async", "is_sink"]

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
