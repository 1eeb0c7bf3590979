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

    data: T  #: the payload, decoded
    topic: str = ""  #: tokens, joined by dots
    endpoint: str = ""  #: over which it came
    index: int = 0  #: the endpoint's own number of it, from 1
    session: int = 0  #: over which connect it came, from 1
    received_at: float = 0.0  #: wall clock, in seconds
    size: int = 0  #: the payload in bytes, after decompression


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

    endpoint: str  #: its name
    previous: State  #: the state before
    state: State  #: the state now
    error: Exception | None  #: why; its text has no secrets
    attempt: int  #: attempts since the last stable time
    delay_s: float  #: seconds until the next attempt


@dataclass(frozen=True, slots=True)
class Malformed:
    """On `$malformed.<endpoint>`: a message that could not be decoded, as it came."""

    endpoint: str  #: its name
    index: int  #: the message's number at this endpoint
    session: int  #: over which connect it came
    raw: str | bytes  #: the payload
    error: BaseException  #: why it could not be decoded


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """On `$dead.<subscription>`: a message whose processing failed for good, after `attempts` calls."""

    message: Message[Any]  #: what was to be processed
    error: BaseException  #: what the last call raised
    attempts: int  #: how many calls there were


@dataclass(frozen=True, slots=True)
class Slow:
    """On `$slow.<subscription>`: its mailbox became full; once for each episode, which ends when it is at half."""

    subscription: str  #: its name
    pending: int  #: messages waiting and in hand
    pending_bytes: int  #: their payloads, in bytes
    overflow: str  #: its policy


@dataclass(frozen=True, slots=True)
class Gap:
    """On `$gap.<endpoint>`, before any message of the new session: what came in between is not known."""

    endpoint: str  #: its name
    previous_session: int  #: the connect that was lost
    session: int  #: the new one
    last_index: int  #: the number of the last message before
    down_s: float  #: seconds without a connection
