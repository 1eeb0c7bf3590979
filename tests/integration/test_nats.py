"""A fleet on nats-server's WebSocket port: the server sends first, and the protocol uses binary frames."""

import asyncio
import json
from collections import defaultdict
from pathlib import Path

import pytest

from tests.integration.helpers import QUICK, Numbers, endpoint, opened, subscription, until
from tests.support.servers.nats import NatsServer
from tests.support.servers.node_ws import NodeWs
from wsfleet import Buffer, Endpoint, Fleet, Liveness, Message, Reconnect, Session, State

pytestmark = pytest.mark.integration


class Login:
    """A NATS client's login: INFO, CONNECT, SUB, and a PING whose PONG confirms all of it."""

    def __init__(self, subject: str) -> None:
        self.subject = subject
        self.sessions: list[int] = []

    async def on_open(self, session: Session) -> None:
        info = await session.recv(match=lambda message: message.data.startswith(b"INFO "))
        assert "server_id" in json.loads(info.data[5:])
        await session.send(b'CONNECT {"verbose":false,"pedantic":false}\r\nPING\r\n')
        await session.recv(match=lambda message: message.data == b"PONG\r\n")
        await session.send(f"SUB {self.subject} 1\r\nPING\r\n".encode())
        # From here on the server may put messages into the frame of the PONG.
        await session.recv(match=lambda message: b"PONG\r\n" in message.data)
        self.sessions.append(session.number)


class Reader:
    """`take` is a processor that parses the NATS protocol, whose lines need not end with a frame."""

    def __init__(self) -> None:
        self.payloads: dict[int, list[bytes]] = defaultdict(list)
        self.pings = 0
        self._rest: dict[int, bytes] = defaultdict(bytes)

    async def take(self, message: Message[bytes]) -> None:
        rest = self._rest[message.session] + message.data
        while b"\r\n" in rest:
            line, _, after = rest.partition(b"\r\n")
            if line.startswith(b"MSG "):
                size = int(line.split()[-1])
                if len(after) < size + 2:
                    break
                self.payloads[message.session].append(after[:size])
                after = after[size + 2 :]
            elif line == b"PING":
                self.pings += 1
                await self.answer()
            rest = after
        self._rest[message.session] = rest

    async def answer(self) -> None:
        """Answers the server's PING."""

    def numbers(self, session: int) -> list[int]:
        return [int(payload) for payload in self.payloads[session]]


async def publish_for_ever(server: NatsServer, subject: str) -> None:
    """Publishes 1, 2, 3, ...; messages that were in transit when the server died are not published again."""
    number = 0
    while True:
        batch = [str(number := number + 1).encode() for _ in range(50)]
        try:
            await server.publish(subject, batch)
        except (OSError, asyncio.IncompleteReadError):
            pass
        await asyncio.sleep(0.005)


@pytest.mark.parametrize("end", ["kill", "stop", "freeze"])
async def test_killed_in_mid_flow_the_fleet_logs_in_again(tmp_path: Path, end: str) -> None:
    """After a NATS server dies or freezes, the fleet logs in again; another server's feed is not affected."""
    login, reader, numbers = Login("ticks"), Reader(), Numbers()
    lively = Liveness(ping_s=0.5, pong_s=0.5) if end == "freeze" else Liveness()
    async with NatsServer(tmp_path) as nats, NodeWs(tmp_path) as node:
        fleet = Fleet()
        ticks = fleet.connect(
            Endpoint(nats.uri, name="ticks", decode="bytes", on_open=login.on_open, reconnect=QUICK, liveness=lively),
            reader.take,
        )
        fleet.connect(Endpoint(f"{node.uri}/feed?rate=200", name="other", decode="json"), numbers.take)
        async with fleet, asyncio.TaskGroup() as tasks:
            await opened(ticks)
            publisher = tasks.create_task(publish_for_ever(nats, "ticks"))
            await until(lambda: len(reader.payloads[1]) >= 500, "500 messages before the server dies")

            if end == "freeze":
                nats.freeze()
            else:
                await (nats.kill() if end == "kill" else nats.stop())
            await until(lambda: ticks.state is not State.OPEN, "the loss is noticed")
            assert endpoint(fleet, "ticks").losses == 1
            before = numbers.count("other")
            await until(lambda: numbers.count("other") > before + 20, "the other feed continues meanwhile")

            if end == "freeze":
                nats.thaw()
            else:
                await nats.start()
            await until(lambda: len(reader.payloads[2]) >= 500, "500 messages after the restart")
            publisher.cancel()
            assert ticks.state is State.OPEN
            assert ticks.session_count == 2
            assert login.sessions == [1, 2]
        for session in (1, 2):
            got = reader.numbers(session)
            assert got == list(range(got[0], got[0] + len(got)))
        assert endpoint(fleet, "ticks").connects == 2
        other = endpoint(fleet, "other")
        assert (other.connects, other.losses) == (1, 0)
        numbers.assert_no_holes()


