"""A report as Prometheus metrics."""

from __future__ import annotations

import os
import shutil
import subprocess
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from wsfleet.observe.prometheus import OTHER, ROWS, exposition
from wsfleet.stats import EndpointStats, FleetStats, HubStats, SubscriptionStats

COUNTS = st.integers(0, 10**6)
NAMES = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8)


def endpoint(name: str, **known: Any) -> EndpointStats:
    zeros = dict.fromkeys(("connects", "losses", "received", "received_bytes", "sent", "malformed", "answered"), 0)
    zeros |= dict.fromkeys(("published", "held", "discarded", "paused_s"), 0)
    rest = {"uri": "ws://u:s3cret@h/", "state": "OPEN", "paused_by": (), "last_error": None, "latency_s": None}
    return EndpointStats(**{"name": name, **zeros, **rest, **known})


def subscription(name: str, **known: Any) -> SubscriptionStats:
    zeros = dict.fromkeys(("offered", "processed", "failed", "dropped", "pending", "pending_bytes", "pausing_s"), 0)
    return SubscriptionStats(**{"name": name, "pattern": ">", "overflow": "pause", **zeros, **known})


def report(endpoints: list[EndpointStats], subscriptions: list[SubscriptionStats]) -> dict[str, Any]:
    stats = FleetStats("fleet", 1.5, True, True, 0.001, HubStats(5, 1, 2, 3, 4), (*endpoints,), (*subscriptions,))
    return stats.to_dict()


def samples(text: bytes) -> dict[tuple[str, str | None], float]:
    return {
        (each.name, next(iter(each.labels.values()), None)): each.value
        for family in text_string_to_metric_families(text.decode())
        for each in family.samples
    }


@given(st.dictionaries(NAMES, COUNTS, max_size=5), st.dictionaries(NAMES, COUNTS, max_size=5))
def test_what_is_exposed_is_what_the_report_says(received: dict[str, int], processed: dict[str, int]) -> None:
    """Read back, each row has its own figure, whatever the names are."""
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
        assert found["wsfleet_subscription_processed_total", name] == count
    assert found["wsfleet_hub_deliveries_total", None] == 4
    assert found["wsfleet_endpoints", "OPEN"] == len(received)


@pytest.mark.parametrize("size", [ROWS, ROWS + 1, ROWS + 500])
def test_labels_are_bounded_and_sums_stay_true(size: int) -> None:
    """However many endpoints there are, there is a bounded number of rows, whose sum is that of all."""
    rows = [endpoint(f"e{number}", received=number, latency_s=number / 1000) for number in range(size)]
    found = samples(exposition(report(rows, [subscription(f"s{number}", offered=1) for number in range(size)]))[0])
    received = {
        label: value for (name, label), value in found.items() if name == "wsfleet_endpoint_received_messages_total"
    }
    offered = {label: value for (name, label), value in found.items() if name == "wsfleet_subscription_offered_total"}
    is_open = {label: value for (name, label), value in found.items() if name == "wsfleet_endpoint_open"}
    assert sum(received.values()) == sum(range(size))
    assert sum(offered.values()) == sum(is_open.values()) == size
    assert len(received) == len(offered) == len(is_open) == min(size, ROWS + 1)
    assert (OTHER in received) == (size > ROWS)


def test_no_address_is_shown() -> None:
    """Addresses may hold secrets and change, so they are no labels."""
    text, _ = exposition(report([endpoint("a")], []))
    assert b"s3cret" not in text
    assert b"ws://" not in text


def test_openmetrics_for_who_asks_for_it() -> None:
    """The client library's own negotiation decides on the format."""
    text, content_type = exposition(report([endpoint("a")], []), accept="application/openmetrics-text; version=1.0.0")
    assert content_type.startswith("application/openmetrics-text")
    assert text.endswith(b"# EOF\n")


def test_promtool_has_nothing_against_the_names() -> None:
    """Prometheus' own linter accepts names, types and help texts."""
    promtool = shutil.which("promtool")
    if promtool is None:
        if os.environ.get("WSFLEET_REQUIRE_SERVERS"):
            pytest.fail("promtool is not installed")
        pytest.skip("promtool is not installed")
    text, _ = exposition(report([endpoint("a", latency_s=0.1)], [subscription("s")]))
    checked = subprocess.run([promtool, "check", "metrics"], input=text, capture_output=True, check=False)
    assert (checked.returncode, checked.stdout + checked.stderr) == (0, b"")
