"""Pools: requests and their replies over a fixed number of connections, each of which may be lost and reconnected."""

import asyncio
import dataclasses
import gc
import json
import os
import random
import types
import weakref
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest

from tests.support.flows import balanced, endpoint_row, row, turns, until
from wsfleet import Buffer, Endpoint, Fleet, Message, Pool, Reconnect, Session, State
from wsfleet.core.errors import (
    ConfigError,
    ConnectFailed,
    ConnectionLost,
    EndpointFailed,
    FleetError,
    NotOpen,
    RequestLost,
    RequestTimeout,
)
from wsfleet.endpoint.requests import PendingRequests
from wsfleet.testing import FakeSocket, FakeTransport

URI = "ws://feed.test/"
REQUESTS = int(os.environ.get("WSFLEET_REQUESTS", "20000"))
"""Number of requests in the test with random losses; longer runs may use a million."""


class Bench:
    """A fleet with one pool "rpc" whose sockets are open."""

    def __init__(self, size: int = 2, processor: Any = None, drain_s: float = 10.0, **options: Any) -> None:
        self.transport = FakeTransport()
        self.fleet = Fleet(transport=self.transport, drain_s=drain_s)
        endpoint = options.pop("endpoint", URI)
        if endpoint == URI:
            options = {"name": "rpc", "reconnect": Reconnect(initial_s=0.001, max_s=0.001)} | options
        self.pool: Pool = self.fleet.pool(endpoint, size, processor, **options)
        self.sockets: list[FakeSocket] = []

    async def __aenter__(self) -> "Bench":
        await self.fleet.__aenter__()
        for connection in self.pool.connections:
            self.sockets.append(await self.transport.accept(connection.name))
            await connection.wait_open()
        return self

    async def __aexit__(self, *error: Any) -> None:
        await self.fleet.__aexit__(*error)
        balanced(self.fleet)

    def ask(self, data: Any = None, **options: Any) -> "asyncio.Task[Any]":
        return asyncio.create_task(self.pool.request({"method": "m"} if data is None else data, **options))

    @property
    def outstanding(self) -> int:
        return sum(len(member.replies) for member in self.pool._order)


@asynccontextmanager
async def bench_of(size: int = 2, processor: Any = None, **options: Any) -> AsyncIterator[Bench]:
    async with Bench(size, processor, **options) as bench:
        yield bench


async def asked(socket: FakeSocket) -> Any:
    """The next request on `socket`."""
    return json.loads(await socket.next_sent())


async def reply(socket: FakeSocket, number: Any, **more: Any) -> None:
    await socket.feed(json.dumps({"jsonrpc": "2.0", "id": number} | (more or {"result": "fine"})))


# Requests and replies


async def test_a_request_is_answered_with_the_callers_id() -> None:
    """A request is sent as JSON-RPC 2.0 with a new id, and its reply is returned with the caller's id."""
    async with bench_of(1) as bench:
        (socket,) = bench.sockets
        asking = bench.ask({"method": "add", "params": [1, 2], "id": "mine"})
        request = await asked(socket)
        assert request["jsonrpc"] == "2.0" and (request["method"], request["params"]) == ("add", [1, 2])
        assert 2**32 < request["id"] < 2**53
        await reply(socket, request["id"], result=3)
        assert await asking == {"jsonrpc": "2.0", "id": "mine", "result": 3}
        stats = endpoint_row(bench.fleet, "rpc-1")
        assert (stats.received, stats.answered, stats.published) == (1, 1, 0)
        assert not bench.outstanding


async def test_a_request_without_an_id_gets_ours_back() -> None:
    """If the request had no id, the reply has the one that was sent."""
    async with bench_of(1) as bench:
        asking = bench.ask({"method": "m"})
        request = await asked(bench.sockets[0])
        await reply(bench.sockets[0], request["id"])
        assert (await asking)["id"] == request["id"]


async def test_replies_may_come_in_any_order() -> None:
    """Each request gets its own reply, in whatever order the server answers."""
    async with bench_of(1) as bench:
        (socket,) = bench.sockets
        asking = [bench.ask({"method": "m", "params": n}) for n in range(10)]
        requests = [await asked(socket) for _ in range(10)]
        assert bench.outstanding == 10
        for request in reversed(requests):
            await reply(socket, request["id"], result=request["params"])
        assert [(await each)["result"] for each in asking] == list(range(10))
        assert not bench.outstanding


