"""The options of endpoints, subscriptions and processors: plain data, checked on creation.

Each class raises one `ConfigError` for invalid values. It names the fields and the faults; its `faults` list all of
them, for the configuration file. Durations are in seconds, sizes in bytes.
"""

from __future__ import annotations

import enum
import inspect
import ssl as ssl_module
import types
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeAlias

from wsfleet.core import retry
from wsfleet.core.attempt import HeadersFunction, UriFunction, check_attempt_function
from wsfleet.core.checks import (
    Checked,
    check_arguments,
    check_count,
    check_headers,
    check_name,
    check_proxy,
    check_rate,
    check_seconds,
    check_subprotocols,
    check_uri,
    is_number,
    returns_nothing,
)
from wsfleet.core.errors import ConfigError
from wsfleet.core.message import Message, T_co
from wsfleet.core.redact import redact_headers, redact_text, redact_uri
from wsfleet.core.topics import compile_topic

__all__ = [
    "Buffer",
    "Decode",
    "Endpoint",
    "Limits",
    "Liveness",
    "Overflow",
    "Reconnect",
    "Retry",
    "check_headers",
    "check_name",
    "check_uri",
]


class Overflow(enum.StrEnum):
    """The policy of a full mailbox for the next message.

    PAUSE stops reading from the endpoints. DROP_OLDEST and DROP_NEWEST drop a message. LATEST keeps the newest message
    of each key or topic. FAIL ends the subscription with `Overflowed`.
    """

    PAUSE = "pause"
    DROP_OLDEST = "drop_oldest"
    DROP_NEWEST = "drop_newest"
    LATEST = "latest"
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class Reconnect(Checked):
    """How an endpoint reconnects after a failed attempt or a lost connection.

    The delay before each attempt is random, up to a bound that grows by `factor` from `initial_s` to `max_s`. With
    `jitter=1.0` it is drawn from the whole range (full jitter); with 0 it equals the bound. The bound is reset only
    after the connection was open for `stable_s` and the peer sent a frame, so the delays also grow for a server that
    accepts connections and closes them at once. A delay ends early when the host had failed and works again. More than
    `max_restarts` restarts within `window_s` seconds, a close code in `fatal_codes`, or an error for which
    `fatal(error)` returns true make the endpoint FAILED. For an error that the function does not decide, it returns
    None, and the default rule `wsfleet.is_fatal` applies.
    """

    initial_s: float = 0.5  #: upper bound of the first delay
    max_s: float = 60.0  #: largest bound of a delay
    factor: float = 2.0  #: growth factor of the bound after each failure
    jitter: float = 1.0  #: random part of a delay, from 0 (none) to 1 (all)
    stable_s: float = 30.0  #: time that a connection must be open, with a frame from the peer, to reset the bound
    max_restarts: int | None = None  #: restarts within window_s before the endpoint becomes FAILED; None: no limit
    window_s: float = 60.0  #: period in which restarts are counted
    #: function of the error; true makes the endpoint FAILED, false does not, None leaves it to the default rule
    fatal: Callable[[Exception], bool | None] = retry.is_fatal
    fatal_codes: Sequence[int] = field(default=(), kw_only=True)  #: close codes that make the endpoint FAILED

    def _faults(self) -> Iterator[tuple[str, str | None]]:
        yield "initial_s", check_seconds(self.initial_s, zero=True)
        yield "max_s", check_seconds(self.max_s, zero=True)
        good = is_number(self.factor) and self.factor >= 1
        yield "factor", None if good else f"must be a number from 1, not {self.factor!r}"
        good = is_number(self.jitter) and 0 <= self.jitter <= 1
        yield "jitter", None if good else f"must be a number from 0 to 1, not {self.jitter!r}"
        yield "stable_s", check_seconds(self.stable_s, zero=True)
        yield "max_restarts", check_count(self.max_restarts, 0, none=True)
        yield "window_s", check_seconds(self.window_s)
        if self.fatal is not retry.is_fatal:
            yield "fatal", self._fatal_fault()
        codes = self.fatal_codes
        good = codes == () or (isinstance(codes, Sequence) and not isinstance(codes, str | bytes))
        good = good and all(check_count(code, 1000, most=4999) is None for code in codes)
        yield "fatal_codes", None if good else f"must be a sequence of close codes from 1000 to 4999, not {codes!r}"

    def _fatal_fault(self) -> str | None:
        if not callable(self.fatal):
            return "must be a function of the error"
        if inspect.iscoroutinefunction(self.fatal):
            return "must be a plain function: the coroutine of an async function is always true"
        return check_arguments(self.fatal)


