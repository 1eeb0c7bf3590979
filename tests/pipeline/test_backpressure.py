"""PAUSE with real servers: TCP slows the sender down, it continues afterwards, and no live connection is closed."""

import asyncio
import gc
from typing import Any

import pytest
from websockets.asyncio.server import ServerConnection, serve

from tests.support.flood import Flood, flooding
from tests.support.flows import balanced, endpoint_row, row, until
from wsfleet import Buffer, Fleet, Liveness, Message, Reconnect, State, Subscription

AT_ONCE = Reconnect(initial_s=0.01, max_s=0.01)


async def standing_still(flood: Flood) -> int:
    """Wait until the server cannot send any more, and return the number of messages that it sent."""
    sent, since = flood.sent, 0
    while since < 20 or not sent:
        await asyncio.sleep(0.02)
        since = since + 1 if flood.sent == sent else 0
        sent = flood.sent
    return sent


def numbers(messages: list[Message[str]]) -> list[int]:
    return [int(message.data[:16]) for message in messages]


async def test_the_sender_is_slowed_down_while_the_processor_is_stuck() -> None:
    """A server cannot send more to a stuck processor than the buffers hold; when it is free, all messages arrive."""
    seen: list[Message[str]] = []
    gate = asyncio.Event()

    async def stuck(message: Message[str]) -> None:
        seen.append(message)
        await gate.wait()

    async with flooding() as flood, Fleet() as fleet:
        fleet.connect(flood.uri, stuck, name="feed", buffer=Buffer(messages=100))
        sent = await standing_still(flood)
        # Between the server's write and the processor there are only the buffers of two sockets, one read, and one
        # mailbox.
        assert row(fleet, "feed").pending <= 100 + 2**16 // flood.size + 1
        assert endpoint_row(fleet).received == row(fleet, "feed").pending
        assert endpoint_row(fleet).paused_by == ("feed",)
        await asyncio.sleep(0.2)
        assert flood.sent == sent and len(seen) == 1
        gate.set()
        await until(lambda: len(seen) > sent + 1000)
        assert flood.sent > sent and flood.clients == 1
        flood.going.clear()
        await until(lambda: len(seen) == flood.sent)
        assert numbers(seen) == list(range(1, flood.sent + 1))
        assert balanced(fleet).endpoints[0].paused_s > 0.2
        assert endpoint_row(fleet).paused_by == ()


@pytest.mark.parametrize("how", ["close", "context", "forgotten"])
async def test_the_sender_continues_when_the_subscription_is_closed(how: str) -> None:
    """When the full subscription is closed, left or garbage-collected, the sender continues for the other
    subscriptions.
    """
    async with flooding(pause_s=0.001) as flood, Fleet() as fleet:
        other = fleet.subscribe("feed", name="other")
        async with other:
            slow: Subscription | None = fleet.subscribe("feed", name="slow", buffer=Buffer(messages=10))
            fleet.connect(flood.uri, name="feed")
            await until(lambda: endpoint_row(fleet).paused_by)
            drain = asyncio.create_task(drained(other))
            sent = await standing_still(flood)
            assert endpoint_row(fleet).paused_by == ("slow",)
            assert slow is not None
            if how == "close":
                slow.close()
            elif how == "context":
                async with slow:
                    pass
            else:
                cycle = [slow]
                cycle.append(cycle)  # type: ignore[arg-type]
                slow = None
                del cycle
                with pytest.warns(ResourceWarning):
                    gc.collect()
            await until(lambda: flood.sent > sent + 1000)
            assert "slow" not in fleet.subscriptions
            balanced(fleet)
            drain.cancel()
            await asyncio.wait([drain])


async def drained(subscription: Subscription) -> None:
    async for _ in subscription:
        pass


async def test_a_new_socket_of_a_paused_endpoint_is_only_read_for_its_login() -> None:
    """If the connection is lost while paused, the next one can log in, and is paused again until there is room."""
    logins: list[int] = []

    async def on_open(session: Any) -> None:
        logins.append(int((await session.recv()).data[:16]))

    async with flooding() as flood, Fleet() as fleet:
        slow = fleet.subscribe("feed", name="slow", buffer=Buffer(messages=2000))
        async with slow:
            # More messages than `on_open` can hold would arrive during the login, so the flood begins with single
            # messages.
            flood.pause_s = 0.001
            connection = fleet.connect(flood.uri, name="feed", on_open=on_open, reconnect=AT_ONCE)
            await until(lambda: endpoint_row(fleet).paused_by)
            await standing_still(flood)
            before = endpoint_row(fleet).received
            connection.restart()
            await until(lambda: connection.session_count == 2 and connection.state is State.OPEN)
            await standing_still(flood)
            assert logins == [1, 1]
            assert endpoint_row(fleet).paused_by == ("slow",)
            assert endpoint_row(fleet).received - before < 1000, "only read for the login"
            drain = asyncio.create_task(drained(slow))
            sent = flood.sent
            await until(lambda: flood.sent > sent)
            drain.cancel()
            await asyncio.wait([drain])
            balanced(fleet)


