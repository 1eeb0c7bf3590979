"""Invalid processors are rejected at declaration, with the field at fault, and use no name."""

import functools
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from wsfleet import Buffer, Fleet, Message, Retry, sinks
from wsfleet.core.errors import ConfigError


async def handle(message: Message[Any]) -> None: ...


def plain(message: Message[Any]) -> None: ...


def generator(message: Message[Any]) -> Iterator[int]:
    yield 1


async def async_generator(message: Message[Any]) -> AsyncIterator[int]:
    yield 1


class Yields:
    def __call__(self, message: Message[Any]) -> Iterator[int]:
        yield 1


@pytest.mark.parametrize("how", ["process", "connect", "pool"])
@pytest.mark.parametrize(
    ("field", "options"),
    [
        ("concurrency", {"concurrency": 0}),
        ("concurrency", {"concurrency": True}),
        ("concurrency", {"concurrency": 1.5}),
        ("key", {"key": "topic"}),
        ("batch", {"batch": 0}),
        ("batch", {"batch": "10"}),
        ("batch", {"batch": 11, "buffer": Buffer(10)}),
        ("retry", {"retry": 3}),
        ("timeout_s", {"timeout_s": 0}),
        ("timeout_s", {"timeout_s": -1}),
        ("timeout_s", {"timeout_s": True}),
        ("timeout_s", {"timeout_s": "5"}),
        ("timeout_s", {"timeout_s": float("nan")}),
        ("timeout_s", {"timeout_s": float("inf")}),
        ("timeout_s", {"timeout_s": 10**400}),
        ("offload", {"offload": "thread"}),
        ("buffer", {"buffer": 10}),
    ],
    ids=lambda each: type(each).__name__,
)
def test_a_bad_option_is_reported_and_uses_no_name(how: str, field: str, options: dict[str, Any]) -> None:
    """An invalid option raises ConfigError with the field in `faults`, and the name is still free."""
    fleet = Fleet()
    with pytest.raises(ConfigError) as raised:
        if how == "process":
            fleet.process("t", name="p", **options)(handle)
        elif how == "connect":
            fleet.connect("ws://feed.test/", handle, name="p", **options)
        else:
            fleet.pool("ws://feed.test/", 2, handle, name="p", **options)
    assert [name for name, _ in raised.value.faults] == [field]
    assert field in str(raised.value)
    assert not fleet.subscriptions and not fleet.connections
    fleet.pool("ws://feed.test/", 2, handle, name="p")


def test_all_faults_are_reported_at_once() -> None:
    """Several invalid options raise one ConfigError that lists them all."""
    bad: Any = {"concurrency": 0, "batch": -1, "retry": "no", "timeout_s": 0}
    with pytest.raises(ConfigError) as raised:
        Fleet().process("t", **bad)
    assert [name for name, _ in raised.value.faults] == ["concurrency", "batch", "retry", "timeout_s"]


@pytest.mark.parametrize(
    ("field", "make"),
    [
        ("attempts", lambda: Retry(attempts=0)),
        ("attempts", lambda: Retry(attempts=1.5)),  # type: ignore[arg-type]
        ("initial_s", lambda: Retry(initial_s=-1)),
        ("max_s", lambda: Retry(max_s=float("inf"))),
    ],
)
def test_a_bad_retry_is_reported(field: str, make: Any) -> None:
    """An invalid Retry raises ConfigError when it is created."""
    with pytest.raises(ConfigError) as raised:
        make()
    assert [name for name, _ in raised.value.faults] == [field]


@pytest.mark.parametrize(
    "function",
    [None, 5, "handle", int, Yields, generator, async_generator, Yields(), functools.partial(generator)],
    ids=lambda each: type(each).__name__,
)
def test_a_function_that_cannot_process_is_rejected(function: Any) -> None:
    """Classes, generators and objects that cannot be called raise ConfigError, because messages would not be
    processed.
    """
    fleet = Fleet()
    with pytest.raises(ConfigError) as raised:
        fleet.process("t", name="p")(function)
    assert [name for name, _ in raised.value.faults] == ["processor"]
    fleet.process("t", name="p")(handle)


@pytest.mark.parametrize("pattern", ["", "a..b", "a.>.b", "a b"])
def test_a_bad_pattern_is_reported(pattern: str) -> None:
    """A pattern that can match nothing raises ConfigError, and uses no name."""
    fleet = Fleet()
    with pytest.raises(ConfigError) as raised:
        fleet.process(pattern, name="p")(handle)
    assert [name for name, _ in raised.value.faults] == ["pattern"]
    fleet.process("t", name="p")(handle)


@pytest.mark.parametrize(
    ("field", "options"),
    [("concurrency", {"concurrency": 2}), ("key", {"key": len}), ("offload", {"offload": "process"})],
    ids=lambda each: type(each).__name__,
)
def test_options_that_a_sink_cannot_have_are_reported(field: str, options: dict[str, Any]) -> None:
    """A sink writes in order, in the loop: `concurrency`, `key` and `offload` raise ConfigError for it."""
    fleet = Fleet()
    with pytest.raises(ConfigError) as raised:
        fleet.process("t", name="p", **options)(sinks.open("stdout"))
    assert [name for name, _ in raised.value.faults] == [field]
    fleet.process("t", name="p")(sinks.open("stdout"))


def test_one_sink_has_one_subscription() -> None:
    """The same sink twice raises ConfigError: the first subscription to end would close it for the other one."""
    fleet = Fleet()
    sink = sinks.open("stdout")
    fleet.process("t", name="p")(sink)
    with pytest.raises(ConfigError) as raised:
        fleet.process("t", name="q")(sink)
    assert [name for name, _ in raised.value.faults] == ["processor"]
    assert list(fleet.subscriptions) == ["p"]


def test_a_processors_keywords_need_a_processor() -> None:
    """`connect` without a processor accepts none of its keywords: TypeError."""
    fleet = Fleet()
    with pytest.raises(TypeError, match="batch"):
        fleet.connect("ws://feed.test/", batch=5)
    assert not fleet.connections


@pytest.mark.parametrize(
    ("function", "name"),
    [(handle, "handle"), (functools.partial(handle), "handle"), (lambda message: None, "<lambda>")],
)
def test_a_processor_is_named_after_its_function(function: Any, name: str) -> None:
    """The default name is that of the function, made unique; `process` returns the function unchanged."""
    fleet = Fleet()
    assert fleet.process("t")(function) is function
    fleet.process("t")(function)
    assert len(fleet.subscriptions) == 2
    assert next(iter(fleet.subscriptions)).startswith(name.strip("<>")) or name == "<lambda>"