@dataclass(frozen=True, slots=True)
class Liveness(Checked):
    """Checks that the peer responds and sends data, and a heartbeat of the application protocol.

    A ping is sent every `ping_s`. If no frame arrives within `pong_s` after it, the endpoint reconnects (RFC 6455,
    section 5.5.2). If no data message arrives for `stale_s`, it reconnects as well. `heartbeat`, a payload or a
    function that returns one, is sent every `heartbeat_s`. Both deadlines are suspended while reading is paused.
    """

    ping_s: float | None = 20.0  #: interval between pings; None: no pings
    pong_s: float | None = 20.0  #: time without a frame after a ping before a reconnect; None: no limit
    stale_s: float | None = None  #: time without a data message before a reconnect; None: no limit
    #: payload that the application protocol requires at intervals, or a function that returns it
    heartbeat: str | bytes | Callable[[], str | bytes] | None = field(default=None, repr=False)  # may be a credential
    heartbeat_s: float | None = None  #: interval between heartbeats

    def _faults(self) -> Iterator[tuple[str, str | None]]:
        for name in ("ping_s", "pong_s", "stale_s", "heartbeat_s"):
            yield name, check_seconds(getattr(self, name), none=True)
        if not (self.heartbeat is None or isinstance(self.heartbeat, str | bytes) or callable(self.heartbeat)):
            yield "heartbeat", "must be str, bytes, or a function that returns one"
        elif inspect.iscoroutinefunction(self.heartbeat):
            yield "heartbeat", "must be a plain function: its result is not awaited"
        if (self.heartbeat is None) != (self.heartbeat_s is None):
            yield "heartbeat", "and heartbeat_s must be set together"


# Shared by all endpoints, because making and checking them takes long with ten thousand.
_RECONNECT, _LIVENESS = Reconnect(), Liveness()


@dataclass(frozen=True, slots=True)
class Buffer(Checked):
    """The bounds of a subscription's mailbox, in messages and in bytes, and the policy for a full mailbox."""

    messages: int = 1000  #: maximum number of pending messages, which wait or are being processed
    bytes: int = 16 * 2**20  #: maximum size of the pending payloads
    overflow: Overflow = Overflow.PAUSE  #: policy for a full mailbox
    #: LATEST only: function of the message; the newest message of each key is kept (None: of each topic)
    key: Callable[[Message[Any]], Any] | None = None

    def _faults(self) -> Iterator[tuple[str, str | None]]:
        yield "messages", check_count(self.messages)
        yield "bytes", check_count(self.bytes)
        if not isinstance(self.overflow, Overflow):
            known = isinstance(self.overflow, str) and self.overflow in list(Overflow)
            hint = f"; use Overflow.{Overflow(self.overflow).name}" if known else ""
            yield "overflow", f"must be a member of Overflow, not {self.overflow!r}{hint}"
        elif self.key is not None and self.overflow is not Overflow.LATEST:
            yield "key", "requires Overflow.LATEST"
        if self.key is not None:
            yield "key", check_arguments(self.key) if callable(self.key) else "must be a function of the message"


@dataclass(frozen=True, slots=True)
class Retry(Checked):
    """How often a failing call is repeated: at most `attempts` calls, with random delays between them."""

    attempts: int = 3  #: maximum number of calls, including the first
    initial_s: float = 0.1  #: upper bound of the delay before the second call; doubles for each further call
    max_s: float = 5.0  #: largest bound of a delay

    def _faults(self) -> Iterator[tuple[str, str | None]]:
        yield "attempts", check_count(self.attempts)
        yield "initial_s", check_seconds(self.initial_s, zero=True)
        yield "max_s", check_seconds(self.max_s, zero=True)


