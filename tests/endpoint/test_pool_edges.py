"""Pools: other threads, default values, and invalid ids."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from tests.support.flows import opened, until
from wsfleet import Fleet, FleetError, Message, Pool
from wsfleet.core.errors import RequestTimeout
from wsfleet.endpoint.pool import match_json_rpc
from wsfleet.testing import FakeTransport

URI = "ws://feed.test/"


@pytest.mark.parametrize("is_open", [True, False])
@pytest.mark.parametrize(
    "ask",
    [
        lambda pool: pool.wait_open(),
        lambda pool: pool.send({}),
        lambda pool: pool.request({}),
        lambda pool: pool.request({}, wait=False),
        lambda pool: pool.close(),
    ],
)
async def test_a_pool_in_another_thread_mentions_from_thread(
    ask: Callable[[Pool], Coroutine[Any, Any, Any]], is_open: bool
) -> None:
    """In another thread, with another loop, a pool's methods raise an error that mentions
    `from_thread`, in any state.
    """
    transport = FakeTransport()
    fleet = Fleet(transport=transport)
    pool = fleet.pool(URI, 1, name="rpc")

    async def elsewhere() -> None:
        async with asyncio.timeout(5.0):  # without the check, the call might wait for ever
            await ask(pool)

    async with fleet:
        socket = await opened(fleet, transport, "rpc-1") if is_open else None
        with pytest.raises(FleetError, match="from_thread"):
            await asyncio.to_thread(asyncio.run, elsewhere())
        assert socket is None or not socket.sent


@pytest.mark.looptime
async def test_a_request_waits_ten_seconds_by_default() -> None:
    """The default timeout of a request is ten seconds."""
    transport = FakeTransport()
    fleet = Fleet(transport=transport)
    pool = fleet.pool(URI, 1, name="rpc")
    async with fleet:
        await opened(fleet, transport, "rpc-1")
        began = asyncio.get_running_loop().time()
        with pytest.raises(RequestTimeout, match="10 s"):
            await pool.request({"method": "m"})
        assert asyncio.get_running_loop().time() - began == pytest.approx(10, abs=0.01)


async def test_a_timeout_of_the_users_own_is_not_taken_for_ours() -> None:
    """A TimeoutError that `identify` raises is raised unchanged."""
    transport = FakeTransport()
    fleet = Fleet(transport=transport)

    def identify(data: Any) -> Any:
        raise TimeoutError("mine")

    pool = fleet.pool(URI, 1, name="rpc", identify=identify, match=lambda data: None)
    async with fleet:
        await opened(fleet, transport, "rpc-1")
        with pytest.raises(TimeoutError, match="mine") as raised:
            await pool.request({"method": "m"})
        assert not isinstance(raised.value, RequestTimeout)


@pytest.mark.parametrize(
    ("number", "expected"),
    [(7, 7), ("7", "7"), (0, 0), (True, None), (None, None), (1.5, None), ([1], None), ({}, None)],
)
async def test_integers_and_strings_are_ids(number: Any, expected: Any) -> None:
    """Integers and strings are ids; values that JSON-RPC does not allow match nothing."""
    assert match_json_rpc({"id": number}) == expected


class Call:
    """Data that a decoder may return, for requests and replies."""

    def __init__(self, id: int, method: str | None) -> None:
        self.id, self.method = id, method


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ({"id": 7, "method": "m"}, None),
        ({"id": 7, "method": None}, 7),
        (Call(7, "m"), None),
        (Call(7, None), 7),
        ({"id": 7, "result": {"method": "m"}}, 7),
    ],
)
def test_a_request_is_no_reply(data: Any, expected: object) -> None:
    """Data with a method are a request, for example an echo, whatever the id is."""
    assert match_json_rpc(data) == expected


async def test_an_endpoint_named_like_a_closed_member_does_not_feed_the_pool() -> None:
    """Messages of another endpoint with the name of a closed member do not reach the pool's processor."""
    transport = FakeTransport()
    fleet = Fleet(transport=transport)
    got: list[str] = []

    async def work(message: Message[Any]) -> None:
        got.append(message.data)

    pool = fleet.pool(URI, 2, work, name="rpc")
    async with fleet:
        await opened(fleet, transport, "rpc-1")
        second = await opened(fleet, transport, "rpc-2")
        await pool.connections[0].close()
        fleet.connect("ws://other.test/", name="rpc-1")
        stranger = await opened(fleet, transport, "rpc-1")
        await stranger.feed('"stranger"')
        await second.feed('"member"')
        await until(lambda: bool(got))
        assert fleet.connections["rpc-1"].stats().held == 1
        await pool.close()
        assert list(fleet.connections) == ["rpc-1"]
        assert not fleet.subscriptions
    assert got == ["member"]
    assert fleet.stats().balanced
