"""What a user declares: plain data, checked when it is made.

Every class refuses values that cannot work with one `ConfigError` that names the field and the fault; its `faults`
hold all of them, for the configuration file. Durations are seconds, sizes are bytes.
"""

from __future__ import annotations

import enum
import inspect
import ssl as ssl_module
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields
from typing import Any, Literal, TypedDict

from wsfleet.core import retry
from wsfleet.core.checks import (
    HEADER_NAME,
    Checked,
    check_arguments,
    check_count,
    check_headers,
    check_name,
    check_proxy,
    check_rate,
    check_seconds,
    check_uri,
    is_number,
)
from wsfleet.core.errors import ConfigError
from wsfleet.core.message import Message
from wsfleet.core.redact import redact_headers, redact_text, redact_uri
from wsfleet.core.topics import compile_topic

__all__ = [
    "Buffer",
    "Endpoint",
    "EndpointOptions",
    "Limits",
    "Liveness",
    "Overflow",
    "ProcessorOptions",
    "Reconnect",
    "Retry",
    "check_headers",
    "check_name",
    "check_uri",
]


class Overflow(enum.StrEnum):
    """What a full mailbox does with the next message."""

    PAUSE = "pause"
    DROP_OLDEST = "drop_oldest"
    DROP_NEWEST = "drop_newest"
    LATEST = "latest"
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class Reconnect(Checked):
    """How a lost connection comes back.

    The n-th wait is drawn below a bound that grows by `factor` from `initial_s` to `max_s`; `jitter=1.0` draws from
    the whole range (full jitter), 0 always waits the bound. The bound starts afresh only after the connection was
    open for `stable_s` and the peer sent any frame, so that accepting and closing at once meets a growing wait.
    More than `max_restarts` restarts in `window_s` seconds, or an error for which `fatal(error)` is true, make the
    endpoint FAILED.
    """

    initial_s: float = 0.5  #: the bound of the first wait
    max_s: float = 60.0  #: the bound that waits grow to
    factor: float = 2.0  #: by how much the bound grows with each failure
    jitter: float = 1.0  #: the part of a wait that is drawn at random: 1 all of it, 0 none
    stable_s: float = 30.0  #: so long open with any frame from the peer, and the waits start afresh
    max_restarts: int | None = None  #: more restarts than that within window_s: FAILED; None: no limit
    window_s: float = 60.0  #: the time in which restarts are counted
    fatal: Callable[[Exception], bool] = retry.is_fatal  #: a function of the error: true makes the endpoint FAILED

    def _faults(self) -> Iterator[tuple[str, str | None]]:
        yield "initial_s", check_seconds(self.initial_s, zero=True)
        yield "max_s", check_seconds(self.max_s, zero=True)
        yield "factor", None if is_number(self.factor) and self.factor >= 1 else f"must be from 1, not {self.factor!r}"
        good = is_number(self.jitter) and 0 <= self.jitter <= 1
        yield "jitter", None if good else f"must be from 0 to 1, not {self.jitter!r}"
        yield "stable_s", check_seconds(self.stable_s, zero=True)
        yield "max_restarts", check_count(self.max_restarts, 0, none=True)
        yield "window_s", check_seconds(self.window_s)
        if self.fatal is not retry.is_fatal:
            yield "fatal", self._fatal_fault()

    def _fatal_fault(self) -> str | None:
        if not callable(self.fatal):
            return "must be a function of the error"
        if inspect.iscoroutinefunction(self.fatal):
            return "must be a plain function: what an async one returns is always true"
        return check_arguments(self.fatal)


@dataclass(frozen=True, slots=True)
class Liveness(Checked):
    """Whether the peer is there, whether data is coming, and what the application must send to be kept.

    A ping every `ping_s` (None: none); no frame at all for `pong_s` after it: reconnect (RFC 6455, section 5.5.2).
    No data message for `stale_s`: reconnect. `heartbeat` (a payload, or a function that returns one) is sent every
    `heartbeat_s`. While reading is paused, both deadlines stand still.
    """

    ping_s: float | None = 20.0  #: the time between pings; None: none are sent
    pong_s: float | None = 20.0  #: no frame for so long after a ping: reconnect; None: never
    stale_s: float | None = None  #: no data message for so long: reconnect; None: never
    #: what the application must send to be kept
    heartbeat: str | bytes | Callable[[], str | bytes] | None = field(default=None, repr=False)  # it may be a login
    heartbeat_s: float | None = None  #: how often the heartbeat is sent

    def _faults(self) -> Iterator[tuple[str, str | None]]:
        for name in ("ping_s", "pong_s", "stale_s", "heartbeat_s"):
            yield name, check_seconds(getattr(self, name), none=True)
        if not (self.heartbeat is None or isinstance(self.heartbeat, str | bytes) or callable(self.heartbeat)):
            yield "heartbeat", "must be str, bytes, or a function that returns one"
        elif inspect.iscoroutinefunction(self.heartbeat):
            yield "heartbeat", "must be a plain function: nobody awaits what it returns"
        if (self.heartbeat is None) != (self.heartbeat_s is None):
            yield "heartbeat", "and heartbeat_s go together"