@dataclass(frozen=True, slots=True)
class Limits(Checked):
    """Limits per host: concurrent handshakes, and new connections per second.

    `hosts` maps host names to different limits. These cannot have `hosts` themselves.
    """

    handshakes: int = 64  #: concurrent handshakes per host
    connects_per_s: float | None = None  #: new connections per second and host; None: no limit
    hosts: Mapping[str, Limits] = field(default_factory=dict)  #: different limits for single hosts, by name

    def _faults(self) -> Iterator[tuple[str, str | None]]:
        yield "handshakes", check_count(self.handshakes)
        yield "connects_per_s", check_rate(self.connects_per_s)
        if not isinstance(self.hosts, Mapping):
            yield "hosts", "must map host names to Limits"
            return
        for host, limits in self.hosts.items():
            if not isinstance(host, str) or not isinstance(limits, Limits):
                # Not quoted: it may be a whole URI with a password.
                yield "hosts", f"must map host names to Limits, not {type(host).__name__} to {type(limits).__name__}"
            elif limits.hosts:
                yield "hosts", "must map to Limits without hosts"


def _unsafe_topic(topic: str) -> str | None:
    try:
        compile_topic(topic)
    except ConfigError as exc:
        return str(exc)
    return None


if TYPE_CHECKING:
    from typing_extensions import TypeForm

    Decode: TypeAlias = TypeForm[T_co] | Callable[[Any], T_co] | str | types.UnionType
else:
    Decode = type[T_co] | Callable[[Any], T_co] | str | types.UnionType


