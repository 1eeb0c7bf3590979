"""The screen of `wsfleet top`: its contents, and its keys."""

import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from textual.pilot import Pilot
from textual.widgets import Input

from tests.cli.top.snapshots import compare, text
from tests.support.fleetview import AT, FleetView, endpoint, subscription
from wsfleet.cli.top.rows import EndpointTable
from wsfleet.cli.top.terminal import Top
from wsfleet.serve.status.schema import StatusError

# Textual checks the loop itself, and does not support others.
LOOPS = ("asyncio",)

LOOK_S = 0.3  # pilot.press waits until nothing changes
WIDE, NARROW = (120, 40), (80, 24)

EVENTS_SHOWN: list[dict[str, Any]] = [
    {"kind": "state", "at": AT - 71, "topic": "$state.feed-3", "state": "BACKOFF", "error": "the connection was cut"},
    {"kind": "state", "at": AT - 70, "topic": "$state.feed-2", "state": "OPEN", "error": None},
    {"kind": "gap", "at": AT - 70, "topic": "$gap.feed-2", "down_s": 2.5},
    {"kind": "malformed", "at": AT - 41, "topic": "$malformed.feed-9", "error": "DecodeError: not JSON"},
    {"kind": "missed", "at": AT - 20, "topic": "$missed", "count": 7},
    {"kind": "slow", "at": AT - 9, "topic": "$slow.slow-chart", "pending": 20, "overflow": "drop_oldest"},
    {"kind": "dead", "at": AT - 3, "topic": "$dead.candles", "error": "ValueError: no price", "attempts": 3},
]

HOSTILE = "[bold red]x[/] \x1b[2J\x1b]0;own\x07 \u202egnp.exe\u202c\n[@click=app.quit]q[/] 日本語"


