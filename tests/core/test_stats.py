"""The stats have the documented keys, are immutable, and can be converted to JSON."""

import asyncio
import dataclasses
import json
import pickle
from typing import Any

import pytest

from tests.support.flows import balanced, endpoint_row, feeding, keeper, opened, row, turns
from wsfleet import Buffer, Fleet, FleetStats, Message, Reconnect, State
from wsfleet.core.errors import ConnectionLost
from wsfleet.core.message import DeadLetter, Gap, Malformed, Slow, StateChange
from wsfleet.core.stats import EndpointStats, HubStats, SubscriptionStats, is_balanced
from wsfleet.testing import FakeTransport

URI = "ws://feed.test/?token=topsecret"

# As in the contract, in its order.
KEYS = ["name", "uptime_s", "balanced", "accelerated", "loop_lag_s", "hub", "endpoints", "subscriptions", "blocked"]
HUB = ["published", "injected", "routed", "unrouted", "deliveries"]
ENDPOINT = [
    *("name", "uri", "state", "connects", "losses", "received", "received_bytes", "sent", "malformed"),
    *("answered", "published", "held", "discarded", "paused_by", "paused_s", "last_error", "latency_s"),
]
SUBSCRIPTION = [
    *("name", "pattern", "offered", "processed", "failed", "dropped", "pending"),
    *("pending_bytes", "overflow", "pausing_s"),
]


async def busy_fleet() -> tuple[Fleet, list[FleetStats]]:
    """A fleet with all kinds of messages and events, and its stats during the run."""
    transport = FakeTransport()
    fleet = Fleet(name="mine", transport=transport)

    async def fails(message: Message[Any]) -> None:
        raise ValueError

    fleet.connect(URI, keeper([]), name="feed", decode="json", reconnect=Reconnect(initial_s=0))
    fleet.process("feed", name="fails")(fails)
    gone = fleet.connect("ws://gone.test/", name="gone")
    slow = fleet.subscribe("feed", name="slow", buffer=Buffer(messages=2))
    seen = []
    async with feeding(fleet, transport) as socket:
        await opened(fleet, transport, "gone")
        await socket.feed("1", "{", "2")
        seen.append(fleet.stats())
        await gone.close()
        fleet.subscriptions["fails"].close()
        socket.close(1011, "going")
        await opened(fleet, transport)
        await fleet.connections["feed"].send("hello")
        seen.append(fleet.stats())
        slow.close()
    seen.append(fleet.stats())
    return fleet, seen


async def test_the_keys_are_the_contracts() -> None:
    """`to_dict()` has the documented keys before, during and after a run, and `blocked`."""
    _, seen = await busy_fleet()
    for stats in (Fleet().stats(), *seen):
        shown = stats.to_dict()
        assert list(shown) == KEYS
        assert list(shown["hub"]) == HUB
        assert all(list(each) == ENDPOINT for each in shown["endpoints"])
        assert all(list(each) == SUBSCRIPTION for each in shown["subscriptions"])
        assert shown["balanced"] is True


async def test_the_stats_are_ready_for_json() -> None:
    """The result of `to_dict()` does not change in a JSON round trip."""
    _, seen = await busy_fleet()
    for stats in seen:
        shown = stats.to_dict()
        assert json.loads(json.dumps(shown, allow_nan=False)) == shown
    during = seen[0].to_dict()
    assert during["endpoints"][0]["paused_by"] == ["slow"]
    assert seen[1].to_dict()["endpoints"][0]["last_error"].endswith("going")
    assert "topsecret" not in json.dumps([stats.to_dict() for stats in seen])


async def test_the_attributes_are_the_keys() -> None:
    """A snapshot has the keys of the JSON as attributes, and its rows are tuples of frozen records."""
    fleet, seen = await busy_fleet()
    for stats in seen:
        shown = stats.to_dict()
        assert isinstance(stats.endpoints, tuple) and isinstance(stats.subscriptions, tuple)
        for key in ("name", "uptime_s", "balanced", "accelerated", "loop_lag_s"):
            assert getattr(stats, key) == shown[key]
        records: list[tuple[Any, dict[str, Any]]] = [(stats.hub, shown["hub"])]
        records += zip(stats.endpoints, shown["endpoints"], strict=True)
        records += zip(stats.subscriptions, shown["subscriptions"], strict=True)
        for record, asdict in records:
            for key, value in asdict.items():
                mine = getattr(record, key)
                assert (list(mine) if isinstance(mine, tuple) else mine) == value
                with pytest.raises((dataclasses.FrozenInstanceError, AttributeError)):
                    setattr(record, key, mine)
            with pytest.raises((AttributeError, TypeError)):
                record.something_new = 1
        with pytest.raises((dataclasses.FrozenInstanceError, AttributeError)):
            stats.balanced = False  # type: ignore[misc]
        hash(stats)
        assert pickle.loads(pickle.dumps(stats)) == stats
    assert fleet.connections["feed"].stats() == seen[-1].endpoints[0]
    assert fleet.subscriptions["feed"].stats() == seen[-1].subscriptions[0]


