"""Faults of a configuration file and their places."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from difflib import get_close_matches
from typing import Any

from wsfleet.core.options import Buffer, Liveness, Reconnect, Retry
from wsfleet.core.text import printable

__all__ = ["DEEPEST", "BadValue", "Fault", "Place", "closest", "did_you_mean", "format_place"]

Place = tuple[str | int, ...]
"""Path to a value from the top of the file: `("connect", 1, "reconnect", "max_s")`. Indexes start at 0."""

DEEPEST = 50
"""Maximum nesting depth of tables and lists. No option needs ten."""

_TABLES = {
    each.__name__.lower(): frozenset(field.name for field in fields(each))
    for each in (Liveness, Reconnect, Buffer, Retry)
}
"""Options that are keys of another option, by its name: `liveness = { stale_s = ... }`."""

_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")


class BadValue(Exception):
    """A value of the file is not valid. The text names the valid values."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault: `where` is its place ("feeds.toml:12: [[connect]] 2"), `text` its description."""

    where: str
    text: str

    def __str__(self) -> str:
        return f"{self.where}: {self.text}"

    @classmethod
    def of(cls, where: str, text: str) -> Fault:
        """Create a fault of one line, with control characters escaped."""
        return cls(_one_line(where), _one_line(text))


def _one_line(text: str) -> str:
    return printable(text).replace("\n", "\\n").replace("\t", "\\t")


def closest(word: str, known: Iterable[str]) -> str | None:
    """Return the name in `known` that is most similar to `word`, or None."""
    by_lower = {each.lower(): each for each in known}
    close = get_close_matches(word.lower(), by_lower, n=1)
    return by_lower[close[0]] if close else None


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return a hint that names the closest of `known` to `word`, or all of them."""
    known = list(known)
    table = next((name for name, keys in _TABLES.items() if word in keys and name in known), None)
    if table is not None:
        return f"did you mean {table} = {{ {word} = ... }}?"
    close = closest(word, known)
    return f"did you mean {close!r}?" if close else f"there are {', '.join(known)}"


def format_place(place: Place, document: Mapping[str, Any]) -> str:
    """Format `place` for messages: `[[connect]] 2 "trades" reconnect.max_s`."""
    if not place:
        return ""
    section, rest = document.get(str(place[0])), place[1:]
    if isinstance(section, list) and rest and isinstance(rest[0], int):
        number, rest = rest[0], rest[1:]
        shown = f"[[{place[0]}]] {number + 1}"
        name = section[number].get("name") if isinstance(section[number], dict) else None
        if type(name) is str:  # not SubstitutedText, which must not be shown
            shown += f' "{name}"'
    else:
        shown = f"[{place[0]}]" if isinstance(section, dict) else str(place[0])
    keys = ""
    for part in rest:
        if isinstance(part, int):
            keys += f"[{part + 1}]"
        else:
            keys += "." * bool(keys) + (part if _BARE_KEY.fullmatch(part) else f'"{part}"')
    return f"{shown} {keys}".rstrip()