@dataclass(frozen=True, slots=True)
class Buffer(Checked):
    """The bounds of a subscription's mailbox, in messages and in bytes, and what happens past them."""

    messages: int = 1000  #: how many messages may be pending: waiting or in hand
    bytes: int = 16 * 2**20  #: how many bytes of payload may be pending
    overflow: Overflow = Overflow.PAUSE  #: what happens past a bound
    #: LATEST only: a function of the message; the newest of each key stays (None: of each topic)
    key: Callable[[Message[Any]], Any] | None = None

    def _faults(self) -> Iterator[tuple[str, str | None]]:
        yield "messages", check_count(self.messages)
        yield "bytes", check_count(self.bytes)
        if not isinstance(self.overflow, Overflow):
            known = isinstance(self.overflow, str) and self.overflow in list(Overflow)
            meant = f"; write Overflow.{Overflow(self.overflow).name}" if known else ""
            yield "overflow", f"must be one of Overflow, not {self.overflow!r}{meant}"
        elif self.key is not None and self.overflow is not Overflow.LATEST:
            yield "key", "goes with Overflow.LATEST alone"
        if self.key is not None:
            yield "key", check_arguments(self.key) if callable(self.key) else "must be a function of the message"


@dataclass(frozen=True, slots=True)
class Retry(Checked):
    """How often a failing call is repeated: `attempts` calls in all, waiting with jitter between them."""

    attempts: int = 3  #: calls in all, the first one included
    initial_s: float = 0.1  #: the bound of the wait before the second call; it doubles with each further one
    max_s: float = 5.0  #: the bound that waits grow to

    def _faults(self) -> Iterator[tuple[str, str | None]]:
        yield "attempts", check_count(self.attempts)
        yield "initial_s", check_seconds(self.initial_s, zero=True)
        yield "max_s", check_seconds(self.max_s, zero=True)


@dataclass(frozen=True, slots=True)
class Limits(Checked):
    """What one host is asked for at a time: handshakes in flight, and new connections per second.

    `hosts` holds other limits for single hosts, one level deep.
    """

    handshakes: int = 64  #: handshakes under way at a time, per host
    connects_per_s: float | None = None  #: new connections per second, per host; None: no limit
    hosts: Mapping[str, Limits] = field(default_factory=dict)  #: other limits for single hosts, by name

    def _faults(self) -> Iterator[tuple[str, str | None]]:
        yield "handshakes", check_count(self.handshakes)
        yield "connects_per_s", check_rate(self.connects_per_s)
        if not isinstance(self.hosts, Mapping):
            yield "hosts", "must map host names to Limits"
            return
        for host, limits in self.hosts.items():
            if not isinstance(host, str) or not isinstance(limits, Limits):
                # Not quoted: it may be a whole URI, with the password.
                yield "hosts", f"must map host names to Limits, not {type(host).__name__} to {type(limits).__name__}"
            elif limits.hosts:
                yield "hosts", "has limits of a host with hosts of their own"


def _unsafe_topic(topic: str) -> str | None:
    try:
        compile_topic(topic)
    except ConfigError as exc:
        return str(exc)
    return None


