"""The table of endpoints in a terminal: as long as the fleet, and only the rows that it shows are ever asked for."""

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
    """A column: what it is in the interface, its heading, its width, from which width of the table on it is shown."""

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
    """Rows of endpoints under a heading. Posts `Wanted` when other rows are to be shown, `Moved` with the cursor's."""

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
        """Other rows are to be shown: ask for what `query` says."""

    class Moved(Message):
        """The cursor stands on another endpoint, or the endpoint has other numbers."""

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self._wish = Query(sort="state")  # what is down comes first
        self._got = Endpoints(total=0, matched=0, offset=0, rows=())

    # What is shown.

    @property
    def query_wanted(self) -> Query:
        """What to ask for: the rows that are in sight."""
        return msgspec.structs.replace(self._wish, offset=round(self.scroll_y), limit=max(1, self._page))

    @property
    def total(self) -> int:
        """How many endpoints there are."""
        return self._got.total

    @property
    def matched(self) -> int:
        """How many of them match the search and the state."""
        return self._got.matched

    @property
    def current(self) -> Endpoint | None:
        """The endpoint under the cursor."""
        return self._row(self.cursor)

    @property
    def _page(self) -> int:
        return self.size.height - 1  # under the heading

    def show(self, query: Query, got: Endpoints) -> None:
        """Show the answer to `query`, unless something else is wanted by now."""
        if msgspec.structs.replace(query, offset=self._wish.offset, limit=self._wish.limit) != self._wish:
            return
        self._got = got
        self.cursor = min(self.cursor, max(0, got.matched - 1))
        self.virtual_size = Size(self.size.width, got.matched + 1)
        self.post_message(self.Moved())
        self.refresh()

    def _row(self, index: int) -> Endpoint | None:
        index -= self._got.offset
        return self._got.rows[index] if 0 <= index < len(self._got.rows) else None

    # What is wanted.

    def search(self, text: str) -> None:
        """Show only endpoints that `text` is found in."""
        self._ask(search=text)

    def next_state(self) -> None:
        """Show only endpoints of the next state; after the last one, all."""
        self._ask(state=STATES[(STATES.index(self._wish.state) + 1) % len(STATES)])

    def clear_filters(self) -> None:
        """Show all endpoints."""
        self._ask(search="", state="")

    def next_sort(self) -> None:
        """Sort by the next column."""
        keys = [column.key for column in self._columns()]
        place = keys.index(self._wish.sort) if self._wish.sort in keys else -1
        self.sort_by(keys[(place + 1) % len(keys)])

    def sort_by(self, key: str) -> None:
        """Sort by a column: numbers the largest first; again by the same one, the other way round."""
        if key == self._wish.sort:
            self._ask(order="asc" if self._wish.order == "desc" else "desc")
        else:
            right = next(column.right for column in COLUMNS if column.key == key)
            self._ask(sort=key, order="desc" if right else "asc")

    def reverse(self) -> None:
        """Turn the order round."""
        self.sort_by(self._wish.sort)

    def _ask(self, **changes: str) -> None:
        wish = msgspec.structs.replace(self._wish, **changes)
        if wish != self._wish:
            self._wish = wish
            self.cursor = 0
            self.scroll_to(y=0, animate=False)
        self.refresh()
        self.post_message(self.Wanted())

    # The cursor.

    def action_move(self, by: int) -> None:
        """Move the cursor by so many rows."""
        self.cursor = max(0, min(self.cursor + by, self.matched - 1))

    def action_page(self, by: int) -> None:
        """Move the cursor by a page."""
        self.action_move(by * max(1, self._page - 1))

    def action_end(self, last: bool) -> None:
        """Move the cursor to the first or the last row."""
        self.cursor = max(0, self.matched - 1) if last else 0

    def watch_cursor(self, cursor: int) -> None:
        """Keep the cursor in sight."""
        top = round(self.scroll_y)
        if cursor < top:
            self.scroll_to(y=cursor, animate=False)
        elif cursor >= top + self._page:
            self.scroll_to(y=cursor - self._page + 1, animate=False)
        self.post_message(self.Moved())
        self.refresh()

    def watch_scroll_y(self, old_value: float, new_value: float) -> None:
        """Ask for what has come into sight."""
        super().watch_scroll_y(old_value, new_value)
        if round(old_value) != round(new_value):
            self.post_message(self.Wanted())

    def on_resize(self, event: events.Resize) -> None:
        """Ask for what has come into sight."""
        self.virtual_size = Size(self.size.width, self.matched + 1)
        self.watch_cursor(self.cursor)
        self.post_message(self.Wanted())

    def on_click(self, event: events.Click) -> None:
        """Sort by the column whose heading was clicked; else put the cursor there."""
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
        # What is left is divided: names may be long, and errors are.
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
        """Draw one line of what is in sight."""
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
        if row is None:  # on its way
            dim = self._colour("table--dim")
            return Strip([Segment("·", style + dim)]).adjust_cell_length(width, style)
        return self._line(row, style).adjust_cell_length(width, style)

    def _heading(self) -> Strip:
        segments = []
        for column in self._columns():
            chosen = column.key == self._wish.sort
            arrow = ("▲" if self._wish.order == "asc" else "▼") if chosen else ""
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
        """The colour of a part, mixed with what is behind it, which is left as it is."""
        found = self.get_component_rich_style(name)
        return Style(color=found.color, bold=found.bold or None)

    def get_cursor_region(self) -> Region:
        """Where the cursor stands, within the table."""
        return Region(0, self.cursor - round(self.scroll_y) + 1, self.size.width, 1)


def _cell(text: str, column: Column) -> str:
    """Fit `text` into the column's width in cells: a letter may take two of them, or none."""
    if column.right:
        return text.rjust(column.width) if len(text) < column.width else set_cell_size(text, column.width)
    gap = 2 if column.key == "last_error" else 0
    fitting = set_cell_size(text, max(0, column.width - 1))
    if fitting.rstrip() != text.rstrip() and column.width > 1:
        fitting = set_cell_size(text, column.width - 2) + "…"
    return " " * gap + fitting + " "
