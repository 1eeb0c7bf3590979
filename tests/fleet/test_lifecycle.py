"""Faults of one part of a fleet do not affect others, and secrets do not appear in any output."""

import asyncio
import contextlib
import io
import json
import logging
import random
import subprocess
import sys
import traceback
from pathlib import Path
from typing import Any

import pytest

from wsfleet import Buffer, Connection, Endpoint, Fleet, Liveness, Message, Overflow, Reconnect, Session, State
from wsfleet.core.errors import ConnectFailed, EndpointFailed, HandshakeRejected, NotOpen
from wsfleet.testing import FakeTransport, FeedServer

URI = "ws://feed.test/"


class Stop(BaseException):
    """Like an exception with which some test tools and shells leave all code."""


def raises(error: BaseException) -> Any:
    async def processor(message: Message[Any]) -> None:
        raise error

    return processor


async def hangs(message: Message[Any]) -> None:
    await asyncio.sleep(10**6)


async def awaits_what_was_cancelled(message: Message[Any]) -> None:
    future = asyncio.get_running_loop().create_future()
    future.cancel()
    await future


@pytest.mark.looptime
async def test_processors_do_not_affect_each_other() -> None:
    """Processors that raise, hang, or raise CancelledError fail their own messages; all others get theirs."""
    transport = FakeTransport()
    fleet = Fleet(transport=transport, drain_s=1.0)
    bad = {
        "raises": raises(ZeroDivisionError()),
        "cancels": raises(asyncio.CancelledError()),
        "awaits": awaits_what_was_cancelled,
        "stops": raises(Stop()),
        "generator": raises(StopAsyncIteration()),
        "group": raises(BaseExceptionGroup("", [Stop()])),
        "hangs": hangs,
    }
    good: list[str] = []

    async def takes(message: Message[str]) -> None:
        good.append(f"{message.endpoint} {message.data}")

    for name, processor in bad.items():
        fleet.connect(URI, processor, name=name)
    fleet.connect(URI, takes, name="good")
    async with fleet:
        sockets = {name: await transport.accept(name) for name in [*bad, "good"]}
        for n in range(3):
            for socket in sockets.values():
                await socket.feed(str(n))
            await asyncio.sleep(1.0)
        assert good == ["good 0", "good 1", "good 2"]
        rows = {row.name: row for row in fleet.stats().subscriptions}
        for name in bad:
            assert (rows[name].failed, rows[name].pending) == ((0, 3) if name == "hangs" else (3, 0)), name
            assert fleet.connections[name].state is State.OPEN
        assert fleet.stats().balanced
    assert fleet.stats().balanced


@pytest.mark.looptime
async def test_endpoints_do_not_affect_each_other() -> None:
    """Endpoints that fail, hang, reconnect or raise do not change the messages of another one."""
    transport = FakeTransport()
    fleet = Fleet(transport=transport)

    async def on_open_hangs(session: Session) -> None:
        await asyncio.sleep(10**6)

    async def uri_hangs() -> str:
        await asyncio.sleep(10**6)
        return URI

    async def uri_raises() -> str:
        raise OSError("no")

    def decode_raises(payload: object) -> object:
        raise ValueError("no")

    taken: list[str] = []

    async def takes(message: Message[str]) -> None:
        taken.append(message.data)

    transport.refuse(HandshakeRejected(404))
    fleet.connect(URI, name="fails")
    fleet.connect(Endpoint(URI, name="hangs", on_open=on_open_hangs))
    fleet.connect(Endpoint(uri_hangs, name="uri-hangs"))
    fleet.connect(Endpoint(uri_raises, name="uri-raises"))
    fleet.connect(URI, name="decodes", decode=decode_raises)
    fleet.connect(URI, takes, name="good")
    async with fleet:
        good = await transport.accept("good")
        odd = await transport.accept("decodes")
        for n in range(100):
            await good.feed(str(n))
            await odd.feed("x")
            await asyncio.sleep(1.0)
        assert [int(data) for data in taken] == list(range(100))
        assert fleet.connections["decodes"].stats().malformed == 100
        assert fleet.connections["good"].stats().losses == 0
        assert fleet.stats().balanced


@pytest.mark.looptime
async def test_a_full_mailbox_pauses_only_the_endpoints_that_feed_it() -> None:
    """A hanging processor under PAUSE pauses its own endpoint; the others are read."""
    transport = FakeTransport()
    fleet = Fleet(transport=transport, drain_s=0.0)
    taken: list[str] = []

    async def takes(message: Message[str]) -> None:
        taken.append(message.data)

    stuck = fleet.connect(URI, hangs, name="stuck", buffer=Buffer(messages=5))
    fleet.connect(URI, takes, name="good")
    async with fleet:
        first, second = await transport.accept("stuck"), await transport.accept("good")
        feeding = asyncio.create_task(first.feed(*["x" * 2**16] * 50))
        for n in range(50):
            await second.feed(str(n))
        await asyncio.sleep(600.0)
        assert len(taken) == 50
        assert stuck.stats().paused_by == ("stuck",)
        assert stuck.stats().received <= 6
        feeding.cancel()


