"""The hub delivers each message once to each matching subscription, in order, and counts it."""

import asyncio
import gc
import weakref
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from tests.support.flows import DROP_OLDEST, Tap, balanced, data, feeding, from_socket, keeper, row, turns
from wsfleet import Buffer, Fleet, FleetError, Message, Overflow
from wsfleet.core.message import Malformed, Slow
from wsfleet.core.stats import SubscriptionStats, is_balanced
from wsfleet.pipeline import hub as hub_module
from wsfleet.pipeline.hub import Hub
from wsfleet.pipeline.mailbox import Mailbox
from wsfleet.testing import FakeTransport


def subscription_stats(hub: Hub) -> tuple[SubscriptionStats, ...]:
    """One row for each mailbox, and a last one for removed mailboxes, if there are any."""
    retired = hub.retired_stats()
    return (*(mailbox.stats() for mailbox in hub.mailboxes()), *(() if retired is None else (retired,)))


def matches(pattern: str, topic: str) -> bool:
    """The matching rules, in the simplest form."""
    wanted, tokens = pattern.split("."), topic.split(".")
    if tokens[0].startswith("$") and wanted[0] in ("*", ">"):
        return False
    for place, token in enumerate(wanted):
        if token == ">":
            return len(tokens) > place
        if place >= len(tokens) or token not in ("*", tokens[place]):
            return False
    return len(wanted) == len(tokens)


def publish(hub: Hub, *messages: Message[Any], endpoint: str = "feed", source: Tap | None = None) -> None:
    hub.dispatch_mixed(list(messages), endpoint, hub.routes_of(endpoint), source or Tap())


def topics(box: Mailbox) -> list[str]:
    return [message.topic for message in box.waiting]


# Matching


PATTERNS = [
    (">", "a", True),
    (">", "a.b.c", True),
    (">", "$state.a", False),
    ("*", "a", True),
    ("*", "a.b", False),
    ("*", "$state", False),
    ("*.a", "$state.a", False),
    ("a.>", "a", False),
    ("a.>", "a.b", True),
    ("a.>", "a.b.c", True),
    ("a.*", "a.b", True),
    ("a.*", "a.$b", True),
    ("a.*.c", "a.b.c", True),
    ("a.*.c", "a.b.d", False),
    ("a.b", "a.b", True),
    ("a.b", "a.b.c", False),
    ("$state.*", "$state.a", True),
    ("$state.>", "$state.a", True),
    ("$state.a", "$state.b", False),
    ("a.>", "ab.c", False),
    ("a+.>", "aa.c", False),
]


async def test_patterns() -> None:
    """`*` matches one token, `>` the rest, and neither matches a first token that begins with `$`."""
    for pattern, topic, takes in PATTERNS:
        assert matches(pattern, topic) is takes, "the matching rules of these tests"
        hub = Hub()
        box = hub.add("box", pattern, Buffer())
        assert hub.inject(topic, 1) == takes, (pattern, topic)
        assert hub.wants(topic) is takes
        assert len(box.waiting) == takes


async def test_overlapping_patterns_deliver_once_to_each_subscription() -> None:
    """A message that matches several patterns is delivered once to each subscription with a matching pattern, and no
    other.
    """
    hub = Hub()
    boxes = {p: hub.add(p, p, Buffer()) for p in (">", "a.>", "a.*", "a.b", "*.b", "b", "a")}
    again = hub.add("again", ">", Buffer())
    publish(hub, from_socket(1, topic="a.b"))
    assert {name for name, box in boxes.items() if box.waiting} == {">", "a.>", "a.*", "a.b", "*.b"}
    assert all(len(box.waiting) <= 1 for box in boxes.values()) and data(again) == [1]
    assert hub.stats().published == hub.stats().routed == 1 and hub.stats().deliveries == 6


