"""The programs of docs/patterns.md, run unchanged; the hand-written ones must also fail as the page describes."""

import asyncio
import contextlib
import functools
import json
import re
import sys
import types
from collections.abc import AsyncIterator, Coroutine
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event
from typing import Any

import pytest
from websockets.asyncio.server import ServerConnection
from websockets.exceptions import ConnectionClosed, InvalidStatus

from wsfleet import Fleet, Liveness, Reconnect
from wsfleet.core.errors import EndpointFailed, RequestLost
from wsfleet.testing import FeedServer

DOCUMENT = Path(__file__).parents[2] / "docs" / "patterns.md"
BLOCK = re.compile(r"^<!-- block: (\w+) -->\n```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)

# Time limit for events that must happen, not a measure of speed.
PATIENCE_S = 60.0

SOON = Reconnect(initial_s=0.001, max_s=0.01)


@pytest.fixture
def blocks(monkeypatch: pytest.MonkeyPatch) -> dict[str, types.ModuleType]:
    """The programs as modules. The hand-written ones import the first of them."""
    markdown = DOCUMENT.read_text("utf-8")
    modules = {}
    for match in BLOCK.finditer(markdown):
        name, code = match.groups()
        modules[name] = module = types.ModuleType(name)
        lines = markdown.count("\n", 0, match.start(2))  # so that tracebacks have the lines of the document
        exec(compile("\n" * lines + code, str(DOCUMENT), "exec"), module.__dict__)
        if name == "by_hand":
            monkeypatch.setitem(sys.modules, "by_hand", module)
    return modules


@contextlib.asynccontextmanager
async def running(program: Coroutine[Any, Any, Any]) -> AsyncIterator[asyncio.Task[Any]]:
    """Run a program beside the test; at the end it is cancelled."""
    task = asyncio.create_task(program)
    try:
        yield task
    finally:
        while not task.done():
            task.cancel()
            await asyncio.wait({task}, timeout=1.0)  # some need more than one cancellation


class Output:
    """The output of the programs."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys
        self.text = ""

    def says(self, text: str) -> bool:
        self.text += self._capsys.readouterr().out
        return text in self.text


@pytest.fixture
def output(capsys: pytest.CaptureFixture[str]) -> Output:
    return Output(capsys)


async def until(condition: Any, *arguments: Any) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not condition(*arguments):
            await asyncio.sleep(0.005)


async def printed(output: Output, text: str) -> None:
    """Wait until the program has printed `text`."""
    try:
        await until(output.says, text)
    except TimeoutError:
        pytest.fail(f"{text!r} was not printed, but\n{output.text}")


def price(value: float, symbol: str = "AMBER") -> dict[str, Any]:
    return {"symbol": symbol, "price": value}


async def nothing(data: Any) -> None:
    pass


async def slam(client: ServerConnection) -> None:
    """Accept, and close."""
    await client.close(1008, "no")


def test_every_program_is_run() -> None:
    """Each Python block of the page has a name, and a test here runs it."""
    markdown = DOCUMENT.read_text("utf-8")
    names = [match.group(1) for match in BLOCK.finditer(markdown)]
    assert len(names) == len(set(names)) == markdown.count("```python")
    tests = Path(__file__).read_text("utf-8")
    assert [name for name in names if f'blocks["{name}"]' not in tests] == []


# One connection


async def test_by_hand_comes_back(blocks: dict[str, types.ModuleType]) -> None:
    """The hand-written loop receives the messages of both connections."""
    prices: list[float] = []

    async def handle(data: dict[str, Any]) -> None:
        prices.append(data["price"])

    async with FeedServer() as server, running(blocks["by_hand"].keep(server.uri, handle)):
        for n in (1, 2):
            await server.wait_clients(1)
            await server.send(price(n))
            await until(lambda n=n: len(prices) == n)
            server.drop()
    assert prices == [1, 2]


async def test_by_hand_redials_without_a_pause(blocks: dict[str, types.ModuleType]) -> None:
    """A server that accepts and closes is contacted fifty times. With the backoff of `connect`, up to 90 s, this would
    take longer than the time limit of the test.
    """
    async with FeedServer(on_client=slam) as server, running(blocks["by_hand"].keep(server.uri, nothing)):
        await until(lambda: len(server.requests) >= 50)


async def test_by_hand_ends_with_429(blocks: dict[str, types.ModuleType]) -> None:
    """The answer 429 ends the hand-written loop."""
    async with FeedServer() as server:
        server.refuse(429, {"Retry-After": "1"})
        with pytest.raises(InvalidStatus, match="429"):
            await blocks["by_hand"].keep(server.uri, nothing)


async def test_by_hand_ends_with_a_message_that_is_not_json(blocks: dict[str, types.ModuleType]) -> None:
    """A message that is not JSON ends the hand-written loop."""
    async with FeedServer(on_client=lambda client: client.send("no JSON")) as server:
        with pytest.raises(json.JSONDecodeError):
            await blocks["by_hand"].keep(server.uri, nothing)


async def test_one_connection_waits_longer_each_time(blocks: dict[str, types.ModuleType], output: Output) -> None:
    """For a server that accepts and closes, each attempt counts as a failed one."""
    async with FeedServer(on_client=slam) as server, running(blocks["one_connection"].main(server.uri, SOON)):
        await printed(output, "CONNECTING, attempt 5,")
        assert "BACKOFF, attempt 4, " in output.text


async def test_one_connection_comes_back(blocks: dict[str, types.ModuleType], output: Output) -> None:
    """After 429 and after a loss it reconnects, subscribes to the current symbols, and reports the gap. A message
    that is not JSON ends nothing.
    """
    program = blocks["one_connection"]
    async with FeedServer() as server:
        server.refuse(429, times=1)
        async with running(program.main(server.uri, SOON)):
            await printed(output, "BACKOFF, attempt 1, http: the server answered 429")
            await server.wait_clients(1)
            await server.send("no JSON", price(1.5))
            await printed(output, "AMBER 1.5 (2 of session 1)")
            program.wanted.append("IVORY")
            server.drop()
            await printed(output, " are missing: request a snapshot")
            await server.wait_clients(1)
            await server.send(price(2.5, "IVORY"))
            await printed(output, "IVORY 2.5 (3 of session 2)")
    assert [json.loads(each)["symbols"] for each in server.received] == [["AMBER"], ["AMBER", "IVORY"]]


# TaskGroup


async def test_task_group_by_hand_ends_with_one_handler(blocks: dict[str, types.ModuleType], output: Output) -> None:
    """One price of 0 on one connection also ends the other one."""
    async with FeedServer() as good, FeedServer() as bad:
        async with running(blocks["task_group_by_hand"].main(good.uri, bad.uri)) as program:
            await good.wait_clients(1)
            await bad.wait_clients(1)
            await good.send(price(50))
            await printed(output, "AMBER: 2.000 for a hundred")
            await bad.send(price(0))
            with pytest.raises(ExceptionGroup) as raised:
                await program
        await until(lambda: not good.clients)
    assert isinstance(raised.value.exceptions[0], ZeroDivisionError)


async def test_task_group_by_hand_ends_with_one_address(blocks: dict[str, types.ModuleType]) -> None:
    """One address that answers 404 ends them all."""
    async with FeedServer() as good, FeedServer() as bad:
        bad.refuse(404)
        with pytest.raises(ExceptionGroup) as raised:
            await blocks["task_group_by_hand"].main(good.uri, bad.uri)
    assert isinstance(raised.value.exceptions[0], InvalidStatus)


async def test_task_group(blocks: dict[str, types.ModuleType], output: Output) -> None:
    """Neither a price of 0 nor an address that answers 404 affects the other connection."""
    async with FeedServer() as good, FeedServer() as bad, FeedServer() as gone:
        gone.refuse(404)
        async with running(blocks["task_group"].main(good.uri, bad.uri, gone.uri)):
            await good.wait_clients(1)
            await bad.wait_clients(1)
            await bad.send(price(0))
            await printed(output, "failed: {'symbol': 'AMBER', 'price': 0}, ZeroDivisionError(")
            await good.send(price(50))
            await printed(output, "AMBER: 2.000 for a hundred")
            await bad.send(price(25))
            await printed(output, "AMBER: 4.000 for a hundred")
            assert len(gone.requests) == 1


# gather


async def test_gather_by_hand_leaves_the_other_running(blocks: dict[str, types.ModuleType], output: Output) -> None:
    """When the program has failed, the other connection is still open and printing."""
    before = asyncio.all_tasks()
    async with (
        FeedServer() as prices,
        FeedServer() as orders,
        running(blocks["gather_by_hand"].main(prices.uri, orders.uri)) as program,
    ):
        await prices.wait_clients(1)
        await orders.wait_clients(1)
        await prices.send(price(0))
        with pytest.raises(ZeroDivisionError):
            await program
        await orders.send(price(50))
        await printed(output, "AMBER: 2.000 for a hundred")
        assert len(orders.clients) == 1
        left = [task for task in asyncio.all_tasks() - before if getattr(task.get_coro(), "__name__", "") == "keep"]
        assert len(left) == 1
        left[0].cancel()
        await asyncio.wait(left)


async def test_gather_by_hand_hides_the_failure(blocks: dict[str, types.ModuleType], output: Output) -> None:
    """With return_exceptions=True a feed ends, and the program continues without an error."""
    async with (
        FeedServer() as prices,
        FeedServer() as orders,
        running(blocks["gather_by_hand"].main(prices.uri, orders.uri, return_exceptions=True)) as program,
    ):
        await prices.wait_clients(1)
        await orders.wait_clients(1)
        await prices.send(price(0))
        await until(lambda: not prices.clients)
        await orders.send(price(50))
        await printed(output, "AMBER: 2.000 for a hundred")
        assert not program.done()
        assert len(prices.requests) == 1


async def test_gather(blocks: dict[str, types.ModuleType], output: Output) -> None:
    """A message that fails ends nothing, and a required feed that fails ends both fleets."""
    async with FeedServer() as prices, FeedServer() as orders:
        async with running(blocks["gather"].main(prices.uri, orders.uri)) as program:
            await prices.wait_clients(1)
            await orders.wait_clients(1)
            await prices.send(price(0), price(50))
            await printed(output, "AMBER: 2.000 for a hundred")
            prices.refuse(404)
            prices.drop()
            with pytest.raises(EndpointFailed, match="'prices' failed: http: the server answered 404"):
                await program
        await until(lambda: not orders.clients)


# Pool


class Node:
    """Answers requests; `mute` are the methods it does not answer."""

    def __init__(self, *mute: str) -> None:
        self.mute = set(mute)

    async def serve(self, client: ServerConnection) -> None:
        async for payload in client:
            request = json.loads(payload)
            if request["method"] not in self.mute:
                await client.send(json.dumps({"jsonrpc": "2.0", "id": request["id"], "result": request["method"]}))


async def test_pool_by_hand(blocks: dict[str, types.ModuleType]) -> None:
    """The hand-written pool gets its replies over both members."""
    pool = blocks["pool_by_hand"].Pool(2, nothing)
    async with FeedServer(on_client=Node().serve) as server, running(pool.run(server.uri)):
        await until(lambda: all(client.ws for client in pool.clients))
        assert [(await pool.request("price"))["result"] for _ in range(4)] == ["price"] * 4


async def test_pool_by_hand_waits_after_a_loss(blocks: dict[str, types.ModuleType]) -> None:
    """By hand, a request whose connection is lost waits until its timeout, even after the next connect."""
    client = blocks["pool_by_hand"].Client(nothing)
    async with FeedServer(on_client=Node("slow").serve) as server, running(client.run(server.uri)):
        await until(lambda: client.ws)
        first = client.ws
        asking = asyncio.create_task(client.request("slow", timeout_s=3.0))
        await until(lambda: server.received)
        server.drop()
        await until(lambda: client.ws is not first)
        assert (await client.request("price"))["result"] == "price"
        assert not asking.done() and len(client.waiting) == 1
        with pytest.raises(TimeoutError):
            await asking


async def test_pool_by_hand_uses_dead_members(blocks: dict[str, types.ModuleType]) -> None:
    """By hand, every second request fails while one of two members is down."""
    pool = blocks["pool_by_hand"].Pool(2, nothing)
    async with FeedServer(on_client=Node().serve) as server, running(pool.run(server.uri)):
        await until(lambda: all(client.ws for client in pool.clients))
        server.refuse(503)
        server.clients[0].transport.abort()
        await until(lambda: len(server.requests) == 3)
        outcomes = await asyncio.gather(*(pool.request("price") for _ in range(4)), return_exceptions=True)
    assert [isinstance(outcome, ConnectionClosed) for outcome in outcomes].count(True) == 2


async def test_pool_by_hand_deadlocks_in_a_handler(blocks: dict[str, types.ModuleType]) -> None:
    """By hand, a handler that sends a request over its own connection gets no reply, although the server answered. The
    reply is then passed to the handler like a notice.
    """
    handled: list[Any] = []
    failed: list[Exception] = []

    async def handle(data: dict[str, Any]) -> None:
        handled.append(data)
        try:
            await client.request("details", timeout_s=0.5)
        except TimeoutError as error:
            failed.append(error)

    client = blocks["pool_by_hand"].Client(handle)
    async with FeedServer(on_client=Node().serve) as server, running(client.run(server.uri)):
        await server.wait_clients(1)
        await server.send({"method": "notice"})
        await until(lambda: len(handled) == 2)
    assert len(failed) == 1
    assert handled[1]["result"] == "details"


async def test_pool(blocks: dict[str, types.ModuleType], output: Output) -> None:
    """The reply arrives, and a handler can send a request."""
    async with FeedServer(on_client=Node().serve) as server, running(blocks["pool"].main(server.uri)):
        await printed(output, "the price is price")
        await server.clients[0].send('{"method": "notice", "params": "news"}')
        await printed(output, "news: details")


async def test_pool_reports_a_loss(blocks: dict[str, types.ModuleType], output: Output) -> None:
    """A request whose connection is lost fails at once with RequestLost."""
    async with FeedServer(on_client=Node("price").serve) as server:
        async with running(blocks["pool"].main(server.uri)):
            await until(lambda: server.received)
            server.drop()
            await printed(output, "the connection was lost; the server may have acted")
        async with Fleet() as fleet:
            asking = asyncio.create_task(fleet.pool(server.uri, 1).request({"method": "price"}, timeout_s=3600))
            await until(lambda: len(server.received) == 2)
            server.drop()
            with pytest.raises(RequestLost):
                await asking


async def test_pool_uses_open_members() -> None:
    """While one of two members is down, the other one serves all requests."""
    async with FeedServer(on_client=Node().serve) as server, Fleet() as fleet:
        pool = fleet.pool(server.uri, 2)
        await server.wait_clients(2)
        server.refuse(503)
        server.clients[0].transport.abort()
        await until(lambda: len(server.requests) == 3)
        replies = await asyncio.gather(*(pool.request({"method": "price"}) for _ in range(4)))
    assert [reply["result"] for reply in replies] == ["price"] * 4


# Publish and subscribe


async def test_publish_subscribe_by_hand(blocks: dict[str, types.ModuleType]) -> None:
    """By hand, overlapping patterns each get their messages; but the queue of a reader that is gone grows, and `*`
    matches more than one token.
    """
    program = blocks["publish_subscribe_by_hand"]
    hub = program.Hub()
    every, amber, gone = hub.subscribe("prices.*"), hub.subscribe("prices.AMBER"), hub.subscribe("prices.*")
    async with FeedServer() as server, running(program.main(server.uri, hub)):
        await server.wait_clients(1)
        await server.send(price(1), price(2, "IVORY"), price(3, "AMBER.depth"))
        assert [(await every.get())["price"] for _ in range(3)] == [1, 2, 3]
        assert amber.qsize() == 1
        for _ in range(10):
            await server.send(*[price(4)] * 1000)
        await until(lambda: gone.qsize() == 10_003)


async def test_publish_subscribe_by_hand_ends_with_the_slowest(blocks: dict[str, types.ModuleType]) -> None:
    """By hand, with bounded queues, a reader that is too slow ends the feed for all."""
    program = blocks["publish_subscribe_by_hand"]
    hub = program.Hub(maxsize=100)
    hub.subscribe("prices.*")
    async with FeedServer() as server, running(program.main(server.uri, hub)) as feed:
        await server.wait_clients(1)
        await server.send(*[price(1)] * 101)
        with pytest.raises(asyncio.QueueFull):
            await feed


async def test_publish_subscribe(blocks: dict[str, types.ModuleType], output: Output) -> None:
    """A reader that is too slow does not affect others, and a dot in the symbol does not make another topic."""
    async with FeedServer() as server, running(blocks["publish_subscribe"].main(server.uri)):
        await server.wait_clients(1)
        await server.send(*(price(n) for n in range(1000)), price(7, "AMBER.depth"))
        await printed(output, "prices.AMBER_depth 7\n")
        shown = output.text.splitlines()
    assert shown == [f"prices.AMBER {n}" for n in range(1000)] + ["prices.AMBER_depth 7"]


# Backpressure


class Flood:
    """Sends a hundred messages to each client and then nothing; records how the connections end."""

    def __init__(self) -> None:
        self.codes: list[tuple[int | None, str | None]] = []

    async def serve(self, client: ServerConnection) -> None:
        for n in range(100):
            await client.send(json.dumps(price(n)))
        await client.wait_closed()

    async def note(self, client: ServerConnection) -> None:
        try:
            await self.serve(client)
        finally:
            await client.wait_closed()
            self.codes.append((client.close_code, client.close_reason))


async def test_backpressure_by_hand_closes_a_live_connection(blocks: dict[str, types.ModuleType]) -> None:
    """By hand, the connection to a peer that answers each ping is closed while the handler is slow."""
    flood, release = Flood(), asyncio.Event()

    async def store(data: Any) -> None:
        await release.wait()

    async with FeedServer(on_client=flood.note) as server:
        options = {"ping_interval": 0.1, "ping_timeout": 0.3, "close_timeout": 0.3}
        program = blocks["backpressure_by_hand"].main(server.uri, store, **options)
        async with running(program):
            await until(lambda: flood.codes)
            release.set()
    assert flood.codes[0] == (1011, "keepalive ping timeout")


async def test_backpressure(blocks: dict[str, types.ModuleType], output: Output) -> None:
    """While the archive is paused for many times its deadline, the connection is kept, and all messages arrive
    afterwards. The chart gets the newest ones.
    """
    flood, release = Flood(), asyncio.Event()
    stored: list[tuple[str, int]] = []

    async def store(message: Any) -> None:
        await release.wait()
        stored.append((message.endpoint, message.data["price"]))

    async with (
        FeedServer(on_client=flood.note) as server,
        running(blocks["backpressure"].main(server.uri, store, Liveness(ping_s=0.1, pong_s=0.3))),
    ):
        await printed(output, "archive is full: pause")
        await asyncio.sleep(1.5)  # only waiting can show that nothing happens
        assert len(server.requests) == 2 and len(server.clients) == 2
        release.set()
        await until(lambda: [n for name, n in stored if name == "archive"] == list(range(100)))
        await until(lambda: ("chart", 99) in stored)
    assert all(code != 1011 for code, _ in flood.codes)
    assert len([n for name, n in stored if name == "chart"]) < 100


# Queue


async def test_queue_by_hand_stops_silently(blocks: dict[str, types.ModuleType]) -> None:
    """By hand, when `store` has raised, the queue fills, nothing more is stored, and the program neither reports an
    error nor ends when it is cancelled.
    """
    batches: list[int] = []

    async def store(batch: list[Any]) -> None:
        batches.append(len(batch))
        raise OSError("the disk is full")

    program = blocks["queue_by_hand"]
    program.keep = functools.partial(program.keep, close_timeout=0.1)  # closing an unread connection takes 10 s
    queue: asyncio.Queue[Any] = asyncio.Queue(maxsize=1000)
    async with FeedServer() as server, running(program.main(server.uri, store, queue)) as task:
        await server.wait_clients(1)
        await server.send(*[price(1)] * 1200)
        await until(lambda: batches and queue.full())
        assert len(batches) == 1 and not task.done()
        task.cancel()
        await until(lambda: not server.clients)
        assert not task.done()  # and a second Ctrl-C is needed


async def test_queue_by_hand(blocks: dict[str, types.ModuleType]) -> None:
    """By hand, if nothing fails, everything is stored before the end."""
    stored: list[int] = []

    async def store(batch: list[Any]) -> None:
        await asyncio.sleep(0.001)
        stored.extend(each["price"] for each in batch)

    queue: asyncio.Queue[Any] = asyncio.Queue(maxsize=1000)
    async with FeedServer() as server, running(blocks["queue_by_hand"].main(server.uri, store, queue)) as program:
        await server.wait_clients(1)
        await server.send(*map(price, range(300)))
        await until(lambda: len(stored) + queue.qsize() == 300)
        program.cancel()
        await asyncio.wait({program})
    assert stored == list(range(300))


async def test_queue(blocks: dict[str, types.ModuleType], output: Output) -> None:
    """A batch that fails is retried, the next ones follow, and the end stores and counts the received messages."""
    calls = 0
    stored: list[int] = []

    async def store(batch: list[Any]) -> None:
        nonlocal calls
        calls += 1
        if any(each["price"] == 0 for each in batch):
            raise OSError("the disk is full")
        stored.extend(each["price"] for each in batch)

    stop = asyncio.Event()
    async with FeedServer() as server, running(blocks["queue"].main(server.uri, store, stop)) as program:
        await server.wait_clients(1)
        await server.send(price(0))
        await printed(output, "not stored after 3 attempts: {'symbol': 'AMBER', 'price': 0}")
        assert calls == 3
        await server.send(*map(price, range(1, 301)))
        await until(lambda: stored)
        stop.set()
        await program
        await printed(output, " received: ")
    came, done, failed, dropped = map(int, re.findall(r"\d+", output.text.splitlines()[-1]))
    assert (came, failed, dropped) == (done + 1, 1, 0)
    assert stored == list(range(1, done + 1))


# Blocking work


async def test_blocking_by_hand_keeps_others_from_connecting(blocks: dict[str, types.ModuleType]) -> None:
    """By hand, while all shared threads hang, no name is resolved, not even for an unrelated connection. wsfleet
    connects meanwhile.
    """
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1, "asyncio"))
    release, hanging = Event(), Event()

    def store(data: Any) -> None:
        hanging.set()
        release.wait(PATIENCE_S)

    async with FeedServer() as server, FeedServer() as other:
        named = other.uri.replace("127.0.0.1", "localhost")
        try:
            async with running(blocks["blocking_by_hand"].main(server.uri, store)):
                await server.wait_clients(1)
                await server.send(price(1))
                await until(hanging.is_set)
                async with running(blocks["by_hand"].keep(named, nothing)), Fleet() as fleet:
                    await fleet.connect(named).wait_open()
                    assert len(other.requests) == 1
                    release.set()
                    await until(lambda: len(other.requests) == 2)
        finally:
            release.set()


async def test_blocking(blocks: dict[str, types.ModuleType]) -> None:
    """A plain def runs in its own thread while messages arrive."""
    release, stored = Event(), []

    def store(data: Any) -> None:
        assert release.wait(PATIENCE_S), "the loop was blocked too"
        stored.append(data["price"])

    async with FeedServer() as server, running(blocks["blocking"].main(server.uri, store)):
        await server.wait_clients(1)
        await server.send(price(1), price(2))
        server.drop()
        await server.wait_clients(1)  # so the loop is not blocked
        release.set()
        await until(lambda: stored == [1, 2])
