"""The messages of a loop have the type that `decode` gives."""

from dataclasses import dataclass
from typing import Any, assert_type

from wsfleet import Connection, Endpoint, Fleet, Message, Pool, Subscription


@dataclass
class Price:
    symbol: str


@dataclass
class Trade:
    size: float


def parse(raw: str | bytes) -> Price:
    return Price(str(raw))


URI = "wss://feed.example"
fleet = Fleet()


async def connections() -> None:
    connection = fleet.connect(URI, decode=Price)
    async for message in connection:
        assert_type(message, Message[Price])
        print(message.data.symbol)
        print(message.data.size)  # E: "Price" has no attribute "size"
    async for parsed in fleet.connect(URI, decode=parse):
        assert_type(parsed, Message[Price])
    async for either in fleet.connect(URI, decode=Price | Trade):
        assert_type(either, Message[Price | Trade])
    async for one in fleet.connect(URI, decode=list[Price]):
        assert_type(one, Message[list[Price]])
    async for unknown in fleet.connect(URI):
        assert_type(unknown, Message[Any])
    async for json in fleet.connect(URI, decode="json"):
        assert_type(json, Message[Any])


async def endpoints() -> None:
    endpoint = Endpoint(URI, decode=Price)
    assert_type(endpoint, Endpoint[Price])
    assert_type(Endpoint(URI), Endpoint[Any])
    assert_type(fleet.connect(endpoint), Connection[Price])
    either: Endpoint[Price | Trade] = Endpoint(URI, decode=Price | Trade)
    assert_type(fleet.connect(either), Connection[Price | Trade])


async def pools() -> None:
    pool = fleet.pool(URI, 2, decode=Price)
    assert_type(pool, Pool[Price])
    assert_type(await pool.request({"method": "price"}), Price)
    async for message in pool.connections[0]:
        assert_type(message, Message[Price])
    assert_type(await fleet.pool(URI, 2).request({}), Any)


async def subscriptions(prices: Subscription[Price]) -> None:
    async for message in prices:
        assert_type(message, Message[Price])
    assert_type(await prices.next(timeout=1.0), Message[Price])
    async for messages in prices.batches():
        assert_type(messages, list[Message[Price]])
    async with prices as same:
        assert_type(same, Subscription[Price])
    unknown = fleet.subscribe("prices.*")
    assert_type(await unknown.next(), Message[Any])
    known: Subscription[Price] = fleet.subscribe("prices.*")
    await subscriptions(known)


def bare(connection: Connection, subscription: Subscription, endpoint: Endpoint, pool: Pool) -> Message:
    """The classes can be written without their parameter."""
    return Message(1)
