"""The status page in a terminal, updated once per second."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar

from textual.app import App, ComposeResult, RenderResult
from textual.binding import Binding, BindingType
from textual.containers import Container, Vertical
from textual.content import Content
from textual.screen import ModalScreen
from textual.widget import Widget
from textual.widgets import Footer, Input, Static

from wsfleet.cli.top import panels
from wsfleet.cli.top.picture import Picture, duration
from wsfleet.cli.top.rows import COLUMNS, EndpointTable
from wsfleet.core.text import plural
from wsfleet.serve.status.schema import StatusError, View

__all__ = ["Top"]

LOOK_S = 1.0
RETRY_S = 2.0

WIDE = 112
TALL = 34

HELP = (
    ("↑ ↓  PgUp PgDn  Home End", "move through the endpoints"),
    ("/", "search in names, addresses and errors; Enter goes back to the table"),
    ("f", "show only the next state, after the last one all states"),
    ("Esc", "end the search, show all states"),
    ("s", "sort by the next column; a click on a heading sorts by it"),
    ("r", "reverse the order"),
    ("e", "switch between endpoints, and subscriptions and events"),
    ("t", "switch between light and dark"),
    ("q", "quit; the fleet keeps running"),
)

Draw = Callable[[Picture, int, int], Content]


class Panel(Widget):
    """A part of the screen that is drawn from the picture."""

    def __init__(self, draw: Draw, picture: Picture, *, id: str, title: str = "") -> None:
        super().__init__(id=id)
        self._draw = draw
        self._picture = picture
        self.border_title = title

    def render(self) -> RenderResult:
        """Draw the panel in its current size."""
        return self._draw(self._picture, self.size.width, self.size.height)


class Help(ModalScreen[None]):
    """The help screen for the keys."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape,q,question_mark,enter", "dismiss", "Back", show=False)]

    def compose(self) -> ComposeResult:
        """Make the screen."""
        keys = Content("\n").join(Content.assemble((f"{key:<26}", "bold $text-primary"), text) for key, text in HELP)
        yield Static(keys, id="help")


