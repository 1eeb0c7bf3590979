"""The part of a long table that somebody looks at: searched, sorted, cut out; all else stays here."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from operator import itemgetter
from typing import Any

from wsfleet.core.message import State
from wsfleet.core.stats import RETIRED, EndpointStats, SubscriptionStats
from wsfleet.core.time_slice import in_slices
from wsfleet.serve.status.source import Down

__all__ = ["ENDPOINTS", "SUBSCRIPTIONS", "BadParameter", "Query", "Table"]

Row = Mapping[str, Any]

MOST = 500
"""Rows in one answer."""


class BadParameter(ValueError):
    """The text names the parameter, and says what it must be."""


@dataclass(frozen=True, slots=True)
class TableSchema:
    """What can be asked of one kind of rows."""

    columns: tuple[str, ...]
    searched: tuple[str, ...]
    states: tuple[str, ...]


WORST_FIRST: dict[str, int] = {State.FAILED: 0, State.BACKOFF: 1, State.CONNECTING: 2, State.CLOSED: 3, State.OPEN: 4}
"""The order of states: somebody has to do something about the first, nobody about the last."""

ENDPOINTS = TableSchema(
    (*(each.name for each in fields(EndpointStats)), "down_since"),
    ("name", "uri", "last_error"),
    tuple(each.value for each in State),
)
SUBSCRIPTIONS = TableSchema(tuple(each.name for each in fields(SubscriptionStats)), ("name", "pattern"), ())


@dataclass(frozen=True, slots=True)
class Query:
    """One question."""

    search: str = ""
    state: str = ""
    sort: str = "name"
    order: str = "asc"
    offset: int = 0
    limit: int = 50

    @classmethod
    def read(cls, parameters: Iterable[tuple[str, str]], schema: TableSchema) -> Query:
        """Return what the parameters of a URL ask for. Raises BadParameter."""
        given: dict[str, Any] = {}
        for name, value in parameters:
            if name not in cls.__slots__:
                raise BadParameter(f"{name!r} is unknown; there are {', '.join(cls.__slots__)}")
            if name in given:
                raise BadParameter(f"{name} is given twice")
            given[name] = value
        _choose(given, "state", ("", *schema.states))
        _choose(given, "sort", schema.columns)
        _choose(given, "order", ("asc", "desc"))
        _count(given, "offset", 0, None)
        _count(given, "limit", 1, MOST)
        return cls(**given)


def _choose(given: Mapping[str, str], name: str, known: tuple[str, ...]) -> None:
    if name in given and given[name] not in known:
        there = ", ".join(filter(None, known))
        raise BadParameter(f"{name} must be one of {there}" if there else f"{name} means nothing here")


def _by_severity(found: tuple[str, Row]) -> int:
    return WORST_FIRST[found[0]]


def _count(given: dict[str, Any], name: str, least: int, most: int | None) -> None:
    text = given.get(name, str(least))
    good = text.isascii() and text.isdigit() and len(text) < 10
    if not good or int(text) < least or (most is not None and int(text) > most):
        raise BadParameter(f"{name} must be a whole number from {least}" + (f" to {most}" if most else ""))
    if name in given:
        given[name] = int(text)


class Table:
    """All rows of one kind, sorted once for each column that somebody asks for."""

    def __init__(self, rows: Iterable[Row], schema: TableSchema, down: Mapping[str, Down] | None = None) -> None:
        self._rows = [row for row in rows if row["name"] != RETIRED]
        self._schema = schema
        self._down = down
        self._sorted: dict[tuple[str, str], list[Row]] = {}

    async def answer(self, query: Query) -> dict[str, Any]:
        """Return the rows that `query` asks for, and of how many they are a part."""
        found = self._in_order(query.sort, query.order)
        if query.search or query.state:
            found = [row async for rows in in_slices(found) for row in self._matching(rows, query)]
        return {
            "total": len(self._rows),
            "matched": len(found),
            "offset": query.offset,
            "rows": [self._whole(row) for row in found[query.offset : query.offset + query.limit]],
        }

    def _whole(self, row: Row) -> Row:
        return row if self._down is None else {**row, "down_since": self._value(row, "down_since")}

    def _value(self, row: Row, column: str) -> Any:
        """Return what stands in a column; since when an endpoint is down is no part of its row in the report."""
        if column == "down_since":
            down = self._down.get(row["name"]) if self._down and row["state"] != State.OPEN else None
            return down and down.since
        return row[column]

    def _in_order(self, column: str, order: str) -> list[Row]:
        """Return all rows by one column; what has no value is last both ways, and equal ones are by name."""
        if (column, order) not in self._sorted:
            rows = (
                sorted(self._rows, key=lambda row: row["name"]) if column == "name" else self._in_order("name", "asc")
            )
            there = [(value, row) for row in rows if (value := self._value(row, column)) is not None]
            there.sort(key=_by_severity if column == "state" else itemgetter(0), reverse=order == "desc")
            nowhere = [row for row in rows if self._value(row, column) is None]
            self._sorted[column, order] = [row for _, row in there] + nowhere
        return self._sorted[column, order]

    def _matching(self, rows: Iterable[Row], query: Query) -> list[Row]:
        wanted = query.search.casefold()
        return [
            row
            for row in rows
            if (not query.state or row["state"] == query.state)
            and (not wanted or any(wanted in (row[name] or "").casefold() for name in self._schema.searched))
        ]
