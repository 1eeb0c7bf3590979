"""Patterns match as documented, and data cannot forge a topic."""

import datetime
import decimal
import enum
import json
import re
import tracemalloc
import uuid
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from wsfleet.core.errors import ConfigError
from wsfleet.core.topics import (
    PatternIndex,
    check_pattern,
    check_topic,
    compile_pattern,
    compile_topic,
    safe_token,
    safe_topic,
)

tokens = st.one_of(
    st.sampled_from(["a", "b", "ab", "$a", "a$", "é", "[", "a+", "\\", "_"]), st.text("ab$", min_size=1, max_size=2)
)
topics = st.lists(tokens, min_size=1, max_size=4).map(".".join)
patterns = st.builds(
    lambda parts, rest: ".".join([*parts, *rest]),
    st.lists(st.one_of(tokens, st.just("*")), max_size=3),
    st.sampled_from([[], [">"]]),
).filter(bool)


def matches(pattern, topic):
    """A simple matcher, token by token."""
    if not pattern or not topic:
        return not pattern and not topic
    if pattern[0] == ">":
        return True
    return pattern[0] in ("*", topic[0]) and matches(pattern[1:], topic[1:])


def naive(pattern, topic):
    pattern, topic = pattern.split("."), topic.split(".")
    wild = pattern[0] in ("*", ">")
    return not (wild and topic[0].startswith("$")) and matches(pattern, topic)


@given(patterns, topics)
def test_patterns_match_like_the_naive_matcher(pattern, topic):
    """Patterns match like the simple matcher: `*` one token, `>` one or more, no wildcard matches a first `$` token."""
    assert compile_pattern(pattern)(topic) == naive(pattern, topic)


@given(topics, st.data())
def test_a_topics_own_generalisations_match_it(topic, data):
    """A topic without `$` is matched by itself, by `*` in place of any token, and by `>` in place of its end."""
    parts = topic.split(".")
    place = data.draw(st.integers(0, len(parts) - 1))
    assert compile_pattern(topic)(topic)
    if place or not topic.startswith("$"):
        assert compile_pattern(".".join([*parts[:place], "*", *parts[place + 1 :]]))(topic)
        assert compile_pattern(".".join([*parts[:place], ">"]))(topic)


@given(st.text("ab.*>$ \n\x00é", max_size=8))
def test_valid_topics_and_patterns_can_be_used(text):
    """A valid topic is a valid pattern that matches itself, and valid patterns compile."""
    if check_topic(text) is None:
        assert check_pattern(text) is None
        assert compile_pattern(text)(text)
        assert all(text.split("."))
        assert not set("*> \n\x00") & set(text)
        assert not text.startswith("$")
    if check_pattern(text) is None:
        compile_pattern(text)
        assert all(text.split("."))
        assert ">" not in text.split(".")[:-1]


@pytest.mark.parametrize("pattern", ["", "a..b", ".a", "a.", "a.>.b", "a*", ">a", "a b", "a\n", None, 5])
def test_invalid_patterns_are_rejected(pattern):
    """Wildcards within tokens, `>` before the end, empty tokens and white space are faults of a pattern."""
    assert check_pattern(pattern) is not None


@pytest.mark.parametrize("topic", ["", "a..b", ".a", "a.", "a.>", "*", "a b", "a\tb", "$state.a", "\ud800", None])
def test_invalid_topics_are_rejected(topic):
    """Wildcards, empty tokens, white space and `$` topics are faults of a topic."""
    assert check_topic(topic) is not None


values = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.floats(),
        st.text(max_size=6),
        st.text(".*>$ \n\x00\x1b\u2028\ud800", max_size=6),
        st.binary(max_size=3),
        st.decimals(),
        st.uuids(),
        st.datetimes(),
        st.sampled_from(["$dead.a", "a.b", "", object()]),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.sampled_from(["a", "b", "3", 3]), inner, max_size=3)
    ),
    max_leaves=6,
)
templates = st.sampled_from(
    ["{a}", "x.{a}", "x.{a}.y", "{a}{b}", "x{a}", "{a}.{b}", "{3}", "{a.b}", "{a.3}", "{3.a.b}", "x.{a.b}"]
)


@given(templates, values)
def test_no_data_can_forge_a_topic(template, data):
    """For any data, a topic has the tokens of its template, or is None."""
    made = compile_topic(template)(data)
    if made is not None:
        assert check_topic(made) is None
        assert made.count(".") == re.sub(r"{[^}]*}", "", template).count(".")
        assert made.startswith("x") or not template.startswith("x")
        made.encode()


class Color(enum.Enum):
    RED = "red"
    NESTED = ("a", "b")


class Trade:
    symbol = "BTC"
    _private = "hidden"

    @property
    def broken(self):
        raise RuntimeError


DATA = {
    "symbol": "BTC",
    "dotted": "BTC.USD",
    "spaced": " a\tb\n",
    "wild": "*>",
    "empty": "",
    "none": None,
    "list": ["x", {"y": 5}],
    "object": {"deep": {"er": "z"}},
    "true": True,
    "number": 7,
    "float": 1.5,
    "decimal": decimal.Decimal("1.50"),
    "date": datetime.date(2026, 1, 2),
    "uuid": uuid.UUID(int=1),
    "color": Color.RED,
    "nested": Color.NESTED,
    "huge": 10**5000,
    "bytes": b"x",
    "fleet": "$state",
    "trade": Trade(),
    "3": "three",
    7: "seven",
}


