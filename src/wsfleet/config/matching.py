"""Tells which patterns can match a topic at all, where topics are known as format strings."""

from __future__ import annotations

import re
import string
from collections.abc import Iterable

__all__ = ["can_match", "fleet_topics", "unknown_kind"]

_FIELD = "\0"  # in no topic

_OF_ENDPOINTS = ("$state", "$malformed", "$gap")
_OF_SUBSCRIPTIONS = ("$dead", "$slow")


def can_match(pattern: str, topic: str) -> bool:
    """Tell whether `pattern` matches anything that the format string `topic` can make. Both must be good ones.

    A field makes a part of one token: dots in a peer's data never reach a topic.
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
    """Return the `$` topics of a fleet with endpoints and subscriptions of these names."""
    about_endpoints = [f"{kind}.{name}" for name in connections for kind in _OF_ENDPOINTS]
    return about_endpoints + [f"{kind}.{name}" for name in subscriptions for kind in _OF_SUBSCRIPTIONS]


def unknown_kind(pattern: str) -> str | None:
    """Return what is wrong with a pattern of `$` topics that none matches in any fleet: only a fleet makes them."""
    kinds = _OF_ENDPOINTS + _OF_SUBSCRIPTIONS
    if not pattern.startswith("$") or any(can_match(pattern, f"{kind}.{{name}}") for kind in kinds):
        return None
    return f"no topic can match {pattern!r}; there are {', '.join(f'{kind}.<name>' for kind in kinds)}"