@pytest.mark.looptime
async def test_random_events_keep_the_counts_balanced() -> None:
    """Endpoints and subscriptions come, go, fail and restart at random; the counts balance at each step and
    afterwards.
    """
    dice = random.Random(7)
    transport = FakeTransport()
    fleet = Fleet(transport=transport, drain_s=2.0)
    sockets: list[Any] = []
    pulled: list[Any] = []

    async def processor(message: Message[str]) -> None:
        await asyncio.sleep(dice.random() * 0.2)
        if dice.random() < 0.2:
            raise ZeroDivisionError

    async def on_open(session: Session) -> None:
        if dice.random() < 0.3:
            await session.recv()
        if dice.random() < 0.2:
            raise ZeroDivisionError

    async def accept() -> None:
        while True:
            if dice.random() < 0.2:
                transport.refuse(dice.choice([ConnectFailed("tcp", "no"), HandshakeRejected(500)]))
            sockets.append(await transport.accept())
            await asyncio.sleep(0.01)

    def connect() -> None:
        overflow = dice.choice([Overflow.PAUSE, Overflow.DROP_OLDEST])
        buffer = Buffer(messages=dice.randint(1, 5), overflow=overflow)
        plan = Reconnect(initial_s=0.1, max_s=1.0)
        fleet.connect(URI, processor, buffer=buffer, on_open=on_open, reconnect=plan, open_s=1.0)

    async with fleet:
        accepting = asyncio.create_task(accept())
        feeding: set[asyncio.Task[None]] = set()
        closing: set[asyncio.Task[None]] = set()
        for _ in range(600):
            connections: list[Connection] = list(fleet.connections.values())
            act = dice.randint(0, 9)
            if act == 0 and len(connections) < 10:
                connect()
            elif act == 1 and len(connections) > 3:
                closing.add(asyncio.create_task(dice.choice(connections).close()))
            elif act == 2 and connections:
                with contextlib.suppress(NotOpen):  # it is already closing
                    dice.choice(connections).restart()
            elif act == 3 and sockets:
                dice.choice(sockets).lose()
            elif act == 4:
                pulled.append(fleet.subscribe(dice.choice([">", "*", "$state.*"]), buffer=Buffer(messages=3)))
            elif act == 5 and pulled:
                pulled.pop(dice.randrange(len(pulled))).close()
            elif act == 6:
                fleet.publish("mine", "x")
            elif sockets:
                feeding.add(asyncio.create_task(dice.choice(sockets).feed(*["x"] * dice.randint(1, 4))))
            await asyncio.sleep(dice.random() * 0.1)
            assert fleet.stats().balanced
        accepting.cancel()
        await asyncio.sleep(0)
    assert fleet.stats().balanced
    assert all(row.pending == 0 for row in fleet.stats().subscriptions)
    await asyncio.gather(*feeding, *closing, return_exceptions=True)


@pytest.mark.looptime
async def test_at_most_two_tasks_for_each_connection() -> None:
    """A hundred connections with processors are two hundred tasks, and two of the fleet itself."""
    transport = FakeTransport()
    before = len(asyncio.all_tasks())
    fleet = Fleet(transport=transport)

    async def takes(message: Message[str]) -> None: ...

    for n in range(100):
        fleet.connect(URI, takes, name=f"n{n}", liveness=Liveness(stale_s=60.0, heartbeat="x", heartbeat_s=5.0))
    async with fleet:
        sockets = [await transport.accept() for _ in range(100)]
        for socket in sockets:
            await socket.feed("x")
        await asyncio.sleep(6.0)
        assert len(asyncio.all_tasks()) - before <= 2 * 100 + 2
        names = {task.get_name() for task in asyncio.all_tasks()}
        assert {"wsfleet-fleet", "wsfleet-sweep", "wsfleet-n7", "wsfleet-n7-processor"} <= names


SECRETS = {
    "userinfo": "hunter2hunter2",
    "query": "s3cr3tt0k3n",
    "path": "0a1b2c3d4e5f60718293a4b5c6d7",
    "header": "b34r3r-v4lu3",
    "cookie": "sess10n-v4lu3",
}
SECRET_URI = "ws://user:{userinfo}@127.0.0.1:{port}/v2/{path}?listenKey={query}"


