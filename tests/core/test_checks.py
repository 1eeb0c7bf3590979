"""Functions that cannot be called are rejected in the declaration."""

from collections.abc import Callable
from functools import partial, wraps
from pathlib import Path
from typing import Any

import pytest

from tests.support.flows import opened
from wsfleet import Buffer, Endpoint, Fleet, Liveness, Message, Overflow, Reconnect
from wsfleet.config import load
from wsfleet.core.errors import ConfigError
from wsfleet.testing import FakeTransport

URI = "ws://feed.test/"


async def none() -> None: ...
async def one(given: Any) -> None: ...
async def two(given: Any, more: Any) -> None: ...
async def keyword(given: Any, *, more: Any) -> None: ...
async def optional(given: Any, more: Any = None, *rest: Any) -> None: ...


def takes_two(function: Callable[..., Any]) -> Callable[..., Any]:
    """A decorator that passes an additional argument to the function."""

    @wraps(function)
    async def wrapper(given: Any) -> Any:
        return await function(given, "more")

    return wrapper


class Worker:
    async def __call__(self, message: Message[Any]) -> None: ...
    async def method(self, message: Message[Any]) -> None: ...


PLACES: dict[str, Callable[[Fleet, Any], Any]] = {
    "processor": lambda fleet, function: fleet.process("a")(function),
    "its own processor": lambda fleet, function: fleet.connect(URI, function),
    "on_open": lambda fleet, function: fleet.connect(URI, on_open=function),
    "topic": lambda fleet, function: fleet.connect(URI, topic=function),
    "key": lambda fleet, function: fleet.process("a", key=function),
    "buffer": lambda fleet, function: Buffer(overflow=Overflow.LATEST, key=function),
    "match": lambda fleet, function: fleet.pool(URI, 1, match=function),
    "identify": lambda fleet, function: fleet.pool(URI, 1, identify=function),
    "fatal": lambda fleet, function: Reconnect(fatal=function),
}


@pytest.mark.parametrize("function", [none, two, keyword, partial(one, 1)])
@pytest.mark.parametrize("place", PLACES)
def test_a_function_of_other_than_one_argument_is_refused(place: str, function: Any) -> None:
    """A function that cannot be called with one argument raises ConfigError, for each option that takes a function."""
    plain = function if place in ("processor", "its own processor", "on_open") else as_plain(function)
    with pytest.raises(ConfigError, match=r"must take one argument: (missing|too many)") as raised:
        PLACES[place](Fleet(), plain)
    assert len(raised.value.faults) == 1


def as_plain(function: Any) -> Any:
    """Wrap `function` in a plain function."""
    return {
        none: lambda: None,
        two: lambda given, more: None,
        keyword: lambda given, *, more: None,
    }.get(function, partial(lambda given: None, 1))


@pytest.mark.parametrize("decode", [lambda: None, lambda payload, more: None])
def test_a_decoder_of_other_than_one_argument_is_refused(decode: Any) -> None:
    """A decoder must accept the payload as its only argument."""
    with pytest.raises(ConfigError, match="decode must take one argument"):
        Endpoint(URI, decode=decode)


@pytest.mark.parametrize(
    "function",
    [one, optional, partial(two, more=1), partial(two, 1), takes_two(two), Worker(), Worker().method, print],
)
def test_callables_of_one_argument_are_accepted(function: Any) -> None:
    """A function that can be called with one argument is accepted, whatever the signature of a wrapped function is."""
    fleet = Fleet()
    fleet.process("a", name="a")(function)
    fleet.connect(URI, function, on_open=one)
    assert len(fleet.subscriptions) == 2


@pytest.mark.parametrize(
    ("declare", "field"),
    [(lambda: Liveness(heartbeat=none, heartbeat_s=1.0), "heartbeat"), (lambda: Reconnect(fatal=one), "fatal")],  # type: ignore[arg-type]
)
def test_an_async_function_is_refused_if_it_is_not_awaited(declare: Callable[[], Any], field: str) -> None:
    """An async function is rejected where its coroutine would be used as a value."""
    with pytest.raises(ConfigError, match=f"{field} must be a plain function"):
        declare()


def test_a_file_with_such_a_handler_has_a_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`wsfleet check` reports a handler that cannot be called, with its line."""
    (tmp_path / "narrow_hand.py").write_text("async def none(): ...\n")
    file = tmp_path / "fleet.toml"
    file.write_text(f'[[connect]]\nuri = "{URI}"\nhandler = "narrow_hand:none"\n')
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigError, match="must take one argument: too many positional arguments"):
        load(file)


async def test_a_decorated_handler_gets_its_messages() -> None:
    """A handler whose decorator adds an argument is called with it."""
    transport = FakeTransport()
    fleet = Fleet(transport=transport)
    got: list[tuple[Any, Any]] = []

    @takes_two
    async def work(message: Message[Any], more: str) -> None:
        got.append((message.data, more))

    fleet.connect(URI, work, name="feed")
    async with fleet:
        await (await opened(fleet, transport)).feed("a")
    assert got == [("a", "more")]
