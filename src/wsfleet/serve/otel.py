"""OpenTelemetry: a fleet's metrics, a span for each connect attempt, and a span for each call of a processor.

Requires the extra `otel`, which installs only OpenTelemetry's API. The program configures providers, exporters and
sampling with the SDK; without an SDK, this module has no effect. Metrics are read from snapshots, connect attempts from
the `$state` topics, and a processor is traced if its function is wrapped with `traced`.

```python
from wsfleet.serve.otel import instrument, traced

fleet.connect(uri, traced(on_trade), name="trades")
instrument(fleet)
```
"""

from __future__ import annotations

import functools
import inspect
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from opentelemetry import metrics, trace
from opentelemetry.metrics import CallbackOptions, MeterProvider, Observation
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, Tracer, TracerProvider

from wsfleet.core.error_text import describe
from wsfleet.core.errors import ConnectFailed, ConnectionLost, FleetError, HandshakeRejected
from wsfleet.core.message import Message, State, StateChange
from wsfleet.core.options import Buffer, Overflow
from wsfleet.core.redact import redact_text
from wsfleet.core.stats import FleetStats
from wsfleet.serve.metrics import METRICS, Figures, Metric

if TYPE_CHECKING:
    from wsfleet.fleet.fleet import Fleet

__all__ = ["instrument", "traced"]

F = TypeVar("F", bound=Callable[..., Any])

SCOPE = "wsfleet"

FRESH_S = 0.5
"""Seconds for which a snapshot is reused: the SDK calls the instruments of one collection one after the other."""


def instrument(
    fleet: Fleet, *, meter_provider: MeterProvider | None = None, tracer_provider: TracerProvider | None = None
) -> None:
    """Export `fleet`'s counters to OpenTelemetry, and record a span for each connect attempt.

    Call it once, before the fleet starts. The default providers are the global ones. The SDK collects metrics in its
    own thread, which waits until the event loop has made a snapshot. Raises the errors of `Fleet.process`.
    """
    _Meters(fleet).create(metrics.get_meter(SCOPE, meter_provider=meter_provider))
    attempts = _Attempts(trace.get_tracer(SCOPE, tracer_provider=tracer_provider))
    # DROP_OLDEST: a backlog of spans must not pause endpoints. Dropped ones are counted by the subscription.
    fleet.process("$state.>", buffer=Buffer(messages=10_000, overflow=Overflow.DROP_OLDEST))(attempts.trace_attempts)


class _Meters:
    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._lock = threading.Lock()
        self._last: Figures | None = None
        self._at = 0.0

    def create(self, meter: metrics.Meter) -> None:
        for metric in METRICS:
            create = meter.create_observable_counter if metric.rises else meter.create_observable_gauge
            create(f"wsfleet.{metric.name}", [self._observer(metric)], metric.unit, metric.text)

    def _observer(self, metric: Metric) -> Callable[[CallbackOptions], Iterable[Observation]]:
        def observe(options: CallbackOptions) -> Iterator[Observation]:
            for label, value in metric.values(self._figures()):
                yield Observation(value, {f"wsfleet.{metric.label}": label} if metric.label else None)

        return observe

    def _figures(self) -> Figures:
        with self._lock:
            if self._last is None or time.monotonic() - self._at > FRESH_S:
                self._last = Figures(self._stats().to_dict())
                self._at = time.monotonic()
            return self._last

    def _stats(self) -> FleetStats:
        try:
            return self._fleet.stats()  # in the loop's thread, or if the fleet is not running
        except FleetError:
            pass
        try:
            stats: FleetStats = self._fleet.from_thread(self._fleet.stats)
        except FleetError:  # the fleet has just ended
            stats = self._fleet.stats()
        return stats


class _Attempts:
    """Records a span from CONNECTING to the next state change.

    The span includes the time that the attempt waited for the connect limits. If an endpoint's first attempt started
    before `instrument` was called, its span starts at the call.
    """

    def __init__(self, tracer: Tracer) -> None:
        self._tracer = tracer
        self._watched = time.time()
        self._began: dict[str, float] = {}

    async def trace_attempts(self, message: Message[StateChange]) -> None:
        change = message.data
        began = self._began.pop(change.endpoint, self._watched)
        if change.state is State.CONNECTING:
            self._began[change.endpoint] = message.received_at
        elif change.previous is State.CONNECTING and change.state is not State.CLOSED:
            attributes: dict[str, Any] = {"wsfleet.endpoint": change.endpoint, "wsfleet.attempt": change.attempt}
            span = self._tracer.start_span("connect", None, SpanKind.CLIENT, attributes, start_time=_ns(began))
            if change.state is not State.OPEN:
                _fail(span, change.error)
                span.set_attribute("wsfleet.delay_s", change.delay_s)
            span.end(_ns(message.received_at))


def traced(function: F, *, tracer_provider: TracerProvider | None = None) -> F:
    """Return a processor's `function` wrapped in a span for each call.

    The span is current during the call, so that spans created by the function are its children. A call for a batch has
    one span. The default provider is the global one; the processes of `offload="process"` have their own providers.
    An exception of the function is recorded in the span with secrets redacted, and raised.
    """
    tracer = trace.get_tracer(SCOPE, tracer_provider=tracer_provider)

    @functools.wraps(function)
    async def call(messages: Any) -> Any:
        with _span(tracer, function, messages):
            return await function(messages)

    @functools.wraps(function)
    def call_plain(messages: Any) -> Any:
        with _span(tracer, function, messages):
            return function(messages)

    return call if inspect.iscoroutinefunction(function) else call_plain  # type: ignore[return-value]


@contextmanager
def _span(
    tracer: Tracer, function: Callable[..., Any], messages: Message[Any] | Sequence[Message[Any]]
) -> Iterator[None]:
    first = messages[0] if isinstance(messages, Sequence) else messages
    attributes: dict[str, Any] = {"messaging.system": "websocket", "messaging.operation.type": "process"}
    attributes |= {"messaging.destination.name": first.topic, "wsfleet.endpoint": first.endpoint}
    if isinstance(messages, Sequence):
        attributes["messaging.batch.message_count"] = len(messages)
    else:
        attributes |= {"messaging.message.body.size": first.size, "wsfleet.index": first.index}
    # The text of an exception may contain secrets: _fail records it redacted.
    with tracer.start_as_current_span(
        f"process {getattr(function, '__name__', 'messages')}",
        kind=SpanKind.CONSUMER,
        attributes=attributes,
        record_exception=False,
        set_status_on_exception=False,
    ) as span:
        try:
            yield
        except Exception as exc:
            _fail(span, exc)
            raise


def _fail(span: Span, error: BaseException | None) -> None:
    if error is None:
        span.set_status(Status(StatusCode.ERROR))
        return
    span.set_attribute("error.type", type(error).__name__)
    if isinstance(error, ConnectFailed):
        span.set_attribute("wsfleet.stage", error.stage)
    if isinstance(error, HandshakeRejected):
        span.set_attribute("http.response.status_code", error.status)
    if isinstance(error, ConnectionLost):
        span.set_attribute("wsfleet.close_code", error.code)
    span.set_status(Status(StatusCode.ERROR, redact_text(describe(error))))


def _ns(seconds: float) -> int:
    return int(seconds * 1e9)