async def test_an_endpoints_own_subscription_gets_only_its_messages() -> None:
    """A mailbox of one endpoint gets all of its messages, whatever the topic, and none of others or of `publish`."""
    hub = Hub()
    mine = hub.add("feed", ">", Buffer(), endpoints=("feed",))
    publish(hub, from_socket(1, topic="x.y"))
    publish(hub, from_socket(2, topic="x.y"), endpoint="other")
    hub.inject("x.y", 3)
    hub.inject("$state.feed", 4)
    assert data(mine) == [1]
    assert hub.stats().unrouted == 3


async def test_a_message_without_a_subscription_is_unrouted() -> None:
    """A message that matches no subscription is counted as unrouted, and not kept."""
    hub = Hub()
    publish(hub, from_socket(1), from_socket(2))
    assert hub.inject("news", 1) == 0
    late = hub.add("late", ">", Buffer())
    stats = hub.stats()
    assert (stats.published, stats.injected, stats.routed, stats.unrouted, stats.deliveries) == (3, 1, 0, 3, 0)
    assert not late.waiting


async def test_mixed_topics_keep_their_order_in_each_subscription() -> None:
    """Messages of one read reach each subscription in the order of arrival, regardless of their topics."""
    hub = Hub()
    boxes = {pattern: hub.add(pattern, pattern, Buffer()) for pattern in (">", "a", "b", "*.x")}
    run = [from_socket(n, topic=topic) for n, topic in enumerate(["a", "b", "a.x", "c", "b", "a", "a", "b.x"] * 20)]
    publish(hub, *run)
    for pattern, box in boxes.items():
        assert list(box.waiting) == [message for message in run if matches(pattern, message.topic)]
        assert box.pending_bytes == len(box.waiting)
    assert hub.stats().unrouted == 0


async def test_routes_are_updated_when_subscriptions_come_and_go() -> None:
    """A topic that was routed before reaches later subscriptions, and no removed ones."""
    hub = Hub()
    one = hub.add("one", "a", Buffer())
    publish(hub, from_socket(1, topic="a"))
    two = hub.add("two", "*", Buffer())
    own = hub.add("own", ">", Buffer(), endpoints=("feed",))
    publish(hub, from_socket(2, topic="a"))
    hub.remove(one)
    publish(hub, from_socket(3, topic="a"))
    hub.remove(own)
    publish(hub, from_socket(4, topic="a"))
    assert (one.offered, one.dropped, data(two), own.offered) == (2, 2, [2, 3, 4], 2)
    hub.remove(two)
    publish(hub, from_socket(5, topic="a"))
    assert hub.stats().unrouted == 1


async def test_whether_a_topic_is_wanted_changes_with_the_subscriptions() -> None:
    """`wants` returns a new result after a subscription was added or removed."""
    hub = Hub()
    assert not hub.wants("$state.a") and not hub.wants("$state.a")
    box = hub.add("box", "$state.*", Buffer())
    assert hub.wants("$state.a")
    hub.remove(box)
    assert not hub.wants("$state.a")


async def test_an_unwanted_topic_is_cached(monkeypatch: pytest.MonkeyPatch) -> None:
    """A repeated `wants` for a topic does not search the subscriptions again."""
    hub = Hub()
    hub.add("box", "a.*", Buffer())
    assert not hub.wants("$malformed.feed")
    monkeypatch.setattr(hub, "_find", None)
    assert not hub.wants("$malformed.feed")


async def test_many_topics_do_not_grow_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    """The number of cached routes is bounded, for any number of distinct topics, of an endpoint or of `publish`."""
    monkeypatch.setattr(hub_module, "MAX_ROUTES", 100)
    hub = Hub()
    # Four tokens, each "x" or not, give 16 different sets of subscriptions.
    for place in range(4):
        pattern = ".".join("x" if n == place else "*" for n in range(4))
        hub.add(str(place), pattern, Buffer(10, overflow=DROP_OLDEST))
    for n in range(2000):
        topic = ".".join("x" if n >> bit & 1 else f"t{n}" for bit in range(4))
        publish(hub, from_socket(n, topic=topic))
        hub.inject(topic, n)
        hub.wants(f"$state.{n}")
        assert all(len(routes.shared) <= len(routes) <= 100 for routes in hub._routes.values())
    assert hub.stats().published == 4000


