"""The status page in a browser that nobody here wrote: Debian's Chromium, as somebody would look at it."""

import asyncio
import re
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from playwright.async_api import Page, async_playwright

from tests.servers.base import missing
from wsfleet import Buffer, Endpoint, Fleet, Message, Overflow, Reconnect
from wsfleet.observe.fleet import FleetSource
from wsfleet.observe.http import HttpServer
from wsfleet.testing import FakeTransport

LOOPS = ("asyncio",)  # what is met is the browser

NEVER = Reconnect(initial_s=600, max_s=600)
HOSTILE = "<img/src=x/onerror=run=1/"
"""A name that is one token, and would run where a page took it for markup."""


@asynccontextmanager
async def looking(server: Any, **context: Any) -> AsyncIterator[Page]:
    """The page of `server`, open. Afterwards it has asked nobody else, has run nothing foreign, and said no error."""
    chromium = shutil.which("chromium")
    if chromium is None:
        missing("chromium")
    root = f"http://{server.address}"
    asked: list[str] = []
    errors: list[str] = []
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = await (await browser.new_context(**context)).new_page()
        page.set_default_timeout(20_000)
        page.on("request", lambda request: asked.append(request.url))
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
        await page.goto(root)
        try:
            yield page
            assert await page.evaluate("window.run") is None
        finally:
            await browser.close()
    assert [url for url in asked if not url.startswith(root)] == []
    # That a token is wanted, or nobody answers, the browser notes as an error, and the page tells.
    assert [error for error in errors if "401" not in error and "net::ERR" not in error] == []


async def read(page: Page, selector: str, text: str) -> None:
    """Wait until `text` is read there."""
    await page.locator(selector).filter(has_text=text).first.wait_for()


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


async def test_one_look_says_whether_it_is_well() -> None:
    """All open is well; an endpoint that goes down is the first thing read, with its reason, without a reload."""
    async with running("a", "b") as (_, transport, server):
        socket = await transport.accept("a")
        await transport.accept("b")
        async with looking(server) as page:
            await read(page, "#open", "2 of 2 open")
            # A machine that is busy lets the loop be late, which the page tells, too.
            await page.locator("#headline").filter(has_text=re.compile("^Well|event loop")).wait_for()
            await read(page, "#name", "prices")
            socket.close(4000, "Maintenance tonight")
            await page.locator('#verdict[data-level="unwell"], #verdict[data-level="attention"]').wait_for()
            await read(page, "#down", "Maintenance tonight")
            await read(page, "#log", "BACKOFF")
            assert "prices" in await page.title()


async def test_what_a_peer_says_is_text() -> None:
    """Names, reasons and errors with markup in them are read as they are, and nothing of them runs."""
    async with running(HOSTILE, "b") as (fleet, transport, server):
        fleet.process(">", name="fails")(raising)
        socket = await transport.accept(HOSTILE)
        await transport.accept("b")
        async with looking(server) as page:
            await read(page, "#open", "2 of 2 open")
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


async def test_ten_thousand_endpoints() -> None:
    """The table has a page of rows of them; sorting, searching and paging find all."""
    fleet = Fleet()  # as it is before it starts: what is tried is the page
    for number in range(10_000):
        fleet.connect("ws://feeds.test", name=f"feed-{number}")
    async with serving(fleet) as server, looking(server) as page:
        await read(page, "#endpoints .where", "10,000")
        rows = page.locator("#endpoints tbody tr")
        assert await rows.count() == 50
        await page.locator("#endpoints").get_by_role("button", name="Last", exact=True).click()
        await read(page, "#endpoints tbody", "feed-9999")
        await page.keyboard.press("/")
        await page.keyboard.type("feed-777")
        await read(page, "#endpoints .where", "11")
        head = page.locator("#endpoints th").filter(has_text="Name")
        await read(page, "#endpoints tbody tr:first-child", "feed-777")
        await head.get_by_role("button").press("Enter")
        await read(page, "#endpoints tbody tr:first-child", "feed-7779")
        assert await head.get_attribute("aria-sort") == "descending"
        assert await rows.count() == 11


async def test_slow_and_lossy_subscriptions_are_shown() -> None:
    """Who holds the others up is named, and how much was dropped."""
    async with running("a") as (fleet, transport, server):
        socket = await transport.accept("a")
        fleet.process("a", name="chart", buffer=Buffer(messages=2, overflow=Overflow.DROP_OLDEST))(hanging)
        await socket.feed(*"abcdef")
        async with looking(server) as page:
            await read(page, "#slowest", "chart")
            await read(page, "#subscriptions tbody", "drop_oldest")
            assert int(await page.locator("#dropped").inner_text()) >= 3
            assert await page.locator("#charts svg").count() >= 4


async def hanging(message: Message[Any]) -> None:
    await asyncio.Event().wait()


async def test_a_token_is_asked_for() -> None:
    """Where everything needs the token the page asks for it, says when it is wrong, and then shows the fleet."""
    fleet = Fleet(transport=FakeTransport(), name="prices")
    server = fleet.serve_http("0.0.0.0:0", token="let-me-look-at-this")
    async with fleet, looking(server) as page:
        field = page.get_by_label("Token")
        await field.fill("wrong")
        await field.press("Enter")
        await read(page, "#token-why", "That is not the token")
        await field.fill("let-me-look-at-this")
        await field.press("Enter")
        await read(page, "#name", "prices")
        assert "let-me-look" not in page.url and not await page.locator("#token").is_visible()


@pytest.mark.parametrize("scheme", ["dark", "light"])
async def test_it_can_be_read_on_a_phone(scheme: str) -> None:
    """In either scheme text stands out from its ground as WCAG 2.1 AA asks, and nothing has to be scrolled sideways."""
    async with running("a", HOSTILE * 5) as (_, transport, server):
        (await transport.accept("a")).close(4000, "Maintenance")
        phone = {"viewport": {"width": 375, "height": 800}, "color_scheme": scheme}
        async with looking(server, **phone) as page:
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


async def test_every_control_has_a_name_and_a_key() -> None:
    """Whatever can be used is reached with the Tab key, and has a name for a screen reader."""
    async with running("a") as (_, transport, server):
        await transport.accept("a")
        async with looking(server) as page:
            await read(page, "#endpoints tbody", "OPEN")
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


async def test_it_says_when_nobody_answers() -> None:
    """Once the fleet has ended the page says so, and that what it shows is old."""
    async with running("a") as (fleet, transport, server):
        await transport.accept("a")
        async with looking(server) as page:
            await read(page, "#open", "1 of 1 open")
            await fleet.close()
            await page.locator('#verdict[data-level="lost"]').wait_for()
            await read(page, "#notes", "old")