async def test_an_error_reply_is_returned() -> None:
    """A JSON-RPC error is returned like any other reply; the caller has to check it."""
    async with bench_of(1) as bench:
        asking = bench.ask({"method": "m", "id": 7})
        request = await asked(bench.sockets[0])
        await reply(bench.sockets[0], request["id"], error={"code": -32601, "message": "no such method"})
        assert await asking == {"jsonrpc": "2.0", "id": 7, "error": {"code": -32601, "message": "no such method"}}


class Answer(msgspec.Struct, frozen=True):
    id: int | str | None = None
    result: Any = None


@dataclasses.dataclass(frozen=True)
class Answered:
    id: int | str | None = None
    result: Any = None


class Question(msgspec.Struct):
    method: str
    id: int = 5


@pytest.mark.parametrize("decode", [Answer, Answered])
async def test_structs_and_data_classes_are_replies_too(decode: Any) -> None:
    """With a type for `decode` the reply is an instance of it, with the caller's id; a request may also be a Struct."""
    async with bench_of(1, decode=decode) as bench:
        asking = bench.ask(Question("m"))
        request = await asked(bench.sockets[0])
        assert request["method"] == "m" and request["id"] > 2**32
        await reply(bench.sockets[0], request["id"], result=1)
        assert await asking == decode(5, 1)


async def test_a_reply_of_a_type_of_the_users_own_is_returned_as_it_is() -> None:
    """If `decode` returns an object that wsfleet cannot copy, the reply keeps the id that was sent."""
    async with bench_of(1, decode=lambda payload: types.SimpleNamespace(**json.loads(payload))) as bench:
        asking = bench.ask({"method": "m", "id": "mine"})
        request = await asked(bench.sockets[0])
        await reply(bench.sockets[0], request["id"])
        answer = await asking
        assert (answer.id, answer.result) == (request["id"], "fine")


async def test_custom_identify_and_match() -> None:
    """`identify` returns a request's id and the data to send, `match` the id that a message replies to."""

    def identify(data: Any) -> tuple[str, Any]:
        return data, f"Q {data}"

    def match(data: str) -> str | None:
        return data.split()[1] if data.startswith("A ") else None

    async with bench_of(1, decode="text", identify=identify, match=match) as bench:
        (socket,) = bench.sockets
        asking = bench.ask("x")
        assert await socket.next_sent() == "Q x"
        with pytest.raises(ValueError, match="under way"):
            await bench.pool.request("x")
        await socket.feed("news", "A y 0", "A x 1")
        assert await asking == "A x 1"
        assert endpoint_row(bench.fleet, "rpc-1").answered == 1
        assert not bench.outstanding


async def test_text_ids_of_a_custom_identify_match_by_default() -> None:
    """JSON-RPC ids may be text: replies to ids of `identify` are found without `match`."""
    async with bench_of(1, identify=lambda data: (data["id"], data)) as bench:
        asking = bench.ask({"id": "abc"})
        assert await asked(bench.sockets[0]) == {"id": "abc"}
        await reply(bench.sockets[0], "abc")
        assert (await asking)["result"] == "fine"


@pytest.mark.parametrize("data", ["text", 5, [{"method": "m"}], None])
async def test_a_request_must_be_an_object(data: Any) -> None:
    """A request that is not one JSON object raises TypeError, and nothing is sent."""
    async with bench_of(1) as bench:
        with pytest.raises(TypeError, match="JSON object"):
            await bench.pool.request(data)
        assert not bench.sockets[0].sent and not bench.outstanding


@pytest.mark.parametrize("identify", [lambda data: 1, lambda data: (None, data), lambda data: ([], data)])
async def test_an_identify_without_an_id_raises(identify: Any) -> None:
    """If `identify` returns no usable id, request() raises an error, and the request is not outstanding."""
    async with bench_of(1, identify=identify) as bench:
        with pytest.raises((TypeError, ValueError)):
            await bench.pool.request({})
        assert not bench.sockets[0].sent and not bench.outstanding


async def test_data_that_is_no_json_leaves_nothing_behind() -> None:
    """If a request cannot be encoded, request() raises an error, and it is not outstanding."""
    async with bench_of(1) as bench:
        with pytest.raises(TypeError):
            await bench.pool.request({"method": object()})
        assert not bench.outstanding


