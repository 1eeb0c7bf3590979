"""What somebody who comes from elsewhere writes first: refused at once, with what to write instead."""

from typing import Any

import pytest

from wsfleet import Buffer, Fleet
from wsfleet.errors import ConfigError

URI = "ws://feed.test/"


def test_process_without_its_pattern() -> None:
    """@fleet.process without parentheses says how to write it, and leaves no processor behind."""
    fleet = Fleet()
    process: Any = fleet.process
    with pytest.raises(ConfigError, match=r'write @fleet.process\("pattern"\)'):

        @process
        async def handle(message: object) -> None: ...

    assert not fleet.subscriptions


@pytest.mark.parametrize("pattern", [None, 3, "", "a..b", b"a"])
def test_a_bad_pattern_is_refused_before_there_is_a_function(pattern: Any) -> None:
    """process(...) itself refuses its pattern, as the decorator may be used later or never."""
    with pytest.raises(ConfigError, match=r"pattern|empty token"):
        Fleet().process(pattern)


@pytest.mark.parametrize(
    ("option", "meant"),
    [
        ("extra_headers", "headers="),
        ("additional_headers", "headers="),
        ("ping_interval", "liveness=Liveness(ping_s=...)"),
        ("open_timeout", "open_s="),
        ("on_message", "the processor"),
        ("reconect", "'reconnect'"),
        ("subprotocol", "'subprotocols'"),
        ("concurency", "'concurrency'"),
    ],
)
def test_an_unknown_option_names_the_one_that_is_meant(option: str, meant: str) -> None:
    """A typing error, and another library's name for the same thing, are answered with ours."""
    options: Any = {option: 1}
    for declare in (lambda: Fleet().connect(URI, **options), lambda: Fleet().pool(URI, 2, **options)):
        with pytest.raises(TypeError, match=f"unknown option '{option}'; did you mean ") as caught:
            declare()
        assert meant in str(caught.value)
    with pytest.raises(TypeError, match=r"unknown option 'zzz'$"):
        Fleet().connect(URI, zzz=1)  # type: ignore[call-overload, unused-ignore]


def test_overflow_given_as_its_word() -> None:
    """The word that a file takes is answered in Python with the member to write."""
    overflow: Any = "drop_oldest"
    with pytest.raises(ConfigError, match=r"write Overflow\.DROP_OLDEST"):
        Buffer(overflow=overflow)