@dataclass(frozen=True, slots=True, eq=False)
class Endpoint(Checked, Generic[T_co]):
    """A server, and how the fleet stays connected to it.

    `uri` and `headers` may be async functions, which are called for each attempt, for example to get a new token. They
    take no argument, or the `Attempt`, which has the last message that was received, to let the server resume.
    `open_s` is the deadline for a whole attempt, including `on_open`; `close_s` for the closing handshake. `max_size`
    limits the size of a message after decompression, and `max_fragments` its number of frames (None: 4,096, plus one
    for each 64 bytes of `max_size`). `on_open(session)` is called on each connect, before the endpoint is OPEN, to log
    in and subscribe. `decode` is "text", "bytes", "json", a type for msgspec, or a function of the payload. The failure
    of a `required` endpoint ends the fleet.

    `topic` is a format string with fields of the decoded data, such as "trades.{symbol}" ("{3}": an index, "{a.b}":
    nested), or a function of the data. In inserted values, `.`, `*`, `>`, white space and control characters are
    replaced by `_`; an empty value becomes `_`. If a field is missing, null, a list or an object, the topic is the name
    of the endpoint. A message that cannot be decoded is counted as malformed and published on `$malformed.<name>`; the
    first one of each kind is logged.
    """

    #: ws:// or wss:// URI, or an async function that returns it, called for each attempt
    uri: str | UriFunction = field(repr=False)
    name: str | None = None  #: one token; None: the host name, made unique; required if uri is a function
    #: additional headers of the handshake, or an async function that returns them, called for each attempt
    headers: Mapping[str, str] | HeadersFunction | None = field(default=None, repr=False)
    #: store the cookies that the server sets, and send them back with later attempts
    cookies: bool = field(default=False, kw_only=True)
    subprotocols: Sequence[str] = field(default=(), repr=False)  #: offered to the server, in order of preference
    #: refuse a server that chooses none of the subprotocols
    subprotocol_required: bool = field(default=True, kw_only=True)
    compression: Literal["deflate"] | None = None  #: "deflate": offer permessage-deflate; None: no compression
    ssl: ssl_module.SSLContext | None = None  #: TLS context; None: verify with the authorities of the system
    #: URL of a proxy; None: as set in the environment; False: no proxy
    proxy: str | Literal[False] | None = field(default=None, repr=False)
    open_s: float = 15.0  #: deadline for an attempt: uri, DNS, TCP, proxy, TLS, HTTP and on_open together
    close_s: float = 2.0  #: deadline for the closing handshake
    max_size: int = 2**20  #: maximum size of a message, after decompression
    #: maximum number of frames of a message; None: 4,096, plus one for each 64 bytes of max_size
    max_fragments: int | None = field(default=None, kw_only=True)
    #: async function of the session, called on each connect before OPEN, to log in and subscribe
    on_open: Callable[[Any], Awaitable[Any]] | None = None
    decode: Decode[T_co] = "text"  #: "text", "bytes", "json", a type for msgspec, or a function of the payload
    #: format string with fields of the data ("trades.{symbol}"), or a function of the data; None: the name
    topic: str | Callable[[Any], str] | None = None
    keep_last: int = 0  #: number of topics whose last message is kept, for replay="last"
    sends_per_s: float | None = None  #: maximum rate of sent messages; send() waits; None: no limit
    reconnect: Reconnect = _RECONNECT  #: delays and limits of reconnects
    liveness: Liveness = _LIVENESS  #: pings, heartbeat, and deadlines for received data
    required: bool = False  #: the failure of this endpoint ends the fleet

    if not TYPE_CHECKING:
        # `Endpoint[T](...)` of `Generic` sets an attribute, which fails for frozen dataclasses with slots (bpo-46414).
        __class_getitem__ = classmethod(types.GenericAlias)

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
        kinds = {"reconnect": Reconnect, "liveness": Liveness, "required": bool, "cookies": bool}
        for name, kind in {**kinds, "subprotocol_required": bool}.items():
            if not isinstance(getattr(self, name), kind):
                yield name, f"must be {kind.__name__}, not {type(getattr(self, name)).__name__}"

    def _on_open_fault(self) -> str | None:
        if self.on_open is None:
            return None
        if not callable(self.on_open):
            return "must be an async function"
        # A plain function, such as a lambda, may return an awaitable.
        if returns_nothing(self.on_open):
            return "must be an async function: declare it with async def"
        if inspect.isasyncgenfunction(self.on_open):
            return "must be an async function without yield"
        return check_arguments(self.on_open)

    def _uri_fault(self) -> str | None:
        if isinstance(self.uri, str):
            return check_uri(self.uri)
        if not callable(self.uri):
            return "must be a str or an async function"
        return check_attempt_function(self.uri) if self.name is not None else "is a function, which requires a name"

    def _handshake_faults(self) -> Iterator[tuple[str, str | None]]:
        if isinstance(self.headers, Mapping):
            for text in check_headers(self.headers):
                yield "headers", text
        elif self.headers is not None and not callable(self.headers):
            yield "headers", "must be a mapping or an async function"
        elif self.headers is not None:
            yield "headers", check_attempt_function(self.headers)
        if self.subprotocols != ():
            yield "subprotocols", check_subprotocols(self.subprotocols)
        good = self.compression in (None, "deflate")
        yield "compression", None if good else f"must be None or 'deflate', not {self.compression!r}"
        if self.ssl is not None:
            if not isinstance(self.ssl, ssl_module.SSLContext):
                yield "ssl", "must be an ssl.SSLContext"
            elif isinstance(self.uri, str) and self.uri.lower().startswith("ws://"):
                yield "ssl", "requires a uri that begins with wss://"
        if self.proxy is not None and self.proxy is not False:
            yield "proxy", self._proxy_fault()

    def _proxy_fault(self) -> str | None:
        if not isinstance(self.proxy, str):
            return "must be a URL, False for no proxy, or None for the proxy of the environment"
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
                yield "topic", f"has fields of the decoded data, but decode={self.decode!r} does not produce fields"
        elif self.topic is not None:
            fault = "must be a format string or a function of the data"
            yield "topic", check_arguments(self.topic) if callable(self.topic) else fault
        yield "keep_last", check_count(self.keep_last, 0)
