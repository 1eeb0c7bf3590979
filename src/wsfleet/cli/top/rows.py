"""The table of endpoints in a terminal. It requests only the visible rows, so its cost does not grow with the fleet."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar, NamedTuple

import msgspec
from rich.cells import set_cell_size
from rich.segment import Segment
from rich.style import Style
from textual import events
from textual.binding import Binding, BindingType
from textual.geometry import Region, Size
from textual.message import Message
from textual.reactive import var
from textual.scroll_view import ScrollView
from textual.strip import Strip

from wsfleet.cli.top.panels import STATE_STYLES, clean
from wsfleet.cli.top.picture import count, duration
from wsfleet.serve.status.schema import Endpoint, Endpoints, Query

__all__ = ["COLUMNS", "Column", "EndpointTable"]

STATES = ("", *STATE_STYLES)


class Column(NamedTuple):
    """A column: its key in the HTTP interface, heading and width, and the table width from which it is shown."""

    key: str
    heading: str
    width: int
    text: Callable[[Endpoint], str]
    right: bool = True
    needs: int = 0


COLUMNS = (
    Column("name", "name", 22, lambda row: row.name, right=False),
    Column("state", "state", 11, lambda row: row.state, right=False),
    Column("received", "received", 11, lambda row: count(row.received)),
    Column("sent", "sent", 10, lambda row: count(row.sent), needs=150),
    Column("losses", "losses", 9, lambda row: count(row.losses)),
    Column("latency_s", "latency", 10, lambda row: duration(row.latency_s)),
    Column("malformed", "malformed", 12, lambda row: count(row.malformed), needs=120),
    Column("paused_s", "paused", 12, lambda row: duration(row.paused_s) if row.paused_s else "-", needs=120),
    Column("last_error", "last error", 0, lambda row: row.last_error or "", right=False),
)


class EndpointTable(ScrollView, can_focus=True):
    """Rows below a heading. Posts `Wanted` when it needs other rows, and `Moved` when the current row changes."""

    DEFAULT_CSS = """
    EndpointTable { overflow-x: hidden; overflow-y: scroll; scrollbar-size-vertical: 1; }
    EndpointTable > .table--heading { color: $foreground-muted; text-style: bold; }
    EndpointTable > .table--sorted { color: $text-primary; text-style: bold; }
    EndpointTable > .table--cursor { background: $block-cursor-blurred-background; }
    EndpointTable:focus > .table--cursor { background: $primary-muted; text-style: bold; }
    EndpointTable > .table--dim { color: $foreground-muted; }
    EndpointTable > .table--OPEN { color: $text-success; }
    EndpointTable > .table--CONNECTING { color: $text-accent; }
    EndpointTable > .table--BACKOFF { color: $text-warning; }
    EndpointTable > .table--FAILED { color: $text-error; }
    EndpointTable > .table--CLOSED { color: $foreground-muted; }
    """
    COMPONENT_CLASSES: ClassVar[set[str]] = {
        "table--heading",
        "table--sorted",
        "table--cursor",
        "table--dim",
        *(f"table--{state}" for state in STATE_STYLES),
    }
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up,k", "move(-1)", "Up", show=False),
        Binding("down,j", "move(1)", "Down", show=False),
        Binding("pageup", "page(-1)", "Page up", show=False),
        Binding("pagedown,space", "page(1)", "Page down", show=False),
        Binding("home,g", "end(False)", "First", show=False),
        Binding("end,G", "end(True)", "Last", show=False),
    ]

    cursor: var[int] = var(0)

    class Wanted(Message):
        """Other rows must be fetched, those of `query_wanted`."""

    class Moved(Message):
        """The cursor moved to another endpoint, or the endpoint's values changed."""

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self._query = Query(sort="state")  # endpoints that are down come first
        self._got = Endpoints(total=0, matched=0, offset=0, rows=())

    # Rows.

    @property
    def query_wanted(self) -> Query:
        """The query for the visible rows."""
        return msgspec.structs.replace(self._query, offset=round(self.scroll_y), limit=max(1, self._page))

    @property
    def total(self) -> int:
        """Number of endpoints."""
        return self._got.total

    @property
    def matched(self) -> int:
        """Number of endpoints that match the search and the state."""
        return self._got.matched

    @property
    def current(self) -> Endpoint | None:
        """The endpoint under the cursor."""
        return self._row(self.cursor)

    @property
    def _page(self) -> int:
        return self.size.height - 1  # without the heading

    def show(self, query: Query, got: Endpoints) -> None:
        """Show the answer to `query`, unless the query has changed meanwhile."""
        if msgspec.structs.replace(query, offset=self._query.offset, limit=self._query.limit) != self._query:
            return
        self._got = got
        self.cursor = min(self.cursor, max(0, got.matched - 1))
        self.virtual_size = Size(self.size.width, got.matched + 1)
        self.post_message(self.Moved())
        self.refresh()

    def _row(self, index: int) -> Endpoint | None:
        index -= self._got.offset
        return self._got.rows[index] if 0 <= index < len(self._got.rows) else None

    # The query.

    def search(self, text: str) -> None:
        """Show only endpoints that contain `text`."""
        self._ask(search=text)

    def next_state(self) -> None:
        """Show only endpoints in the next state; after the last state, all endpoints."""
        self._ask(state=STATES[(STATES.index(self._query.state) + 1) % len(STATES)])

    def clear_filters(self) -> None:
        """Show all endpoints."""
        self._ask(search="", state="")

    def next_sort(self) -> None:
        """Sort by the next column."""
        keys = [column.key for column in self._columns()]
        place = keys.index(self._query.sort) if self._query.sort in keys else -1
        self.sort_by(keys[(place + 1) % len(keys)])

    def sort_by(self, key: str) -> None:
        """Sort by a column, numbers in descending order. If it is already sorted by it, reverse the order."""
        if key == self._query.sort:
            self._ask(order="asc" if self._query.order == "desc" else "desc")
        else:
            right = next(column.right for column in COLUMNS if column.key == key)
            self._ask(sort=key, order="desc" if right else "asc")

    def reverse(self) -> None:
        """Reverse the order."""
        self.sort_by(self._query.sort)

    def _ask(self, **changes: str) -> None:
        query = msgspec.structs.replace(self._query, **changes)
        if query != self._query:
            self._query = query
            self.cursor = 0
            self.scroll_to(y=0, animate=False)
        self.refresh()
        self.post_message(self.Wanted())

    # The cursor.

    def action_move(self, by: int) -> None:
        """Move the cursor by `by` rows."""
        self.cursor = max(0, min(self.cursor + by, self.matched - 1))

    def action_page(self, by: int) -> None:
        """Move the cursor by a page."""
        self.action_move(by * max(1, self._page - 1))

    def action_end(self, last: bool) -> None:
        """Move the cursor to the first or the last row."""
        self.cursor = max(0, self.matched - 1) if last else 0

    def watch_cursor(self, cursor: int) -> None:
        """Scroll so that the cursor is visible."""
        top = round(self.scroll_y)
        if cursor < top:
            self.scroll_to(y=cursor, animate=False)
        elif cursor >= top + self._page:
            self.scroll_to(y=cursor - self._page + 1, animate=False)
        self.post_message(self.Moved())
        self.refresh()

    def watch_scroll_y(self, old_value: float, new_value: float) -> None:
        """Request the visible rows."""
        super().watch_scroll_y(old_value, new_value)
        if round(old_value) != round(new_value):
            self.post_message(self.Wanted())

    def on_resize(self, event: events.Resize) -> None:
        """Request the visible rows."""
        self.virtual_size = Size(self.size.width, self.matched + 1)
        self.watch_cursor(self.cursor)
        self.post_message(self.Wanted())

    def on_click(self, event: events.Click) -> None:
        """Sort by the clicked heading, or move the cursor to the clicked row."""
        place = event.get_content_offset(self)
        if place is None:
            return
        if place.y == 0:
            key = self._column_at(place.x)
            if key:
                self.sort_by(key)
        elif place.y - 1 + round(self.scroll_y) < self.matched:
            self.cursor = place.y - 1 + round(self.scroll_y)

    # Drawing.

    def _columns(self) -> list[Column]:
        width = self.size.width
        shown = [column for column in COLUMNS if width >= column.needs]
        spare = width - sum(column.width for column in shown)
        # The rest of the width is shared by the name, which may be long, and the last error.
        more = max(0, min(10, spare - 40))
        widths = {"name": COLUMNS[0].width + more, "last_error": max(0, spare - more - 2)}
        return [column._replace(width=widths.get(column.key, column.width)) for column in shown]

    def _column_at(self, x: int) -> str | None:
        for column in self._columns():
            x -= column.width + (2 if column.key == "last_error" else 0)
            if x < 0:
                return column.key
        return None

    def render_line(self, y: int) -> Strip:
        """Draw one visible line."""
        width = self.size.width
        if y == 0:
            return self._heading().adjust_cell_length(width, self.rich_style)
        index = y - 1 + round(self.scroll_y)
        if index >= self.matched:
            return Strip.blank(width, self.rich_style)
        style = self.rich_style
        if index == self.cursor:
            style += self.get_component_rich_style("table--cursor")
        row = self._row(index)
        if row is None:  # not received yet
            dim = self._colour("table--dim")
            return Strip([Segment("·", style + dim)]).adjust_cell_length(width, style)
        return self._line(row, style).adjust_cell_length(width, style)

    def _heading(self) -> Strip:
        segments = []
        for column in self._columns():
            chosen = column.key == self._query.sort
            arrow = ("▲" if self._query.order == "asc" else "▼") if chosen else ""
            part = "table--sorted" if chosen else "table--heading"
            style = self.rich_style + self._colour(part)
            text = f"{arrow}{column.heading}" if column.right else f"{column.heading}{arrow}"
            segments.append(Segment(_cell(text, column), style))
        return Strip(segments)

    def _line(self, row: Endpoint, style: Style) -> Strip:
        segments = []
        for column in self._columns():
            text = clean(column.text(row))
            colour = style
            if column.key == "state" and row.state in STATE_STYLES:
                colour += self._colour(f"table--{row.state}")
            elif column.key == "last_error" or text in ("0", "-"):
                colour += self._colour("table--dim")
            segments.append(Segment(_cell(text, column), colour))
        return Strip(segments)

    def _colour(self, name: str) -> Style:
        """Return the foreground colour of a component, without its background."""
        found = self.get_component_rich_style(name)
        return Style(color=found.color, bold=found.bold or None)

    def get_cursor_region(self) -> Region:
        """Return the region of the cursor within the table."""
        return Region(0, self.cursor - round(self.scroll_y) + 1, self.size.width, 1)


def _cell(text: str, column: Column) -> str:
    """Fit `text` into the column's width in cells. A character may occupy zero, one or two cells."""
    if column.right:
        return text.rjust(column.width) if len(text) < column.width else set_cell_size(text, column.width)
    gap = 2 if column.key == "last_error" else 0
    fitting = set_cell_size(text, max(0, column.width - 1))
    if fitting.rstrip() != text.rstrip() and column.width > 1:
        fitting = set_cell_size(text, column.width - 2) + "…"
    return " " * gap + fitting + " "
