"""The examples of pools, publish/subscribe, backpressure, many connections, blocking work and batches, as programs."""

import asyncio
import gzip
import json
import re
import signal
import sqlite3
from pathlib import Path

from websockets.asyncio.server import ServerConnection

from tests.docs.programs import EXAMPLES, price, restart, running
from wsfleet.testing import FeedServer


def numbers(line: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", line)]


class Node:
    """Answers requests for prices, but the first ones only until it has answered `patience` of them."""

    def __init__(self, patience: int) -> None:
        self.patience = patience
        self.stalled = asyncio.Semaphore(0)

    async def serve(self, client: ServerConnection) -> None:
        async for payload in client:
            if self.patience == 0:
                self.stalled.release()
                continue
            self.patience -= 1
            request = json.loads(payload)
            await client.send(json.dumps({"jsonrpc": "2.0", "id": request["id"], "result": 100.0}))


async def test_request_reply(tmp_path: Path) -> None:
    """S8: requests that were lost with the server are repeated, on all members, and every request is answered."""
    node = Node(patience=50)
    async with FeedServer(on_client=node.serve) as server:
        command = (EXAMPLES / "request_reply.py", server.uri, "--size", 3, "--callers", 6, "--requests", 200)
        async with running(*command, cwd=tmp_path) as program:
            await program.joins(server, 3)
            for _ in range(6):  # all callers wait
                await node.stalled.acquire()
            await server.stop()
            node.patience = -1
            await server.start()
            assert await program.ends() == 0, program
    assert len(program.with_text("is asked again: node-")) == 6
    assert program.lines[-1] == "200 answered"
    rows = [line for line in program.lines if re.match(r"node-\d: \d+ connects", line)]
    assert [numbers(row)[0] for row in rows] == [1, 2, 3]
    assert sum(numbers(row)[2] for row in rows) == len(server.received) == 206
    assert sum(numbers(row)[3] for row in rows) == 200


async def test_request_reply_shows_messages_that_are_no_replies(tmp_path: Path) -> None:
    """S8: a request without a reply times out, and messages that are no replies are shown."""
    async with FeedServer() as server:
        command = (EXAMPLES / "request_reply.py", server.uri, "--size", 1, "--requests", 1, "--timeout", 2)
        async with running(*command, cwd=tmp_path) as program:
            await program.joins(server)
            await server.send({"method": "notice", "params": "going down at noon"})
            await program.says("node-1 says {'method': 'notice', 'params': 'going down at noon'}")
            assert await program.ends() == 0, program
    assert program.with_text("AMBER: ") == ["AMBER: node: no reply within 2 s"]
    assert program.lines[-1] == "1 timed out"


async def test_publish_subscribe(tmp_path: Path) -> None:
    """S9: each pattern gets its messages once, own topics too, and a late subscription begins with the last of each
    symbol.
    """
    async with FeedServer() as server:
        command = (EXAMPLES / "publish_subscribe.py", server.uri, "--join", 4, "--seconds", 600)
        async with running(*command, cwd=tmp_path) as program:
            await program.joins(server)
            await server.send(
                price(1, 50.0, "IVORY"), price(2, 100.0), price(3, 102.5)
            )  # and one published by the program
            await program.says("latecomer: prices.AMBER 102.5 (3)")
            await restart(server, program)
            await server.send(price(4, 10.0, "IVORY"), price(5, 20.0, "IVORY"))
            await program.says("latecomer: prices.IVORY 20.0 (5)")
            assert await program.ends(signal.SIGTERM) == 0, program
    shown = [line.removeprefix("latecomer: prices.") for line in program.with_text("latecomer: ")]
    assert shown == ["IVORY 50.0 (1)", "AMBER 102.5 (3)", "IVORY 10.0 (4)", "IVORY 20.0 (5)"]
    assert program.with_text(" is up, at ") == ["AMBER is up, at 102.5", "IVORY is up, at 20.0"]
    counts = dict(line.split() for line in program.lines[-5:])
    assert counts == {
        "moves.AMBER.up": "1",
        "moves.IVORY.down": "1",
        "moves.IVORY.up": "1",
        "prices.AMBER": "2",
        "prices.IVORY": "3",
    }


async def test_backpressure(tmp_path: Path) -> None:
    """S10: the archive drops nothing and pauses, the others drop and never pause; and each has one
    record per episode.
    """
    flood = "x" * 1000

    async def serve(client: ServerConnection) -> None:
        for n in range(3000):
            await client.send(json.dumps(price(n, symbol="AMBER" if n % 2 else "IVORY") | {"flood": flood}))

    async with FeedServer(on_client=serve) as server:
        command = (EXAMPLES / "backpressure.py", server.uri, "--work", 0.005, "--drain", 60)
        async with running(*command, cwd=tmp_path) as program:
            await program.joins(server, 3)
            await program.says("archive is full")
            await program.says("chart ")
            await server.stop()
            await server.start()
            await program.joins(server, 1)
            assert await program.ends(signal.SIGTERM) == 0, program
    archive, chart, log = (re.findall(r"[\w.]+", line) for line in program.lines[-3:])
    for row in (archive, chart, log):
        assert int(row[1]) == int(row[3]) + int(row[5]), program
        assert row[7] == "0"
    assert archive[5] == "0" and float(archive[11]) > 0
    assert int(chart[5]) > 0 and int(log[5]) > 0 and chart[11] == log[11] == "0.0"
    assert program.with_text("log is full: 100 pending, so drop_oldest")


async def test_thousands(tmp_path: Path) -> None:
    """S11: a thousand connections open, reconnect after the restart, and each of their messages is accounted for."""
    asyncio.get_running_loop().set_debug(False)  # it would take most of the time
    async with FeedServer() as server:
        command = (EXAMPLES / "thousands.py", server.uri, "--connections", 1000, "--connects-per-s", 10_000)
        async with running(*command, cwd=tmp_path, PYTHONASYNCIODEBUG="") as program:
            await program.says("1000 of 1000 open")
            await server.send(price(1))
            await program.says("1000 of 1000 open, 1,000 messages")
            server.drop()
            await program.joins(server, 1000)
            await program.says("1000 of 1000 open")
            await server.send(price(2))
            await program.says("1000 of 1000 open, 2,000 messages")
            assert await program.ends(signal.SIGTERM) == 0, program
    assert program.lines[-2:] == [
        "2,000 connects, 1,000 losses, 2,000 messages processed",
        "every message is accounted for",
    ]


async def test_blocking_work(tmp_path: Path) -> None:
    """S12: threads and processes do the work of both sessions, the journal is complete, and the loop is
    never blocked.
    """
    async with FeedServer() as server, running(EXAMPLES / "blocking_work.py", server.uri, cwd=tmp_path) as program:
        await program.joins(server)
        await server.send(price(1, 100.0))
        await program.says("AMBER 100.0: 1 % below ")
        await restart(server, program)
        await server.send(price(2, 200.0, "IVORY"))
        await program.says("IVORY 200.0: 1 % below ")
        assert await program.ends(signal.SIGTERM) == 0, program
    working = {numbers(line)[-1] for line in program.with_text("(process ")}
    assert working and program.process.pid not in working
    assert program.lines[-3:-1] == [
        "store: 2 processed, 0 failed, 0 dropped",
        "simulate: 2 processed, 0 failed, 0 dropped",
    ]
    with gzip.open(tmp_path / "prices.txt.gz", "rt") as journal:
        assert journal.read().split("\n") == ["1 AMBER 100.0", "2 IVORY 200.0", ""]


async def test_blocking_work_is_named(tmp_path: Path) -> None:
    """S12: an async def that computes for long is named while it runs, and at the end."""
    async with (
        FeedServer() as server,
        running(EXAMPLES / "blocking_work.py", server.uri, "--careless", cwd=tmp_path) as program,
    ):
        await program.joins(server)
        await server.send(price(1))
        await program.says("WARNING the loop is blocked by careless at ")
        await program.says("WARNING the loop was blocked for ")
        assert await program.ends(signal.SIGTERM) == 0, program
    assert program.lines[-1].startswith("the loop was blocked by careless at ")


async def test_batches(tmp_path: Path) -> None:
    """S13: every price of both sessions is stored once, in fewer batches than there are prices, none of them larger
    than allowed; a batch that cannot be stored is retried.
    """
    async with FeedServer() as server:
        command = (EXAMPLES / "batches.py", server.uri, "--batch", 100, "--seconds", 600)
        async with running(*command, cwd=tmp_path) as program:
            await program.joins(server)
            locked = sqlite3.connect(tmp_path / "prices.db", isolation_level=None)
            locked.execute("BEGIN EXCLUSIVE")
            await server.send(*map(price, range(1, 501)))
            await program.says(" prices: {'AMBER': ")
            locked.execute("COMMIT")
            locked.close()
            await restart(server, program)
            await server.send(*(price(n, n / 2) for n in range(501, 551)))
            while sum(numbers(line)[0] for line in program.with_text(" prices: {")) < 550:
                await program.says(" prices: {")
            assert await program.ends(signal.SIGTERM) == 0, program
    stored, batches, largest = numbers(program.lines[-2])
    assert stored == 550 and batches <= 60 and largest == 100
    assert program.lines[-1] == "0 failed, 0 dropped; the table has 550 rows"
    with sqlite3.connect(tmp_path / "prices.db") as database:
        assert database.execute("SELECT count(DISTINCT rowid), max(price) FROM prices").fetchone() == (550, 275.0)
    database.close()
