"""The keyword arguments of `Fleet.connect`, `pool` and `process`, for type checkers."""

from __future__ import annotations

import ssl as ssl_module
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Literal, TypedDict

from wsfleet.core.attempt import HeadersFunction
from wsfleet.core.message import Message
from wsfleet.core.options import Buffer, Liveness, Reconnect, Retry

__all__ = ["CallOptions", "ConnectOptions", "EndpointOptions", "ProcessorOptions"]


class EndpointOptions(TypedDict, total=False):
    """The fields of `Endpoint`, as keyword arguments of `Fleet.connect` and `Fleet.pool`, which declare `decode`."""

    name: str | None
    headers: Mapping[str, str] | HeadersFunction | None
    cookies: bool
    subprotocols: Sequence[str]
    subprotocol_required: bool
    compression: Literal["deflate"] | None
    ssl: ssl_module.SSLContext | None
    proxy: str | Literal[False] | None
    open_s: float
    close_s: float
    max_size: int
    max_fragments: int | None
    on_open: Callable[[Any], Awaitable[Any]] | None
    topic: str | Callable[[Any], str] | None
    keep_last: int
    sends_per_s: float | None
    reconnect: Reconnect
    liveness: Liveness
    required: bool


class CallOptions(TypedDict, total=False):
    """The keyword arguments of `Fleet.process`, except `batch`, which changes the type of the function."""

    buffer: Buffer  #: bounds of the mailbox, and the policy for a full one
    concurrency: int  #: number of concurrent calls; with 1, messages are processed in order
    #: function of the message; keeps the order of messages with the same key if concurrency is more than 1
    key: Callable[[Message[Any]], Any] | None
    retry: Retry | None  #: how failed calls are repeated; None: not at all
    timeout_s: float | None  #: deadline for one call; None: no limit
    offload: Literal["process"] | None  #: "process": run calls in processes; None: run plain functions in threads


class ProcessorOptions(CallOptions, total=False):
    """The keyword arguments of `Fleet.process`."""

    batch: int | None  #: maximum length of the list of messages for one call; None: one message, without a list


class ConnectOptions(EndpointOptions, CallOptions, total=False):
    """The keyword arguments of `Fleet.connect` and `Fleet.pool`, except `decode` and `batch`."""
