"""The type of a handler must fit `decode` and `batch`."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from msgspec import Struct

from wsfleet import Buffer, Endpoint, Fleet, Message, sinks


class Price(Struct):
    symbol: str
    price: float


@dataclass
class Trade:
    symbol: str


URI = "wss://feed.example"
fleet = Fleet()


def parse(raw: str | bytes) -> Price:
    return Price("AMBER", float(raw))


def parse_text(raw: str) -> Price:
    return Price("AMBER", float(raw))


async def on_price(message: Message[Price]) -> None: ...
async def on_trade(message: Message[Trade]) -> None: ...
async def on_int(message: Message[int]) -> None: ...
async def on_any(message: Message[Any]) -> None: ...
async def on_bare(message: Message) -> None: ...
async def on_object(message: Message[object]) -> None: ...
async def on_either(message: Message[Price | Trade]) -> None: ...
def plain(message: Message[Price]) -> None: ...
async def on_prices(messages: list[Message[Price]]) -> None: ...
async def on_ints(messages: list[Message[int]]) -> None: ...
async def on_bare_list(messages: list[Message]) -> None: ...
async def on_sequence(messages: Sequence[Message[object]]) -> None: ...


class Counter:
    async def __call__(self, message: Message[Price]) -> None: ...
    async def method(self, message: Message[Price]) -> None: ...
    async def on_batch(self, messages: list[Message[Price]]) -> None: ...


# A type
fleet.connect(URI, on_price, decode=Price, name="a", buffer=Buffer(messages=10), timeout_s=3.0)
fleet.connect(URI, plain, decode=Price, concurrency=3, key=lambda message: message.data)
fleet.connect(URI, Counter(), decode=Price)
fleet.connect(URI, Counter().method, decode=Price)
fleet.connect(URI, on_any, decode=Price)
fleet.connect(URI, on_bare, decode=Price)
fleet.connect(URI, on_object, decode=Price)
fleet.connect(URI, on_either, decode=Price)
fleet.connect(URI, lambda message: print(message.data.price), decode=Price)
fleet.connect(URI, on_either, decode=Price | Trade)
fleet.connect(URI, on_trade, decode=Trade)
fleet.connect(URI, on_int, decode=int)
fleet.connect(URI, on_int, decode=Price)  # E: expected "Callable[[Message[Price]]
fleet.connect(URI, on_int, decode=Trade)  # E: expected "Callable[[Message[Trade]]
fleet.connect(URI, on_price, decode=Price | Trade)  # E: expected "Callable[[Message[Price | Trade]]
fleet.connect(URI, lambda message: print(message.data.size), decode=Price)  # E: "Price" has no attribute "size"

# A function
fleet.connect(URI, on_price, decode=parse)
fleet.connect(URI, on_price, decode=parse_text)
fleet.connect(URI, on_int, decode=parse)  # E: Cannot infer value of type parameter "T"

# No type, and no decoder
fleet.connect(URI, on_any)
fleet.connect(URI, on_bare)
fleet.connect(URI, on_int, decode="json")
fleet.connect(URI, decode="text")

# Lists
fleet.connect(URI, on_prices, decode=Price, batch=3)
fleet.connect(URI, on_prices, decode=parse, batch=3)
fleet.connect(URI, on_prices, batch=3)
fleet.connect(URI, on_bare_list, decode=Price, batch=3)
fleet.connect(URI, on_sequence, decode=Price, batch=3)
fleet.connect(URI, Counter().on_batch, decode=Price, batch=3)
fleet.connect(URI, on_price, decode=Price, batch=3)  # E: expected "Callable[[list[Message[Price]]]
fleet.connect(URI, on_price, batch=3)  # E: expected "Callable[[list[Message[Any]]]
fleet.connect(URI, on_bare, batch=3)  # E: expected "Callable[[list[Message[Any]]]
fleet.connect(URI, on_prices, decode=Price)  # E: expected "Callable[[Message[Price]]
fleet.connect(URI, on_prices)  # E: expected "Callable[[Message[Any]]
fleet.connect(URI, on_ints, decode=Price, batch=3)  # E: expected "Callable[[list[Message[Price]]]
fleet.connect(URI, batch=3)  # E: No overload variant

# An endpoint
endpoint = Endpoint(URI, decode=Price)
fleet.connect(endpoint, on_price)
fleet.connect(endpoint, on_prices, batch=3)
fleet.connect(endpoint, on_int)  # E: expected "Callable[[Message[Price]]
fleet.connect(endpoint, on_ints, batch=3)  # E: expected "Callable[[list[Message[Price]]]
fleet.connect(Endpoint(URI), on_int)
fleet.connect(Endpoint(URI, decode="json"), on_int)

# Pools
fleet.pool(URI, 2, on_price, decode=Price)
fleet.pool(URI, 2, on_prices, decode=Price, batch=3)
fleet.pool(URI, 2, on_any, name="node", identify=lambda data: (1, data), match=lambda data: None)
fleet.pool(endpoint, 2, on_price)
fleet.pool(URI, 2, on_int, decode=Price)  # E: expected "Callable[[Message[Price]]
fleet.pool(URI, 2, on_price, decode=Price, batch=3)  # E: expected "Callable[[list[Message[Price]]]

# Sinks
fleet.connect(URI, sinks.open("stdout"), decode=Price)
fleet.connect(URI, sinks.open("stdout"), decode=Price, batch=3)
fleet.process("a", batch=3)(sinks.open("stdout"))
fleet.process("a")(sinks.open("stdout"))
fleet.sink("a", "stdout", batch=3)

# Unknown options
fleet.connect(URI, decod=Price)  # E: Unexpected keyword argument "decod"
fleet.connect(URI, name=3)  # E: No overload variant


# Patterns
@fleet.process("prices.*", retry=None)
async def one(message: Message[Price]) -> None: ...


@fleet.process("prices.*", name="plain", concurrency=2)
def one_plain(message: Message) -> None: ...


@fleet.process("prices.*", batch=3)
async def several(messages: list[Message[Price]]) -> None: ...


@fleet.process("prices.*")  # E: Value of type variable
async def no_batch(messages: list[Message[Any]]) -> None: ...


@fleet.process("prices.*", batch=3)  # E: Value of type variable
async def no_list(message: Message[Any]) -> None: ...
