"""Finds the line numbers of values in a TOML file, which tomllib does not report."""

from __future__ import annotations

import re
import tomllib
from typing import Any

from wsfleet.config.faults import DEEPEST, Place

__all__ = ["find_lines", "line_of"]


_LAST = re.compile(r"\]|\"\"\"|'''")
"""Found in the last line of any multi-line statement, since only arrays and strings span lines."""


def find_lines(text: str) -> dict[Place, int]:
    """Return the line number, from 1, of the start of each table, key and item of a valid TOML document.

    A TOML statement occupies whole lines and is itself a valid document. So it ends at the first line at which tomllib
    can parse the lines collected so far.
    """
    lines: dict[Place, int] = {}
    lengths: dict[Place, int] = {}  # current lengths of the arrays of tables
    table: Place = ()
    statement, begin = "", 1
    for number, line in enumerate(text.split("\n"), 1):
        is_continued = bool(statement)
        if not is_continued:
            begin = number
        statement += line + "\n"
        if is_continued and not _LAST.search(line):
            continue
        try:
            parsed = tomllib.loads(statement)
        except tomllib.TOMLDecodeError:
            continue  # in the middle of a statement
        except RecursionError:  # the whole document was parsed, but from a lower stack depth
            parsed = {}
        if statement.lstrip().startswith("["):
            table = _header(parsed, lengths)
            for length in range(1, len(table) + 1):  # also its parents: `[[name]]` has an index
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
        if isinstance(node, list):  # [[name]] appends a table
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
    """Return the line of `place`, or of its nearest parent that has one."""
    while place and place not in lines:
        place = place[:-1]
    return lines.get(place)