@pytest.mark.parametrize(
    ("template", "topic"),
    [
        ("trades.{symbol}", "trades.BTC"),
        ("{symbol}", "BTC"),
        ("a{symbol}b.{number}", "aBTCb.7"),
        ("t.{dotted}", "t.BTC_USD"),
        ("t.{spaced}", "t._a_b_"),
        ("t.{wild}", "t.__"),
        ("t.{empty}", "t._"),
        ("t.{none}", None),
        ("t.{list}", None),
        ("t.{object}", None),
        ("t.{missing}", None),
        ("t.{true}", "t.true"),
        ("t.{float}", "t.1_5"),
        ("t.{decimal}", "t.1_50"),
        ("t.{date}", "t.2026-01-02"),
        ("t.{uuid}", "t.00000000-0000-0000-0000-000000000001"),
        ("t.{color}", "t.red"),
        ("t.{nested}", None),
        ("t.{huge}", None),
        ("t.{bytes}", None),
        ("t.{list.0}", "t.x"),
        ("t.{list.1.y}", "t.5"),
        ("t.{list.9}", None),
        ("t.{list.x}", None),
        ("t.{object.deep.er}", "t.z"),
        ("t.{object.deep.er.no}", None),
        ("t.{trade.symbol}", "t.BTC"),
        ("t.{trade.broken}", None),
        ("t.{trade.missing}", None),
        ("t.{3}", "t.three"),
        ("t.{7}", "t.seven"),
        ("{fleet}", None),
        ("{fleet}.a", None),
        ("t.{fleet}", "t.$state"),
        ("plain.topic", "plain.topic"),
        ("a{{b}}", "a{b}"),
        ("b}}", "b}"),
    ],
)
def test_format_strings(template, topic):
    """Format strings support items, indexes, attributes and nesting; a missing or non-scalar value gives no topic."""
    assert compile_topic(template)(DATA) == topic


@pytest.mark.parametrize(
    "template",
    [
        "",
        "{}",
        "{symbol!r}",
        "{symbol:>10}",
        "{symbol:{width}}",
        "{_private}",
        "{trade._private}",
        "{a.}",
        "{.a}",
        "{a..b}",
        "{a[0]}",
        "{a-b}",
        "{-1}",
        "{a",
        "a}",
        "a..{b}",
        ".{b}",
        "{b}.",
        "$x.{b}",
        "x.*.{b}",
        "x.>",
        "a b.{c}",
    ],
)
def test_bad_format_strings_are_refused(template):
    """Conversions, format specs, private attributes and invalid topics are rejected."""
    with pytest.raises(ConfigError):
        compile_topic(template)


def test_json_rows_and_objects_are_both_understood():
    """The same template works for JSON objects and for typed objects."""
    topic = compile_topic("{e.s}.{e.side}")
    assert topic(json.loads('{"e": {"s": "BTC", "side": "buy"}}')) == "BTC.buy"
    assert topic(SimpleNamespace(e=SimpleNamespace(s="BTC", side="buy"))) == "BTC.buy"


@given(st.text(max_size=12))
def test_safe_token_is_always_one_token(text):
    """Any text becomes one valid token, and a valid token does not change."""
    token = safe_token(text)
    assert check_topic(f"x{token}") is None
    assert "." not in token
    token.encode()
    assert safe_token(token) == token
    if text and check_topic(f"x{text}") is None and "." not in text:
        assert token == text


@given(st.text(max_size=12), st.text(".*> a", max_size=8))
def test_safe_topic_keeps_dots_and_makes_the_rest_safe(some, dotted):
    """A topic of a user's function keeps its dots; empty tokens and unsafe characters become `_`."""
    for text in (some, dotted):
        topic = safe_topic(text)
        assume(not topic.startswith("$"))
        assert check_topic(topic) is None
        assert topic.count(".") == text.count(".")
        assert safe_topic(topic) == topic
        if check_topic(text) is None:
            assert topic == text


@given(st.lists(patterns.filter(bool), max_size=8), st.lists(topics, max_size=5), st.data())
def test_an_index_finds_the_patterns_that_match(chosen: list[str], asked: list[str], data: st.DataObject) -> None:
    """An index gives the keys of the patterns that match one by one, in their order, also after some were removed."""
    index: PatternIndex[int] = PatternIndex()
    kept = dict(enumerate(pattern for pattern in chosen if check_pattern(pattern) is None))
    for number, pattern in kept.items():
        index.add(number, pattern)
    for number in data.draw(st.sets(st.sampled_from(sorted(kept)))) if kept else ():
        del kept[number]
        index.discard(number)
        index.discard(number)
    assert len(index) == len(kept)
    for topic in asked:
        assert index.find(topic) == [number for number, pattern in kept.items() if compile_pattern(pattern)(topic)]


class Point(msgspec.Struct):
    """Data of a message of a declared type."""

    x: Any


@given(st.lists(st.one_of(st.text(max_size=5), st.integers(), st.booleans(), st.none(), st.floats()), max_size=20))
def test_a_remembered_topic_is_the_one_that_would_be_made(values: list[Any]) -> None:
    """For any sequence of values a format string gives the same topics as a new one for each value."""
    topic = compile_topic("a.{x}.b")
    for value in values * 2:
        for data in ({"x": value}, Point(value), {"y": value}, [value]):
            assert topic(data) == compile_topic("a.{x}.b")(data)


def test_the_number_of_remembered_topics_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A peer that sends ever new values, or long ones, cannot make a format string grow."""
    monkeypatch.setattr("wsfleet.core.topics.KNOWN", 100)
    topic = compile_topic("{x}")
    topic({"x": "first"})
    tracemalloc.start()
    try:
        for number in range(1040):
            topic({"x": f"{number}"})
            topic({"x": f"{number}".rjust(1000, "x")})
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held < 30_000
    assert topic({"x": "first"}) == "first"
