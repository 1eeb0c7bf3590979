"""A report as Prometheus metrics."""

from __future__ import annotations

import os
import shutil
import subprocess
from typing import Any
from unittest import mock

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder
from prometheus_client.parser import text_string_to_metric_families

from wsfleet.core.stats import EndpointStats, FleetStats, HubStats, SubscriptionStats, add_rows
from wsfleet.serve import prometheus
from wsfleet.serve.metrics import OTHER
from wsfleet.serve.prometheus import ROWS, exposition
from wsfleet.serve.status.merged import absent, counts, merge

COUNTS = st.integers(0, 10**6)
NAMES = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8)


COUNTED = ("connects", "losses", "received", "received_bytes", "sent", "malformed", "answered", "discarded", "paused_s")
TAKEN = ("offered", "processed", "failed", "dropped", "pending_bytes", "pausing_s")


def endpoint(name: str, **known: Any) -> EndpointStats:
    zeros = dict.fromkeys(("connects", "losses", "received", "received_bytes", "sent", "malformed", "answered"), 0)
    zeros |= dict.fromkeys(("published", "held", "discarded", "paused_s"), 0)
    rest = {"uri": "ws://u:s3cret@h/", "state": "OPEN", "paused_by": (), "last_error": None, "latency_s": None}
    return EndpointStats(**{"name": name, **zeros, **rest, **known})


def subscription(name: str, **known: Any) -> SubscriptionStats:
    zeros = dict.fromkeys(("offered", "processed", "failed", "dropped", "pending", "pending_bytes", "pausing_s"), 0)
    return SubscriptionStats(**{"name": name, "pattern": ">", "overflow": "pause", **zeros, **known})


def report(
    endpoints: list[EndpointStats], subscriptions: list[SubscriptionStats], name: str = "fleet"
) -> dict[str, Any]:
    stats = FleetStats(name, 1.5, True, True, 0.001, HubStats(5, 1, 2, 3, 4), (*endpoints,), (*subscriptions,))
    return stats.to_dict()


def samples(text: bytes) -> dict[tuple[str, str | None], float]:
    return {
        (each.name, next(iter(each.labels.values()), None)): each.value
        for family in text_string_to_metric_families(text.decode())
        for each in family.samples
    }


@given(st.dictionaries(NAMES, COUNTS, max_size=5), st.dictionaries(NAMES, COUNTS, max_size=5))
def test_exposed_values_are_those_of_the_report(received: dict[str, int], processed: dict[str, int]) -> None:
    """Parsed again, each row has its own value, for any names."""
    text, _ = exposition(
        report(
            [endpoint(name, received=count) for name, count in received.items()],
            [subscription(name, processed=count) for name, count in processed.items()],
        )
    )
    found = samples(text)
    for name, count in received.items():
        assert found["wsfleet_endpoint_received_messages_total", name] == count
    for name, count in processed.items():
        assert found["wsfleet_subscription_processed_messages_total", name] == count
    assert found["wsfleet_hub_deliveries_total", None] == 4
    assert found["wsfleet_endpoints", "OPEN"] == len(received)


@pytest.mark.parametrize("size", [ROWS, ROWS + 1, ROWS + 500])
def test_rows_are_bounded_and_sums_are_complete(size: int) -> None:
    """For any number of endpoints the number of rows is limited, and their sum is that of all."""
    rows = [endpoint(f"e{number}", received=number, latency_s=number / 1000) for number in range(size)]
    found = samples(exposition(report(rows, [subscription(f"s{number}", offered=1) for number in range(size)]))[0])
    received = {
        label: value for (name, label), value in found.items() if name == "wsfleet_endpoint_received_messages_total"
    }
    offered = {
        label: value for (name, label), value in found.items() if name == "wsfleet_subscription_offered_messages_total"
    }
    is_open = {label: value for (name, label), value in found.items() if name == "wsfleet_endpoint_open"}
    assert sum(received.values()) == sum(range(size))
    assert sum(offered.values()) == sum(is_open.values()) == size
    assert len(received) == len(offered) == len(is_open) == min(size, ROWS + 1)
    assert (OTHER in received) == (size > ROWS)


@given(
    st.lists(st.tuples(st.sampled_from("abcdefgh"), st.sampled_from(["grow", "remove"]), COUNTS), max_size=30),
    st.integers(0, 4),
)
def test_totals_never_go_down(steps: list[tuple[str, str, int]], rows: int) -> None:
    """When endpoints come and go, with or without their own row, the counters of the whole fleet never decrease."""
    live: dict[str, EndpointStats] = {}
    retired: EndpointStats | None = None
    before = everything = 0.0
    with mock.patch.object(prometheus, "ROWS", rows):
        for name, step, count in steps:
            if step == "remove" and name in live:
                retired = add_rows(retired, live.pop(name))
            elif step == "grow":
                everything += count
                live[name] = endpoint(name, received=count + (live[name].received if name in live else 0))
            found = samples(exposition(report([*live.values(), *([retired] if retired else [])], []))[0])
            total = found["wsfleet_received_messages_total", None]
            assert before <= total == everything
            by_row = [value for (name, _), value in found.items() if name == "wsfleet_endpoint_received_messages_total"]
            assert sum(by_row) == total
            assert len(by_row) <= rows + 1
            before = total


