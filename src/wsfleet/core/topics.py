"""Topics: tokens joined by dots. Matches patterns, and builds safe topics from a peer's data."""

from __future__ import annotations

import datetime
import decimal
import enum
import re
import string
import uuid
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import Any, Generic, TypeVar

import msgspec

from wsfleet.core.errors import ConfigError

__all__ = [
    "PatternIndex",
    "Topic",
    "can_match",
    "check_pattern",
    "check_topic",
    "compile_pattern",
    "compile_topic",
    "fleet_topics",
    "safe_token",
    "safe_topic",
    "unknown_kind",
]

K = TypeVar("K", bound=Hashable)

Topic = Callable[[Any], str | None]
"""Returns the topic of decoded data, or None if the data lacks a field of the topic."""

# Characters that would change the structure of a topic or are unsafe in a terminal or log. \s and control characters
# overlap. Lone surrogates are included because they cannot be encoded as UTF-8.
_UNSAFE = re.compile(r"[.*>\s\x00-\x1f\x7f-\x9f\ud800-\udfff]")
_UNSAFE_BUT_DOTS = re.compile(r"[*>\s\x00-\x1f\x7f-\x9f\ud800-\udfff]")
KNOWN, KNOWN_LENGTH = 10_000, 100
"""How many topics a format string remembers, and the length of the values: the peer chooses both."""

_SCALARS = (str, int, float, decimal.Decimal, datetime.date, datetime.time, uuid.UUID)


def check_topic(topic: str) -> str | None:
    """Check a topic for publishing. Return a description of the fault, or None."""
    if not isinstance(topic, str) or not topic:
        return "a topic must be a str of tokens joined by dots"
    if topic.startswith("$"):
        return f"{topic!r}: topics that begin with '$' are reserved for the fleet"
    for token in topic.split("."):
        if not token:
            return f"{topic!r} has an empty token"
        if _UNSAFE.search(token):
            return f"{topic!r} contains '*', '>', white space or control characters"
    return None


def check_pattern(pattern: str) -> str | None:
    """Check a pattern. Return a description of the fault, or None.

    `*` matches one token; `>` as the last token matches one or more.
    """
    if not isinstance(pattern, str) or not pattern:
        return "a pattern must be a str of tokens joined by dots"
    tokens = pattern.split(".")
    for place, token in enumerate(tokens):
        if not token:
            return f"{pattern!r} has an empty token"
        if token == ">" and place != len(tokens) - 1:
            return f"{pattern!r}: '>' is only allowed as the last token"
        if token not in ("*", ">") and _UNSAFE.search(token):
            return f"{pattern!r}: '*' and '>' are only allowed as whole tokens, and white space is not allowed"
    return None


def compile_pattern(pattern: str) -> Callable[[str], bool]:
    """Return a function that returns whether a topic matches `pattern`, which must be valid.

    A wildcard as the first token does not match a first token that begins with `$`.
    """
    if pattern == ">":
        return lambda topic: not topic.startswith("$")
    tokens = pattern.split(".")
    if "*" not in tokens and ">" not in tokens:
        return pattern.__eq__
    parts = [r".+" if t == ">" else r"[^.]+" if t == "*" else re.escape(t) for t in tokens]
    guard = r"(?!\$)" if tokens[0] in ("*", ">") else ""
    matches = re.compile(guard + r"\.".join(parts), re.DOTALL).fullmatch
    return lambda topic: matches(topic) is not None


class PatternIndex(Generic[K]):
    """Finds the keys whose pattern matches a topic, without asking each of thousands of patterns.

    Patterns without wildcards are found by the whole topic, and those with a literal first token by that token.
    """

    def __init__(self) -> None:
        self._added = 0
        self._places: dict[K, tuple[int, str]] = {}  # the order in which they were added, and the bucket
        self._buckets: dict[str, dict[K, Callable[[str], bool]]] = {}

    def __len__(self) -> int:
        return len(self._places)

    def add(self, key: K, pattern: str) -> None:
        """Add `key` with its pattern, which must be valid. It must not have been added before."""
        first = pattern.partition(".")[0]
        if "*" not in pattern and ">" not in pattern:
            bucket = f"={pattern}"
        else:
            bucket = "" if first in ("*", ">") else f"{first}."
        self._added += 1
        self._places[key] = (self._added, bucket)
        self._buckets.setdefault(bucket, {})[key] = compile_pattern(pattern)

    def discard(self, key: K) -> None:
        """Remove `key` if it was added."""
        _, bucket = self._places.pop(key, (0, None))
        if bucket is not None:
            del self._buckets[bucket][key]
            if not self._buckets[bucket]:
                del self._buckets[bucket]

    def find(self, topic: str) -> list[K]:
        """Return the keys whose pattern matches `topic`, in the order in which they were added."""
        found: list[K] = []
        for bucket in (f"={topic}", f"{topic.partition('.')[0]}.", ""):
            if bucket in self._buckets:
                found += [key for key, matches in self._buckets[bucket].items() if matches(topic)]
        if len(found) > 1:
            found.sort(key=self._places.__getitem__)
        return found


def safe_token(value: str) -> str:
    """Return `value` as one token of a topic, with `_` in place of unsafe characters."""
    return _UNSAFE.sub("_", value) if value else "_"


def safe_topic(topic: str) -> str:
    """Return the result of a user's topic function as a valid topic: dots are kept, unsafe characters become `_`."""
    topic = _UNSAFE_BUT_DOTS.sub("_", topic)
    if not topic or ".." in topic or topic[0] == "." or topic[-1] == ".":
        topic = ".".join(token or "_" for token in topic.split("."))
    return topic