@dataclass(frozen=True, slots=True, eq=False)
class Endpoint(Checked):
    """One server to stay connected to, and how.

    `uri` and `headers` may be async functions, called afresh for every attempt: a token that expires belongs there.
    `open_s` is one deadline for the whole of an attempt, `on_open` included; `close_s` for the closing handshake.
    `max_size` bounds one message after decompression, and `max_fragments` the frames that it may come in (None:
    4,096, and one for every 64 bytes of `max_size`). `on_open(session)` logs in and subscribes, on every connect,
    before the endpoint is OPEN. `decode` is "text", "bytes", "json", a type for msgspec, or a function of the payload.
    A `required` endpoint that fails for good ends the fleet.

    `topic` is a format string over the decoded data, such as "trades.{symbol}" ("{3}": an index, "{a.b}": nested), or
    a function of it. In what is inserted, `.`, `*`, `>`, white space and control characters become `_`, and an empty
    value is `_`; where a field is missing, null, a list or an object, the endpoint's name is the topic. What cannot be
    decoded is malformed: counted, and told on `$malformed.<name>`. The first of each kind is logged.
    """

    #: ws:// or wss://; or an async function that returns it, called for every attempt
    uri: str | Callable[[], Awaitable[str]] = field(repr=False)
    name: str | None = None  #: one token; None: the host's name, made unique; must be given where uri is a function
    #: more headers of the handshake; or an async function that returns them, called for every attempt
    headers: Mapping[str, str] | Callable[[], Awaitable[Mapping[str, str]]] | None = field(default=None, repr=False)
    subprotocols: Sequence[str] = field(default=(), repr=False)  #: offered to the server, the preferred one first
    compression: Literal["deflate"] | None = None  #: "deflate": offer permessage-deflate; None: no compression
    ssl: ssl_module.SSLContext | None = None  #: the TLS context; None: the system's authorities, everything verified
    #: a proxy's URL; None: as the environment says; False: none
    proxy: str | Literal[False] | None = field(default=None, repr=False)
    open_s: float = 15.0  #: one deadline for an attempt: uri, DNS, TCP, proxy, TLS, HTTP and on_open together
    close_s: float = 2.0  #: how long the closing handshake may take
    max_size: int = 2**20  #: the largest message, after decompression
    #: the most frames of one message; None: 4,096, and one for every 64 bytes of max_size
    max_fragments: int | None = field(default=None, kw_only=True)
    #: an async function of the session: logs in and subscribes, on every connect, before OPEN
    on_open: Callable[[Any], Awaitable[Any]] | None = None
    decode: Any = "text"  #: "text", "bytes", "json", a type for msgspec, or a function of the payload
    #: a format string over the data ("trades.{symbol}"), or a function of it; None: the name
    topic: str | Callable[[Any], str] | None = None
    keep_last: int = 0  #: of how many topics the last message is kept, for replay="last"
    sends_per_s: float | None = None  #: messages per second that the server takes from us; send() waits; None: no limit
    reconnect: Reconnect = field(default_factory=Reconnect)  #: how a lost connection comes back
    liveness: Liveness = field(default_factory=Liveness)  #: whether the peer is there, and data is coming
    required: bool = False  #: its failing for good ends the fleet

    def __repr__(self) -> str:
        uri = redact_uri(self.uri) if isinstance(self.uri, str) else f"<{getattr(self.uri, '__name__', 'function')}>"
        shown = [repr(uri)]
        if isinstance(self.headers, Mapping):
            shown.append(f"headers={redact_headers(self.headers.items())!r}")
        if self.subprotocols:
            shown.append(f"subprotocols={tuple(redact_headers((name, name) for name in self.subprotocols).values())!r}")
        if self.proxy is not None:
            shown.append(f"proxy={redact_uri(self.proxy)!r}" if self.proxy else "proxy=False")
        for each in fields(self):
            default = each.default_factory() if each.default_factory is not MISSING else each.default
            if each.repr and getattr(self, each.name) not in (None, default):
                shown.append(f"{each.name}={redact_text(repr(getattr(self, each.name)))}")
        return f"Endpoint({', '.join(shown)})"

    def _faults(self) -> Iterator[tuple[str, str | None]]:
        yield "uri", self._uri_fault()
        if self.name is not None:
            yield "name", check_name(self.name)
        yield from self._handshake_faults()
        for name in ("open_s", "close_s"):
            yield name, check_seconds(getattr(self, name))
        yield "max_size", check_count(self.max_size)
        yield "max_fragments", check_count(self.max_fragments, none=True)
        yield "on_open", self._on_open_fault()
        yield from self._data_faults()
        yield "sends_per_s", check_rate(self.sends_per_s)
        for name, kind in (("reconnect", Reconnect), ("liveness", Liveness), ("required", bool)):
            if not isinstance(getattr(self, name), kind):
                yield name, f"must be {kind.__name__}, not {type(getattr(self, name)).__name__}"

    def _on_open_fault(self) -> str | None:
        if self.on_open is None:
            return None
        if not callable(self.on_open):
            return "must be an async function"
        # A plain function may return an awaitable, and mostly a lambda does. One that says it returns None does not.
        says_none = getattr(self.on_open, "__annotations__", {}).get("return", ...) in (None, "None")
        if says_none and not inspect.iscoroutinefunction(self.on_open):
            return "must be an async function: declare it with async def"
        if inspect.isasyncgenfunction(self.on_open):
            return "yields: write an async function without yield"
        return check_arguments(self.on_open)

    def _uri_fault(self) -> str | None:
        if isinstance(self.uri, str):
            return check_uri(self.uri)
        if not callable(self.uri):
            return "must be a str or an async function"
        return None if self.name is not None else "is a function, so a name must be given"

    def _handshake_faults(self) -> Iterator[tuple[str, str | None]]:
        if isinstance(self.headers, Mapping):
            for text in check_headers(self.headers):
                yield "headers", text
        elif self.headers is not None and not callable(self.headers):
            yield "headers", "must be a mapping or an async function"
        names = self.subprotocols
        tokens = isinstance(names, Sequence) and not isinstance(names, str)
        tokens = tokens and all(isinstance(name, str) and HEADER_NAME.fullmatch(name) for name in names)
        good = tokens and len(set(names)) == len(names)
        yield "subprotocols", None if good else "must be a sequence of different names (RFC 6455, section 4.1)"
        good = self.compression in (None, "deflate")
        yield "compression", None if good else f"must be None or 'deflate', not {self.compression!r}"
        if self.ssl is not None:
            if not isinstance(self.ssl, ssl_module.SSLContext):
                yield "ssl", "must be an ssl.SSLContext"
            elif isinstance(self.uri, str) and self.uri.lower().startswith("ws://"):
                yield "ssl", "is given, but the uri begins with ws://"
        if self.proxy is not None and self.proxy is not False:
            yield "proxy", self._proxy_fault()

    def _proxy_fault(self) -> str | None:
        if not isinstance(self.proxy, str):
            return "must be a URL, False for none, or None for the environment's"
        return check_proxy(self.proxy)

    def _data_faults(self) -> Iterator[tuple[str, str | None]]:
        named = self.decode in ("text", "bytes", "json") if isinstance(self.decode, str) else False
        if isinstance(self.decode, str) and not named:
            yield "decode", f"must be 'text', 'bytes', 'json', a type or a function, not {self.decode!r}"
        elif self.decode is None or inspect.iscoroutinefunction(self.decode):
            yield "decode", "must be 'text', 'bytes', 'json', a type or a plain function"
        elif inspect.isroutine(self.decode):  # a type is not called
            yield "decode", check_arguments(self.decode)
        if isinstance(self.topic, str):
            yield "topic", _unsafe_topic(self.topic)
            if "{" in self.topic and self.decode in ("text", "bytes"):
                yield "topic", f"is a format over the decoded data, which decode={self.decode!r} does not give"
        elif self.topic is not None:
            must = "must be a format string or a function of the data"
            yield "topic", check_arguments(self.topic) if callable(self.topic) else must
        yield "keep_last", check_count(self.keep_last, 0)


