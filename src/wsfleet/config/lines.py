"""Which line of a TOML file a value stands in: tomllib does not tell."""

from __future__ import annotations

import re
import tomllib
from typing import Any

from wsfleet.config.faults import DEEPEST, Place

__all__ = ["find_lines", "line_of"]


_LAST = re.compile(r"\]|\"\"\"|'''")
"""What is in the last line of a statement of several: they are arrays and strings."""


def find_lines(text: str) -> dict[Place, int]:
    """Return the line, from 1, in which each table, key and item of a good TOML document begins.

    Every statement of TOML is a whole number of lines and a document of its own, so tomllib itself can say where
    one ends: where the lines collected so far can be parsed.
    """
    lines: dict[Place, int] = {}
    lengths: dict[Place, int] = {}  # of the arrays of tables so far
    table: Place = ()
    statement, begin = "", 1
    for number, line in enumerate(text.split("\n"), 1):
        goes_on = bool(statement)
        if not goes_on:
            begin = number
        statement += line + "\n"
        if goes_on and not _LAST.search(line):
            continue
        try:
            parsed = tomllib.loads(statement)
        except tomllib.TOMLDecodeError:
            continue  # in the middle of a statement
        except RecursionError:  # nearly so deep that nobody could read it
            parsed = {}
        if statement.lstrip().startswith("["):
            table = _header(parsed, lengths)
            for length in range(1, len(table) + 1):  # also what is around it: `[[name]]` has an index
                lines.setdefault(table[:length], begin)
        else:
            _note(parsed, table, begin, lines)
        statement = ""
    return lines


def _header(parsed: dict[str, Any], lengths: dict[Place, int]) -> Place:
    place: Place = ()
    node: Any = parsed
    while node:
        ((key, node),) = node.items()
        place += (key,)
        if isinstance(node, list):  # [[name]] begins one more
            node = node[0]
            lengths[place] = lengths.get(place, 0) + 1
        if place in lengths:
            place += (lengths[place] - 1,)
    return place


def _note(value: Any, place: Place, line: int, lines: dict[Place, int]) -> None:
    if len(place) > DEEPEST:
        return
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        lines.setdefault((*place, key), line)
        _note(item, (*place, key), line, lines)


def line_of(place: Place, lines: dict[Place, int]) -> int | None:
    """Return the line of `place`, or of the nearest table around it that has one."""
    while place and place not in lines:
        place = place[:-1]
    return lines.get(place)