def _scalar(value: Any) -> str | None:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, enum.Enum):
        return _scalar(value.value)
    return str(value) if isinstance(value, _SCALARS) else None


def _getter(path: str, whole: str) -> Callable[[Any], Any]:
    """Return a function that follows `path` ("symbol", "3", "data.s") through items, indexes and public attributes."""
    steps: list[str | int] = []
    for step in path.split("."):
        if step.isascii() and step.isdigit():
            steps.append(int(step))
        elif step.isidentifier() and not step.startswith("_"):
            steps.append(step)
        else:
            raise ConfigError(f"{whole!r}: {{{path}}} must be a field, an index, or several joined by dots")

    def get(data: Any) -> Any:
        for step in steps:
            if isinstance(data, Mapping):
                data = data[step] if step in data else data[str(step)]
            elif isinstance(step, str):
                data = getattr(data, step)
            elif isinstance(data, Sequence) and not isinstance(data, str | bytes):
                data = data[step]
            else:
                return None
        return data

    return get


def compile_topic(template: str) -> Topic:
    """Compile a topic format string such as `"trades.{symbol}"`, `"{data.s}"` or `"{3}"` to a function of the data.

    The function returns None if the data lacks a field of the topic, or would produce a `$` topic. Raises ConfigError
    if the string is not a valid topic, or contains conversions or format specs.
    """
    parts: list[str | Callable[[Any], Any]] = []
    sample = ""
    try:
        parsed = list(string.Formatter().parse(template))
    except ValueError as exc:
        raise ConfigError(f"{template!r}: {exc}") from None
    for literal, name, spec, conversion in parsed:
        parts.append(literal)
        sample += literal
        if name is None:
            continue
        if spec or conversion:
            raise ConfigError(f"{template!r}: conversions and format specs are not supported")
        parts.append(_getter(name, template))
        sample += "x"
    fault = check_topic(sample)
    if fault:
        raise ConfigError(f"{template!r} is not a valid topic: {fault}")
    if all(isinstance(part, str) for part in parts):
        return lambda data: sample

    def topic(data: Any) -> str | None:
        made = ""
        try:
            for part in parts:
                if isinstance(part, str):
                    made += part
                    continue
                text = _scalar(part(data))
                if text is None:
                    return None
                made += safe_token(text)
        except Exception:
            # A missing item, an index out of range, or a property of a user's type that raises.
            return None
        # A field at the beginning could produce a topic that is reserved for the fleet.
        return None if made.startswith("$") else made

    fields = [name for _, name, _, _ in parsed if name is not None]
    return _remembering(topic, fields[0]) if len(fields) == 1 and fields[0].isidentifier() else topic


def _remembering(make: Topic, field: str) -> Topic:
    """Return `make`, which uses one field of the data, with a memory of its results for values that are str."""
    known: dict[str, str] = {}

    def topic(data: Any) -> str | None:
        if type(data) is dict:
            value = data.get(field)
        elif isinstance(data, msgspec.Struct):
            value = getattr(data, field, None)
        else:
            return make(data)
        if type(value) is not str:  # 1 and True are equal, but not their topics
            return make(data)
        made = known.get(value)
        if made is None and (made := make(data)) is not None and len(value) <= KNOWN_LENGTH:
            if len(known) >= KNOWN:
                known.clear()
            known[value] = made
        return made

    return topic


# Matching of patterns with format strings

_FIELD = "\0"  # not allowed in topics

_OF_ENDPOINTS = ("$state", "$malformed", "$gap")
_OF_SUBSCRIPTIONS = ("$dead", "$slow")


def can_match(pattern: str, topic: str) -> bool:
    """Return whether `pattern` matches a topic that the format string `topic` can produce. Both must be valid.

    A field is always within one token, because dots in its value are replaced.
    """
    parts = string.Formatter().parse(topic)
    made = "".join(literal + (_FIELD if field is not None else "") for literal, field, _, _ in parts).split(".")
    wanted = pattern.split(".")
    if made[0].startswith("$") and wanted[0] in ("*", ">"):
        return False
    if wanted[-1] == ">":
        made = made[: len(wanted) - 1] + [">"] * (len(made) >= len(wanted))
    return len(made) == len(wanted) and all(map(_token_can_match, wanted, made))


def _token_can_match(wanted: str, made: str) -> bool:
    if wanted in ("*", ">") or wanted == made:
        return True
    return _FIELD in made and re.fullmatch(re.escape(made).replace(re.escape(_FIELD), ".+"), wanted) is not None


def fleet_topics(connections: Iterable[str], subscriptions: Iterable[str]) -> list[str]:
    """Return the `$` topics of a fleet with these endpoints and subscriptions."""
    about_endpoints = [f"{kind}.{name}" for name in connections for kind in _OF_ENDPOINTS]
    return about_endpoints + [f"{kind}.{name}" for name in subscriptions for kind in _OF_SUBSCRIPTIONS]


def unknown_kind(pattern: str) -> str | None:
    """Return a warning for a pattern of `$` topics that matches none of the kinds that fleets publish, or None."""
    kinds = _OF_ENDPOINTS + _OF_SUBSCRIPTIONS
    if not pattern.startswith("$") or any(can_match(pattern, f"{kind}.{{name}}") for kind in kinds):
        return None
    return f"no topic can match {pattern!r}; there are {', '.join(f'{kind}.<name>' for kind in kinds)}"