# Published messages


async def test_messages_that_are_no_replies_are_published() -> None:
    """Notifications, requests of the server, unknown ids and ids of another member are published like
    other messages.
    """
    async with bench_of(2) as bench:
        one, other = bench.sockets
        subscription = bench.fleet.subscribe("rpc")
        asking = bench.ask()
        await turns()
        asker, bystander = (one, other) if one.sent else (other, one)
        request = await asked(asker)
        await bystander.feed(
            '{"method": "news"}', '{"id": 1, "method": "call"}', '{"id": 5000000000}', '{"id": null}', "[1]", '"x"', "5"
        )
        await reply(bystander, request["id"])
        seen = [(await anext(subscription)).data for _ in range(8)]
        assert seen[0] == {"method": "news"} and seen[-1]["id"] == request["id"]
        assert not asking.done()
        await reply(asker, request["id"])
        await asking
        names = {socket: f"rpc-{n}" for n, socket in enumerate(bench.sockets, 1)}
        assert endpoint_row(bench.fleet, names[bystander]).published == 8
        assert endpoint_row(bench.fleet, names[asker]).answered == 1
        subscription.close()


async def test_a_second_reply_is_answered_and_nothing_else() -> None:
    """A duplicate reply is counted as `answered`, and is not published."""
    async with bench_of(1) as bench:
        subscription = bench.fleet.subscribe(">")
        asking = bench.ask()
        request = await asked(bench.sockets[0])
        for n in range(3):
            await reply(bench.sockets[0], request["id"], result=n)
        assert (await asking)["result"] == 0
        assert endpoint_row(bench.fleet, "rpc-1").answered == 3
        assert subscription.stats().offered == 0
        subscription.close()


async def test_no_topic_is_asked_for_a_reply() -> None:
    """A reply has no topic: a topic function that raises for replies does not make them malformed."""
    async with bench_of(1, topic=lambda data: data["channel"]) as bench:
        asking = bench.ask()
        request = await asked(bench.sockets[0])
        await reply(bench.sockets[0], request["id"])
        assert (await asking)["result"] == "fine"
        assert endpoint_row(bench.fleet, "rpc-1").malformed == 0


async def test_replies_never_pass_through_a_mailbox() -> None:
    """Replies arrive although the pool's own processor is stuck and its mailbox is full."""
    stuck = asyncio.Event()

    async def handle(message: Message[Any]) -> None:
        await stuck.wait()

    async with bench_of(1, handle, buffer=Buffer(4)) as bench:
        (socket,) = bench.sockets
        await socket.feed(*['{"n": 1}'] * 4)
        assert socket.paused
        asking = bench.ask()
        request = await asked(socket)
        assert not socket.paused  # it is read while requests wait
        await reply(socket, request["id"])
        await asking
        assert socket.paused
        assert endpoint_row(bench.fleet, "rpc-1").paused_by == ("rpc",)
        stuck.set()


async def test_past_twice_the_bound_requests_are_lost_and_the_member_is_paused() -> None:
    """A member read for its requests fills a mailbox up to twice its bound; then the requests fail, and
    it is paused.
    """
    stuck = asyncio.Event()

    async def handle(message: Message[Any]) -> None:
        await stuck.wait()

    async with bench_of(1, handle, buffer=Buffer(10)) as bench:
        (socket,) = bench.sockets
        asking = bench.ask()
        request = await asked(socket)
        await socket.feed(*['{"n": 1}'] * 10)
        await socket.feed(*['{"n": 1}'] * 9)
        assert not asking.done() and not socket.paused and row(bench.fleet, "rpc").pending == 19
        await socket.feed('{"n": 1}')
        assert socket.paused
        with pytest.raises(RequestLost, match="rpc"):
            await asking
        # More requests do not resume reading, because their replies could not be received.
        with pytest.raises(RequestLost):
            await bench.pool.request({"method": "m"})
        assert socket.paused and row(bench.fleet, "rpc").pending == 20
        stuck.set()
        await until(lambda: not socket.paused)
        await reply(socket, request["id"])  # late, but recognized
        assert endpoint_row(bench.fleet, "rpc-1").answered == 1
        again = bench.ask()
        await reply(socket, (await asked(socket))["id"])
        await again


