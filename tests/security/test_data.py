"""Data of a peer have bounded cost, and determine neither which code runs nor which files are written."""

import asyncio
import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from wsfleet import Fleet, sinks
from wsfleet.testing import FakeTransport


class Tree(msgspec.Struct):
    leaf: "Tree | None" = None


BOMBS = {
    "depth": "[" * 100_000 + "]" * 100_000,
    "depth of objects": '{"leaf":' * 100_000 + "null" + "}" * 100_000,
    "unended depth": "[" * 500_000,
    "huge integer": "9" * 900_000,
    "huge exponent": "1e999999999",
    "lone surrogate": '"\\ud800"',
    "no number": "NaN",
}


@pytest.mark.parametrize("decode", ["json", Tree, Any], ids=str)
@pytest.mark.parametrize("bomb", BOMBS.values(), ids=BOMBS)
async def test_json_that_would_cost_too_much_is_malformed(bomb: str, decode: Any) -> None:
    """Data that would cost more than their size are malformed, and the connection continues."""
    transport = FakeTransport()
    fleet = Fleet(transport=transport)
    messages = fleet.subscribe("feed")
    fleet.connect("ws://feed.test/", name="feed", decode=decode)
    async with fleet:
        socket = await transport.accept("feed")
        await socket.feed(bomb)
        await socket.feed("{}")
        message = await anext(aiter(messages))
        row = fleet.stats().endpoints[0]
    assert (message.index, row.malformed, row.losses) == (2, 1, 0)


async def test_the_last_value_of_a_repeated_key_is_used() -> None:
    """If a key is repeated, the topic uses the same value as the data, so that no consumer sees another value."""
    transport = FakeTransport()
    fleet = Fleet(transport=transport)
    messages = fleet.subscribe(">")
    fleet.connect("ws://feed.test/", name="feed", decode="json", topic="t.{symbol}")
    async with fleet:
        await (await transport.accept("feed")).feed('{"symbol": "a", "symbol": "b"}')
        message = await anext(aiter(messages))
    assert (message.topic, message.data) == ("t.b", {"symbol": "b"})


STEERING = [
    "../../etc/passwd",
    "os:system",
    "${HOME}",
    "${file:/etc/passwd}",
    "$state.feed",
    "a\nb",
    "\x1b[2J",
    "a\0b",
    "|id",
]


@pytest.mark.parametrize("symbol", STEERING)
async def test_no_data_controls_a_sink(symbol: str, tmp_path: Path) -> None:
    """For any message, only the declared file is written, with one line for each message."""
    transport = FakeTransport()
    fleet = Fleet(transport=transport)
    fleet.connect(
        "ws://feed.test/", sinks.open(f"jsonl:{tmp_path}/out.jsonl"), name="feed", decode="json", topic="t.{symbol}"
    )
    async with fleet:
        await (await transport.accept("feed")).feed(json.dumps({"symbol": symbol, "file": symbol, "topic": symbol}))
        while fleet.stats().subscriptions[0].processed < 1:
            await asyncio.sleep(0.01)
    assert [path.name for path in tmp_path.rglob("*")] == ["out.jsonl"]
    (line,) = (tmp_path / "out.jsonl").read_bytes().splitlines()
    written = json.loads(line)
    assert written["data"]["symbol"] == symbol
    assert written["topic"].startswith("t.")
    assert written["topic"].isprintable()
    assert written["topic"].count(".") == 1