class EndpointOptions(TypedDict, total=False):
    """The fields of `Endpoint`, as keywords of `Fleet.connect` and `Fleet.pool`."""

    name: str | None
    headers: Mapping[str, str] | Callable[[], Awaitable[Mapping[str, str]]] | None
    subprotocols: Sequence[str]
    compression: Literal["deflate"] | None
    ssl: ssl_module.SSLContext | None
    proxy: str | Literal[False] | None
    open_s: float
    close_s: float
    max_size: int
    max_fragments: int | None
    on_open: Callable[[Any], Awaitable[Any]] | None
    decode: Any
    topic: str | Callable[[Any], str] | None
    keep_last: int
    sends_per_s: float | None
    reconnect: Reconnect
    liveness: Liveness
    required: bool


class ProcessorOptions(TypedDict, total=False):
    """The keywords of `Fleet.process`."""

    buffer: Buffer  #: the mailbox: its bounds, and what happens past them
    concurrency: int  #: calls at a time; messages are in order where it is 1
    #: a function of the message: keeps the order for each key where concurrency is more than 1
    key: Callable[[Message[Any]], Any] | None
    batch: int | None  #: the function gets a list of up to so many messages; None: one message
    retry: Retry | None  #: repeats a call that failed; None: no
    timeout_s: float | None  #: how long one call may take; None: as long as it likes
    offload: Literal["process"] | None  #: "process": calls are made in processes; None: a plain function's in threads


class ConnectOptions(EndpointOptions, ProcessorOptions, total=False):
    """Everything that `Fleet.connect` takes as a keyword: the endpoint's fields and the processor's."""