async def test_a_retry_at_once_yields_to_the_handler() -> None:
    """Retrying a request on a paused member yields to the loop, so that the handler can make room."""

    async def handle(message: Message[Any]) -> None:
        await asyncio.sleep(0)

    async with bench_of(1, handle, buffer=Buffer(4)) as bench:
        (socket,) = bench.sockets
        asking = bench.ask()
        await asked(socket)
        await socket.feed(*['{"n": 1}'] * 20)
        with pytest.raises(RequestLost):
            await asking
        lost = 0
        while True:
            try:
                await bench.pool.request({"method": "m"}, timeout_s=0.01)
            except RequestLost:
                lost += 1
                assert lost < 10_000
            except RequestTimeout:  # it was sent
                break
        assert lost


async def test_an_overfull_member_gets_no_requests() -> None:
    """Requests are sent over a member that is read, as long as there is one."""
    stuck = asyncio.Event()

    async def handle(message: Message[Any]) -> None:
        await stuck.wait()

    async with bench_of(2, handle, buffer=Buffer(4)) as bench:
        one, other = bench.sockets
        await one.feed(*['{"n": 1}'] * 4)
        assert one.paused and not other.paused
        asking = [bench.ask() for _ in range(3)]
        for _ in asking:
            await reply(other, (await asked(other))["id"])
        await asyncio.gather(*asking)
        assert not one.sent
        stuck.set()


# Timeouts, losses and cancellation


@pytest.mark.looptime
async def test_no_reply_is_a_timeout() -> None:
    """Without a reply within `timeout_s` the request raises RequestTimeout; the late reply counts as `answered`."""
    async with bench_of(1) as bench:
        (socket,) = bench.sockets
        began = asyncio.get_running_loop().time()
        with pytest.raises(RequestTimeout, match="no reply within 7 s") as raised:
            await bench.pool.request({"method": "m"}, timeout_s=7)
        assert isinstance(raised.value, TimeoutError) and isinstance(raised.value, FleetError)
        assert 7 <= asyncio.get_running_loop().time() - began < 7.5
        assert not bench.outstanding
        await reply(socket, (await asked(socket))["id"])
        assert endpoint_row(bench.fleet, "rpc-1").answered == 1


async def test_a_cancelled_request_leaves_nothing_and_its_reply_is_answered() -> None:
    """A request can be cancelled safely: it is no longer outstanding, and its later reply is not published."""
    async with bench_of(1) as bench:
        subscription = bench.fleet.subscribe(">")
        asking = bench.ask()
        request = await asked(bench.sockets[0])
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        assert not bench.outstanding
        await reply(bench.sockets[0], request["id"])
        assert endpoint_row(bench.fleet, "rpc-1").answered == 1 and subscription.stats().offered == 0
        subscription.close()


@pytest.mark.parametrize("how", ["lose", "close"])
async def test_a_lost_connection_loses_its_requests(how: str) -> None:
    """Requests on a lost connection raise RequestLost at once; those on other members continue."""
    async with bench_of(2) as bench:
        asking = [bench.ask() for _ in range(4)]
        await turns()
        assert [len(socket.sent) for socket in bench.sockets] == [2, 2]
        one, other = bench.sockets
        getattr(one, how)()
        await turns()
        assert sum(each.done() for each in asking) == 2
        for _ in range(2):
            await reply(other, (await asked(other))["id"])
        results = await asyncio.gather(*asking, return_exceptions=True)
        assert sorted(type(each).__name__ for each in results) == ["RequestLost", "RequestLost", "dict", "dict"]
        assert "rpc-1" in str(next(each for each in results if isinstance(each, RequestLost)))
        assert not bench.outstanding


async def test_a_reply_over_the_next_socket_is_published() -> None:
    """An id of an earlier socket is unknown on the next one, so its reply is published."""
    async with bench_of(1) as bench:
        asking = bench.ask()
        request = await asked(bench.sockets[0])
        bench.sockets[0].lose()
        with pytest.raises(RequestLost):
            await asking
        socket = await bench.transport.accept()
        await bench.pool.wait_open()
        await reply(socket, request["id"])
        stats = endpoint_row(bench.fleet, "rpc-1")
        assert (stats.answered, stats.published) == (0, 1)


