"""Takes the screenshots of the status page in docs/, in a minute: `python -m tools.page_pictures`. Needs Chromium."""

import asyncio
import shutil
from pathlib import Path
from typing import Any

from playwright.async_api import Browser, async_playwright

from wsfleet import Buffer, Fleet, Message, Overflow, Reconnect
from wsfleet.testing import FeedServer

DOCS = Path(__file__).parents[1] / "docs"
FEEDS = ("trades", "quotes", "books", "news", "blocks", "weather")
WATCHED_S = 40
RETRY = Reconnect(initial_s=60, jitter=0)  # the screenshot is taken while it is down


async def take(message: Message[str]) -> None:
    """A processor that is fast enough."""
    if message.data == "odd":
        raise ValueError("no price in it")


async def slowly(message: Message[str]) -> None:
    """A processor that is too slow."""
    await asyncio.sleep(0.05)


async def feed(server: FeedServer) -> None:
    """Send steadily, and close one connection towards the end."""
    for turn in range(WATCHED_S * 20):
        await server.send(*["price"] * (5 + turn // 100), *(["odd"] if turn % 200 == 0 else []))
        await asyncio.sleep(0.05)
        if turn == WATCHED_S * 15:
            await server.clients[-1].close(1012, "restart for maintenance")


async def picture(browser: Browser, url: str, name: str, **context: Any) -> None:
    page = await (await browser.new_context(**context)).new_page()
    await page.goto(url)
    await page.locator("#down li").first.wait_for()
    await page.locator("#charts path").first.wait_for(state="attached")
    await page.screenshot(path=DOCS / f"status-page-{name}.png")
    await page.close()


async def main() -> None:
    chromium = shutil.which("chromium")
    if chromium is None:
        raise SystemExit("needs Chromium: apt-get install chromium")
    fleet = Fleet(name="prices", drain_s=0.1)
    server = fleet.serve_http("127.0.0.1:0")
    async with FeedServer() as feeds, async_playwright() as playwright:
        for name in FEEDS:
            fleet.connect(f"{feeds.uri}/{name}", take, name=name, reconnect=RETRY)
        slow = Buffer(messages=500, overflow=Overflow.DROP_OLDEST)
        fleet.process("news", name="archive", buffer=slow)(slowly)
        browser = await playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        async with fleet:
            await feeds.wait_clients(len(FEEDS))
            await feed(feeds)
            url = f"http://{server.address}"  # type: ignore[attr-defined]
            wide = {"viewport": {"width": 1200, "height": 1500}}
            await picture(browser, url, "light", color_scheme="light", **wide)
            await picture(browser, url, "dark", color_scheme="dark", **wide)
            await picture(browser, url, "phone", color_scheme="light", viewport={"width": 375, "height": 800})
        await browser.close()


if __name__ == "__main__":
    asyncio.run(main())