async def test_a_paused_connection_outlives_all_timeouts() -> None:
    """A server that sends no pings keeps a client whose processor is stuck for several ping timeouts."""
    seen: list[Message[str]] = []
    gate = asyncio.Event()

    async def stuck(message: Message[str]) -> None:
        seen.append(message)
        await gate.wait()

    async with flooding() as flood, Fleet() as fleet:
        connection = fleet.connect(
            flood.uri,
            stuck,
            name="feed",
            buffer=Buffer(messages=10),
            liveness=Liveness(ping_s=0.2, pong_s=0.7, stale_s=0.7),  # a busy machine answers within this time
        )
        await standing_still(flood)
        pings = flood.pings
        await until(lambda: flood.pings > pings + 5 and endpoint_row(fleet).paused_s > 3)
        assert connection.state is State.OPEN and connection.session_count == 1
        gate.set()
        await until(lambda: len(seen) > 1000)
        assert connection.session_count == 1 and endpoint_row(fleet).last_error is None
        balanced(fleet)


class Impatient:
    """A websockets server that sends pings, and closes connections that do not answer in time.

    It sends no more than the socket buffers hold, because it sends no pings while it waits for room.
    """

    def __init__(self) -> None:
        self.closed: list[int] = []

    async def send(self, client: ServerConnection) -> None:
        for _ in range(200):
            await client.send("x" * 1000)
        await client.wait_closed()
        assert client.close_code is not None
        self.closed.append(client.close_code)


@pytest.mark.parametrize("ping_s", [0.05, None])
async def test_last_error_explains_a_keepalive_close_while_paused(ping_s: float | None) -> None:
    """If the server's keepalive closed a paused connection, `last_error` contains this, whenever the loss is noticed.

    With pings of the client, it is noticed when a ping cannot be written; without, when the unread data are read.
    """
    impatient = Impatient()
    gate = asyncio.Event()

    async def stuck(message: Message[str]) -> None:
        await gate.wait()

    server = await serve(
        impatient.send, "127.0.0.1", 0, ping_interval=0.2, ping_timeout=0.4, close_timeout=0.2, compression=None
    )
    port = server.sockets[0].getsockname()[1]
    async with server, Fleet(drain_s=0) as fleet:
        fleet.connect(
            f"ws://127.0.0.1:{port}",
            stuck,
            name="feed",
            buffer=Buffer(messages=10),
            liveness=Liveness(ping_s=ping_s),
            reconnect=Reconnect(initial_s=60),
        )
        await until(lambda: endpoint_row(fleet).paused_by)
        await until(lambda: impatient.closed)
        await until(lambda: endpoint_row(fleet).paused_s > 1)
        if ping_s is None:
            assert endpoint_row(fleet).last_error is None, "the loss cannot have been noticed yet"
        gate.set()
        await until(lambda: endpoint_row(fleet).last_error)
        error = endpoint_row(fleet).last_error
        assert "closed by the peer after" in error and "s paused by feed" in error
        balanced(fleet)
    assert impatient.closed[0] in (1011, 1006)


async def test_many_endpoints_of_one_full_mailbox_stay_within_the_bound() -> None:
    """A mailbox fed by many endpoints exceeds its bound by at most one read of each; all endpoints get their turn."""
    size, many, bound = 1000, 20, 100
    seen: set[str] = set()
    most = 0

    async with flooding(size) as flood, Fleet() as fleet:

        @fleet.process(">", name="box", buffer=Buffer(messages=bound))
        async def box(message: Message[str]) -> None:
            nonlocal most
            seen.add(message.endpoint)
            most = max(most, row(fleet, "box").pending)
            await asyncio.sleep(0)

        for n in range(many):
            fleet.connect(flood.uri, name=f"feed-{n}")
        await until(lambda: len(seen) == many)
        assert most <= bound + many * (2**16 // size + 1)
        balanced(fleet)