async def test_the_fleets_end_loses_outstanding_requests() -> None:
    """When the fleet ends, current requests raise RequestLost, and later ones NotOpen."""
    bench = Bench(1)
    async with bench:
        asking = bench.ask(timeout_s=1000)
        await asked(bench.sockets[0])
    with pytest.raises(RequestLost):
        await asking
    for call in (bench.pool.request({}), bench.pool.send("x"), bench.pool.wait_open()):
        with pytest.raises(NotOpen):
            await call
    assert not bench.outstanding


# No member open


async def test_a_request_waits_for_a_member_to_open() -> None:
    """A request waits until a member is open, and is sent over the first one that opens."""
    bench = Bench(2)
    async with bench.fleet:
        asking = bench.ask()
        await turns()
        assert not asking.done()
        socket = await bench.transport.accept("rpc-2")
        await reply(socket, (await asked(socket))["id"])
        assert (await asking)["result"] == "fine"


@pytest.mark.looptime
async def test_waiting_for_a_member_is_within_the_timeout() -> None:
    """The wait for a member counts towards `timeout_s`."""
    bench = Bench(2)
    async with bench.fleet:
        with pytest.raises(RequestTimeout, match="no member was open within 5 s; nothing was sent"):
            await bench.pool.request({"method": "m"}, timeout_s=5)
        with pytest.raises(RequestTimeout):
            await bench.pool.request({"method": "m"}, timeout_s=0)
        assert not bench.outstanding


@pytest.mark.parametrize("timeout_s", ["5", None])
async def test_a_timeout_that_is_no_number_is_refused(timeout_s: Any) -> None:
    """A `timeout_s` that is no number raises one clear TypeError."""
    async with bench_of(1) as bench:
        with pytest.raises(TypeError, match=f"timeout_s must be a number of seconds, not {timeout_s!r}"):
            await bench.pool.request({"method": "m"}, timeout_s=timeout_s)


async def test_without_wait_not_open_is_raised_at_once() -> None:
    """`wait=False` raises NotOpen if no member is open: before the start, between connections and after the end."""
    bench = Bench(1)
    with pytest.raises(NotOpen):
        await bench.pool.request({"method": "m"}, wait=False)
    async with bench.fleet:
        with pytest.raises(NotOpen):
            await bench.pool.request({"method": "m"}, wait=False)
        with pytest.raises(NotOpen):
            await bench.pool.send("x")


async def test_without_wait_another_open_member_is_used() -> None:
    """A member that is closing is skipped by requests and by `send` if another one is open."""
    async with bench_of(2) as bench:
        for connection in bench.pool.connections:
            connection.restart()  # closing, although its state is still OPEN
            other = next(s for s, c in zip(bench.sockets, bench.pool.connections, strict=True) if c is not connection)
            count = len(other.sent)
            await bench.pool.send("x")
            await bench.pool.send("y")
            asking = bench.ask(wait=False)
            await turns()
            assert len(other.sent) == count + 3
            asking.cancel()
            place = bench.pool.connections.index(connection)
            bench.sockets[place] = await bench.transport.accept(connection.name)
            await connection.wait_open()


class Never(Exception):
    pass


async def test_a_pool_whose_members_failed_raises() -> None:
    """If all members are FAILED, waiting for one raises EndpointFailed with the cause; if one can still open, it
    waits.
    """
    bench = Bench(2, reconnect=Reconnect(fatal=lambda error: True))
    async with bench.fleet:
        bench.transport.refuse(ConnectionLost(1006, "no"))
        waiting = asyncio.create_task(bench.pool.wait_open())
        asking = bench.ask()
        await until(lambda: [c.state for c in bench.pool.connections].count(State.FAILED) == 1)
        assert not waiting.done() and not asking.done()
        bench.transport.refuse(ConnectionLost(1006, "no"))
        for each in (waiting, asking):
            with pytest.raises(EndpointFailed, match=r"rpc.* no\b") as raised:
                await each
            assert isinstance(raised.value.__cause__, ConnectFailed)
        # A member that is restarted counts again.
        waiting = asyncio.create_task(bench.pool.wait_open())
        with pytest.raises(EndpointFailed):
            await waiting
        bench.pool.connections[0].restart()
        waiting = asyncio.create_task(bench.pool.wait_open())
        await bench.transport.accept("rpc-1")
        await waiting