async def test_long_topics_are_not_remembered() -> None:
    """Topics of a peer, each as long as a message may be, are released together with their messages."""
    hub = Hub()
    box = hub.add("box", "a.*", Buffer())
    longest = "a.".ljust(hub_module.MAX_TOPIC, "x")
    for topic in (longest, longest + "y", longest + "z"):
        publish(hub, from_socket(1, topic=topic))
        publish(hub, from_socket(1, topic=topic), from_socket(2, topic=topic))
        hub.inject(topic, 1)
    assert [list(routes) for routes in hub._routes.values()] == [[longest], [longest]]
    assert [len(routes.shared) for routes in hub._routes.values()] == [1, 1]
    assert (hub._remembered, box.stats().offered) == (2, 12)


async def test_different_routes_do_not_grow_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    """The cache stays bounded if a peer produces ever new combinations of subscriptions."""
    monkeypatch.setattr(hub_module, "MAX_ROUTES", 100)
    hub = Hub()
    for place in range(10):
        hub.add(str(place), ".".join("x" if n == place else "*" for n in range(10)), Buffer(1, overflow=DROP_OLDEST))
    for n in range(1024):
        publish(hub, from_socket(n, topic=".".join("x" if n >> bit & 1 else "o" for bit in range(10))))
        assert len(hub.routes_of("feed").shared) <= 100