async def test_a_snapshot_does_not_change() -> None:
    """A snapshot does not change after it was taken."""
    fleet = Fleet()
    async with fleet.subscribe("news") as subscription:
        before = fleet.stats()
        fleet.publish("news", 1)
        assert before.hub.published == 0 and before.subscriptions[0].offered == 0
        assert fleet.stats().hub.published == 1
        assert before.to_dict() != fleet.stats().to_dict()
        assert subscription.stats() == fleet.stats().subscriptions[0]


async def test_removed_rows_are_summed_as_retired() -> None:
    """Rows that were removed during the run are summed in the last row, `$retired`."""
    transport = FakeTransport()
    fleet = Fleet(transport=transport)
    async with fleet:
        for n in range(3):
            connection = fleet.connect(URI, keeper([]), name="feed", decode="json")
            socket = await opened(fleet, transport)
            await socket.feed("1", "{", "22")
            await connection.send("x")
            await connection.close()
            stats = balanced(fleet)
            (endpoint,), (subscription,) = stats.endpoints, stats.subscriptions
            assert endpoint == EndpointStats(
                *(
                    "$retired",
                    "",
                    "",
                    n + 1,
                    0,
                    3 * (n + 1),
                    4 * (n + 1),
                    n + 1,
                    n + 1,
                    0,
                    2 * (n + 1),
                    0,
                    0,
                    (),
                    0.0,
                    None,
                    None,
                )
            )
            assert (subscription.name, subscription.pattern, subscription.overflow) == ("$retired", "", "")
            assert (subscription.offered, subscription.processed) == (2 * (n + 1), 2 * (n + 1))
        fleet.connect("ws://last.test/", keeper([]), name="last")
        assert [each.name for each in balanced(fleet).endpoints] == ["last", "$retired"]
        assert [each.name for each in balanced(fleet).subscriptions] == ["last", "$retired"]


async def test_the_end_retires_nothing() -> None:
    """After the end of the fleet, its rows are still listed by name."""
    fleet, seen = await busy_fleet()
    assert [each.name for each in seen[-1].endpoints] == ["feed", "$retired"]
    assert [each.name for each in seen[-1].subscriptions] == ["feed", "$retired"]
    assert set(fleet.connections) == {"feed"} and set(fleet.subscriptions) == {"feed"}
    assert seen[-1].endpoints[0].state == "CLOSED"


@pytest.mark.looptime
async def test_the_uptime_stands_still_outside_the_run() -> None:
    """`uptime_s` is 0 before the start, increases during the run, and stays constant after it."""
    transport = FakeTransport()
    fleet = Fleet(transport=transport)
    await asyncio.sleep(5)
    assert fleet.stats().uptime_s == 0
    async with fleet:
        await asyncio.sleep(7)
        assert fleet.stats().uptime_s == pytest.approx(7, abs=0.01)
    await asyncio.sleep(11)
    assert fleet.stats().uptime_s == pytest.approx(7, abs=0.01)


def test_the_stats_may_be_read_without_a_loop() -> None:
    """Before the start and after the end, the stats can be read without a running loop."""
    transport = FakeTransport()
    fleet = Fleet(transport=transport)
    subscription = fleet.subscribe("feed", buffer=Buffer(messages=1))
    fleet.connect(URI, name="feed")
    assert balanced(fleet).endpoints[0].state == "CONNECTING"

    async def main() -> None:
        async with feeding(fleet, transport) as socket:
            await socket.feed("1")
            assert endpoint_row(fleet).paused_by == ("sub-1",)

    asyncio.run(main())
    assert balanced(fleet).endpoints[0].paused_by == ()
    assert subscription.stats().dropped == 1


# The balance itself


ENDPOINT_TERMS = ("received", "malformed", "answered", "published", "held", "discarded")