def whole_fleet(found: dict[tuple[str, str | None], float]) -> dict[str, float]:
    """The counters without a label."""
    return {name: value for (name, label), value in found.items() if label is None and name.endswith("_total")}


def test_counts_of_a_dead_worker_stay_in_the_totals() -> None:
    """When a worker dies, each counter of the fleet keeps its value; its waiting messages are lost
    instead of pending.
    """
    row, taken = dict.fromkeys(COUNTED, 7), dict.fromkeys(TAKEN, 3)
    stats = report([endpoint("a", **row, published=5, held=2)], [subscription("s", **taken, pending=4)])
    dies = stats | {"blocked": {"by": "b", "where": "w", "seconds": 1.5, "times": 2, "total_s": 2.5}}
    lives = report([endpoint("b", received=1)], [])
    nothing = dict.fromkeys(counts(dies), 0)
    before, after = (
        samples(exposition(merge(reports) | {"workers": {"restarts": restarts, "lost": lost}})[0])
        for reports, restarts, lost in (([dies, lives], 0, nothing), ([absent(dies), lives], 1, counts(dies)))
    )
    changed = {"wsfleet_worker_restarts_total": (0, 1), "wsfleet_worker_lost_messages_total": (0, 6)}
    assert whole_fleet(before).keys() == whole_fleet(after).keys()
    assert len(whole_fleet(before)) > 20
    for name, value in whole_fleet(before).items():
        assert (value, whole_fleet(after)[name]) == changed.get(name, (value, value)), name
    assert before["wsfleet_received_messages_total", None] == 8
    assert before["wsfleet_loop_blocked_seconds_total", None] == 2.5
    pending = "wsfleet_pending_messages", None
    assert (before[pending], after[pending]) == (4, 0)


def test_blocks_of_workers_are_combined() -> None:
    """Of several workers, the longest block is reported, and the sums are those of all."""
    one, other = report([], []), report([], [])
    one["blocked"] = {"by": "a", "where": "x", "seconds": 2.0, "times": 1, "total_s": 2.0}
    other["blocked"] = {"by": "b", "where": "y", "seconds": 0.5, "times": 4, "total_s": 3.0}
    assert merge([one, other])["blocked"] == {"by": "a", "where": "x", "seconds": 2.0, "times": 5, "total_s": 5.0}
    assert merge([report([], []), other])["blocked"] == other["blocked"]
    assert merge([report([], [])])["blocked"] is None


def test_drops_of_an_observer_are_not_in_the_totals() -> None:
    """A subscription to `$` topics has its own row, and is not counted in the totals of the fleet."""
    feeds = subscription("feeds", offered=5, processed=4, dropped=1)
    observer = subscription("observer-dead", pattern="$dead.*", offered=90, processed=30, dropped=60, pending=7)
    found = samples(exposition(report([], [feeds, observer]))[0])
    assert found["wsfleet_subscription_dropped_messages_total", "observer-dead"] == 60
    for name, count in {"offered": 5, "processed": 4, "dropped": 1}.items():
        assert found[f"wsfleet_{name}_messages_total", None] == count
    assert found["wsfleet_pending_messages", None] == 0


@given(st.text(max_size=20))
def test_a_fleet_may_have_any_name(name: str) -> None:
    """Characters that cannot be encoded as UTF-8 are replaced, because Prometheus would reject the whole answer."""
    text, _ = exposition(report([], [], name="".join(["\ud800", name])))
    (info,) = (family for family in text_string_to_metric_families(text.decode()) if family.name == "wsfleet_info")
    assert info.samples[0].labels["name"] == f"?{name}".encode(errors="replace").decode()


@pytest.mark.parametrize("accept", ["", "application/openmetrics-text; version=1.0.0"])
def test_fast_escaping_has_the_result_of_the_client_library(accept: str) -> None:
    """The fast escaping writes the same bytes as that of the client library."""
    given = report([endpoint('a"\\b')], [subscription("ü\n")])
    registry = CollectorRegistry(auto_describe=False)
    registry.register(prometheus._Report(given, ""))
    assert exposition(given, accept=accept)[0] == choose_encoder(accept)[0](registry)


def test_no_address_is_shown() -> None:
    """Addresses may contain secrets and change, so they are not used as labels."""
    text, _ = exposition(report([endpoint("a")], []))
    assert b"s3cret" not in text
    assert b"ws://" not in text


def test_openmetrics_is_returned_on_request() -> None:
    """The client library's own content negotiation selects the format."""
    text, content_type = exposition(report([endpoint("a")], []), accept="application/openmetrics-text; version=1.0.0")
    assert content_type.startswith("application/openmetrics-text")
    assert text.endswith(b"# EOF\n")


def test_promtool_accepts_the_names() -> None:
    """Prometheus' own linter accepts names, types and help texts."""
    promtool = shutil.which("promtool")
    if promtool is None:
        if os.environ.get("WSFLEET_REQUIRE_SERVERS"):
            pytest.fail("promtool is not installed")
        pytest.skip("promtool is not installed")
    text, _ = exposition(report([endpoint("a", latency_s=0.1)], [subscription("s")]))
    checked = subprocess.run([promtool, "check", "metrics"], input=text, capture_output=True, check=False)
    assert (checked.returncode, checked.stdout + checked.stderr) == (0, b"")
