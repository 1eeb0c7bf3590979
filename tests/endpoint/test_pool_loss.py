"""Members that cannot send any more although their state is still OPEN, because the socket is closing or lost."""

import asyncio
import gc
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from websockets.asyncio.server import ServerConnection

from wsfleet import Connection, Fleet, Reconnect, State
from wsfleet.core.errors import ConnectionLost, NotOpen, RequestLost
from wsfleet.testing import FakeTransport, FeedServer


async def test_a_retry_at_once_waits_for_the_next_socket() -> None:
    """A retry at once after a lost request gets its answer over the next socket, and does not block the loop."""
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


@pytest.mark.looptime
async def test_a_request_that_waits_to_be_sent_is_lost_with_its_connection() -> None:
    """A request that was not sent when its connection is lost raises RequestLost with the name of the member."""
    complaints: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
    transport = FakeTransport()
    async with Fleet(transport=transport) as fleet:
        pool = fleet.pool("ws://feed.example", 1, name="node", sends_per_s=0.01)
        socket = await transport.accept()
        await pool.wait_open()
        await pool.send("the only one for now")
        asking = asyncio.ensure_future(pool.request({"method": "price"}, timeout_s=50.0))
        await asyncio.sleep(1)
        socket.lose()
        with pytest.raises(RequestLost, match="node-1") as raised:
            await asking
        assert isinstance(raised.value.__cause__, ConnectionLost)
    del asking, raised
    gc.collect()
    assert not complaints, "a future's error was never retrieved"


async def test_no_member_is_open_once_its_socket_is_lost() -> None:
    """Right after the loss, send() and a request with `wait=False` raise NotOpen, because nothing was sent."""
    transport = FakeTransport()
    async with Fleet(transport=transport) as fleet:
        pool = fleet.pool("ws://feed.example", 1, name="node")
        socket = await transport.accept()
        await pool.wait_open()
        socket.lose()
        with pytest.raises(NotOpen):
            await pool.request({"method": "price"}, wait=False)
        with pytest.raises(NotOpen):
            await pool.send("x")


class Closing:
    """A server that begins to close, and keeps the socket open until it is released."""

    def __init__(self) -> None:
        self.let_go = asyncio.Event()

    async def __call__(self, client: ServerConnection) -> None:
        if self.let_go.is_set():
            return
        client.protocol.send_close(1001)
        client.transport.write(b"".join(client.protocol.data_to_send()))
        client.transport.pause_reading()  # so that it does not read the answer, after which it would close the socket
        await self.let_go.wait()
        client.transport.abort()


async def test_waiting_for_a_closing_connection() -> None:
    """A request that fails on a closing connection can be retried, waits for the next one, and does not block the
    loop.
    """
    async with FeedServer(on_client=(closing := Closing())) as server, Fleet() as fleet:
        feed = fleet.connect(server.uri, name="feed", close_s=30.0, reconnect=Reconnect(initial_s=0))
        await refused(feed.send, feed)
        waiting = asyncio.ensure_future(feed.wait_open())
        await asyncio.sleep(0)
        assert feed.state is State.OPEN and not waiting.done()
        closing.let_go.set()
        await waiting
        await feed.send("x")
        assert feed.session_count == 2


async def test_a_request_while_a_member_closes_uses_another() -> None:
    """If its member is closing, a request is sent over another connection."""
    async with FeedServer(on_client=(closing := Closing())) as server, Fleet() as fleet:
        pool = fleet.pool(server.uri, 1, name="node", close_s=30.0, reconnect=Reconnect(initial_s=0))
        await refused(pool.send, pool.connections[0])
        asking = asyncio.ensure_future(pool.request({"method": "price"}))
        await asyncio.sleep(0)
        closing.let_go.set()
        await wait_request(server)
        await server.send(str(server.received[-1]).replace('"method":"price"', '"result":7'))
        assert (await asking)["result"] == 7


async def refused(send: Callable[[Any], Awaitable[None]], connection: Connection) -> None:
    """Send until it fails although the connection is OPEN."""
    while True:
        try:
            await send("x")
        except NotOpen:
            if connection.state is State.OPEN:
                return
        await asyncio.sleep(0.01)


async def wait_request(server: FeedServer) -> None:
    while not (server.received and "method" in str(server.received[-1])):
        await asyncio.sleep(0.01)


async def test_a_lost_request_has_the_loss_as_its_cause() -> None:
    """RequestLost has the ConnectionLost in `__cause__`; for a reply that is too large, it names the option."""
    async with FeedServer(on_client=answer_too_much) as server, Fleet() as fleet, asyncio.timeout(60.0):
        pool = fleet.pool(server.uri, 1, max_size=1000, proxy=False)
        await pool.wait_open()
        with pytest.raises(RequestLost) as lost:
            await pool.request({"method": "all"})
    assert isinstance(lost.value.__cause__, ConnectionLost)
    assert lost.value.__cause__.code == 1009
    assert lost.value.__cause__.reason.endswith("limited by the option max_size")


async def answer_too_much(client: ServerConnection) -> None:
    await client.recv()
    await client.send("x" * 1001)