async def test_a_restarted_member_ends_all_waits() -> None:
    """If a FAILED member is restarted and opens, all waits for a member end, including earlier ones."""
    bench = Bench(2, reconnect=Reconnect(fatal=lambda error: True))
    async with bench.fleet:
        bench.transport.refuse(ConnectionLost(1006, "no"))
        await until(lambda: any(c.state is State.FAILED for c in bench.pool.connections))
        failed = next(c for c in bench.pool.connections if c.state is State.FAILED)
        waiting = asyncio.create_task(bench.pool.wait_open())
        await turns()
        assert not waiting.done()
        failed.restart()
        await bench.transport.accept(failed.name)
        await waiting


async def test_a_required_member_that_fails_ends_the_fleet() -> None:
    """`required=True` applies to each member: if one fails, the fleet ends with EndpointFailed."""
    bench = Bench(2, required=True, reconnect=Reconnect(fatal=lambda error: True))
    with pytest.raises(EndpointFailed, match="rpc-"):
        async with bench.fleet:
            bench.transport.refuse(ConnectionLost(1006, "no"))
            await bench.fleet.wait()
    balanced(bench.fleet)


# Members


async def test_the_least_busy_member_is_used() -> None:
    """A request is sent over the open member with the fewest outstanding ones; equal members take turns."""
    async with bench_of(3) as bench:
        asking = [bench.ask() for _ in range(6)]
        await turns()
        assert [len(socket.sent) for socket in bench.sockets] == [2, 2, 2]
        free = bench.sockets[1]
        for _ in range(2):
            await reply(free, (await asked(free))["id"])
        more = [bench.ask() for _ in range(2)]
        await turns()
        assert [len(socket.sent) for socket in bench.sockets] == [2, 4, 2]
        for each in (*asking, *more):
            each.cancel()


@pytest.mark.parametrize("size", [3, 4])
async def test_send_goes_to_one_open_member(size: int) -> None:
    """`send` sends once, over the open members in turn; if one is missing, the others share its part equally."""
    async with bench_of(size, reconnect=Reconnect(initial_s=1000)) as bench:
        for n in range(2 * size):
            await bench.pool.send(f"{n}")
        assert [len(socket.sent) for socket in bench.sockets] == [2] * size
        bench.sockets[0].lose()
        await turns()
        for n in range(2 * (size - 1)):
            await bench.pool.send({"n": n})
        assert [len(socket.sent) for socket in bench.sockets] == [2, *[4] * (size - 1)]


async def test_members_are_connections_of_the_fleet() -> None:
    """The members of a pool are connections of the fleet, named `name-1` and so on; `on_open` can tell its member."""
    opened: list[str] = []

    async def on_open(session: Session) -> None:
        opened.append(session.endpoint)
        if session.endpoint == "rpc-1":
            await session.send("subscribe")

    async with bench_of(3, on_open=on_open) as bench:
        assert (bench.pool.name, bench.pool.size) == ("rpc", 3)
        assert [c.name for c in bench.pool.connections] == ["rpc-1", "rpc-2", "rpc-3"]
        assert all(bench.fleet.connections[c.name] is c for c in bench.pool.connections)
        assert isinstance(bench.pool.connections, tuple)
        assert sorted(opened) == ["rpc-1", "rpc-2", "rpc-3"]
        assert [socket.sent for socket in bench.sockets] == [["subscribe"], [], []]
        assert repr(bench.pool) == "<Pool 'rpc' 3 of 3 open>"


async def test_one_processor_for_all_members() -> None:
    """The pool's own processor gets the messages of all members, with the pool's name as the topic."""
    seen: list[tuple[str, str, Any]] = []

    async def handle(message: Message[Any]) -> None:
        seen.append((message.topic, message.endpoint, message.data))

    async with bench_of(2, handle) as bench:
        for n, socket in enumerate(bench.sockets):
            await socket.feed(str(n))
        await until(lambda: len(seen) == 2)
        assert sorted(seen) == [("rpc", "rpc-1", 0), ("rpc", "rpc-2", 1)]
        assert row(bench.fleet, "rpc").pattern == ">" and row(bench.fleet, "rpc").processed == 2