async def test_no_output_contains_a_secret(caplog: pytest.LogCaptureFixture) -> None:
    """No secret of URI or headers is in stats, logs, reprs, records or errors, even if a server repeats it."""
    caplog.set_level(logging.DEBUG)
    shown: list[str] = []

    def note(error: BaseException) -> None:
        shown.append("".join(traceback.format_exception(error)))
        shown.append(repr(error))

    async def headers() -> dict[str, str]:
        return {"Authorization": f"Bearer {SECRETS['header']}", "Cookie": f"sid={SECRETS['cookie']}"}

    attempts = 0

    async with FeedServer() as server:
        uri = SECRET_URI.format(port=server.port, **SECRETS)

        async def make_uri() -> str:
            return uri

        async def on_open(session: Session) -> None:
            nonlocal attempts
            attempts += 1
            shown.append(repr(session))
            if attempts == 1:
                raise RuntimeError(f"login at {uri} with {SECRETS['header']} refused")

        endpoint = Endpoint(
            make_uri,
            name="feed",
            headers=headers,
            on_open=on_open,
            proxy=False,
            reconnect=Reconnect(initial_s=0.0, max_s=0.0),
        )
        fleet = Fleet()
        states = fleet.subscribe("$state.feed")
        connection = fleet.connect(endpoint)
        shown += [repr(endpoint), repr(Endpoint(uri, headers=await headers()))]
        async with fleet:
            await connection.wait_open()
            await server.wait_clients(1)
            server.refuse(401, {"X-Echo": SECRETS["query"]})
            server.close(4000, f"bad token {SECRETS['query']}")
            with pytest.raises(EndpointFailed) as failed:
                await connection.wait_open() if connection.state is not State.OPEN else await until_failed(connection)
            note(failed.value)
            shown += [repr(connection), repr(fleet), str(fleet.stats()), json.dumps(fleet.stats().to_dict())]
            while connection.state is not State.FAILED:
                await asyncio.sleep(0)
            for _ in range(7):
                change = (await anext(states)).data
                shown.append(repr(change))
                if change.error is not None:
                    note(change.error)
                if change.state is State.FAILED:
                    break
            states.close()
        shown.append(str(fleet.stats()))
    out = io.StringIO()
    handler = logging.StreamHandler(out)
    for record in caplog.records:
        if record.name != "wsfleet.testing":  # the log of the server itself
            handler.handle(record)
    shown.append(out.getvalue())
    everything = "\n".join(shown)
    assert "127.0.0.1" in everything
    assert "bad token" in everything
    leaks = [line for line in everything.splitlines() if any(secret in line for secret in SECRETS.values())]
    assert not leaks


async def until_failed(connection: Connection) -> None:
    while connection.state is State.OPEN:
        await asyncio.sleep(0.001)
    await connection.wait_open()


@pytest.mark.looptime
async def test_a_fault_in_fatal_shows_no_secret_either(caplog: pytest.LogCaptureFixture) -> None:
    """A failure of the supervisor itself does not show a secret that its error contains."""
    transport = FakeTransport()
    transport.refuse(ConnectFailed("tcp", "no"))
    uri = f"{URI}?token={SECRETS['query']}"

    def fatal(error: Exception) -> bool:
        raise ValueError(f"cannot judge {uri}")

    fleet = Fleet(transport=transport)
    connection = fleet.connect(uri, name="feed", reconnect=Reconnect(fatal=fatal))
    async with fleet:
        with pytest.raises(EndpointFailed) as caught:
            await connection.wait_open()
    assert "cannot judge" in str(caught.value)
    text = "".join(traceback.format_exception(caught.value)) + caplog.text
    assert SECRETS["query"] not in text


def test_python_dev_mode_is_clean(tmp_path: Path) -> None:
    """A complete run with -X dev and warnings as errors writes nothing to the standard error."""
    program = tmp_path / "program.py"
    program.write_text(
        """
import asyncio
from wsfleet import Fleet
from wsfleet.testing import FeedServer

async def main():
    # Whether a turn was slow is the machine's doing, and logged in debug mode.
    asyncio.get_running_loop().slow_callback_duration = 60.0
    async with FeedServer() as server:
        fleet = Fleet()
        got = []
        async def processor(message):
            got.append(message.data)
            await connection.send("ack")
        connection = fleet.connect(server.uri, processor)
        async with fleet:
            for n in range(3):
                await server.wait_clients(1)
                await server.send("x")
                while len(got) <= n:
                    await asyncio.sleep(0.001)
                server.drop()
                connection.restart()
    assert fleet.stats().balanced

asyncio.run(main())
"""
    )
    command = [sys.executable, "-X", "dev", "-W", "error", str(program)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    warnings = [line for line in done.stderr.splitlines() if " connection lost: " not in line]
    assert (done.returncode, done.stdout, warnings) == (0, "", [])