def test_each_term_of_the_balance_counts() -> None:
    """One message too many or too few in any term makes the balance false."""
    hub = HubStats(published=13, injected=3, routed=9, unrouted=4, deliveries=21)
    endpoint = EndpointStats("e", "", "OPEN", 1, 0, 25, 0, 0, 1, 2, 10, 4, 8, (), 0.0, None, None)
    one = SubscriptionStats("s", ">", 20, 8, 5, 4, 3, 0, "pause", 0.0)
    two = SubscriptionStats("t", ">", 1, 1, 0, 0, 0, 0, "pause", 0.0)
    assert is_balanced(hub, (endpoint,), (one, two))
    for step in (1, -1):
        for term in HUB:
            changed = dataclasses.replace(hub, **{term: getattr(hub, term) + step})
            assert not is_balanced(changed, (endpoint,), (one, two)), term
        for term in ENDPOINT_TERMS:
            changed_endpoint = dataclasses.replace(endpoint, **{term: getattr(endpoint, term) + step})
            assert not is_balanced(hub, (changed_endpoint,), (one, two)), term
        for term in ("offered", "processed", "failed", "dropped", "pending"):
            changed_row = dataclasses.replace(one, **{term: getattr(one, term) + step})
            assert not is_balanced(hub, (endpoint,), (changed_row, two)), term
    # Losses that hide each other: one subscription's in another's gain.
    more, less = dataclasses.replace(one, processed=9), dataclasses.replace(two, processed=0)
    assert not is_balanced(hub, (endpoint,), (more, less))
    assert not is_balanced(hub, (endpoint, endpoint), (one, two))


# Records


RECORDS = [
    (StateChange, ["endpoint", "previous", "state", "error", "attempt", "delay_s"]),
    (Malformed, ["endpoint", "index", "session", "raw", "error"]),
    (DeadLetter, ["message", "error", "attempts"]),
    (Slow, ["subscription", "pending", "pending_bytes", "overflow"]),
    (
        Gap,
        [
            "endpoint",
            "previous_session",
            "session",
            "last_index",
            "down_s",
            "last_message_at",
            "last_frame_at",
            "exact",
        ],
    ),
]


@pytest.mark.parametrize(("kind", "names"), RECORDS, ids=lambda value: getattr(value, "__name__", ""))
def test_records_are_frozen_and_have_the_contracts_fields(kind: Any, names: list[str]) -> None:
    """The records of the `$` topics have the documented fields in order, and are immutable."""
    record = kind(*names)
    assert [field.name for field in dataclasses.fields(record)] == names
    for name in names:
        assert getattr(record, name) == name
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(record, name, "other")


def test_a_message_is_frozen_and_has_the_contracts_defaults() -> None:
    """A Message requires only its data, has the documented fields in order, and is immutable."""
    message = Message("x")
    fields = (message.topic, message.endpoint, message.index, message.session, message.received_at, message.size)
    assert fields == ("", "", 0, 0, 0.0, 0)
    assert Message("x", "t", "e", 1, 2, 3.0, 4) == Message(
        data="x", topic="t", endpoint="e", index=1, session=2, received_at=3.0, size=4
    )
    with pytest.raises(AttributeError):
        message.topic = "y"  # type: ignore[misc]
    kind: Any = Message[int]
    assert kind(1) == Message(1)


@pytest.mark.looptime
async def test_a_gap_is_published_before_messages_of_the_new_session() -> None:
    """At each OPEN after the first, `$gap` is published before the messages of the new session."""
    transport = FakeTransport()
    fleet = Fleet(transport=transport)
    fleet.connect(URI, name="feed", reconnect=Reconnect(initial_s=4, jitter=0))
    order: list[Any] = []
    fleet.process("feed", name="messages")(keeper(order))
    fleet.process("$gap.feed", name="gaps")(keeper(order))
    async with fleet, fleet.subscribe("$gap.*") as gaps, fleet.subscribe("$state.feed") as states:
        socket = await opened(fleet, transport)
        await socket.feed("1", "2")
        assert gaps.stats().offered == 0
        socket.lose()
        socket = await opened(fleet, transport)
        await socket.feed("3")
        await turns()
        gap = (await anext(gaps)).data
        assert (gap.endpoint, gap.previous_session, gap.session, gap.last_index) == ("feed", 1, 2, 2)
        assert gap.down_s == pytest.approx(4.0)
        assert order == ["1", "2", gap, "3"]
        changes = [(await anext(states)).data for _ in range(states.stats().pending)]
        assert [(c.previous, c.state) for c in changes[-3:]] == [
            (State.OPEN, State.BACKOFF),
            (State.BACKOFF, State.CONNECTING),
            (State.CONNECTING, State.OPEN),
        ]
        assert isinstance(changes[-3].error, ConnectionLost) and changes[-3].delay_s == 4
        assert row(fleet, "messages").processed == 3
        balanced(fleet)
