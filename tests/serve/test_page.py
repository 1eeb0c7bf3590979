"""The status page in Chromium."""

import asyncio
import re
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from unittest.mock import AsyncMock, Mock, patch

import pytest
import pytest_asyncio
from playwright.async_api import Browser, Page, Route, async_playwright

from tests.conftest import watch_the_loop
from tests.support.flows import until
from tests.support.servers.base import missing
from wsfleet import Buffer, Endpoint, Fleet, Message, Overflow, Reconnect, State
from wsfleet.core.errors import ConnectFailed
from wsfleet.serve.status.fleet_source import FleetSource
from wsfleet.serve.status.http import HttpServer
from wsfleet.testing import FakeTransport

LOOPS = ("asyncio",)  # the subject is the browser

# To start a browser takes longer than most tests: all use one, in one loop and one process.
pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.xdist_group("chromium")]

# Time limit for events that must happen, not a measure of speed.
PATIENCE_MS = 120_000

NEVER = Reconnect(initial_s=600, max_s=600)
COUNTING = """
  window.unanswered = 0;
  const ask = window.fetch;
  window.fetch = async (...given) => {
    window.unanswered += 1;
    try { return await ask(...given); } finally { setTimeout(() => { window.unanswered -= 1; }); }
  };
"""
IMPATIENT = """
  const wait = window.setTimeout;
  window.setTimeout = (does, ms = 0) => wait(does, ms < 8000 ? ms / 10 : ms);
"""
"""The page asks ten times as often as for a person; its time limits, from 8 s, stay."""

