"""Checks for each row of the fault matrix: one endpoint has a fault and recovers, another one is not affected.

Both get numbers, and the server records which ones it sent on which socket. So the numbers that the fault destroyed
can be distinguished from other losses: a broken connection may lose the last numbers of its own socket,
and no others.
"""

import asyncio
import contextlib
import gc
import json
import socket
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Callable
from typing import Any

from websockets.asyncio.server import ServerConnection

from tests.support.peers import HOST, Handler, listening
from wsfleet import Connection, Fleet, Liveness, Message, Reconnect, State
from wsfleet.core.message import StateChange
from wsfleet.endpoint.session import SessionCore
from wsfleet.testing import FeedServer
from wsfleet.transport.websockets import WebSocketWire

# Short for tests; the bound still grows.
QUICK = Reconnect(initial_s=0.02, max_s=0.2)

# Detects a dead peer soon.
LIVELY = Liveness(ping_s=0.2, pong_s=0.3)

# Time limit for events that must happen, not a measure of speed.
PATIENCE_S = 60.0

EVERY_S = 0.005


async def until(holds: Callable[[], Any], what: str) -> None:
    """Wait until `holds()`; fail with `what` after the time limit."""
    try:
        async with asyncio.timeout(PATIENCE_S):
            while not holds():
                await asyncio.sleep(0.005)
    except TimeoutError:
        raise AssertionError(f"waited in vain: {what}") from None


class Numbered(FeedServer):
    """Sends each number to one client, once; `handed` has, for each client, the numbers that were sent on its socket.

    Without a `limit` it continues until the client has disconnected.
    """

    def __init__(self, *, limit: int | None = None, **options: Any) -> None:
        super().__init__(on_client=self._count, **options)
        self.handed: list[list[int]] = []
        self._number = 0
        self._limit = limit

    async def _count(self, client: ServerConnection) -> None:
        given: list[int] = []
        self.handed.append(given)
        # Each number is a packet of its own.
        client.transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        while self._limit is None or len(given) < self._limit:
            self._number += 1
            given.append(self._number)
            await client.send(json.dumps({"n": self._number}))
            await asyncio.sleep(EVERY_S)


