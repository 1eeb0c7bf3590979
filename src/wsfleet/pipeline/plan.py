"""What one call of a processor is: its attempts, its deadline, its end."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from wsfleet.core.checks import check_arguments, check_count, check_seconds, refuse
from wsfleet.core.message import Message
from wsfleet.core.options import Buffer, Retry

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
