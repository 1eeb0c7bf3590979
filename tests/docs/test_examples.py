"""The examples, each run as a program against a server that is restarted."""

import asyncio
import importlib.util
import json
import re
import shlex
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.docs.programs import EXAMPLES, price, restart, running
from wsfleet.testing import FeedServer

SECRET = "open sesame"


def log_in() -> Callable[..., Any]:
    """The server's side of the login in feed.py."""
    spec = importlib.util.spec_from_file_location("example_feed", EXAMPLES / "feed.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.log_in


def payloads(server: FeedServer, op: str) -> list[dict[str, Any]]:
    return [payload for payload in map(json.loads, server.received) if payload["op"] == op]


async def test_one_feed(tmp_path: Path) -> None:
    """S1: the loop and the processor get every message of both sessions; then the program ends by itself."""
    async with (
        FeedServer() as server,
        running(EXAMPLES / "one_feed.py", server.uri, "--count", 6, cwd=tmp_path) as program,
    ):
        await program.joins(server)
        await server.send(price(1, 99.5), price(2), price(3))
        await program.says("'n': 3")
        await restart(server, program)
        await server.send(price(4), price(5, 1.25, "IVORY"), price(6, 100.5))
        assert await program.ends() == 0, program
    shown = [re.split(r"  +", line.strip())[:2] for line in program.with_text("'n': ")]
    assert shown == [[str(n), f"session {1 if n <= 3 else 2}"] for n in range(1, 7)]
    assert program.lines[-2:] == ["AMBER: 99.5 to 100.5", "IVORY: 1.25 to 1.25"]


async def test_task_group(tmp_path: Path) -> None:
    """S2: all connections return, the task beside them continues, and SIGTERM ends both."""
    async with (
        FeedServer() as server,
        running(EXAMPLES / "task_group.py", server.uri, "--connections", 20, cwd=tmp_path) as program,
    ):
        await program.joins(server, 20)
        await server.send(price(1), price(2))
        await program.says("20 of 20 open, 40 messages, 0 losses")
        await restart(server, program, 20)
        await server.send(price(3))
        await program.says("20 of 20 open, 60 messages, 20 losses")
        assert await program.ends(signal.SIGTERM) == 0, program
    assert program.lines[-1] == "60 processed, the balance holds"


async def test_task_group_ends_with_a_required_endpoint(tmp_path: Path) -> None:
    """S2: a required endpoint that fails for good ends the program with the reason."""
    async with FeedServer() as server:
        server.refuse(404)
        async with running(EXAMPLES / "task_group.py", server.uri, "--connections", 1, cwd=tmp_path) as program:
            assert await program.ends() == 1, program
    assert program.lines[-1] == "endpoint 'feed-1' failed: http: the server answered 404 Not Found"


async def test_gather(tmp_path: Path) -> None:
    """S3: one fleet's server is restarted, the other fleet is not affected, and the page shows both."""
    async with (
        FeedServer() as prices,
        FeedServer() as orders,
        running(EXAMPLES / "gather.py", "--prices", prices.uri, "--orders", orders.uri, cwd=tmp_path) as program,
    ):
        port = int((await program.says("health: ")).rpartition(":")[2])
        await program.joins(prices)
        await program.joins(orders)
        await prices.send(price(1))
        await program.says("'n': 1")
        await restart(prices, program)
        await prices.send(price(2))
        await program.says("'n': 2")
        await orders.send({"order": 7})
        await program.says("'order': 7")

        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        head, _, body = (await reader.read()).partition(b"\r\n\r\n")
        writer.close()
        await writer.wait_closed()
        assert head.startswith(b"HTTP/1.1 200 OK")
        page = json.loads(body)
        assert [(name, page[name]["balanced"], page[name]["endpoints"][0]["connects"]) for name in sorted(page)] == [
            ("orders", True, 1),
            ("prices", True, 2),
        ]
        assert await program.ends(signal.SIGTERM) == 0, program
    assert program.lines[-2:] == ["prices: 2 processed, 0 dropped", "orders: 1 processed, 0 dropped"]


async def test_reconnecting_login(tmp_path: Path) -> None:
    """S4: on every connect the token is read again, then it logs in and subscribes to the symbols."""
    token = tmp_path / "token.txt"
    token.write_text("first\n")
    async with FeedServer(on_client=log_in()) as server:
        command = (EXAMPLES / "reconnecting_login.py", f"{server.uri}/private", "--token-file", token)
        async with running(*command, "--symbols", "AMBER,IVORY", cwd=tmp_path, FEED_SECRET=SECRET) as program:
            await program.says("private CONNECTING -> OPEN")
            await server.send(price(1, 99.0))
            await program.says("prices.AMBER  99.0")
            await server.stop()
            await program.says("private OPEN -> BACKOFF: connection lost: 1001; again in ")
            token.write_text("second\n")
            await server.start()
            await program.says("s are missing")
            await server.send(price(2, 98.0, "IVORY"))
            await program.says("prices.IVORY  98.0")
            assert await program.ends(signal.SIGINT) == 0, program
    assert [request.headers["Authorization"] for request in server.requests] == ["Bearer first", "Bearer second"]
    assert len(payloads(server, "login")) == 2
    assert [each["symbols"] for each in payloads(server, "subscribe")] == [["AMBER", "IVORY"]] * 2


async def test_reconnecting_login_gives_up_on_a_wrong_secret(tmp_path: Path) -> None:
    """S4: a secret that is not accepted is not retried."""
    token = tmp_path / "token.txt"
    token.write_text("a token\n")
    async with FeedServer(on_client=log_in()) as server:
        command = (EXAMPLES / "reconnecting_login.py", f"{server.uri}/private", "--token-file", token)
        async with running(*command, cwd=tmp_path, FEED_SECRET="wrong") as program:
            assert await program.ends() == 1, program
    assert program.lines[-1] == "endpoint 'private' failed: on_open: Fatal: the server does not accept the secret"
    assert len(server.requests) == 1


async def test_isolation(tmp_path: Path) -> None:
    """S5: a feed that fails for good can be restarted, and a message that cannot be processed affects no others;
    the other feed gets all of its messages.
    """
    async with FeedServer() as good, FeedServer() as bad:
        bad.refuse(404)
        command = (EXAMPLES / "isolation.py", good.uri, bad.uri, "--again", 0.2)
        async with running(*command, cwd=tmp_path) as program:
            await program.says("feed-2 is FAILED (http: the server answered 404 Not Found)")
            await program.joins(good)
            await good.send(price(1), price(2, -5.0), price(3))
            await program.says("'n': 3")
            await restart(good, program)
            await good.send(price(4))
            await program.says("'n': 4")
            bad.accept()
            await program.joins(bad)
            await bad.send(price(5))
            await program.says("feed-2  {'symbol': 'AMBER', 'price': 100.0, 'n': 5}")
            assert await program.ends(signal.SIGTERM) == 0, program
    assert [line.rpartition(" ")[2] for line in program.with_text("feed-1  {")] == ["1}", "3}", "4}"]
    assert program.with_text("failed: a price") == ["feed-1 message 2 failed: a price of -5.0"]
    assert program.lines[-2].startswith("feed-1: 2 connects, 4 messages, ")
    assert program.lines[-1] == "feed-2: 1 connects, 1 messages, last error: http: the server answered 404 Not Found"


async def test_processors(tmp_path: Path) -> None:
    """S6: the messages that the slow processor drops and the faulty one fails reach the others."""
    async with (
        FeedServer() as server,
        running(EXAMPLES / "processors.py", server.uri, "--journal", "prices.jsonl", cwd=tmp_path) as program,
    ):
        await program.joins(server)
        await server.send(*(price(n) for n in range(1, 31)), price(31, 0.0, "IVORY"), {"of": "another shape"})
        await program.says("failed: ZeroDivisionError")
        await restart(server, program)
        await server.send(price(32, 8.0, "IVORY"))
        await program.says("prices.IVORY is 0.1250 of one")
        assert await program.ends(signal.SIGTERM) == 0, program
    counts = {name: tuple(map(int, re.findall(r"\d+", rest))) for name, rest in map(_split, program.lines[-5:])}
    assert counts["newest"] == counts["journal"] == (32, 0, 0)
    assert counts["inverse"] == (31, 1, 0)
    assert counts["tell"] == (1, 0, 0)
    processed, failed, dropped = counts["chart"]
    assert processed + dropped == 30 and failed == 0 and dropped > 0
    journal = [json.loads(line) for line in (tmp_path / "prices.jsonl").read_text().splitlines()]
    assert [(line["session"], line["index"]) for line in journal] == [(1, n) for n in range(1, 32)] + [(2, 33)]


def _split(line: str) -> list[str]:
    return line.split(maxsplit=1)


async def test_clean_shutdown(tmp_path: Path) -> None:
    """S7: after SIGTERM all received messages are stored, and the journal is complete."""
    async with (
        FeedServer() as server,
        running(EXAMPLES / "clean_shutdown.py", server.uri, "--work", 0.01, cwd=tmp_path) as program,
    ):
        await program.joins(server)
        await server.send(*map(price, range(1, 6)))
        await program.says("1 stored")
        await restart(server, program)
        await server.send(*map(price, range(6, 201)))
        await program.says("100 stored")
        assert await program.ends(signal.SIGTERM) == 0, program
    assert len(program.with_text("are still to be stored")) == 1
    received, stored, failed, dropped = map(int, re.findall(r"\d+", program.lines[-1]))
    assert (stored, failed, dropped) == (received, 0, 0)
    assert (tmp_path / "orders.txt").read_text().split() == [str(n) for n in range(1, stored + 1)]


async def test_feeds_toml(tmp_path: Path) -> None:
    """The fleet of the TOML file logs in again after the restart, and its journal and report contain all messages."""
    for name in ("feeds.toml", "handlers.py"):
        shutil.copy(EXAMPLES / name, tmp_path)
    async with FeedServer(on_client=log_in()) as server:
        environment = {"FEED": server.uri, "FEED_TOKEN": "a-token", "FEED_SECRET": SECRET}
        command = ("-m", "wsfleet", "run", "feeds.toml", "--report", "report.json")
        async with running("-m", "wsfleet", "check", "feeds.toml", cwd=tmp_path, **environment) as checking:
            assert await checking.ends() == 0, checking
        async with running(*command, cwd=tmp_path, **environment) as program:
            for n in (1, 2):
                if n == 2:
                    await server.stop()
                    await server.start()
                opened = {(await program.says(" is OPEN")).split()[0] for _ in range(2)}
                assert opened == {"public", "private"}
                await server.send(price(n, n / 2))
                topics = {(await program.says(f"  {n / 2}")).split()[0] for _ in range(2)}
                assert topics == {"prices.AMBER", "private.AMBER"}
            assert await program.ends(signal.SIGTERM) == 0, program
    assert len(payloads(server, "login")) == len(payloads(server, "subscribe")) == 2
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["balanced"]
    received = {row["name"]: (row["connects"], row["received"], row["answered"]) for row in report["endpoints"]}
    assert received == {"public": (2, 2, 0), "private": (2, 6, 4)}
    journal = [json.loads(line)["data"]["n"] for line in (tmp_path / "prices.jsonl").read_text().splitlines()]
    assert journal == [1, 2]


async def test_the_commands_of_feeds_toml(tmp_path: Path) -> None:
    """The commands at the beginning of the file work: they set all that it needs, and the feed accepts it."""
    (tmp_path / "examples").mkdir()
    for name in ("feeds.toml", "handlers.py"):
        shutil.copy(EXAMPLES / name, tmp_path / "examples")
    lines = re.findall(r"^# {5}(.*)$", (EXAMPLES / "feeds.toml").read_text(), re.MULTILINE)
    export, check, run = map(shlex.split, lines)
    async with running(EXAMPLES / "feed.py", "--port", 0, "--restart", 3600, cwd=tmp_path) as feed:
        uri = (await feed.says("serving ")).split()[1].rstrip(";")
        environment = dict(word.split("=", 1) for word in export[1:]) | {"FEED": uri}
        async with running("-m", *check, cwd=tmp_path, **environment) as checking:
            assert await checking.ends() == 0, checking
        async with running("-m", *run, cwd=tmp_path, **environment) as program:
            assert {(await program.says(" is OPEN")).split()[0] for _ in range(2)} == {"public", "private"}
            assert await program.ends(signal.SIGTERM) == 0, program
        assert await feed.ends(signal.SIGINT) == 0, feed


async def test_feed(tmp_path: Path) -> None:
    """The feed for trying the examples works, and its clients notice its restarts."""
    command = (EXAMPLES / "feed.py", "--port", 0, "--restart", 1, "--pause", 0.05)
    async with running(*command, cwd=tmp_path) as feed:
        uri = (await feed.says("serving ")).split()[1].rstrip(";")
        async with running(EXAMPLES / "one_feed.py", uri, "--count", 1_000_000, cwd=tmp_path) as program:
            await program.says("session 1")
            await program.says("session 2")
            assert await program.ends(signal.SIGINT) == 130, program
        assert await feed.ends(signal.SIGINT) == 0, feed


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("[!.]*.*")), ids=lambda path: path.name)
def test_is_listed(path: Path) -> None:
    """The table contains every file."""
    table = (EXAMPLES / "README.md").read_text("utf-8")
    assert path.name == "README.md" or path.suffix == ".jsonl" or f"]({path.name})" in table