async def joined(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, port: int) -> None:
    """Carry the bytes of a connection to `port` on loopback and back, until one of both sides ends."""
    there, back = await asyncio.open_connection(HOST, port)

    async def carry(source: asyncio.StreamReader, to: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await source.read(2**16):
                to.write(data)
                await to.drain()

    ways = [asyncio.ensure_future(carry(reader, back)), asyncio.ensure_future(carry(there, writer))]
    try:
        await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for way in ways:
            way.cancel()
        await asyncio.wait(ways)
        back.transport.abort()


@contextlib.asynccontextmanager
async def behind(server: FeedServer, *faults: Handler, **options: Any) -> AsyncIterator[int]:
    """A port that handles its first connections as `faults` specify, and forwards all later ones to `server`."""
    to_come = list(faults)

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if to_come:
            await to_come.pop(0)(reader, writer)
        else:
            await joined(reader, writer, server.port)

    async with listening(handle, **options) as port:
        yield port


class Case:
    """A running fleet whose endpoint `sick` gets the fault; `changes` and `seen` are the records that its user gets."""

    def __init__(self, fleet: Fleet, uri: Any, calm_uri: str, options: dict[str, Any]) -> None:
        self.fleet = fleet
        # Objects of other tests may be referenced by tracebacks in their logs.
        self._older = {id(each) for each in gc.get_objects() if type(each) in (SessionCore, WebSocketWire)}
        self.changes: list[StateChange] = []
        self.seen: dict[tuple[str, int], list[int]] = defaultdict(list)
        plan = {"reconnect": QUICK, "proxy": False, "close_s": 0.2} | options
        self.sick: Connection = fleet.connect(uri, self._take, name="sick", decode="json", **plan)
        self.calm: Connection = fleet.connect(calm_uri, self._take, name="calm", decode="json", proxy=False)
        fleet.process("$state.*", name="changes")(self._change)

    async def _take(self, message: Message[Any]) -> None:
        self.seen[message.endpoint, message.session].append(message.data["n"])

    async def _change(self, message: Message[StateChange]) -> None:
        if message.data.endpoint == "calm":
            # CLOSED comes at the end of the fleet.
            assert message.data.state in (State.OPEN, State.CLOSED), message.data
        else:
            self.changes.append(message.data)

    @property
    def errors(self) -> list[Exception]:
        """The causes of each change from CONNECTING or OPEN."""
        return [change.error for change in self.changes if change.error is not None]

    @property
    def shown(self) -> str:
        """The `last_error` of the faulty endpoint in the stats."""
        (row,) = (row for row in self.fleet.stats().endpoints if row.name == "sick")
        return row.last_error or ""

    def sessions(self, name: str = "sick") -> list[list[int]]:
        """The numbers received in each session that received any."""
        return [numbers for (endpoint, _), numbers in sorted(self.seen.items()) if endpoint == name]

    async def flows(self, name: str = "sick", more: int = 10) -> None:
        """Wait until this many more numbers have arrived in the current session, or a later one."""
        connection = self.fleet.connections[name]
        await until(lambda: connection.state is State.OPEN, f"{name} opens; {self.shown}")
        session, before = connection.session_count, len(self.seen[name, connection.session_count])
        await until(
            lambda: any(
                endpoint == name and (number > session or (number == session and len(numbers) >= before + more))
                for (endpoint, number), numbers in list(self.seen.items())
            ),
            f"{name} goes on; {self.shown}",
        )

    async def fails(self, count: int = 1) -> Exception:
        """Wait until this many attempts and sessions have failed, and return the first one's error."""
        await until(lambda: len(self.errors) >= count, "the fault is reported")
        return self.errors[0]

    async def comes_back(self) -> None:
        """Wait until a new session receives numbers, and the other endpoint has continued, too."""
        await until(lambda: self.sick.state is State.OPEN, f"sick is back; {self.shown}")
        await self.flows()
        await self.flows("calm")

    # Invariants

    async def watch(self) -> None:
        """Check the balance and the other endpoint repeatedly."""
        while True:
            self.assert_balanced()
            assert self.calm.state is State.OPEN
            await asyncio.sleep(0.01)

    def assert_balanced(self) -> None:
        stats = self.fleet.stats()
        assert stats.balanced, stats.to_dict()

    def assert_bystander_unharmed(self) -> None:
        assert (self.calm.session_count, self.calm.stats().losses) == (1, 0)
        (numbers,) = self.sessions("calm")
        assert numbers == list(range(1, len(numbers) + 1))

    def assert_sessions_are_freed(self) -> None:
        """Sessions that have ended are no longer in memory."""
        gc.collect()
        kinds = Counter(type(each) for each in gc.get_objects() if id(each) not in self._older)
        is_open = sum(connection.state is State.OPEN for connection in (self.sick, self.calm))
        assert max(kinds[SessionCore], kinds[WebSocketWire]) <= is_open, (kinds[SessionCore], kinds[WebSocketWire])

    def destroyed(self, handed: list[list[int]]) -> int:
        """The number of values sent to the faulty endpoint that were not received.

        Each session must have received the first values of one socket, in order; only the last ones may be missing.
        """
        starts = {numbers[0]: numbers for numbers in handed if numbers}
        for numbers in self.sessions():
            given = starts.pop(numbers[0])
            assert numbers == given[: len(numbers)], (numbers, given)
        return sum(map(len, handed)) - sum(map(len, self.sessions()))


@contextlib.asynccontextmanager
async def suffering(uri: Any, **options: Any) -> AsyncIterator[Case]:
    """A fleet with an endpoint for `uri`, and a healthy one whose server is on another host."""
    async with Numbered() as calm:
        case = Case(Fleet(), uri, calm.uri, options)
        async with case.fleet:
            await case.calm.wait_open()
            watching = asyncio.create_task(case.watch())
            try:
                await case.flows("calm")
                yield case
                await case.flows("calm")
                case.assert_sessions_are_freed()
            finally:
                watching.cancel()
                await asyncio.wait([watching])
            if not watching.cancelled():
                watching.result()
        case.assert_balanced()
        case.assert_bystander_unharmed()
        rows = {row.name: row for row in case.fleet.stats().subscriptions}
        assert [row.failed for row in rows.values()] == [0] * len(rows)
        # The last state changes come after the end.
        assert (rows["sick"].dropped, rows["calm"].dropped) == (0, 0)