@pytest.fixture(autouse=True)
def utc(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Set the same time zone everywhere."""
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def many(number: int) -> list[dict[str, Any]]:
    return [endpoint(each) for each in range(1, number + 1)]


def troubled(number: int = 1000) -> FleetView:
    """A fleet with endpoints in all states."""
    return FleetView(
        many(number),
        EVENTS_SHOWN,
        lost=(75, 250),
        blocked={"by": "on_trade", "where": "handlers.py:88", "seconds": 0.73},
        totals={"dropped": 10_400, "dead": 3, "paused": 1},
        slowest=[subscription("slow-chart", "prices.AMBER", 20, 10_400, "drop_oldest"), subscription("all", ">", 3)],
    )


async def until(pilot: Pilot[int], seen: Callable[[], object]) -> None:
    while not seen():
        await pilot.pause(0.01)


@asynccontextmanager
async def shown(
    view: FleetView, size: tuple[int, int] = WIDE, theme: str = "textual-dark"
) -> AsyncIterator[Pilot[int]]:
    """The screen over `view`, drawn, with short refresh intervals."""
    app = Top(view, look_s=LOOK_S, now=lambda: AT)
    app.theme = theme
    async with app.run_test(size=size) as pilot:
        if view.trouble is None:
            await until(pilot, lambda: view.listened.is_set() and table(pilot).matched)
        else:
            await until(pilot, lambda: view.trouble is not None and view.trouble.headline in text(app))
        yield pilot
    assert view.closed


def table(pilot: Pilot[int]) -> EndpointTable:
    found: EndpointTable = pilot.app._table  # type: ignore[attr-defined]
    return found


def lines(pilot: Pilot[int], part: str) -> list[str]:
    return [line for line in text(pilot.app).splitlines() if part in line]


@pytest.mark.parametrize(
    ("name", "size", "theme"),
    [
        ("top", WIDE, "textual-dark"),
        ("light", WIDE, "textual-light"),
        ("narrow", NARROW, "textual-dark"),
        ("narrow-light", NARROW, "textual-light"),
        ("small", (60, 20), "textual-dark"),
        ("large", (180, 50), "textual-dark"),
    ],
)
async def test_looks_like_the_recorded_picture(name: str, size: tuple[int, int], theme: str, tmp_path: Path) -> None:
    """A fleet with endpoints in all states is shown like the recorded picture, in each size and theme."""
    async with shown(troubled(), size, theme) as pilot:
        await compare(pilot, name, tmp_path)


async def test_a_healthy_fleet_is_shown_as_well(tmp_path: Path) -> None:
    """If nothing is wrong, the verdict is WELL, and nothing has the color of a warning."""
    async with shown(FleetView([{**endpoint(number), "state": "OPEN"} for number in (1, 2, 4)], slowest=[])) as pilot:
        assert lines(pilot, "all subscriptions keep up")
        assert lines(pilot, "WELL  all 3 endpoints are open; every received message accounted for")
        await compare(pilot, "well", tmp_path)


async def test_only_visible_rows_of_ten_thousand_are_requested(tmp_path: Path) -> None:
    """While scrolling through 10,000 rows, only the visible rows are requested."""
    view = troubled(10_000)
    async with shown(view) as pilot:
        await pilot.press("end")
        await until(pilot, lambda: lines(pilot, "feed-9999 "))
        assert table(pilot).current is not None and table(pilot).current.name == "feed-9999"
        await compare(pilot, "many", tmp_path)
        await pilot.press("pageup")
        await pilot.press("home", "down", "down")
        await until(pilot, lambda: table(pilot).current and table(pilot).current.name == "feed-3757")
        assert lines(
            pilot, "down for 1 h 2 min, since 00:44:03 · wss://feed-37.example/v1/stream?token=*** · Handshake"
        )
        height = table(pilot).size.height
        assert all(query.limit < height for query in view.asked)
        assert view.asked[-1].offset == 0


async def test_endpoints_that_are_down_are_visible() -> None:
    """Of 10,000 endpoints, those with problems are shown first in the table."""
    async with shown(troubled(10_000)) as pilot:
        await until(pilot, lambda: len(table(pilot)._got.rows) > 9)
        states = [row.state for row in table(pilot)._got.rows]
        assert states[:2] == ["FAILED", "FAILED"] and set(states) == {"FAILED", "BACKOFF"}
        assert lines(
            pilot, "FAILING  8 have failed for good, feed-8757 among them: HandshakeRejected: http: the server"
        )


@pytest.mark.parametrize(("lost", "shown_too"), [(7, True), (6, False)])
async def test_problems_are_shown_for_a_minute(lost: int, shown_too: bool) -> None:
    """More than one loss for two endpoints in a minute, and a loop that was late, are shown even after the recovery."""
    rows = [{**endpoint(number), "state": "OPEN"} for number in range(12)]
    async with shown(FleetView(rows, lost=(30, lost))) as pilot:
        text = f"frequent connection losses: {lost} in the last minute"
        assert bool(lines(pilot, text)) == shown_too
        assert lines(pilot, "the loop was 20")


async def test_consecutive_failed_attempts_are_one_event() -> None:
    """Consecutive failed attempts are one event with their number; after an OPEN, a new one begins."""
    tries = [("BACKOFF", "cut"), *[("CONNECTING", None), ("BACKOFF", "refused")] * 9]
    states = [("OPEN", None), *tries, ("OPEN", None), ("BACKOFF", "gone")]
    records = [
        {"kind": "state", "at": AT, "topic": "$state.a", "state": state, "error": error} for state, error in states
    ]
    async with shown(FleetView(sent=records)) as pilot:
        assert lines(pilot, "a BACKOFF: refused (10 times)") and lines(pilot, "a BACKOFF: gone")
        assert len(lines(pilot, " a BACKOFF")) == 2 and not lines(pilot, "a CONNECTING")


async def test_search_filters_while_it_is_written() -> None:
    """`/` searches, Enter returns to the table and keeps the search, Escape shows all rows again."""
    async with shown(troubled()) as pilot:
        await pilot.press("slash", *"feed-77")
        await until(pilot, lambda: table(pilot).matched == 11)
        assert lines(pilot, 'endpoints 11 of 1,000 · "feed-77"')
        await pilot.press("enter", "down")
        assert table(pilot).has_focus and table(pilot).cursor == 1
        await pilot.press("escape")
        await until(pilot, lambda: table(pilot).matched == 1000)
        await pilot.press("slash", *"nix")
        await until(pilot, lambda: lines(pilot, "no endpoint matches"))


async def test_f_shows_the_endpoints_of_one_state() -> None:
    """`f` selects each state in turn, then all again."""
    async with shown(troubled()) as pilot:
        for state, number in [("OPEN", 988), ("CONNECTING", 0), ("BACKOFF", 11), ("FAILED", 1), ("CLOSED", 0)]:
            await pilot.press("f")
            await until(pilot, lambda state=state: lines(pilot, f"state {state}"))
            await until(pilot, lambda number=number: table(pilot).matched == number)
        await pilot.press("f")
        await until(pilot, lambda: table(pilot).matched == 1000)


async def test_sorted_by_key_and_by_click() -> None:
    """`s` selects each column in turn, `r` reverses the order, a click on a heading does both."""
    view = troubled()
    async with shown(view) as pilot:
        most = max(row["received"] for row in view.rows)
        assert (view.asked[-1].sort, view.asked[-1].order) == ("state", "asc")
        await pilot.press("s")
        await until(pilot, lambda: (view.asked[-1].sort, view.asked[-1].order) == ("received", "desc"))
        await until(pilot, lambda: table(pilot).current and table(pilot).current.received == most)
        await pilot.press("r")
        await until(pilot, lambda: view.asked[-1].order == "asc")
        x = lines(pilot, "losses")[-1].index("losses")
        for order in ("desc", "asc"):
            await pilot.click(EndpointTable, offset=(x - 2, 0))
            await until(pilot, lambda order=order: (view.asked[-1].sort, view.asked[-1].order) == ("losses", order))
        await pilot.click(EndpointTable, offset=(3, 4))
        assert table(pilot).cursor == 3


async def test_subscriptions_and_events_in_a_small_window(tmp_path: Path) -> None:
    """`e` shows subscriptions and events on a small terminal, and then the table again."""
    async with shown(troubled(), NARROW) as pilot:
        assert not lines(pilot, "slow-chart")
        await pilot.press("e")
        await until(pilot, lambda: lines(pilot, "candles failed: ValueError: no price"))
        await compare(pilot, "events", tmp_path)
        await pilot.press("e")
        await until(pilot, lambda: lines(pilot, "feed-100 "))


async def test_help_and_theme(tmp_path: Path) -> None:
    """`?` shows the keys, each of the keys to close it works; `t` switches between dark and light."""
    async with shown(troubled()) as pilot:
        await pilot.press("question_mark")
        await until(pilot, lambda: lines(pilot, "quit; the fleet keeps running"))
        await compare(pilot, "help", tmp_path)
        await pilot.press("q")
        assert not lines(pilot, "quit; the fleet keeps running")
        await pilot.press("t")
        assert not pilot.app.current_theme.dark
        await pilot.press("t")
        assert pilot.app.current_theme.dark


@pytest.mark.parametrize("key", ["q", "ctrl+c"])
async def test_q_and_ctrl_c_end_it(key: str) -> None:
    """q and Ctrl-C end it with 0, regardless of the focus."""
    async with shown(FleetView()) as pilot:
        if key != "q":
            await pilot.press("slash")
        await pilot.press(key)
    assert pilot.app.return_value == 0


async def test_an_unreachable_fleet_is_shown_again_when_it_returns(tmp_path: Path) -> None:
    """While the fleet cannot be reached, the last data stay, marked as old; then it continues by itself."""
    view = troubled()
    async with shown(view) as pilot:
        view.trouble = StatusError("UNREACHABLE", "connection refused")
        await until(pilot, lambda: lines(pilot, "UNREACHABLE  connection refused. Since 01:46:40; retrying."))
        await compare(pilot, "unreachable", tmp_path)
        view.trouble = None
        await until(pilot, lambda: lines(pilot, "FAILING"))
        assert not lines(pilot, "UNREACHABLE")
        assert lines(pilot, "11,000/s"), "the history is requested again"


async def test_a_refused_token_is_reported(tmp_path: Path) -> None:
    """If the fleet was never reached, the reason is shown, and no numbers."""
    view = FleetView()
    view.trouble = StatusError("REFUSED", "the fleet requires a token: --token-file, or WSFLEET_TOKEN")
    async with shown(view, NARROW) as pilot:
        assert lines(pilot, "REFUSED  the fleet requires a token: --token-file, or WSFLEET_TOKEN")
        await compare(pilot, "refused", tmp_path)
        view.trouble = None
        await until(pilot, lambda: lines(pilot, "market") and table(pilot).matched)


async def test_texts_of_a_peer_are_escaped(tmp_path: Path) -> None:
    """Markup, escape sequences, right-to-left marks and line feeds are escaped."""
    row = {**endpoint(1), "name": HOSTILE, "uri": HOSTILE, "last_error": HOSTILE, "paused_by": [HOSTILE]}
    view = FleetView(
        [row, endpoint(2)],
        [{"kind": "state", "at": AT, "topic": f"$state.{HOSTILE}", "state": HOSTILE, "error": HOSTILE}],
        name=HOSTILE,
        slowest=[subscription(HOSTILE, ">", 3, overflow=HOSTILE)],
        blocked={"by": HOSTILE, "where": HOSTILE, "seconds": 1.0},
        down=[{"name": HOSTILE, "state": "FAILED", "required": True}],
        balanced=False,
    )
    async with shown(view) as pilot:
        all_text = text(pilot.app)
        assert "\x1b" not in all_text and "\u202e" not in all_text and "\x07" not in all_text
        assert len(lines(pilot, "[bold red]x[/]")) > 6
        assert all(line.isprintable() for line in all_text.splitlines())
        await compare(pilot, "hostile", tmp_path)
        view.trouble = StatusError("NO FLEET", HOSTILE)
        await until(pilot, lambda: lines(pilot, "NO FLEET  [bold red]x[/]"))


async def test_a_search_text_may_contain_markup() -> None:
    """A search text may contain markup."""
    async with shown(FleetView()) as pilot:
        pilot.app.query_one(Input).value = "[red]"
        await until(pilot, lambda: lines(pilot, 'endpoints 0 of 12 · "[red]"'))


async def test_a_resized_window_requests_its_rows() -> None:
    """More rows are requested when the terminal becomes larger."""
    view = troubled()
    async with shown(view, NARROW) as pilot:
        before = view.asked[-1].limit
        await pilot.resize_terminal(120, 50)
        await until(pilot, lambda: view.asked[-1].limit > before)
        await until(pilot, lambda: lines(pilot, "slowest subscriptions"))
