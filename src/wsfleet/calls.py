"""What one call of a processor is: its attempts, its deadline, its end."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from wsfleet.errors import ConfigError
from wsfleet.message import Message
from wsfleet.options import Buffer, Retry

__all__ = ["Plan", "RetryDelays", "check_plan"]


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
    """A `Retry` as `policy.Backoff` wants it: doubling, and drawn between half of the bound and the bound."""

    initial_s: float
    max_s: float
    factor: float = 2.0
    jitter: float = 0.5


def check_plan(plan: Plan, buffer: Buffer) -> None:
    """Raise ConfigError, naming the field, where a processor's options cannot work."""
    faults: list[tuple[str, str]] = []
    if not isinstance(buffer, Buffer):
        faults.append(("buffer", f"must be a Buffer, not {buffer!r}"))
    if not _whole(plan.concurrency):
        faults.append(("concurrency", f"must be a whole number from 1, not {plan.concurrency!r}"))
    if plan.key is not None and not callable(plan.key):
        faults.append(("key", "must be a function of the message"))
    if plan.batch is not None and not _whole(plan.batch):
        faults.append(("batch", f"must be a whole number from 1 or None, not {plan.batch!r}"))
    elif plan.batch is not None and isinstance(buffer, Buffer) and plan.batch > buffer.messages:
        faults.append(("batch", f"of {plan.batch} is more than the buffer's {buffer.messages} messages"))
    if plan.retry is not None and not isinstance(plan.retry, Retry):
        faults.append(("retry", f"must be a Retry or None, not {plan.retry!r}"))
    timeout = plan.timeout_s
    number = isinstance(timeout, int | float) and not isinstance(timeout, bool) and math.isfinite(timeout)
    if timeout is not None and not (number and timeout > 0):
        faults.append(("timeout_s", f"must be a number of seconds above 0 or None, not {timeout!r}"))
    if plan.offload not in (None, "process"):
        faults.append(("offload", f"must be None or 'process', not {plan.offload!r}"))
    if faults:
        raise ConfigError("; ".join(f"processor: {name} {text}" for name, text in faults), tuple(faults))


def _whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1
