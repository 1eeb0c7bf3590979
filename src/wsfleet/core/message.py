"""Messages, and the records that are published on the `$` topics."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic

import msgspec

__all__ = ["DeadLetter", "Gap", "Malformed", "Message", "Slow", "State", "StateChange", "T_co"]

# The type of the data. The default lets programs write `Message` for `Message[Any]`; Python has it from 3.13 on.
if TYPE_CHECKING:
    from typing_extensions import TypeVar

    T_co = TypeVar("T_co", covariant=True, default=Any)
else:
    from typing import TypeVar

    T_co = TypeVar("T_co", covariant=True)


class Message(msgspec.Struct, Generic[T_co], frozen=True, gc=False):
    """One message. All subscriptions share the same object: do not change its `data`.

    `endpoint` is the name of the endpoint that received it, and `session` the number of its connection, from 1. `index`
    is the number of the message at this endpoint, from 1; it continues over reconnects and reloads. `received_at` is
    the wall clock time in seconds, the same for all messages of one socket read. `size` is the size of the payload in
    bytes, after decompression. Messages of `Fleet.publish` and of the `$` topics have only `data`, `topic`,
    `received_at` and `size`; the other fields have their defaults.

    The garbage collector does not track messages, because they are numerous and short-lived. Do not store a message
    in its own `data`: such a cycle is never freed.
    """

    data: T_co  #: the decoded payload
    topic: str = ""  #: tokens, joined by dots
    endpoint: str = ""  #: the name of the endpoint that received it
    index: int = 0  #: its number at this endpoint, from 1
    session: int = 0  #: the number of the endpoint's connection, from 1
    received_at: float = 0.0  #: wall clock time, in seconds
    size: int = 0  #: size of the payload in bytes, after decompression


class State(enum.StrEnum):
    """The state of an endpoint. CONNECTING is also the state before the fleet starts."""

    CONNECTING = "CONNECTING"
    OPEN = "OPEN"
    BACKOFF = "BACKOFF"
    CLOSED = "CLOSED"
    FAILED = "FAILED"


@dataclass(frozen=True, slots=True)
class StateChange:
    """Published on `$state.<endpoint>`: a change of the endpoint's state."""

    endpoint: str  #: the endpoint's name
    previous: State  #: the previous state
    state: State  #: the new state
    error: Exception | None  #: the cause; its text contains no secrets
    attempt: int  #: number of attempts since the connection was last stable
    delay_s: float  #: seconds until the next attempt


@dataclass(frozen=True, slots=True)
class Malformed:
    """Published on `$malformed.<endpoint>`: a message that could not be decoded."""

    endpoint: str  #: the endpoint's name
    index: int  #: the message's number at this endpoint
    session: int  #: the number of the endpoint's connection
    raw: str | bytes  #: the received payload
    error: BaseException  #: the exception of the decoder


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """Published on `$dead.<subscription>`: a message whose processing failed, after all retries."""

    message: Message[Any]  #: the message
    error: BaseException  #: the exception of the last call
    attempts: int  #: number of calls


@dataclass(frozen=True, slots=True)
class Slow:
    """Published on `$slow.<subscription>`: its mailbox became full. Not repeated until the mailbox is half empty."""

    subscription: str  #: the subscription's name
    pending: int  #: messages that wait or are being processed
    pending_bytes: int  #: size of their payloads in bytes
    overflow: str  #: the overflow policy


@dataclass(frozen=True, slots=True)
class Gap:
    """Published on `$gap.<endpoint>` after a reconnect, before all messages of the new session.

    Messages that the server sent after `last_message_at` may be missing. `down_s` is only the part of the gap in which
    wsfleet knew about the loss: a connection may have been silent for `ping_s` + `pong_s`, or longer, before.

    The record waits in the mailbox of its own subscription. Another function may still have older messages in its
    mailbox when this one is processed: compare their `session` with `previous_session`.
    """

    endpoint: str  #: the endpoint's name
    previous_session: int  #: number of the lost connection
    session: int  #: number of the new connection
    last_index: int  #: number of the last message before the gap
    down_s: float  #: seconds between the detection of the loss and the new connection
    last_message_at: float | None = None  #: `received_at` of the last message before the gap; None: there was none
    last_frame_at: float | None = None  #: wall clock time of the last frame of the lost connection, pongs included
    #: False after the death of a worker process: it may have received more than these fields, its last report, say
    exact: bool = True