async def test_a_processor_may_send_requests_over_its_own_pool() -> None:
    """A processor of a pool's messages may make requests over that pool, even while its mailbox is full."""
    results: list[Any] = []

    async def handle(message: Message[Any]) -> None:
        results.append((await bench.pool.request({"method": "m", "params": message.data}))["result"])

    bench = Bench(1, handle, buffer=Buffer(4))
    async with bench:
        (socket,) = bench.sockets

        async def serve() -> None:
            while True:
                request = await asked(socket)
                await reply(socket, request["id"], result=request["params"])

        serving = asyncio.create_task(serve())
        await socket.feed(*map(str, range(7)))
        await until(lambda: len(results) == 7)
        serving.cancel()
    assert results == list(range(7))


async def test_closing_a_pool_frees_its_names_and_keeps_its_counts() -> None:
    """After `close()` the members are CLOSED, requests are lost, all names are free, and the counts are
    in `$retired`.
    """
    async with bench_of(2, lambda message: None) as bench:
        asking = bench.ask()
        await turns()
        await bench.sockets[0].feed('{"n": 1}')
        await bench.pool.close()
        await bench.pool.close()
        with pytest.raises(RequestLost):
            await asking
        with pytest.raises(NotOpen):
            await bench.pool.request({"method": "m"})
        assert all(c.state is State.CLOSED for c in bench.pool.connections)
        stats = balanced(bench.fleet)
        assert [r.name for r in (*stats.endpoints, *stats.subscriptions)] == ["$retired", "$retired"]
        assert stats.endpoints[0].received == 1 and stats.subscriptions[0].processed == 1
        bench.fleet.pool(URI, 2, lambda message: None, name="rpc")


async def test_a_pool_closed_before_the_start_leaves_nothing() -> None:
    """A pool that is closed before the fleet starts is removed, with its names."""
    bench = Bench(2, lambda message: None)
    await bench.pool.close()
    assert not bench.fleet.connections and not bench.fleet.subscriptions
    async with bench.fleet:
        assert not bench.transport._attempts
        bench.fleet.pool(URI, 2, name="rpc")


async def test_a_closed_member_gets_no_requests() -> None:
    """If one member is closed, the others still serve requests, and the pool can be closed afterwards."""
    async with bench_of(2) as bench:
        await bench.pool.connections[0].close()
        asking = [bench.ask() for _ in range(2)]
        for _ in asking:
            await reply(bench.sockets[1], (await asked(bench.sockets[1]))["id"])
        await asyncio.gather(*asking)
        await bench.pool.close()
        assert not bench.fleet.connections


# Declaration


@pytest.mark.parametrize(
    ("field", "declare"),
    [
        ("size", lambda fleet: fleet.pool(URI, 0, name="rpc")),
        ("size", lambda fleet: fleet.pool(URI, True, name="rpc")),
        ("size", lambda fleet: fleet.pool(URI, 1.5, name="rpc")),
        ("identify", lambda fleet: fleet.pool(URI, 1, name="rpc", identify="id")),
        ("match", lambda fleet: fleet.pool(URI, 1, name="rpc", match=5)),
        ("decode", lambda fleet: fleet.pool(URI, 1, name="rpc", decode="text")),
        ("decode", lambda fleet: fleet.pool(Endpoint(URI, name="rpc"), 1)),
        ("decode", lambda fleet: fleet.pool(Endpoint(URI, name="rpc", decode="bytes"), 1)),
        ("name", lambda fleet: fleet.pool(URI, 1, name="r.pc")),
        ("uri", lambda fleet: fleet.pool("http://feed.test/", 1, name="rpc")),
        ("batch", lambda fleet: fleet.pool(URI, 1, print, name="rpc", batch=0)),
    ],
)
def test_an_invalid_option_is_reported_and_uses_no_name(field: str, declare: Callable[[Fleet], Any]) -> None:
    """Each invalid option of a pool raises ConfigError with its name, and the pool's names are still free."""
    fleet = Fleet()
    with pytest.raises(ConfigError) as raised:
        declare(fleet)
    assert [name for name, _ in raised.value.faults] == [field]
    assert not fleet.connections and not fleet.subscriptions
    fleet.pool(URI, 2, name="rpc")


