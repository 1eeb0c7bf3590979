"""Public objects have only documented public attributes."""

import pytest
from websockets.asyncio.server import ServerConnection

from wsfleet import Connection, Fleet, Message, Pool, Session, Subscription
from wsfleet.testing import Chaos, FakeSocket, FakeTransport, FeedServer
from wsfleet.testing.client import Client

NAMES = {
    Fleet: """close connect connections drain_s from_file from_thread idle name observers pool process publish reload
              run run_async serve serve_http sink snapshot stats subscribe subscriptions totals wait""",
    Connection: """close down_since name request_headers required response_headers restart send session_count state
                   stats subprotocol wait_open""",
    Pool: "close connections name request send size wait_open",
    Session: "endpoint number recv request_headers response_headers send subprotocol",
    Subscription: "batches close name next pattern stats",
    Message: "data endpoint index received_at session size topic",
    FakeTransport: "accept aclose open refuse",
    FakeSocket: "answers_pings close feed headers lose next_sent paused pings sent uri",
    FeedServer: """accept audit clients close drop heal host port received refuse requests script send send_numbered
                   start stop strike uri wait_clients""",
    Chaos: "begin done messages seconds seed server stop",
}


@pytest.fixture
async def objects() -> list[object]:
    """One object of each class."""
    transport = FakeTransport()
    fleet = Fleet(transport=transport)
    sessions: list[Session] = []

    async def on_open(session: Session) -> None:
        sessions.append(session)

    connection = fleet.connect("ws://feed.test/", name="feed", on_open=on_open)
    pool = fleet.pool("ws://pool.test/", 1)
    subscription = fleet.subscribe(">")
    server = FeedServer()
    async with fleet:
        socket = await transport.accept("feed")
        await connection.wait_open()
    return [fleet, connection, pool, *sessions, subscription, Message(1), transport, socket, server, Chaos(server)]


@pytest.mark.looptime
async def test_dir_lists_the_documented_names(objects: list[object]) -> None:
    """`dir()` lists the documented names, whether the queue is compiled or not."""
    found = {type(each): [name for name in dir(each) if not name.startswith("_")] for each in objects}
    assert found == {kind: names.split() for kind, names in NAMES.items()}


def test_a_client_of_the_feed_server_has_the_documented_names() -> None:
    """Beside the names of websockets' own class there are those that docs/api.md lists."""
    own = {name for name in dir(Client) if not name.startswith("_")} - set(dir(ServerConnection))
    assert own == {"hang_up", "hold", "reset", "write"}
