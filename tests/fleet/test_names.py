"""Names and invalid options: rejected at declaration, with a clear error, and without using a name."""

from typing import Any

import pytest

from tests.support.flows import DROP_OLDEST, balanced, keeper, opened
from wsfleet import Buffer, Endpoint, Fleet, FleetError, Message
from wsfleet.core.errors import ConfigError
from wsfleet.testing import FakeTransport

URI = "ws://feed.test/"


async def on_trade(message: Message[Any]) -> None:
    pass


def names(fleet: Fleet) -> tuple[list[str], list[str]]:
    return list(fleet.connections), list(fleet.subscriptions)


# Default names


def test_default_names() -> None:
    """An endpoint is named after its host, dots as dashes, a processor after its function, a subscription sub-1."""
    fleet = Fleet()
    fleet.connect("wss://stream.feed.example:9443/ws")
    fleet.connect("ws://127.0.0.1:8080/")
    fleet.connect("ws://[::1]:8080/")
    fleet.connect("ws://FEED.example/")
    fleet.process("a")(on_trade)
    held = [fleet.subscribe("a") for _ in range(2)]
    assert names(fleet) == (
        ["stream-feed-example", "127-0-0-1", "::1", "feed-example"],
        ["on_trade", "sub-1", "sub-2"],
    )
    for subscription in held:
        subscription.close()


def test_default_names_are_made_unique_against_all_others() -> None:
    """A default name that is used by an endpoint, a processor or a subscription gets the next free number."""
    fleet = Fleet()
    fleet.connect(URI, name="on_trade")
    fleet.process("a", name="feed-test")(on_trade)
    fleet.process("a")(on_trade)
    fleet.process("a")(on_trade)
    fleet.connect(URI)
    fleet.connect(URI, name="feed-test-3")
    fleet.connect(URI)
    fleet.process("a", name="sub-1")(on_trade)
    with fleet_subscription(fleet) as subscription:
        assert subscription.name == "sub-2"
        assert names(fleet) == (
            ["on_trade", "feed-test-2", "feed-test-3", "feed-test-4"],
            ["feed-test", "on_trade-2", "on_trade-3", "sub-1", "sub-2"],
        )


class fleet_subscription:
    """A subscription for the duration of a block."""

    def __init__(self, fleet: Fleet, **options: Any) -> None:
        self.subscription = fleet.subscribe("a", **options)

    def __enter__(self) -> Any:
        return self.subscription

    def __exit__(self, *error: object) -> None:
        self.subscription.close()


def test_an_endpoint_shares_its_name_only_with_its_own_processor() -> None:
    """`connect(endpoint, processor)` gives one name to both, and it cannot be used again."""
    fleet = Fleet()
    fleet.connect(URI, on_trade, name="feed")
    assert names(fleet) == (["feed"], ["feed"])
    assert fleet.subscriptions["feed"].pattern == ">"
    fleet.subscriptions["feed"].close()
    assert names(fleet) == (["feed"], [])
    for declare in (
        lambda: fleet.process("a", name="feed")(on_trade),
        lambda: fleet.subscribe("a", name="feed"),
        lambda: fleet.connect(URI, name="feed"),
    ):
        with pytest.raises(ConfigError, match="in use"):
            declare()


async def test_a_closed_name_is_free_again() -> None:
    """Closing an endpoint or a subscription frees its name, before the start and while the fleet runs."""
    transport = FakeTransport()
    fleet = Fleet(transport=transport)
    connection = fleet.connect(URI, on_trade, name="feed")
    await connection.close()
    assert names(fleet) == ([], [])
    connection = fleet.connect(URI, on_trade, name="feed")
    async with fleet:
        for _ in range(3):
            await opened(fleet, transport)
            fleet.process("a", name="mine")(on_trade)
            fleet.subscriptions["mine"].close()
            await connection.close()
            assert names(fleet) == ([], [])
            with fleet_subscription(fleet, name="feed"), pytest.raises(ConfigError):
                fleet.connect(URI, name="feed")
            connection = fleet.connect(URI, on_trade, name="feed")
        balanced(fleet)


@pytest.mark.parametrize("name", ["", "a.b", "*", "a*", ">", "a b", "a\tb", "$a", "a\n", "\x00", 7, b"a"])
def test_an_invalid_name_is_rejected(name: Any) -> None:
    """A name is one token: no dot, wildcard, white space or leading `$`."""
    fleet = Fleet()
    with pytest.raises(ConfigError):
        fleet.connect(URI, name=name)
    with pytest.raises(ConfigError):
        fleet.process("a", name=name)(on_trade)
    with pytest.raises(ConfigError):
        fleet.subscribe("a", name=name)
    assert names(fleet) == ([], [])


def test_a_config_error_is_a_value_error() -> None:
    """ConfigError is a ValueError and a FleetError."""
    assert issubclass(ConfigError, ValueError) and issubclass(ConfigError, FleetError)


@pytest.mark.parametrize("pattern", ["", ".", "a.", "a..b", ">.a", "a.>.b", "a*", "a.b>", "a b", None, 7])
def test_an_invalid_pattern_is_rejected(pattern: Any) -> None:
    """An invalid pattern raises ConfigError and uses no name."""
    fleet = Fleet()
    with pytest.raises(ConfigError):
        fleet.process(pattern, name="mine")(on_trade)
    with pytest.raises(ConfigError):
        fleet.subscribe(pattern, name="mine")
    with fleet_subscription(fleet, name="mine"):
        pass


# Options


REFUSED: list[dict[str, Any]] = [
    {"concurrency": 0},
    {"concurrency": True},
    {"key": 1},
    {"batch": 0},
    {"batch": 6, "buffer": Buffer(5)},
    {"retry": 3},
    {"timeout_s": 0},
    {"offload": "somewhere"},
    {"buffer": 1000},
    {"buffer": None},
]


