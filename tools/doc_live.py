"""Runs the Python blocks of the documents.

A block can connect to the servers of the domain `example` (`wss://feed.example/trades`), which are one loopback server:
it sends prices, agrees to every request, and answers JSON-RPC. `wss://node.example` sends nothing by
itself, `wss://flaky.example` closes after three messages, and `wss://gone.example` answers 404.
"""

import ast
import asyncio
import contextlib
import io
import itertools
import json
import re
import sys
import threading
import traceback
import types
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

from websockets.asyncio.server import ServerConnection

from tools.doc_blocks import Block
from wsfleet import Fleet, State
from wsfleet.testing import FeedServer
from wsfleet.testing.faults import Close, Refuse

LIMIT_S = 20.0
"""Maximum duration of a block."""

SERVERS = re.compile(r"wss?://(\w+)\.example(?::\d+)?")


async def answer(client: ServerConnection) -> None:
    """Answer each request positively."""
    async for payload in client:
        with contextlib.suppress(ValueError, AttributeError):
            asked = json.loads(payload)
            if "method" in asked:
                await client.send(json.dumps({"jsonrpc": "2.0", "id": asked["id"], "result": "0x10"}))
            elif "op" in asked:
                await client.send(json.dumps({"op": asked["op"], "ok": True}))


async def serve(client: ServerConnection) -> None:
    """The behaviour of the servers of the domain `example`."""
    assert client.request is not None
    host = client.request.path.split("/")[1]
    if host == "node":
        return await answer(client)
    answering = asyncio.create_task(answer(client))
    try:
        for n in itertools.count(1):
            symbol = ("AMBER", "COBALT", "IVORY")[n % 3]
            await client.send(json.dumps({"symbol": symbol, "price": 100 + n % 7, "n": n}))
            if host == "flaky" and n == 3:
                return client._arm(Close(1012, "restarting"))  # type: ignore[attr-defined]
            await asyncio.sleep(0.002)
    finally:
        answering.cancel()


class Gone(FeedServer):
    """Knows no `wss://gone.example`."""

    async def _answer(self, connection: Any, request: Any) -> Any:
        refused = await super()._answer(connection, request)
        return await Refuse(404).answer(connection) if request.path.startswith("/gone") else refused


@contextlib.contextmanager
def servers() -> Iterator[str]:
    """The server, in its own loop independent of the blocks, and its address."""
    ready: list[str] = []
    stop: list[Callable[[], None]] = []
    listening = threading.Event()

    async def run() -> None:
        loop, end = asyncio.get_running_loop(), asyncio.Event()
        async with Gone(on_client=serve) as server:
            ready.append(server.uri)
            stop.append(lambda: loop.call_soon_threadsafe(end.set))
            listening.set()
            await end.wait()

    thread = threading.Thread(target=asyncio.run, args=(run(),))
    thread.start()
    listening.wait(LIMIT_S)
    try:
        yield ready[0]
    finally:
        stop[0]()
        thread.join()


def failure(block: Block, server: str) -> str | None:
    """The fault of a block: it raised, did not end, or did not print the expected output.

    A fleet that it creates is run until all endpoints have met their server and every processor has had a message; a
    program that calls `asyncio.run` is run until it ends, or has printed the expected text.
    """
    code = SERVERS.sub(lambda found: f"{server}/{found[1]}", block.code)
    wanted = block.markers.get("prints", "")
    module = types.ModuleType("block")
    output = io.StringIO()
    started: list[Any] = []
    try:
        with contextlib.redirect_stdout(output), known(module), held(started):
            exec(compile(ast.parse(code), str(block), "exec"), module.__dict__)  # noqa: S102
        with contextlib.redirect_stdout(output), known(module):
            if started:
                asyncio.run(finish(started[0], wanted, output))
            elif isinstance(module.__dict__.get("fleet"), Fleet):
                asyncio.run(watch(module.__dict__["fleet"], wanted, output))
    except (Exception, SystemExit):
        return traceback.format_exc()
    return None if wanted in output.getvalue() else f"{wanted!r} was not printed, but {output.getvalue()[-500:]!r}"


@contextlib.contextmanager
def held(started: list[Any]) -> Iterator[None]:
    """In this block, programs to be started are only recorded."""
    with mock.patch.object(Fleet, "run", return_value=None), mock.patch("asyncio.run", side_effect=started.append):
        yield


@contextlib.contextmanager
def known(module: types.ModuleType) -> Iterator[None]:
    """In this block, this module is found by its name."""
    sys.modules[module.__name__] = module
    try:
        yield
    finally:
        del sys.modules[module.__name__]


async def finish(program: Any, wanted: str, output: io.StringIO) -> None:
    task = asyncio.ensure_future(program)
    async with asyncio.timeout(LIMIT_S):
        while not task.done() and not (wanted and wanted in output.getvalue()):
            await asyncio.wait({task}, timeout=0.01)
    if task.done():
        await task
    else:
        task.cancel()
        await asyncio.wait({task})


async def watch(fleet: Fleet, wanted: str, output: io.StringIO) -> None:
    def done() -> bool:
        states = {each.state for each in fleet.connections.values()}
        rows = [row for row in fleet.stats().subscriptions if not row.pattern.startswith("$")]
        idle = [row for row in rows if row.processed + row.failed == 0 and row.pattern != "node"]
        return states <= {State.OPEN, State.FAILED} and not idle and wanted in output.getvalue()

    async with fleet:
        try:
            async with asyncio.timeout(LIMIT_S):
                while not done():  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
        except TimeoutError:
            raise AssertionError(f"an endpoint did not open, or a processor got no message: {fleet.stats()}") from None
    stats = fleet.stats()
    assert stats.balanced
    assert not [row for row in stats.subscriptions if row.failed], "a function raised"