async def test_routes_are_remembered_within_the_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Up to the bound, the route of each topic stays cached, and equal routes are one object."""
    monkeypatch.setattr(hub_module, "MAX_ROUTES", 10)
    monkeypatch.setattr(hub_module, "MAX_ROUTES_IN_ALL", 15)
    hub = Hub()
    hub.add("box", ">", Buffer())
    for endpoint, count in (("one", 10), ("two", 5)):
        for n in range(count):
            publish(hub, from_socket(n, topic=f"t{n}"), endpoint=endpoint)
    for endpoint, count in (("one", 10), ("two", 5)):
        routes = list(hub.routes_of(endpoint).values())
        assert len(routes) == count and len({id(route) for route in routes}) == 1
    publish(hub, from_socket(1, topic="more"), endpoint="two")
    assert len(hub.routes_of("one")) + len(hub.routes_of("two")) == 1


async def test_many_endpoints_with_many_topics_do_not_grow_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    """The total number of routes of all endpoints is bounded; a route that was evicted is computed again."""
    monkeypatch.setattr(hub_module, "MAX_ROUTES", 50)
    monkeypatch.setattr(hub_module, "MAX_ROUTES_IN_ALL", 200)
    hub = Hub()
    own = hub.add("own", ">", Buffer(10**6), endpoints=("e0", "e1"))
    everything = hub.add("all", ">", Buffer(10**6))
    for n in range(3000):
        publish(hub, from_socket(n, topic=f"t{n % 70}"), endpoint=f"e{n % 100}")
        assert sum(map(len, hub._routes.values())) == hub._remembered <= 200
        if n % 500 == 0:
            hub.forget_endpoint(f"e{n % 100}")
        elif n % 700 == 0:
            hub.remove(hub.add("passing", "x", Buffer()))
        elif n % 900 == 0:
            hub.remove(hub.add("passing", ">", Buffer(), endpoints=("e0",)))
    assert data(everything) == list(range(3000))
    assert data(own) == [n for n in range(3000) if n % 100 < 2]


async def test_many_topics() -> None:
    """After 30,000 distinct topics, the routes of a fleet are within their bound, and no message is kept."""

    class Data:
        def __init__(self, text: str | bytes) -> None:
            self.number = int(text)
            alive.add(self)

    alive: weakref.WeakSet[Data] = weakref.WeakSet()
    transport = FakeTransport()
    fleet = Fleet(transport=transport)
    latest = fleet.subscribe("a.*", buffer=Buffer(messages=10, overflow=Overflow.LATEST))
    fleet.connect(
        "ws://feed.test/",
        name="feed",
        decode=lambda text: Data(text),
        topic=lambda data: f"a.{data.number}",
        keep_last=20,
    )
    async with latest, feeding(fleet, transport) as socket:
        for n in range(0, 30_000, 1000):
            await socket.feed(*map(str, range(n, n + 1000)))
            fleet.publish(f"b.{n}", n)
        hub = fleet._registry.hub
        assert hub._remembered == sum(map(len, hub._routes.values())) <= hub_module.MAX_ROUTES + 200
        assert all(len(routes.shared) <= 2 for routes in hub._routes.values())
        assert latest.stats().pending == 10 and latest.stats().offered == 30_000
        gc.collect()
        # Waiting messages are also among those kept for replay.
        assert sorted(data.number for data in alive) == list(range(30_000 - 20, 30_000))
        balanced(fleet)


async def test_a_removed_endpoint_leaves_no_routes() -> None:
    """The routes of an endpoint are removed together with it."""
    hub = Hub()
    publish(hub, from_socket(1), endpoint="gone")
    hub.forget_endpoint("gone")
    assert "gone" not in hub._routes


async def test_a_removed_mailbox_leaves_nothing_in_the_hub() -> None:
    """The hub keeps no reference to a removed mailbox, and no entry for an endpoint without one."""
    hub = Hub()
    gone = []
    for endpoints in ((), ("feed",), ("feed", "other")):
        box = hub.add("box", ">", Buffer(), endpoints=endpoints)
        publish(hub, from_socket(1))
        hub.remove(box)
        gone.append(weakref.ref(box))
        del box
    gc.collect()
    assert [each() for each in gone] == [None, None, None]
    assert not hub._own and not hub._owners and not hub._patterns and not hub._leaving


async def test_a_mailbox_removed_without_dropping_is_finished() -> None:
    """The consumer of a mailbox that was removed without dropping gets the waiting messages, and then the end."""
    hub = Hub()
    box = hub.add("box", ">", Buffer())
    hub.inject("news", 1)
    hub.remove(box, drop=False)
    assert await box.ready() and box.hand_out().data == 1
    assert not await box.ready()


async def test_consecutive_messages_of_one_route_are_put_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """Consecutive messages of a read that have the same route are put into a mailbox together."""
    hub = Hub()
    for pattern in ("a.>", "b.>", "*.x"):
        hub.add(pattern, pattern, Buffer())
    runs: list[list[str]] = []
    deliver = hub._deliver

    def remembering(route: Any, run: list[Message[Any]], *rest: Any) -> None:
        runs.append([message.topic for message in run])
        deliver(route, run, *rest)

    monkeypatch.setattr(hub, "_deliver", remembering)
    topics = ["a.p", "a.q", "a.x", "b.p", "b.q", "c", "d", "c"]
    for _ in range(2):
        publish(hub, *(from_socket(n, topic=topic) for n, topic in enumerate(topics)))
    assert runs == 2 * [["a.p", "a.q"], ["a.x"], ["b.p", "b.q"], ["c", "d", "c"]]


async def test_a_subscription_that_ends_in_the_middle_of_a_read_gets_no_more_of_it() -> None:
    """If a message ends a subscription by its overflow, the rest of that read is routed without it."""
    hub = Hub()
    strict = hub.add("strict", ">", Buffer(2, overflow=Overflow.FAIL))
    strict.on_overflow = lambda box: hub.remove(box)
    other = hub.add("other", "b", Buffer())
    hub.wants("a")
    for topic in ("a", "b"):
        publish(hub, from_socket(0, topic=topic))
    strict.hand_out()
    strict.hand_out()
    publish(hub, *(from_socket(n, topic=topic) for n, topic in enumerate("aaabb", 1)))
    assert (strict.offered, strict.dropped) == (5, 3) and data(other) == [0, 4, 5]
    assert sum(row.offered for row in subscription_stats(hub)) == hub.stats().deliveries == 8


@pytest.mark.parametrize("overflow", [Overflow.PAUSE, Overflow.LATEST])
async def test_a_subscription_closed_during_a_delivery_is_still_counted(overflow: Overflow) -> None:
    """If a user's key function closes a subscription during delivery, the current messages count as offered and
    dropped.
    """
    hub = Hub()
    victims: list[Mailbox] = []
    key = lambda message: [hub.remove(box) for box in victims]  # noqa: E731
    first = hub.add("first", ">", Buffer(10, overflow=Overflow.LATEST, key=key))
    victims.append(hub.add("victim", ">", Buffer(overflow=overflow)))
    publish(hub, from_socket(1), from_socket(2))
    assert sum(row.offered for row in subscription_stats(hub)) == hub.stats().deliveries == 4
    assert first.offered == victims[0].dropped == 2
    assert not hub._leaving, "summed up after the delivery"
    hub.remove(first)
    assert not hub._leaving


async def test_removed_mailboxes_are_summed_up_without_reading_the_stats() -> None:
    """Thousands of closed subscriptions leave one row and no objects, even if the stats are never read."""
    hub = Hub()
    for n in range(1000):
        box = hub.add(str(n), ">", Buffer())
        hub.inject("news", n)
        hub.remove(box)
        assert not hub.remove(box)
    assert len(hub._leaving) == 0
    (retired,) = subscription_stats(hub)
    assert (retired.name, retired.offered, retired.dropped, retired.pending) == ("$retired", 1000, 1000, 0)


async def test_a_removed_mailbox_with_a_call_in_progress_is_still_counted() -> None:
    """Messages in hand of a removed subscription are pending in `$retired`, and processed afterwards."""
    hub = Hub()
    box = hub.add("box", ">", Buffer())
    hub.inject("news", 1)
    hub.inject("news", 2)
    message = box.waiting.popleft()
    box.in_hand += 1
    hub.remove(box)
    (retired,) = subscription_stats(hub)
    assert (retired.offered, retired.dropped, retired.pending) == (2, 1, 1)
    box.processed += 1
    box.settled(message)
    (retired,) = subscription_stats(hub)
    assert (retired.offered, retired.processed, retired.dropped, retired.pending) == (2, 1, 1, 0)


# Random order


TOPIC = st.lists(st.sampled_from(["a", "b", "$a"]), min_size=1, max_size=3).map(".".join)
PATTERN = st.lists(st.sampled_from(["a", "b", "*", "$a"]), min_size=1, max_size=3).map(".".join) | st.just(">")


class Routing(RuleBasedStateMachine):
    """Subscriptions that come and go between reads, compared with a simple model of the deliveries."""

    boxes = Bundle("boxes")

    def __init__(self) -> None:
        super().__init__()
        self.hub = Hub()
        self.expected: dict[Mailbox, list[int]] = {}
        self.own: dict[Mailbox, tuple[str, ...]] = {}
        self.removed: dict[Mailbox, list[int]] = {}
        self.number = 0
        self.published = self.injected = self.unrouted = self.deliveries = 0

    def _takers(self, topic: str, endpoint: str) -> list[Mailbox]:
        return [
            box
            for box in self.expected
            if (endpoint in self.own[box] if box in self.own else matches(box.pattern, topic))
        ]

    def _account(self, topic: str, endpoint: str) -> int:
        self.number += 1
        takers = self._takers(topic, endpoint)
        for box in takers:
            self.expected[box].append(self.number)
        self.published += 1
        self.unrouted += not takers
        self.deliveries += len(takers)
        return len(takers)

    @rule(target=boxes, pattern=PATTERN, tail=st.booleans())
    def subscribe(self, pattern: str, tail: bool) -> Mailbox:
        if tail and not pattern.endswith(">"):
            pattern += ".>"
        box = self.hub.add("box", pattern, Buffer(10**6))
        self.expected[box] = []
        return box

    @rule(target=boxes, endpoint=st.sampled_from(["one", "two"]))
    def connect(self, endpoint: str) -> Mailbox:
        box = self.hub.add(endpoint, ">", Buffer(10**6), endpoints=(endpoint,))
        self.expected[box] = []
        self.own[box] = (endpoint,)
        return box

    @rule(target=boxes)
    def pool(self) -> Mailbox:
        box = self.hub.add("pool", ">", Buffer(10**6), endpoints=("one", "two"))
        self.expected[box] = []
        self.own[box] = ("one", "two")
        return box

    @rule(box=consumes(boxes), drop=st.booleans())
    def remove(self, box: Mailbox, drop: bool) -> None:
        assert self.hub.remove(box, drop=drop)
        self.removed[box] = [] if drop else self.expected[box]
        del self.expected[box]

    @rule(endpoint=st.sampled_from(["one", "two"]), topics=st.lists(TOPIC, min_size=1, max_size=8))
    def read(self, endpoint: str, topics: list[str]) -> None:
        messages = []
        for topic in topics:
            self._account(topic, endpoint)
            messages.append(from_socket(self.number, topic=topic))
        publish(self.hub, *messages, endpoint=endpoint)

    @rule(endpoint=st.sampled_from(["one", "two"]), topic=TOPIC, count=st.integers(1, 5))
    def read_of_one_topic(self, endpoint: str, topic: str, count: int) -> None:
        messages = []
        for _ in range(count):
            self._account(topic, endpoint)
            messages.append(from_socket(self.number, topic=topic))
        self.hub.dispatch(messages, count, endpoint, self.hub.routes_of(endpoint), Tap())

    @rule(topic=TOPIC)
    def inject(self, topic: str) -> None:
        takers = self._account(topic, "")
        self.injected += 1
        assert self.hub.wants(topic) is bool(takers)
        assert self.hub.inject(topic, self.number) == takers

    @invariant()
    def everybody_has_what_they_should_have(self) -> None:
        for box, expected in (*self.expected.items(), *self.removed.items()):
            assert data(box) == expected

    @invariant()
    def the_account_is_right(self) -> None:
        stats = self.hub.stats()
        assert (stats.published, stats.injected, stats.unrouted, stats.deliveries) == (
            self.published,
            self.injected,
            self.unrouted,
            self.deliveries,
        )
        assert stats.routed == self.published - self.unrouted
        rows = subscription_stats(self.hub)
        assert sum(row.offered for row in rows) == self.deliveries
        assert all(row.offered == row.processed + row.failed + row.dropped + row.pending for row in rows)


class TestRouting(Routing.TestCase):  # type: ignore[misc, name-defined]
    """In any order of events, each subscription gets each matching message once and in order."""

    settings = settings(stateful_step_count=20)


# `publish`


async def test_publish_returns_the_number_of_deliveries() -> None:
    """`Fleet.publish` returns the number of subscriptions that took the message, not the number it was offered to."""
    fleet = Fleet()
    one = fleet.subscribe("news.*")
    two = fleet.subscribe("news.>", buffer=Buffer(messages=1, overflow=DROP_OLDEST))
    assert fleet.publish("news.a", {"n": 1}) == 2
    assert fleet.publish("news.b", {"n": 2}) == 2
    assert fleet.publish("other", {"n": 3}) == 0
    two.close()
    assert fleet.publish("news.c", {"n": 4}) == 1
    assert one.stats().pending == 3
    assert balanced(fleet).hub.injected == 4
    one.close()


async def test_publish_rejects_invalid_topics() -> None:
    """`$`, wildcards, empty tokens and white space in a topic of `publish` raise ValueError, and count nothing."""
    fleet = Fleet()
    bad: list[Any] = [
        "",
        ".",
        "a.",
        ".a",
        "a..b",
        "$x",
        "$state.a",
        "*",
        "a.*",
        ">",
        "a.>",
        "a b",
        "a\nb",
        "a\x00",
        None,
        7,
    ]
    for topic in bad:
        with pytest.raises(ValueError):
            fleet.publish(topic, 1)
    assert fleet.stats().hub.published == 0


async def test_publish_after_the_end_raises() -> None:
    """After the end of the fleet, `publish` raises FleetError, whether the topic is valid or not."""
    fleet = Fleet(transport=FakeTransport())
    async with fleet:
        fleet.publish("news", 1)
    for topic in ("news", "$x"):
        with pytest.raises(FleetError):
            fleet.publish(topic, 1)


@pytest.mark.parametrize(("thing", "size"), [("abc", 3), ("é€", 5), (b"\x00\x01", 2), ({"a": 1}, 0), (None, 0)])
async def test_a_published_message_has_no_endpoint_index_or_session(thing: Any, size: int) -> None:
    """A published message has a topic, a time and the size of str and bytes, but no endpoint, index or session."""
    fleet = Fleet()
    async with fleet.subscribe("news") as subscription:
        fleet.publish("news", thing)
        message = await anext(subscription)
        assert message == Message(thing, "news", received_at=message.received_at, size=size)
        assert message.received_at > 1.7e9


async def test_the_end_of_the_fleet_retires_nothing() -> None:
    """The rows of subscriptions show the state at the end, although the subscriptions are closed afterwards."""
    fleet = Fleet(transport=FakeTransport())
    subscription = fleet.subscribe("news", name="late")
    async with fleet:
        fleet.publish("news", 1)
    subscription.close()
    assert [(row.name, row.dropped) for row in balanced(fleet).subscriptions] == [("late", 1)]


# While messages flow


async def test_a_processor_subscribes_and_unsubscribes_while_messages_flow() -> None:
    """A processor may add and close subscriptions; this takes effect from the next message on."""
    transport = FakeTransport()
    fleet = Fleet(transport=transport)
    seen: list[str] = []

    async def on_message(message: Message[str]) -> None:
        seen.append(message.data)
        if message.data == "add":
            fleet.process(">", name="added")(keeper(added))
        elif message.data == "remove":
            fleet.subscriptions["added"].close()
        elif message.data == "remove me":
            fleet.subscriptions["feed"].close()

    added: list[str] = []
    fleet.connect("ws://feed.test/", on_message, name="feed")
    async with feeding(fleet, transport) as socket:
        for text in ("one", "add", "two", "remove", "three", "add", "four", "remove me", "five"):
            await socket.feed(text)
            await turns()
            balanced(fleet)
        assert seen == ["one", "add", "two", "remove", "three", "add", "four", "remove me"]
        assert added == ["two", "four", "remove me", "five"]  # the first "remove" was still waiting when it was closed
        stats = balanced(fleet)
    assert [row.name for row in stats.subscriptions] == ["added", "$retired"]
    assert balanced(fleet).hub.unrouted == 0


async def test_a_processor_that_unsubscribes_finishes_its_call() -> None:
    """`close` drops waiting messages; the current call, which called `close`, is counted as processed."""
    transport = FakeTransport()
    fleet = Fleet(transport=transport)

    async def once(message: Message[str]) -> None:
        if message.data == "1":
            fleet.subscriptions["once"].close()
        await asyncio.sleep(0)

    fleet.process("feed", name="once")(once)
    fleet.connect("ws://feed.test/", name="feed")
    async with feeding(fleet, transport) as socket:
        await socket.feed("0")  # the first batch of a topic is one message
        await turns()
        await socket.feed("1", "2", "3")
        await turns(5)
        assert "once" not in fleet.subscriptions
        (retired,) = balanced(fleet).subscriptions
        assert (retired.offered, retired.processed, retired.dropped, retired.pending) == (4, 2, 2, 0)


# `$` topics


async def test_slow_is_published_once_for_each_episode() -> None:
    """A mailbox that becomes full publishes `$slow.<name>` once, and again only after it was half empty."""
    transport = FakeTransport()
    fleet = Fleet(transport=transport)
    watcher = fleet.subscribe("$slow.*")
    lame = fleet.subscribe("feed", name="lame", buffer=Buffer(messages=4, overflow=DROP_OLDEST))
    fleet.connect("ws://feed.test/", name="feed")
    async with watcher, lame, feeding(fleet, transport) as socket:
        await socket.feed(*map(str, range(20)))
        await socket.feed(*map(str, range(20)))
        assert watcher.stats().pending == 1
        message = await anext(watcher)
        assert message.topic == "$slow.lame"
        assert message.data == Slow("lame", 4, 4, "drop_oldest")
        await anext(lame)
        await socket.feed("x")
        assert watcher.stats().pending == 0
        await anext(lame)
        await anext(lame)
        await socket.feed("x", "x")
        assert watcher.stats().pending == 1
        balanced(fleet)


async def test_published_messages_make_a_mailbox_slow_too() -> None:
    """`$slow` is published regardless of how the mailbox became full."""
    fleet = Fleet()
    async with fleet.subscribe("$slow.news-box") as watcher, fleet.subscribe("news", name="news-box", buffer=Buffer(2)):
        for n in range(5):
            fleet.publish("news", n)
        assert watcher.stats().pending == 1
        assert (await anext(watcher)).data == Slow("news-box", 2, 0, "pause")


async def test_a_dollar_message_causes_no_other() -> None:
    """A `$` message that fills a mailbox, is dropped there, or fails causes no further `$` message."""
    transport = FakeTransport()
    fleet = Fleet(transport=transport)

    @fleet.process("$state.>", name="raising")
    async def raising(message: Message[Any]) -> None:
        raise ValueError("no")

    all_of_them = fleet.subscribe("$slow.>"), fleet.subscribe("$dead.>")
    tiny = fleet.subscribe("$state.>", buffer=Buffer(messages=1, overflow=DROP_OLDEST))
    full = fleet.subscribe("$state.>", buffer=Buffer(messages=1))
    fleet.connect("ws://feed.test/", name="feed")
    async with feeding(fleet, transport):
        await turns()
        assert row(fleet, "raising").failed >= 1
        assert tiny.stats().dropped >= 1 or tiny.stats().offered == 1
        assert [each.stats().offered for each in all_of_them] == [0, 0]
        balanced(fleet)
    for each in (*all_of_them, tiny, full):
        each.close()


async def test_a_dollar_message_is_only_created_for_a_subscription() -> None:
    """Without a matching subscription, no `$` message is created."""
    transport = FakeTransport()
    fleet = Fleet(transport=transport)
    async with fleet.subscribe(">") as everything, fleet.subscribe("$malformed.other") as other:
        fleet.connect("ws://feed.test/", name="feed", decode="json")
        async with feeding(fleet, transport) as socket:
            await socket.feed("{", "1")
            stats = balanced(fleet)
            assert stats.hub.injected == 0 and stats.endpoints[0].malformed == 1
            assert everything.stats().offered == 1 and other.stats().offered == 0
            async with fleet.subscribe("$malformed.feed") as wanted:
                await socket.feed("}")
                record = (await anext(wanted)).data
                assert isinstance(record, Malformed)
                assert (record.endpoint, record.index, record.session, record.raw) == ("feed", 3, 1, b"}")
                assert balanced(fleet).hub.injected == 1


@given(st.lists(TOPIC, min_size=1, max_size=30), st.integers(1, 6))
@settings(max_examples=50)
def test_clearing_cached_routes_changes_no_delivery(topics: list[str], most: int) -> None:
    """Clearing the cached routes at any time does not change any delivery."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hub_module, "MAX_ROUTES", most)
        hub = Hub()
        boxes = [hub.add(p, p, Buffer()) for p in ("a.>", "*.b", ">", "$a.*")]
        publish(hub, *(from_socket(n, topic=topic) for n, topic in enumerate(topics)))
        for box in boxes:
            assert data(box) == [n for n, topic in enumerate(topics) if matches(box.pattern, topic)]
        assert is_balanced(hub.stats(), (), subscription_stats(hub)) is False, "messages without an endpoint"
        assert hub.stats().published == len(topics)