@pytest.mark.parametrize("options", REFUSED, ids=lambda options: next(iter(options)))
def test_processor_options_that_cannot_work_are_refused(options: dict[str, Any]) -> None:
    """An invalid option raises ConfigError at declaration with its name, and uses no name."""
    fleet = Fleet()
    word = next(iter(options))
    for declare in (
        lambda: fleet.process("a", name="mine", **options)(on_trade),
        lambda: fleet.connect(URI, on_trade, name="mine", **options),
        lambda: fleet.pool(URI, 2, on_trade, name="mine", **options),
    ):
        with pytest.raises(ConfigError, match=word) as caught:
            declare()
        assert word in [name for name, _ in caught.value.faults]
    if not isinstance(options.get("buffer", Buffer()), Buffer):
        with pytest.raises(ConfigError, match=word):
            fleet.subscribe("a", name="mine", **options)
    assert names(fleet) == ([], [])
    fleet.connect(URI, on_trade, name="mine", buffer=Buffer(5, overflow=DROP_OLDEST), concurrency=1, retry=None)
    assert fleet.subscriptions["mine"].stats().overflow == "drop_oldest"


def test_other_invalid_options_use_no_name() -> None:
    """Pools without members, values of `replay` other than "last", and negative `keep_last` raise ConfigError."""
    fleet = Fleet()
    for declare, word in (
        (lambda: fleet.pool(URI, 0, name="mine"), "size"),
        (lambda: fleet.pool(URI, 2, name="mine", decode="text"), "decode"),
        (lambda: fleet.subscribe("a", name="mine", replay="all"), "replay"),  # type: ignore[arg-type]
        (lambda: fleet.connect(URI, name="mine", keep_last=-1), "keep_last"),
    ):
        with pytest.raises(ConfigError, match=word):
            declare()
    assert names(fleet) == ([], [])
    fleet.connect(URI, name="mine")


@pytest.mark.parametrize(
    "declare",
    [
        lambda fleet: fleet.connect(Endpoint(URI), name="mine"),
        lambda fleet: fleet.connect(Endpoint(URI), decode="json"),
        lambda fleet: fleet.connect(Endpoint(URI), on_trade, decode="json"),
        lambda fleet: fleet.connect(URI, name="mine", concurrency=2),
        lambda fleet: fleet.connect(URI, name="mine", concurrency=1),
        lambda fleet: fleet.connect(URI, name="mine", colour="red"),
        lambda fleet: fleet.connect(URI, on_trade, name="mine", pattern="a"),
        lambda fleet: fleet.connect(Endpoint(URI), uri=URI),
        lambda fleet: fleet.connect(),
        lambda fleet: fleet.process("a", colour="red"),
        lambda fleet: fleet.subscribe("a", concurrency=1),
    ],
)
def test_misplaced_options_are_type_errors(declare: Any) -> None:
    """Fields together with an Endpoint, a processor's keywords without one, and unknown options raise TypeError."""
    fleet = Fleet()
    with pytest.raises(TypeError):
        declare(fleet)
    assert names(fleet) == ([], [])
    fleet.connect(URI, name="mine")


def test_endpoint_and_processor_options_go_together() -> None:
    """A processor's keywords can be used with an Endpoint; with a URI, both kinds can."""
    fleet = Fleet()
    fleet.connect(Endpoint(URI, name="one"), on_trade, buffer=Buffer(7))
    fleet.connect(URI, on_trade, name="two", decode="json", buffer=Buffer(8))

    async def uri() -> str:
        return URI

    fleet.connect(uri, name="three")  # type: ignore[arg-type]
    assert names(fleet) == (["one", "two", "three"], ["one", "two"])
    with pytest.raises(ConfigError, match="name"):
        fleet.connect(uri)  # type: ignore[arg-type]


@pytest.mark.parametrize("bad", ["http://x/", "", "ws://", None, 7, b"ws://feed.test/"])
def test_an_invalid_endpoint_uses_no_name(bad: Any) -> None:
    """An invalid endpoint raises ConfigError and leaves nothing behind."""
    fleet = Fleet()
    with pytest.raises(ConfigError):
        fleet.connect(bad, on_trade, name="mine")
    assert names(fleet) == ([], [])
    fleet.connect(URI, name="mine")


async def test_nothing_is_declared_after_the_end() -> None:
    """After the end of the fleet, each declaration raises FleetError."""
    fleet = Fleet(transport=FakeTransport())
    async with fleet:
        pass
    for declare in (
        lambda: fleet.connect(URI),
        lambda: fleet.pool(URI, 2),
        lambda: fleet.process("a"),
        lambda: fleet.subscribe("a"),
    ):
        with pytest.raises(FleetError) as caught:
            declare()
        assert not isinstance(caught.value, ConfigError)


@pytest.mark.parametrize(
    "options", [{"name": ""}, {"name": 7}, {"limits": 3}, {"drain_s": -1}, {"drain_s": "1"}, {"drain_s": 10**400}]
)
def test_a_fleets_own_options_are_checked(options: dict[str, Any]) -> None:
    """A fleet rejects invalid options."""
    with pytest.raises(ConfigError, match=next(iter(options))):
        Fleet(**options)


def test_the_decorator_returns_the_function_unchanged() -> None:
    """`process` returns the function itself, so that it can be tested, called, or declared a second time."""
    fleet = Fleet()
    assert fleet.process("a")(on_trade) is on_trade
    again = fleet.process("b", name="again")(fleet.process("a")(keeper([])))
    assert callable(again) and len(fleet.subscriptions) == 3