class Top(App[int]):
    """The terminal app. `view` is the source of its data; the app closes it at the end."""

    ENABLE_COMMAND_PALETTE = False
    TITLE = "wsfleet top"
    HORIZONTAL_BREAKPOINTS = [(0, "-narrow"), (WIDE, "-wide")]  # noqa: RUF012 - Textual declares it so
    VERTICAL_BREAKPOINTS = [(0, "-short"), (TALL, "-tall")]  # noqa: RUF012
    CSS = """
    Screen { background: $background; layout: vertical; }
    Panel { height: 1; }
    #title { margin: 0 1; }
    #verdict { height: auto; max-height: 2; margin: 0 1; }
    #numbers { layout: grid; height: 10; grid-size: 2 2; grid-columns: 29 1fr; grid-rows: 6 4; margin: 0 1;
               grid-gutter: 0 2; }
    #numbers Panel { height: 100%; }
    #health { column-span: 2; }
    #more { display: none; }
    #more Panel { height: 1fr; }
    #endpoints { height: 1fr; margin: 0 1; }
    #heading { height: 1; }
    #search { display: none; height: 1; border: none; padding: 0; background: $surface; }
    #search.-open { display: block; }
    EndpointTable { height: 1fr; }
    #details { height: 1; color: $foreground-muted; }

    .-tall #title, .-tall #verdict { margin: 0 2; }
    .-tall #numbers { margin: 1 2 0 2; }
    .-tall #endpoints { margin: 1 2 0 2; }
    .-wide #numbers { grid-size: 3 1; grid-columns: 4fr 8fr 6fr; grid-rows: 6; height: 6; }
    .-wide #health { column-span: 1; }
    .-wide.-tall #numbers, .-wide.-tall #more { grid-gutter: 0 1; margin: 0 1; }
    .-wide.-tall #numbers { grid-rows: 8; height: 8; margin: 1 1 0 1; }
    .-wide.-tall #more { display: block; layout: grid; grid-size: 2 1; grid-columns: 1fr 1fr; height: 9; }
    .-wide.-tall #numbers Panel, .-wide.-tall #more Panel, .-events #more Panel {
        border: round $primary-muted; border-title-color: $text-primary; padding: 0 1; height: 100%;
    }
    .-events #endpoints { display: none; }
    .-events #more, .-wide.-tall.-events #more { display: block; layout: grid; grid-size: 1 2; grid-columns: 1fr;
        grid-rows: 1fr 2fr; height: 1fr; }

    Help { align: center middle; }
    #help { width: 96; max-width: 100%; height: auto; border: round $primary; padding: 1 2; background: $surface; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("slash", "search", "Search", key_display="/"),
        Binding("f", "state", "State"),
        Binding("s", "sort", "Sort"),
        Binding("r", "reverse", "Reverse"),
        Binding("e", "events", "Events"),
        Binding("t", "theme", "Theme"),
        Binding("question_mark", "help", "Help", key_display="?"),
        Binding("q", "quit", "Quit"),
        Binding("escape", "clear", "All", show=False),
        Binding("ctrl+c", "quit", "Quit", show=False, priority=True),
    ]

    def __init__(self, view: View, *, look_s: float = LOOK_S, now: Callable[[], float] = time.time) -> None:
        super().__init__()
        self.animation_level = "none"  # animations are slow over a remote terminal
        self._view = view
        self._look_s = look_s
        self._now = now
        self._picture = Picture(view.place)
        self._rows_wanted = asyncio.Event()
        # Kept in attributes: a query finds nothing below another screen, or while the app exits.
        panel = partial(Panel, picture=self._picture)
        self._panels = {
            "title": panel(_plain(panels.title), id="title"),
            "connections": panel(_plain(panels.connections), id="connections", title="connections"),
            "messages": panel(_plain(panels.messages), id="messages", title="messages"),
            "health": panel(panels.health, id="health", title="health"),
            "slowest": panel(panels.slowest, id="slowest", title="slowest subscriptions"),
            "events": panel(panels.events, id="events", title="events"),
        }
        self._verdict, self._heading, self._details = (Static(id=name) for name in ("verdict", "heading", "details"))
        self._search = Input(placeholder="search in names, addresses and errors", id="search", compact=True)
        self._search.cursor_blink = False
        self._table = EndpointTable(id="table")

    def compose(self) -> ComposeResult:
        """Make the screen."""
        shown = self._panels
        yield shown["title"]
        yield self._verdict
        yield Container(shown["connections"], shown["messages"], shown["health"], id="numbers")
        yield Container(shown["slowest"], shown["events"], id="more")
        yield Vertical(self._heading, self._search, self._table, self._details, id="endpoints")
        yield Footer(compact=True, show_command_palette=False)

    def on_mount(self) -> None:
        """Start the updates."""
        self._table.focus()
        self._draw()
        self.run_worker(self._update_overview())
        self.run_worker(self._update_rows())
        self.run_worker(self._receive_events())

    async def on_unmount(self) -> None:
        """Close the view."""
        await self._view.close()

    # Updates.

    async def _update_overview(self) -> None:
        while True:
            try:
                overview = await self._view.overview()
                wanted = self._picture.wants_history(overview)
                self._picture.take(overview, await self._view.history() if wanted else ())
            except StatusError as error:
                self._picture.fail(error, self._now())
            else:
                self._rows_wanted.set()
            self._draw()
            await asyncio.sleep(self._look_s)

    async def _update_rows(self) -> None:
        while True:
            await self._rows_wanted.wait()
            self._rows_wanted.clear()
            query = self._table.query_wanted
            try:
                got = await self._view.endpoints(query)
            except StatusError:
                continue  # the next overview reports it
            self._table.show(query, got)

    async def _receive_events(self) -> None:
        while True:
            try:
                async for event in self._view.events():
                    self._picture.hear(event)
            except StatusError:
                pass  # as above; if the fleet has too many listeners, only the events are missing
            await asyncio.sleep(RETRY_S)

    # Drawing.

    def _draw(self) -> None:
        for panel in self._panels.values():
            panel.refresh()
        self._verdict.update(panels.verdict(self._picture))
        self._draw_heading()

    def _draw_heading(self) -> None:
        table = self._table
        query = table.query_wanted
        chosen = [f"state {query.state}"] if query.state else []
        chosen += [f'"{panels.clean(query.search)}"'] if query.search else []
        number = f"{table.matched:,} of {table.total:,}" if chosen else f"{table.total:,}"
        by = next(column.heading for column in COLUMNS if column.key == query.sort)
        rest = "".join(f" · {text}" for text in (*chosen, f"by {by} {'▲' if query.order == 'asc' else '▼'}"))
        heading = Content.assemble(("endpoints ", "bold $text-primary"), number, (rest, "$foreground-muted"))
        self._heading.update(heading)
        self._details.update(_details(table, self._picture))

    def on_endpoint_table_wanted(self) -> None:
        """Request the visible rows."""
        self._rows_wanted.set()
        self._draw_heading()

    def on_endpoint_table_moved(self) -> None:
        """Show the details of the endpoint under the cursor."""
        self._draw_heading()

    # Keys.

    def action_search(self) -> None:
        """Open the search."""
        self.screen.remove_class("-events")
        self._search.add_class("-open")
        self._search.focus()

    def on_input_changed(self, event: Input.Changed) -> None:
        """Search for the current text."""
        self._table.search(event.value)

    def on_input_submitted(self) -> None:
        """Return to the table and keep the search."""
        self._table.focus()

    def action_clear(self) -> None:
        """End the search, and show all states."""
        self._search.value = ""
        self._search.remove_class("-open")
        self._table.clear_filters()
        self._table.focus()

    def action_state(self) -> None:
        """Show only the next state."""
        self._table.next_state()

    def action_sort(self) -> None:
        """Sort by the next column."""
        self._table.next_sort()

    def action_reverse(self) -> None:
        """Reverse the order."""
        self._table.reverse()

    def action_events(self) -> None:
        """Switch between the endpoints, and the subscriptions and events."""
        self.screen.toggle_class("-events")

    def action_theme(self) -> None:
        """Switch between light and dark."""
        self.theme = "textual-light" if self.current_theme.dark else "textual-dark"

    async def action_help(self) -> None:
        """Show the help screen."""
        await self.push_screen(Help())

    async def action_quit(self) -> None:
        """Exit."""
        self.exit(0)


def _plain(draw: Callable[[Picture, int], Content]) -> Draw:
    def drawn(picture: Picture, width: int, height: int) -> Content:
        return draw(picture, width)

    return drawn


def _details(table: EndpointTable, picture: Picture) -> Content:
    """Return the details of the endpoint under the cursor that do not fit into its row."""
    row: Any = table.current
    if row is None:
        return Content("no endpoint matches" if table.total and not table.matched else "")
    parts = [panels.clean(row.uri)]
    if row.down_since is not None:
        parts.insert(0, panels.down_since(row.down_since, picture))
    if row.next_at is not None and picture.overview is not None:
        parts.insert(1, f"next attempt in {duration(max(0.0, row.next_at - picture.overview.at))}")
    if row.recent_losses:
        parts.append(f"lost {plural(row.recent_losses, 'time')} in the last minute")
    if row.paused_by:
        parts.append(f"paused by {panels.clean(', '.join(row.paused_by[:3]))}")
    if row.last_error:
        parts.append(panels.clean(row.last_error))
    return Content(" · ".join(parts)).truncate(max(0, table.size.width), ellipsis=True)
