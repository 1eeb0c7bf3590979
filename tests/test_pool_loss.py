"""A pool in the moment in which a member's socket is lost and its supervisor does not know yet."""

import asyncio

import pytest

from wsfleet import Fleet, Reconnect
from wsfleet.errors import NotOpen, RequestLost
from wsfleet.testing import FakeTransport


async def test_asking_again_at_once_waits_for_the_next_socket() -> None:
    """Who asks again as soon as a request is lost gets its answer over the next socket, and lets the loop go on."""
    transport = FakeTransport()
    async with Fleet(transport=transport) as fleet:
        pool = fleet.pool("ws://feed.example", 1, name="node", reconnect=Reconnect(initial_s=0))
        lost = await transport.accept()

        async def answer() -> None:
            await lost.next_sent()
            lost.lose()
            socket = await transport.accept()
            request = await socket.next_sent()
            assert isinstance(request, str)
            await socket.feed(request.replace('"method":"price"', '"result":7'))

        answering = asyncio.ensure_future(answer())
        with pytest.raises(RequestLost):
            await pool.request({"method": "price"})
        assert (await pool.request({"method": "price"}))["result"] == 7
        await answering


async def test_no_member_is_open_once_its_socket_is_lost() -> None:
    """With `wait=False` a request right after the loss raises NotOpen: nothing was sent."""
    transport = FakeTransport()
    async with Fleet(transport=transport) as fleet:
        pool = fleet.pool("ws://feed.example", 1, name="node")
        socket = await transport.accept()
        await pool.wait_open()
        socket.lose()
        with pytest.raises(NotOpen):
            await pool.request({"method": "price"}, wait=False)
