"""How the program is tested: `pip install '.[testing]'` in the repository, and then `pytest` in this folder."""

import asyncio
from collections.abc import Callable
from typing import Any

from highs import Highs

from wsfleet import Fleet, Reconnect
from wsfleet.testing import Chaos, FakeTransport, FeedServer, faults

QUICK = Reconnect(initial_s=0.01, max_s=0.05)


def price(n: int) -> dict[str, Any]:
    """The n-th message of the feed: prices that rise."""
    return {"symbol": "AMBER", "price": float(n), "n": n}


async def until(condition: Callable[[], bool]) -> None:
    """Wait until it is so."""
    async with asyncio.timeout(30):
        while not condition():  # noqa: ASYNC110 - nothing reports when it is
            await asyncio.sleep(0.01)


async def test_the_highest_price_stays() -> None:
    """Without a network: the test says when there is a socket, and what comes over it."""
    transport, highs = FakeTransport(), Highs()
    async with Fleet(transport=transport) as fleet:
        highs.watch(fleet, "ws://feed.test")
        socket = await transport.accept("feed")
        await socket.feed('{"symbol": "AMBER", "price": 3.0}', '{"symbol": "AMBER", "price": 2.0}')
    assert highs.prices == {"AMBER": 3.0}


async def test_comes_back_after_a_loss(feed_server: FeedServer, fleet: Fleet) -> None:
    """Over a real socket, which is cut."""
    highs = Highs()
    highs.watch(fleet, feed_server.uri, QUICK)
    await feed_server.wait_clients(1)
    await feed_server.send(price(1))
    await until(lambda: highs.prices == {"AMBER": 1.0})
    feed_server.drop()
    await feed_server.wait_clients(1)
    await feed_server.send(price(2))
    await until(lambda: highs.prices == {"AMBER": 2.0})


async def test_a_bad_morning(feed_server: FeedServer, fleet: Fleet) -> None:
    """The server is not ready, then sends something broken after ten prices, then is well; no price is lost."""
    feed_server.script([faults.Refuse(503), faults.InvalidUTF8(after=10)])
    highs = Highs()
    feed = highs.watch(fleet, feed_server.uri, QUICK)
    await feed_server.send_numbered(20, price)
    await until(lambda: highs.prices == {"AMBER": 20.0})
    assert feed.session_count == 2
    assert fleet.stats().endpoints[0].received == 20


async def test_survives_anything(feed_server: FeedServer, fleet: Fleet, chaos: Chaos) -> None:
    """Whatever happens, only what a fault destroyed is missing, and nothing comes twice."""
    highs, seen = Highs(), []
    highs.watch(fleet, feed_server.uri, QUICK)
    async with fleet.subscribe("prices.*") as prices:
        with chaos:
            await feed_server.send_numbered(500, price)
        await feed_server.send_numbered(1, price)  # all is well again, so this one arrives
        async for message in prices:
            seen.append(message.data["n"])
            if seen[-1] == 501:
                break
    assert feed_server.audit(seen).clean
    await until(lambda: highs.prices == {"AMBER": 501.0})
