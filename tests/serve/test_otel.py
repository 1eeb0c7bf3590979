"""Metrics and spans of a fleet in OpenTelemetry's SDK."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from typing import Any

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode
from prometheus_client.parser import text_string_to_metric_families

from wsfleet import Fleet, Liveness, Message, Reconnect
from wsfleet.serve import otel
from wsfleet.serve.otel import instrument, traced
from wsfleet.serve.prometheus import exposition
from wsfleet.testing import FeedServer

SECRET = "s3cr3tT0kenOfTwentyCharacters99"


@pytest.fixture
def spans() -> Iterator[tuple[TracerProvider, InMemorySpanExporter]]:
    """A provider of tracers, and the spans that were ended."""
    provider, exporter = TracerProvider(), InMemorySpanExporter()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    yield provider, exporter
    provider.shutdown()


@pytest.fixture
def meters() -> Iterator[tuple[MeterProvider, InMemoryMetricReader]]:
    """A provider of meters, and its reader."""
    reader = InMemoryMetricReader()
    provider = MeterProvider([reader])
    yield provider, reader
    provider.shutdown()


def points(reader: InMemoryMetricReader) -> dict[tuple[str, Any], float]:
    data = reader.get_metrics_data()
    assert data is not None
    return {
        (metric.name, next(iter((point.attributes or {}).values()), None)): point.value
        for resource in data.resource_metrics
        for scope in resource.scope_metrics
        for metric in scope.metrics
        for point in metric.data.data_points
    }


async def nothing(message: Message[str]) -> None:
    pass


async def test_metrics_are_those_of_the_stats(
    meters: tuple[MeterProvider, InMemoryMetricReader], spans: tuple[TracerProvider, InMemorySpanExporter]
) -> None:
    """Read from a thread while the loop runs, from the loop, and after the end, the metrics are the counts of the
    fleet.
    """
    async with FeedServer() as server:
        fleet = Fleet()

        async def processor(message: Message[str]) -> None:
            pass

        fleet.connect(server.uri, processor, name="feed")
        instrument(fleet, meter_provider=meters[0], tracer_provider=spans[0])
        async with fleet:
            await server.wait_clients(1)
            await server.send("x", "y")
            while not any(row.name == "feed" and row.processed == 2 for row in fleet.stats().subscriptions):
                await asyncio.sleep(0.01)
            running = await asyncio.to_thread(points, meters[1])
            assert points(meters[1]) == running
        ended = points(meters[1])
    for found in (running, ended):
        assert found["wsfleet.endpoint.received", "feed"] == 2
        assert found["wsfleet.subscription.processed", "feed"] == 2
        assert found["wsfleet.balanced", None] == 1
    assert running["wsfleet.endpoints", "OPEN"] == 1


async def test_metrics_are_those_of_prometheus(
    meters: tuple[MeterProvider, InMemoryMetricReader],
    spans: tuple[TracerProvider, InMemorySpanExporter],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each metric of Prometheus is one of OpenTelemetry with the same values.

    The subscription that traces attempts is not counted in the totals of the fleet.
    """
    async with FeedServer() as server:
        fleet = Fleet()
        fleet.process("feed", name="seen")(nothing)
        feed = fleet.connect(server.uri, name="feed", liveness=Liveness(ping_s=0.05))
        instrument(fleet, meter_provider=meters[0], tracer_provider=spans[0])
        async with fleet:
            await feed.wait_open()
            await server.send("x")
            while not (stats := fleet.stats()).hub.routed or stats.endpoints[0].latency_s is None:
                await asyncio.sleep(0.01)
    monkeypatch.setattr(otel._Meters, "_stats", lambda self: stats)
    exported = points(meters[1])
    shown = {
        (each.name.removesuffix("_total"), next(iter(each.labels.values()), None)): each.value
        for family in text_string_to_metric_families(exposition(stats.to_dict())[0].decode())
        for each in family.samples
        if family.name != "wsfleet_info"
    }
    assert sorted(exported.values()) == sorted(shown.values())
    units = r"(_messages|_bytes|_seconds)$"
    assert {(name.replace(".", "_").removesuffix("_size"), label) for name, label in exported} == {
        (re.sub(units, "", name), label) for name, label in shown
    }
    assert ("wsfleet.endpoint.latency", "feed") in exported
    assert exported["wsfleet.subscription.offered", "trace_attempts"] > 0
    assert exported["wsfleet.offered", None] == exported["wsfleet.subscription.offered", "seen"] == 1
    assert exported["wsfleet.processed", None] == exported["wsfleet.subscription.processed", "seen"]


async def test_each_attempt_is_a_span(spans: tuple[TracerProvider, InMemorySpanExporter]) -> None:
    """A refused attempt is an error with its stage and status; the next one is open; neither contains a secret."""
    async with FeedServer() as server:
        server.refuse(503, times=1)
        fleet = Fleet()
        reconnect = Reconnect(initial_s=0.01)
        feed = fleet.connect(f"{server.uri}/?token={SECRET}", name="feed", reconnect=reconnect)
        instrument(fleet, tracer_provider=spans[0])
        async with fleet:
            await feed.wait_open()
    refused, opened = spans[1].get_finished_spans()
    assert refused.status.status_code is StatusCode.ERROR
    assert refused.attributes is not None
    assert refused.attributes["http.response.status_code"] == 503
    assert refused.attributes["wsfleet.stage"] == "http"
    assert opened.status.status_code is StatusCode.UNSET
    assert opened.start_time is not None
    assert opened.end_time is not None
    assert refused.end_time is not None
    assert refused.end_time <= opened.start_time <= opened.end_time
    assert SECRET not in refused.to_json() + opened.to_json()


async def test_each_call_of_a_traced_processor_is_a_span(spans: tuple[TracerProvider, InMemorySpanExporter]) -> None:
    """Coroutines and plain functions, with one message or a batch, have a span; their own spans are children; a
    failure is an error.
    """
    tracer = spans[0].get_tracer("test")

    async def one(message: Message[str]) -> None:
        with tracer.start_as_current_span("inside"):
            if message.data == "bad":
                raise ValueError(f"token={SECRET}")

    def batch(messages: list[Message[str]]) -> None:
        pass

    async with FeedServer() as server, Fleet() as fleet:
        fleet.process("feed", name="one")(traced(one, tracer_provider=spans[0]))
        fleet.process("feed", name="batch", batch=10)(traced(batch, tracer_provider=spans[0]))
        fleet.connect(server.uri, name="feed")
        await server.wait_clients(1)
        await server.send("good", "bad")
        while sum(row.processed + row.failed for row in fleet.stats().subscriptions) < 4:
            await asyncio.sleep(0.01)
    done = spans[1].get_finished_spans()
    calls = [span for span in done if span.name == "process one"]
    assert [span.status.status_code for span in calls] == [StatusCode.UNSET, StatusCode.ERROR]
    inside = [span for span in done if span.name == "inside"]
    assert [span.parent.span_id for span in inside if span.parent] == [span.context.span_id for span in calls]
    counts = [(span.attributes or {})["messaging.batch.message_count"] for span in done if span.name == "process batch"]
    assert sum(count for count in counts if isinstance(count, int)) == 2
    assert all(SECRET not in span.to_json() for span in calls)


async def test_a_traced_function_is_classified_as_before() -> None:
    """Without an SDK a traced function keeps its name, kind and result."""

    async def named(message: Message[str]) -> None:
        pass

    assert traced(named).__name__ == "named"
    assert asyncio.iscoroutinefunction(traced(named))
