"""The methods of `Fleet` that declare its parts, with their types."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal, Unpack, overload

from wsfleet.core.keywords import CallOptions, ConnectOptions
from wsfleet.core.message import Message
from wsfleet.core.options import Buffer, Endpoint, Retry
from wsfleet.endpoint.connection import Connection
from wsfleet.endpoint.pool import Identify, Pool
from wsfleet.endpoint.requests import Match
from wsfleet.fleet.checks import check_process, check_process_pattern
from wsfleet.fleet.declare import Declarer
from wsfleet.fleet.lifecycle import Lifecycle
from wsfleet.pipeline.handler import BatchHandler, Function, Handler, Plan, Sink
from wsfleet.pipeline.subscription import Subscription

if TYPE_CHECKING:
    from typing_extensions import TypeForm, TypeVar

    T = TypeVar("T", default=Any)  # the type of the data
    F = TypeVar("F", bound=Handler[Any])
    B = TypeVar("B", bound=BatchHandler[Any])

__all__ = ["Declarations"]

_BUFFER = Buffer()


class Declarations:
    """The base class of `Fleet`: `connect`, `pool`, `process`, `sink` and `subscribe`.

    The overloads of `connect` and `pool` connect `decode` with the type of the messages that the processor takes, and
    `batch` with a processor that takes lists. A type needs an overload of its own, so that type checkers also know it
    if it is a union (PEP 747). A plain URI without `decode`, or with a text, leaves the type open.
    """

    _lifecycle: Lifecycle
    _declarer: Declarer

    @overload
    def connect(
        self,
        endpoint: str,
        processor: Handler[T] | None = None,
        *,
        decode: TypeForm[T],
        batch: None = None,
        **options: Unpack[ConnectOptions],
    ) -> Connection[T]: ...
    @overload
    def connect(
        self,
        endpoint: str,
        processor: BatchHandler[T],
        *,
        decode: TypeForm[T],
        batch: int,
        **options: Unpack[ConnectOptions],
    ) -> Connection[T]: ...
    @overload
    def connect(
        self,
        endpoint: Endpoint[T] | str,
        processor: Handler[T] | None = None,
        *,
        decode: Callable[[Any], T] | str = ...,
        batch: None = None,
        **options: Unpack[ConnectOptions],
    ) -> Connection[T]: ...
    @overload
    def connect(
        self,
        endpoint: Endpoint[T] | str,
        processor: BatchHandler[T],
        *,
        decode: Callable[[Any], T] | str = ...,
        batch: int,
        **options: Unpack[ConnectOptions],
    ) -> Connection[T]: ...
    def connect(self, endpoint: Endpoint | str, processor: Function | Sink | None = None, **options: Any) -> Connection:
        """Keep a connection to `endpoint`; with a processor, give it every message of the endpoint.

        Without one, loop over the connection, or subscribe to its topic. Until the first loop, or until a subscription
        takes a message of it, the connection keeps up to `buffer` messages, the newest; see `Connection.__aiter__`.

        `options` are fields of `Endpoint` if a plain URI was given, and with a processor the keywords of `process`.
        Raises ConfigError for values that cannot work, TypeError for options that do not belong, FleetError once the
        fleet has ended.
        """
        self._lifecycle.check_declaring()
        return self._declarer.connect(endpoint, processor, options)

    @overload
    def pool(
        self,
        endpoint: str,
        size: int,
        processor: Handler[T] | None = None,
        *,
        identify: Identify | None = None,
        match: Match | None = None,
        decode: TypeForm[T],
        batch: None = None,
        **options: Unpack[ConnectOptions],
    ) -> Pool[T]: ...
    @overload
    def pool(
        self,
        endpoint: str,
        size: int,
        processor: BatchHandler[T],
        *,
        identify: Identify | None = None,
        match: Match | None = None,
        decode: TypeForm[T],
        batch: int,
        **options: Unpack[ConnectOptions],
    ) -> Pool[T]: ...
    @overload
    def pool(
        self,
        endpoint: Endpoint[T] | str,
        size: int,
        processor: Handler[T] | None = None,
        *,
        identify: Identify | None = None,
        match: Match | None = None,
        decode: Callable[[Any], T] | str = ...,
        batch: None = None,
        **options: Unpack[ConnectOptions],
    ) -> Pool[T]: ...
    @overload
    def pool(
        self,
        endpoint: Endpoint[T] | str,
        size: int,
        processor: BatchHandler[T],
        *,
        identify: Identify | None = None,
        match: Match | None = None,
        decode: Callable[[Any], T] | str = ...,
        batch: int,
        **options: Unpack[ConnectOptions],
    ) -> Pool[T]: ...
    def pool(
        self,
        endpoint: Endpoint | str,
        size: int,
        processor: Function | Sink | None = None,
        *,
        identify: Identify | None = None,
        match: Match | None = None,
        **options: Any,
    ) -> Pool:
        """Keep `size` connections to one endpoint, named `name-1` and so on, to send on and to request replies from.

        The topic of a message is the pool's name by default. A processor serves all members. `identify(data)` returns
        the id of a request and the data to send; `match(data)` returns the id that a message replies to, or None. By
        default both follow JSON-RPC 2.0, and a pool given a URI decodes "json". Raises as `connect` does.
        """
        self._lifecycle.check_declaring()
        return self._declarer.pool(endpoint, size, processor, identify, match, options)

    @overload
    def process(
        self, pattern: str, *, name: str | None = None, batch: None = None, **options: Unpack[CallOptions]
    ) -> Callable[[F], F]: ...
    @overload
    def process(
        self, pattern: str, *, name: str | None = None, batch: int, **options: Unpack[CallOptions]
    ) -> Callable[[B], B]: ...
    def process(
        self,
        pattern: str,
        *,
        name: str | None = None,
        buffer: Buffer = _BUFFER,
        concurrency: int = 1,
        key: Callable[[Message[Any]], Any] | None = None,
        batch: int | None = None,
        retry: Retry | None = None,
        timeout_s: float | None = None,
        offload: Literal["process"] | None = None,
    ) -> Callable[[Any], Any]:
        """Give every message whose topic matches `pattern` to the decorated function, or to a sink.

        The function is returned unchanged; `fleet.subscriptions[name].close()` removes it. A plain function runs in
        `concurrency` daemon threads of its own. With `offload="process"` a function runs in as many processes, which
        import the program's file: the code that starts the fleet must stand behind `if __name__ == "__main__":`.

        There are `concurrency` calls at a time. Messages are handled in order if it is 1; otherwise `key(message)`
        keeps the order for each key. With `batch` the function gets a list of up to `batch` messages. `timeout_s`
        limits each attempt, in seconds, and `retry` repeats a failed one. A message that failed for good is counted,
        and published as a DeadLetter on `$dead.<name>`. Raises ConfigError as `connect` does.
        """
        self._lifecycle.check_declaring()
        options: dict[str, Any] = {
            "buffer": buffer,
            "concurrency": concurrency,
            "key": key,
            "batch": batch,
            "retry": retry,
            "timeout_s": timeout_s,
            "offload": offload,
        }
        plan = Plan(**{key: value for key, value in options.items() if key != "buffer"})
        check_process(pattern, name, plan, buffer)

        def decorate(function: Any) -> Any:
            self._lifecycle.check_declaring()
            self._declarer.process(pattern, function, name, options)
            return function

        return decorate

    def sink(
        self,
        pattern: str,
        sink: Sink | str,
        *,
        name: str | None = None,
        buffer: Buffer = _BUFFER,
        concurrency: int = 1,
        key: Callable[[Message[Any]], Any] | None = None,
        batch: int | None = None,
        retry: Retry | None = None,
        timeout_s: float | None = None,
    ) -> Subscription:
        """Write every message whose topic matches `pattern` to `sink`; return the subscription, to close it.

        `sink` is an object such as `wsfleet.sinks.open` returns, or the text that `open` takes: "jsonl:trades.jsonl".
        It is opened when the fleet starts and closed after the drain; it belongs to one subscription. The options are
        those of `process`. Raises as `process` does, and ConfigError for a text that names no sink.
        """
        self._lifecycle.check_declaring()
        check_process_pattern(pattern)
        if isinstance(sink, str):
            sink = _open_sink(sink)
        options: dict[str, Any] = {
            "buffer": buffer,
            "concurrency": concurrency,
            "key": key,
            "batch": batch,
            "retry": retry,
            "timeout_s": timeout_s,
        }
        return self._declarer.sink(pattern, sink, name, options)

    def subscribe(
        self, pattern: str, *, name: str | None = None, buffer: Buffer = _BUFFER, replay: Literal["last"] | None = None
    ) -> Subscription:
        """Return a subscription to `pattern`, to loop over. It takes messages from this call on.

        With `replay="last"` it begins with the last message of each matching topic that an endpoint has kept
        (`keep_last`). Hold a reference to it, or use `async with`: without one it is detached. Raises ConfigError as
        `connect` does.
        """
        self._lifecycle.check_declaring()
        return self._declarer.subscribe(pattern, name, buffer, replay)


def _open_sink(text: str) -> Sink:
    sink: Sink = importlib.import_module("wsfleet.sinks").open(text)
    return sink