async def test_an_application_ping_is_answered_by_the_processor(tmp_path: Path) -> None:
    """NATS closes a client that does not answer its PINGs; one whose processor answers them stays connected."""
    login, reader = Login("ticks"), Reader()
    async with NatsServer(tmp_path, ping_interval="500ms") as nats:
        fleet = Fleet()
        ticks = fleet.connect(Endpoint(nats.uri, name="ticks", decode="bytes", on_open=login.on_open), reader.take)

        async def answer() -> None:
            await ticks.send(b"PONG\r\n")

        reader.answer = answer
        async with fleet:
            # Its limit is two unanswered ones.
            await until(lambda: reader.pings >= 5, "the server's pings")
            await nats.publish("ticks", [b"1"])
            await until(lambda: reader.numbers(1) == [1], "a message after them")
        assert endpoint(fleet, "ticks").losses == 0


async def test_an_unanswered_application_ping_ends_the_connection(tmp_path: Path) -> None:
    """If a processor ignores NATS's PINGs, the connection is closed, and reconnected each time."""
    login, reader = Login("ticks"), Reader()
    async with NatsServer(tmp_path, ping_interval="300ms") as nats:
        fleet = Fleet()
        ticks = fleet.connect(
            Endpoint(nats.uri, name="ticks", decode="bytes", on_open=login.on_open, reconnect=QUICK), reader.take
        )
        async with fleet:
            await until(lambda: ticks.session_count >= 3, "disconnected twice")
        assert endpoint(fleet, "ticks").losses >= 2


async def test_last_error_explains_why_a_paused_client_was_disconnected(tmp_path: Path) -> None:
    """If NATS closes a client that did not read, `last_error` contains who had paused it, and for how long."""
    login = Login("ticks")

    async def stuck(message: Message[bytes]) -> None:
        await asyncio.Event().wait()

    async with NatsServer(tmp_path, ping_interval="300ms") as nats:
        fleet = Fleet(drain_s=0)
        once = Reconnect(initial_s=3600, max_s=3600, jitter=0)
        ticks = fleet.connect(
            Endpoint(
                nats.uri,
                name="ticks",
                decode="bytes",
                on_open=login.on_open,
                liveness=Liveness(ping_s=0.1),
                reconnect=once,
            ),
            stuck,
            buffer=Buffer(messages=1),
        )
        async with fleet:
            await opened(ticks)
            await nats.publish("ticks", [b"x" * 1000] * 10)
            await until(lambda: endpoint(fleet, "ticks").paused_by == ("ticks",), "the pause")
            await until(lambda: endpoint(fleet, "ticks").last_error, "the loss")
            assert " s paused by ticks" in endpoint(fleet, "ticks").last_error
            assert "closed by the peer after" in endpoint(fleet, "ticks").last_error


async def test_a_processor_that_raises_fails_only_its_message(tmp_path: Path) -> None:
    """Messages whose processing raised are counted as failed and become dead letters; the others are processed."""
    login = Login("ticks")
    reader = Reader()
    dead: list[bytes] = []

    async def picky(message: Message[bytes]) -> None:
        if b"\r\nbad\r\n" in message.data:
            raise ValueError("not to my taste")
        await reader.take(message)

    async with NatsServer(tmp_path) as nats:
        fleet = Fleet()
        ticks = fleet.connect(Endpoint(nats.uri, name="ticks", decode="bytes", on_open=login.on_open), picky)

        @fleet.process("$dead.*", name="dead")
        async def bury(message: Message) -> None:
            assert isinstance(message.data.error, ValueError)
            assert message.data.attempts == 1
            dead.append(message.data.message.data)

        async with fleet:
            await opened(ticks)
            # One at a time, so that each is in its own frame.
            for number in range(1, 31):
                await nats.publish("ticks", [b"bad" if number % 3 == 0 else b"%d" % number])
                await until(lambda n=number: len(reader.payloads[1]) + len(dead) == n, "the message")
        assert reader.numbers(1) == [n for n in range(1, 31) if n % 3]
        row = subscription(fleet, "ticks")
        assert (row.failed, row.dropped, row.pending) == (10, 0, 0)
        assert endpoint(fleet, "ticks").losses == 0
