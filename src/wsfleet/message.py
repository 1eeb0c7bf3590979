"""What flows through a fleet: messages, and the records that the `$` topics carry."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import msgspec

__all__ = ["DeadLetter", "Gap", "Malformed", "Message", "Slow", "State", "StateChange"]

T = TypeVar("T")


class Message(msgspec.Struct, Generic[T], frozen=True, gc=False):
    """One message, as every subscription that it goes to sees it. Shared: do not change its `data`.

    `endpoint` and `session` say which connection it came over, and over which of its connects (from 1); `index` is
    the endpoint's own count of received messages, from 1, going on over reconnects; `received_at` is wall clock
    seconds, one reading for each read of the socket; `size` is the payload in bytes, after decompression.
    Messages of `Fleet.publish` and of the `$` topics have the defaults but for `topic`, `received_at` and `size`.

    The garbage collector does not look into messages, which are many and short-lived: data that is changed to hold
    its own message would never be freed.
    """

    data: T
    topic: str = ""
    endpoint: str = ""
    index: int = 0
    session: int = 0
    received_at: float = 0.0
    size: int = 0


class State(enum.StrEnum):
    """Where an endpoint stands. CONNECTING is also the state before the fleet starts."""

    CONNECTING = "CONNECTING"
    OPEN = "OPEN"
    BACKOFF = "BACKOFF"
    CLOSED = "CLOSED"
    FAILED = "FAILED"


@dataclass(frozen=True, slots=True)
class StateChange:
    """On `$state.<endpoint>`. `attempt` counts attempts since the last stable time, `delay_s` waits for the next."""

    endpoint: str
    previous: State
    state: State
    error: Exception | None
    attempt: int
    delay_s: float


@dataclass(frozen=True, slots=True)
class Malformed:
    """On `$malformed.<endpoint>`: a message that could not be decoded, as it came."""

    endpoint: str
    index: int
    session: int
    raw: str | bytes
    error: BaseException


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """On `$dead.<subscription>`: a message whose processing failed for good, after `attempts` calls."""

    message: Message[Any]
    error: BaseException
    attempts: int


@dataclass(frozen=True, slots=True)
class Slow:
    """On `$slow.<subscription>`: its mailbox became full; once for each episode, which ends when it is at half."""

    subscription: str
    pending: int
    pending_bytes: int
    overflow: str


@dataclass(frozen=True, slots=True)
class Gap:
    """On `$gap.<endpoint>`, before any message of the new session: what came in between is not known."""

    endpoint: str
    previous_session: int
    session: int
    last_index: int
    down_s: float
