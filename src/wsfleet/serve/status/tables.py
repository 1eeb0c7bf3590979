"""Server-side search, sorting and paging of long tables."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from operator import itemgetter
from typing import Any

from wsfleet.core.message import State
from wsfleet.core.stats import RETIRED, EndpointStats, SubscriptionStats
from wsfleet.core.time_slice import in_slices
from wsfleet.serve.status.recent import FLAPPING
from wsfleet.serve.status.source import Down

__all__ = ["ENDPOINTS", "SUBSCRIPTIONS", "BadParameter", "Query", "Table"]

Row = Mapping[str, Any]

MOST = 500
"""Maximum number of rows in one response."""


class BadParameter(ValueError):
    """A query parameter is not valid. The text names it and its valid values."""


@dataclass(frozen=True, slots=True)
class TableSchema:
    """Columns, searched columns and states of one kind of rows."""

    columns: tuple[str, ...]
    searched: tuple[str, ...]
    states: tuple[str, ...]


WORST_FIRST: dict[str, int] = {State.FAILED: 0, State.BACKOFF: 1, State.CONNECTING: 2, State.CLOSED: 3, State.OPEN: 4}
"""Sort order of states, by urgency."""

_FLAPPING_RANK = 0.5
"""Endpoints that are lost again and again come after those that are not retried, whatever their state."""

_ADDED = ("down_since", "recent_losses", "next_at")
"""Columns that are not part of the report."""

ENDPOINTS = TableSchema(
    (*(each.name for each in fields(EndpointStats)), *_ADDED),
    ("name", "uri", "last_error"),
    tuple(each.value for each in State),
)
SUBSCRIPTIONS = TableSchema(tuple(each.name for each in fields(SubscriptionStats)), ("name", "pattern"), ())


@dataclass(frozen=True, slots=True)
class Query:
    """A query for rows of a table."""

    search: str = ""
    state: str = ""
    sort: str = "name"
    order: str = "asc"
    offset: int = 0
    limit: int = 50

    @classmethod
    def read(cls, parameters: Iterable[tuple[str, str]], schema: TableSchema) -> Query:
        """Parse the parameters of a URL. Raises BadParameter."""
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
        values = ", ".join(filter(None, known))
        raise BadParameter(f"{name} must be one of {values}" if values else f"{name} is not supported here")


def _count(given: dict[str, Any], name: str, least: int, most: int | None) -> None:
    text = given.get(name, str(least))
    good = text.isascii() and text.isdigit() and len(text) < 10
    if not good or int(text) < least or (most is not None and int(text) > most):
        raise BadParameter(f"{name} must be a whole number from {least}" + (f" to {most}" if most else ""))
    if name in given:
        given[name] = int(text)


class Table:
    """All rows of one kind, sorted once per requested column."""

    def __init__(
        self,
        rows: Iterable[Row],
        schema: TableSchema,
        down: Mapping[str, Down] | None = None,
        losses: Mapping[str, int] | None = None,
    ) -> None:
        self._rows = [row for row in rows if row["name"] != RETIRED]
        self._schema = schema
        self._down = down
        self._losses = losses or {}
        self._sorted: dict[tuple[str, str], list[Row]] = {}

    async def answer(self, query: Query) -> dict[str, Any]:
        """Return the rows for `query`, and the numbers of matching and of all rows."""
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
        return row if self._down is None else {**row} | {key: self._value(row, key) for key in _ADDED}

    def _value(self, row: Row, column: str) -> Any:
        """Return the value of a column. Those of _ADDED are not part of the report's rows."""
        if column == "recent_losses":
            return self._losses.get(row["name"], 0)
        if column in _ADDED:
            down = self._down.get(row["name"]) if self._down and row["state"] != State.OPEN else None
            return down and (down.since if column == "down_since" else down.next_at)
        return row[column]

    def _severity(self, row: Row) -> tuple[float, int]:
        rank, losses = WORST_FIRST[row["state"]], self._losses.get(row["name"], 0)
        return (_FLAPPING_RANK, -losses) if rank and losses >= FLAPPING else (rank, 0)

    def _in_order(self, column: str, order: str) -> list[Row]:
        """Return all rows sorted by a column, then by name. Rows without a value are last in both orders."""
        if (column, order) not in self._sorted:
            rows = (
                sorted(self._rows, key=lambda row: row["name"]) if column == "name" else self._in_order("name", "asc")
            )
            value = self._severity if column == "state" else lambda row: self._value(row, column)
            valued = [(key, row) for row in rows if (key := value(row)) is not None]
            valued.sort(key=itemgetter(0), reverse=order == "desc")
            without = [row for row in rows if self._value(row, column) is None]
            self._sorted[column, order] = [row for _, row in valued] + without
        return self._sorted[column, order]

    def _matching(self, rows: Iterable[Row], query: Query) -> list[Row]:
        wanted = query.search.casefold()
        return [
            row
            for row in rows
            if (not query.state or row["state"] == query.state)
            and (not wanted or any(wanted in (row[name] or "").casefold() for name in self._schema.searched))
        ]