HOSTILE = "<img/src=x/onerror=run=1/"
"""A name that is one token, and would run as a script if a page treated it as markup."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser() -> AsyncIterator[Browser]:
    chromium = shutil.which("chromium")
    if chromium is None:
        missing("chromium")
    async with async_playwright() as playwright:
        started = await playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield started
        await started.close()


@pytest_asyncio.fixture(loop_scope="module")
async def _nothing_left_open_in_the_loop(browser: Browser) -> AsyncIterator[None]:
    async for _ in watch_the_loop():
        yield


@asynccontextmanager
async def looking(browser: Browser, server: Any, **context: Any) -> AsyncIterator[Page]:
    """The page of `server`. Afterwards it has contacted no other host, run no foreign code, and logged no error."""
    root = f"http://{server.address}"
    asked: list[str] = []
    errors: list[str] = []
    async with await browser.new_context(**context) as opened:
        opened.set_default_timeout(PATIENCE_MS)
        await opened.add_init_script(COUNTING + IMPATIENT)
        page = await opened.new_page()
        page.on("request", lambda request: asked.append(request.url))
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
        await page.goto(root)
        yield page
        assert await page.evaluate("window.run") is None
        # A handler of the test must not go on with the answers of a context that is closed.
        await page.unroute_all(behavior="ignoreErrors")
    assert [url for url in asked if not url.startswith(root)] == []
    # The browser logs a missing token or an unreachable server as an error, and the page shows it.
    assert [error for error in errors if "401" not in error and "net::ERR" not in error] == []


async def read(page: Page, selector: str, text: str) -> None:
    """Wait until `text` is visible."""
    await page.locator(selector).filter(has_text=text).first.wait_for()


async def give_token(page: Page, token: str) -> None:
    """Enter `token` once every request without it has been refused: a later refusal would ask for it again."""
    field = page.get_by_label("Token")
    await field.wait_for()
    await page.wait_for_function("() => window.unanswered === 0")
    await field.fill(token)
    await field.press("Enter")


async def nothing(message: Message[Any]) -> None:
    pass


@asynccontextmanager
async def running(*names: str, **served: Any) -> AsyncIterator[tuple[Fleet, FakeTransport, Any]]:
    """A fleet with these endpoints, all open, and its server."""
    transport = FakeTransport()
    fleet = Fleet(transport=transport, name="prices", drain_s=0.1)
    for name in names:
        fleet.connect(Endpoint(f"ws://{len(name)}.test", name=name, reconnect=NEVER), nothing)
    server = fleet.serve_http("127.0.0.1:0", **served)
    async with fleet:
        yield fleet, transport, server


@asynccontextmanager
async def serving(fleet: Fleet) -> AsyncIterator[HttpServer]:
    """A server for a fleet that does not run."""
    server = HttpServer(FleetSource(fleet), "127.0.0.1:0")
    server.bind()
    await server.start()
    yield server
    await server.stop()


async def test_the_verdict_shows_whether_all_endpoints_are_open(browser: Browser) -> None:
    """If all endpoints are open, the page says so; an endpoint that goes down is shown first, with its cause, without
    a reload.
    """
    async with running("a", "b") as (_, transport, server):
        socket = await transport.accept("a")
        await transport.accept("b")
        async with looking(browser, server) as page:
            await read(page, "#open", "2 of 2 open")
            # On a busy machine the loop may be late, which the page shows, too.
            await page.locator("#headline").filter(has_text=re.compile("^Well|event loop")).wait_for()
            await read(page, "#name", "prices")
            assert not await page.locator("#slow").is_visible()
            await read(page, "#events-state", "live")
            assert not await page.locator("#not-open").is_visible()
            socket.close(4000, "Maintenance tonight")
            await page.locator('#verdict[data-level="unwell"], #verdict[data-level="attention"]').wait_for()
            await read(page, "#down", "Maintenance tonight")
            await read(page, "#log", "BACKOFF")
            assert "prices" in await page.title()
            assert await top_of(page, "#verdict") < await top_of(page, "#not-open") < await top_of(page, ".figures")


async def top_of(page: Page, selector: str) -> float:
    box = await page.locator(selector).bounding_box()
    assert box is not None
    return box["y"]


@pytest.mark.parametrize(
    ("changes", "headline"),
    [
        ({"losses": 3}, "Frequent connection losses: 3 in the last minute"),
        ({"losses": 2}, "Well: all 2 endpoints are open, and every received message is accounted for"),
        ({"loop_lag_s": 0.677}, "The event loop was late by 677 ms"),
    ],
)
async def test_problems_are_shown_for_a_minute(browser: Browser, changes: dict[str, float], headline: str) -> None:
    """Connections that are lost and return quickly, and a loop that was late, are shown for a minute."""

    # The real delays of the machine must not be among the numbers, so both answers are fixed.
    async def overview(route: Route) -> None:
        answer = await (await route.fetch()).json()
        await route.fulfill(json=answer | {"loop_lag_s": 0, "blocked": None})

    async def history(route: Route) -> None:
        answer = await (await route.fetch()).json()
        quiet = answer["samples"][-1] | {"loop_lag_s": 0, "losses": 0}
        after = [] if "losses" in changes else [quiet]
        await route.fulfill(json=answer | {"samples": [quiet, quiet | changes, *after]})

    async with running("a", "b") as (_, transport, server):
        for name in ("a", "b"):
            await transport.accept(name)
        async with looking(browser, server) as page:
            await page.route("**/api/overview", overview)
            await page.route("**/api/history", history)
            await page.reload()
            await read(page, "#headline", headline)
            if "loop_lag_s" in changes:
                await page.locator("#lag.alarming").filter(has_text="677 ms").wait_for()


async def test_an_endpoint_that_is_lost_repeatedly_is_named(browser: Browser) -> None:
    """An endpoint that is lost three times in a minute is named in the verdict while all are open, and is first."""
    async with running("a", "b") as (fleet, transport, server):
        await transport.accept("a")
        socket = await transport.accept("b")
        for _ in range(3):
            socket.close(4000, "again")
            while fleet.connections["b"].state is not State.BACKOFF:
                await asyncio.sleep(0.01)
            fleet.connections["b"].restart()
            socket = await transport.accept("b")
            await fleet.connections["b"].wait_open()
        async with looking(browser, server) as page:
            await page.locator('#verdict[data-level="attention"]').wait_for()
            await page.locator("#verdict").filter(has_text="Lost in the last minute: b 3 times").wait_for()
            await page.locator("#endpoints").scroll_into_view_if_needed()
            await page.locator("#endpoints tbody tr:first-child").filter(has_text="b").wait_for()


async def test_the_charts_begin_with_the_data(browser: Browser) -> None:
    """A chart begins at the first sample, and first connects are no reconnects."""
    async with running("a") as (_, transport, server):
        await transport.accept("a")
        async with looking(browser, server) as page:
            start, reconnects = await page.evaluate("""async () => {
              const { CHARTS, Chart, withReconnects } = await import("./charts.js");
              const chart = new Chart(CHARTS[2]);
              const counts = [[0, 0], [100, 0], [100, 10], [110, 10], [112, 11], [5, 0], [6, 0]];
              const at = (i) => 1000 + 10 * i;
              const samples = withReconnects(counts.map(([connects, losses], i) => ({ at: at(i), connects, losses })));
              chart.show(samples);
              return [chart.start, samples.map((sample) => sample.reconnects)];
            }""")
    assert start == 1000
    assert reconnects == [0, 0, 0, 10, 11, 11, 11]


async def test_a_failed_endpoint_is_shown_with_its_reason(browser: Browser) -> None:
    """For a FAILED endpoint the verdict is unwell, with the reason."""
    transport = FakeTransport()
    fleet = Fleet(transport=transport)
    for name in ("payments", "b", "c"):
        again = Reconnect(fatal=lambda error: True)
        fleet.connect(Endpoint(f"ws://{name}.test", name=name, reconnect=again), nothing)
    server = fleet.serve_http("127.0.0.1:0")
    async with fleet:
        sockets = {name: await transport.accept(name) for name in fleet.connections}
        sockets["payments"].close(4001, "Who are you?")
        async with looking(browser, server) as page:
            await read(page, "#headline", "payments has failed for good: connection lost: 4001 Who are you?")
            await page.locator('#verdict[data-level="unwell"]').wait_for()
            sockets["b"].close(4002)
            await read(page, "#headline", "2 endpoints have failed for good: payments with connection lost: 4001")


async def test_consecutive_failed_attempts_are_one_event(browser: Browser) -> None:
    """Consecutive failed attempts are one event with their number; after an OPEN, a new one begins."""
    again = Reconnect(initial_s=0.01, max_s=0.01)
    transport = FakeTransport()
    fleet = Fleet(transport=transport)
    fleet.connect(Endpoint("ws://a.test", name="a", reconnect=again), nothing)
    server = fleet.serve_http("127.0.0.1:0")
    async with fleet:
        socket = await transport.accept("a")
        await fleet.connections["a"].wait_open()
        async with looking(browser, server) as page:
            await read(page, "#events-state", "live")
            for _ in range(4):
                transport.refuse(ConnectFailed("tcp", "Connection refused"))
            socket.lose()
            await read(page, "#log li", "Connection refused (5 times)")
            assert await page.locator("#log li").count() == 1
            await (await transport.accept("a")).feed("x")
            await read(page, "#log li", "CONNECTING → OPEN")


async def test_texts_of_a_peer_are_shown_as_text(browser: Browser) -> None:
    """Markup in names, reasons and errors is shown as text, and not executed."""
    async with running(HOSTILE, "b") as (fleet, transport, server):
        fleet.process(">", name="fails")(raising)
        socket = await transport.accept(HOSTILE)
        await transport.accept("b")
        async with looking(browser, server) as page:
            await read(page, "#open", "2 of 2 open")
            await read(page, "#events-state", "live")
            await socket.feed("x")
            await read(page, "#log", "onerror=window.run=2")
            socket.close(4000, "</script><svg onload=window.run=3>\u202egnp.exe")
            await read(page, "#down", "<svg onload=window.run=3>")
            await read(page, "#endpoints tbody", HOSTILE)
            await page.locator("#endpoints tbody tr").filter(has_text=HOSTILE).get_by_role("button").first.click()
            await read(page, "#detail-title", HOSTILE)
            assert await page.locator("#main img, #main svg[onload], dialog img").count() == 0


async def raising(message: Message[Any]) -> None:
    raise ValueError("<img src=x onerror=window.run=2>")


async def test_ten_thousand_endpoints(browser: Browser) -> None:
    """The table shows one page of rows; sorting, searching and paging find all of them."""
    fleet = Fleet()  # not started, because only the page is tested
    for number in range(10_000):
        fleet.connect("ws://feeds.test", name=f"feed-{number}")
    async with serving(fleet) as server, looking(browser, server) as page:
        await read(page, "#endpoints .where", "10,000")
        rows = page.locator("#endpoints tbody tr")
        assert await rows.count() == 50
        await page.locator("#endpoints").get_by_role("button", name="Last", exact=True).click()
        await read(page, "#endpoints tbody", "feed-9999")
        await page.keyboard.press("/")
        await page.keyboard.type("feed-777")
        await read(page, "#endpoints .where", "1–11 of 11 found, 10,000 endpoints in total")
        head = page.locator("#endpoints th").filter(has_text="Name")
        await read(page, "#endpoints tbody tr:first-child", "feed-777")
        await head.get_by_role("button").press("Enter")  # by name instead of state
        await page.locator('#endpoints th[aria-sort="ascending"]').filter(has_text="Name").wait_for()
        await head.get_by_role("button").press("Enter")
        await read(page, "#endpoints tbody tr:first-child", "feed-7779")
        assert await head.get_attribute("aria-sort") == "descending"
        assert await rows.count() == 11


async def test_slow_and_lossy_subscriptions_are_shown(browser: Browser) -> None:
    """The subscription that pauses others is named, with the number of dropped messages."""
    async with running("a") as (fleet, transport, server):
        socket = await transport.accept("a")
        fleet.process("a", name="chart", buffer=Buffer(messages=2, overflow=Overflow.DROP_OLDEST))(hanging)
        await socket.feed(*"abcdef")
        async with looking(browser, server) as page:
            await read(page, "#slowest", "chart")
            await page.locator("#subscriptions").scroll_into_view_if_needed()
            await read(page, "#subscriptions tbody", "drop_oldest")
            assert int(await page.locator("#dropped").inner_text()) >= 3
            assert await page.locator("#charts svg").count() >= 4


async def hanging(message: Message[Any]) -> None:
    await asyncio.Event().wait()


async def test_the_page_asks_for_the_token(browser: Browser) -> None:
    """If a token is required, the page asks for it, reports a wrong one, and then shows the fleet."""
    fleet = Fleet(transport=FakeTransport(), name="prices")
    server = fleet.serve_http("0.0.0.0:0", token="let-me-look-at-this")
    async with fleet, looking(browser, server) as page:
        await give_token(page, "wrong")
        await read(page, "#token-why", "The token is not valid")
        await give_token(page, "let-me-look-at-this")
        await read(page, "#name", "prices")
        assert "let-me-look" not in page.url and not await page.locator("#token").is_visible()


async def test_a_late_refusal_does_not_ask_for_the_token_again(browser: Browser) -> None:
    """A request without the token that is refused after the token was entered is repeated with it."""
    fleet = Fleet(transport=FakeTransport(), name="prices")
    server = fleet.serve_http("0.0.0.0:0", token="let-me-look-at-this")
    held: list[Route] = []

    async def hold(route: Route) -> None:
        if "authorization" in route.request.headers:
            await route.continue_()
        else:
            held.append(route)

    async with fleet, looking(browser, server) as page:
        # The stream of events also asks for the token when it is refused.
        await page.route("**/api/events", hold)
        await page.reload()
        field = page.get_by_label("Token")
        await field.wait_for()
        await until(lambda: bool(held))
        await field.fill("let-me-look-at-this")
        await field.press("Enter")
        await read(page, "#name", "prices")
        for route in held:
            await route.continue_()
        await read(page, "#events-state", "live")
        assert not await page.locator("#token").is_visible()


async def test_requests_contain_the_token(browser: Browser) -> None:
    """With the token, the report can be opened, and the file reloaded after a confirmation, with the answer shown."""
    fleet = Fleet(transport=FakeTransport(), name="prices")
    server = fleet.serve_http("0.0.0.0:0", token="let-me-look-at-this")
    async with fleet, looking(browser, server) as page:
        await give_token(page, "let-me-look-at-this")
        await read(page, "#name", "prices")
        async with page.expect_popup() as opened:
            await page.get_by_role("link", name="report").click()
        await read(await opened.value, "body", '"name":"prices"')
        with patch.object(Fleet, "reload", AsyncMock(return_value=["[[connect]] a: added"])):
            fleet._control.reloader = Mock()
            await page.get_by_role("button", name="Reload", exact=True).click()
            await page.get_by_role("button", name="Reload now").click()
            await read(page, "#reload-facts", "[[connect]] a: added")


async def test_numbers_do_not_round_past_their_unit(browser: Browser) -> None:
    """A value that rounds up to a thousand of a unit is shown in the next unit."""
    async with running() as (_, _, server), looking(browser, server) as page:
        texts = await page.evaluate(
            """async () => {
                const { compact, seconds } = await import("/words.js");
                return [seconds(0.0009996), seconds(0.9996), seconds(59.96), seconds(0.0009994), compact(999.6)];
            }"""
        )
        assert texts == ["1 ms", "1 s", "1 min", "999 µs", "1K"]


@pytest.mark.parametrize("width", [390, 768, 1280, 1920])
async def test_the_page_does_not_scroll_sideways(browser: Browser, width: int) -> None:
    """The page does not scroll sideways, cards leave no gaps, and a long name takes two lines."""
    name = "a" * 300
    async with running(name, "b") as (_, transport, server):
        (await transport.accept(name)).close(4000, "Maintenance" * 20)
        async with looking(browser, server, viewport={"width": width, "height": 800}) as page:
            await read(page, "#down", "Maintenance")
            await page.locator("#endpoints").scroll_into_view_if_needed()
            await read(page, "#endpoints tbody", name)
            await read(page, "#endpoints tbody", "BACKOFF")
            assert await page.evaluate("document.documentElement.scrollWidth") <= width
            assert await page.evaluate(LINES) <= 2
            for cards in (".figures", "#charts"):
                assert len(await page.evaluate(RIGHT_EDGES, cards)) == 1


LINES = """() => {
  const buttons = [...document.querySelectorAll("#endpoints tbody th button")];
  const button = buttons.find((each) => each.textContent.length > 100);
  return Math.round(button.clientHeight / parseFloat(getComputedStyle(button).lineHeight));
}"""
RIGHT_EDGES = """(cards) => {
  const rows = {};
  for (const each of document.querySelector(cards).children) {
    const { top, right } = each.getBoundingClientRect();
    rows[Math.round(top)] = Math.max(rows[Math.round(top)] ?? 0, Math.round(right));
  }
  return [...new Set(Object.values(rows))];
}"""


@pytest.mark.parametrize("scheme", ["dark", "light"])
async def test_the_page_is_readable_on_a_phone(browser: Browser, scheme: str) -> None:
    """In both color schemes, text has the contrast of WCAG 2.1 AA, and the page does not scroll sideways."""
    async with running("a", HOSTILE * 5) as (_, transport, server):
        (await transport.accept("a")).close(4000, "Maintenance")
        phone = {"viewport": {"width": 375, "height": 800}, "color_scheme": scheme}
        async with looking(browser, server, **phone) as page:
            await read(page, "#down", "Maintenance")
            await page.locator("#endpoints").scroll_into_view_if_needed()
            await read(page, "#endpoints tbody", "onerror")
            assert await page.evaluate("document.documentElement.scrollWidth") <= 375
            assert await page.evaluate(TOO_FAINT) == []


TOO_FAINT = """() => {
  const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const rgba = (color) => {
    canvas.clearRect(0, 0, 1, 1);
    canvas.fillStyle = color;
    canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data];
  };
  const light = (rgb) => {
    const [r, g, b] = rgb.map((c) => (c /= 255) <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const ground = (each) => {
    for (; each; each = each.parentElement) {
      const color = rgba(getComputedStyle(each).backgroundColor);
      if (color[3] === 255) return color;
    }
    return rgba("Canvas");
  };
  const faint = [];
  const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (texts.nextNode()) {
    const each = texts.currentNode.parentElement;
    if (!texts.currentNode.data.trim()) continue;
    if (!each.checkVisibility() || each.closest("svg, button:disabled, .skip")) continue;
    const [a, b] = [rgba(getComputedStyle(each).color), ground(each)].map((c) => light(c.slice(0, 3)));
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (ratio < 4.5) faint.push(`${ratio.toFixed(1)}: ${texts.currentNode.data.trim().slice(0, 40)}`);
  }
  return faint;
}"""


async def test_every_control_has_a_name_and_a_key(browser: Browser) -> None:
    """Every control can be reached with the Tab key, and has a name for screen readers."""
    async with running("a") as (_, transport, server):
        await transport.accept("a")
        async with looking(browser, server) as page:
            await read(page, "#endpoints tbody", "OPEN")
            await page.locator("#subscriptions").scroll_into_view_if_needed()
            await read(page, "#subscriptions tbody", "a")
            unnamed = await page.evaluate(
                """() => [...document.querySelectorAll("a, button, input, select")].filter((each) =>
                    each.checkVisibility() && !(each.ariaLabel || each.title || each.textContent.trim()
                    || each.labels?.length)).map((each) => each.outerHTML)"""
            )
            assert unnamed == []
            reached = set()
            for _ in range(60):
                await page.keyboard.press("Tab")
                reached.add(
                    await page.evaluate("document.activeElement.id || document.activeElement.className.toString()")
                )
            assert {"skip", "hold", "search", "state", "size", "kind", "log"} <= reached


async def test_the_page_shows_that_the_fleet_has_ended(browser: Browser) -> None:
    """After the end of the fleet, the page says so, and marks its data as old."""
    async with running("a") as (fleet, transport, server):
        await transport.accept("a")
        async with looking(browser, server) as page:
            await read(page, "#open", "1 of 1 open")
            await fleet.close()
            await page.locator('#verdict[data-level="lost"]').wait_for()
            await read(page, "#notes", "old")