@pytest.mark.parametrize(
    "declare",
    [
        lambda fleet: fleet.pool(URI, 1, concurrency=2),
        lambda fleet: fleet.pool(Endpoint(URI, decode="json"), 1, decode="json"),
        lambda fleet: fleet.pool(Endpoint(URI, decode="json"), 1, name="x"),
        lambda fleet: fleet.pool(URI, 1, nonsense=1),
    ],
)
def test_options_out_of_place_are_a_type_error(declare: Callable[[Fleet], Any]) -> None:
    """Endpoint fields together with an Endpoint, and a processor's keywords without one, raise TypeError."""
    fleet = Fleet()
    with pytest.raises(TypeError):
        declare(fleet)
    assert not fleet.connections


def test_a_name_in_use_is_refused_and_defaults_are_made_unique() -> None:
    """The pool's name and those of its members share one namespace; a default name is made unique for all of them."""
    fleet = Fleet()
    fleet.connect(URI, name="rpc-2")
    with pytest.raises(ConfigError, match="in use"):
        fleet.pool(URI, 2, name="rpc")
    fleet.pool(URI, 1, name="rpc")  # does not need that name
    with pytest.raises(ConfigError, match="in use"):
        fleet.connect(URI, name="rpc-1")
    with pytest.raises(ConfigError, match="in use"):
        fleet.subscribe("t", name="rpc")
    first, second = fleet.pool(URI, 2), fleet.pool(URI, 2)
    assert first.name == "feed-test"
    names = [c.name for pool in (first, second) for c in pool.connections]
    assert len(set(names)) == 4 and second.name not in names


# Many requests, random losses


async def test_no_future_is_left_behind_after_many_requests_with_random_losses(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """For any losses, delays, duplicates, cancellations and timeouts, each request ends once, and none is left."""
    asyncio.get_running_loop().set_debug(False)  # debug mode would keep a stack for each future
    chance = random.Random(7)
    ended: dict[str, int] = {}
    issued = 0
    futures: weakref.WeakSet[asyncio.Future[Any]] = weakref.WeakSet()
    issue = PendingRequests.issue

    def issue_and_watch(replies: PendingRequests, number: Any) -> asyncio.Future[Any]:
        nonlocal issued
        issued += 1
        future = issue(replies, number)
        futures.add(future)
        return future

    monkeypatch.setattr(PendingRequests, "issue", issue_and_watch)

    async def serve(bench: Bench, name: str, socket: FakeSocket) -> None:
        """The server of one member, for all of its sockets."""
        while True:
            late: list[Any] = []
            try:
                while True:
                    request = await asked(socket)
                    fate = chance.random()
                    if fate < 0.002:
                        socket.lose()
                    elif fate < 0.01:
                        late.append(request)
                    else:
                        await reply(socket, request["id"], result=request["params"])
                        if fate < 0.03:
                            await reply(socket, request["id"], result="again")
                        if fate < 0.06 and late:
                            belated = late.pop()
                            await reply(socket, belated["id"], result=belated["params"])
            except ConnectionLost:
                socket = await bench.transport.accept(name)

    async def client(bench: Bench, count: int) -> None:
        for n in range(count):
            fate = chance.random()
            asking = bench.pool.request({"method": "m", "params": n, "id": n}, timeout_s=0.2 if fate < 0.9 else 1e-6)
            try:
                if fate > 0.97:
                    task = asyncio.create_task(asking)
                    await turns(chance.randrange(4))
                    task.cancel()
                    answer = await task
                else:
                    answer = await asking
                assert (answer["id"], answer["result"]) == (n, n)
                end = "answered"
            except (RequestLost, RequestTimeout, asyncio.CancelledError) as exc:
                end = type(exc).__name__
            ended[end] = ended.get(end, 0) + 1

    async with bench_of(4) as bench:
        serving = [
            asyncio.create_task(serve(bench, f"rpc-{n}", socket)) for n, socket in enumerate(bench.sockets, start=1)
        ]
        await asyncio.gather(*(client(bench, REQUESTS // 50) for _ in range(50)))
        assert sum(ended.values()) == REQUESTS // 50 * 50
        assert set(ended) == {"answered", "RequestLost", "RequestTimeout", "CancelledError"}
        assert not bench.outstanding
        assert not any(member.replies._past for member in bench.pool._order)
        for supervisor in bench.pool._supervisors:
            assert len([w for w in supervisor.open_waiters._waiters if not w.done()]) == 0
        for each in serving:
            each.cancel()
        await asyncio.gather(*serving, return_exceptions=True)
        gc.collect()
        assert issued > REQUESTS * 0.9 and not futures
