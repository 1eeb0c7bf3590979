"""The simulated program: the methods that it calls while the fleet runs, and how it ends the fleet."""

import asyncio
import random
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from tests.simulation.declaring import Declaring
from tests.simulation.ledger import Ledger, Numbered, Reader
from tests.simulation.world import clock
from wsfleet import Connection, Overflow
from wsfleet.core.errors import FleetError

REQUEST_S = 2.0

LONGEST_S = 5.0
"""Maximum time between the end of the fleet and that of the user's tasks."""


class User:
    """Performs actions one after the other; long ones in their own tasks."""

    def __init__(self, declaring: Declaring, ledger: Ledger, chance: random.Random) -> None:
        self.declaring = declaring
        self.fleet = declaring.fleet
        self.tasks: dict[asyncio.Task[None], str] = {}
        self.closed = False
        self.published = 0
        self.asked = 0
        self._ledger = ledger
        self._chance = chance
        declaring.deeds += [self._publish, self._restart, self._close_connection]
        self._free: list[str] = []
        self._loops: dict[Connection, Reader] = {}

    def close(self) -> None:
        """Ask the fleet to end."""
        self._ledger.note("user closes")
        self.closed = True
        self._start(self.fleet.close)

    async def act(self) -> None:
        """Perform one action, and wait a while."""
        deeds: list[tuple[int, Callable[[], Awaitable[None]]]] = [
            (6, self._look),
            (4, self._publish),
            (3, self._send),
            (6, self._request),
            (2, self._restart),
            (3, self._loop),
            (2, self._loop_over_connection),
            (2, self._wait_open),
            (1, self._close_connection),
            (2, self._close_subscription),
            (1, self._connect),
            (1, self._process),
            (1, self._close_pool),
            (2, self._cancel),
        ]
        weights, acts = zip(*deeds, strict=True)
        deed = self._chance.choices(acts, weights)[0]
        self._ledger.note("user", deed.__name__)
        try:
            await deed()
        except FleetError as exc:
            self._ledger.note("refused to the user", type(exc).__name__)
        await asyncio.sleep(self._chance.choice([0, 0, 0.01, 0.1, 0.7]))

    async def _look(self) -> None:
        self._ledger.check(self.fleet.stats())

    async def _publish(self) -> None:
        for _ in range(self._chance.choice([1, 1, 5])):
            self.published += 1
            each = Numbered("user", self.published, self._chance.randrange(4))
            self.fleet.publish(f"news.{each.key}", each.text("text"))

    def _connection(self) -> Connection:
        return self._chance.choice(self.declaring.connections)

    async def _restart(self) -> None:
        connection = self._connection()
        self._ledger.restarted.add(connection.name)
        connection.restart()

    async def _send(self) -> None:
        self._start(self._connection().send, f"hello {self._chance.random()}")

    async def _wait_open(self) -> None:
        self._start(self._connection().wait_open)

    async def _close_connection(self) -> None:
        connection = self._connection()
        if self._chance.random() < 0.5:
            return
        self.declaring.own.pop(connection.name, None)
        self._note_closed(connection.name)
        self._free.append(connection.name)
        await connection.close()

    async def _close_pool(self) -> None:
        if self.declaring.pools and self._chance.random() < 0.3:
            pool = self._chance.choice(self.declaring.pools)
            self.declaring.own.pop(pool.name, None)
            self._note_closed(pool.name)
            self._start(pool.close)

    async def _connect(self) -> None:
        free = [name for name in self._free if name not in self.fleet.connections]
        self.declaring.connect(free[0] if free and self._chance.random() < 0.7 else None)

    async def _process(self) -> None:
        self.declaring.process()

    async def _close_subscription(self) -> None:
        names = [name for name in self.fleet.subscriptions if "watcher" not in name]
        if names:
            name = self._chance.choice(names)
            self.declaring.own.pop(name, None)
            self._note_closed(name)
            self.fleet.subscriptions[name].close()

    def _note_closed(self, name: str) -> None:
        for reader in self._ledger.readers:
            if reader.name == name:
                reader.closed = True

    async def _cancel(self) -> None:
        if self.tasks:
            self._chance.choice(list(self.tasks)).cancel()

    # Long actions

    def _start(self, do: Callable[..., Coroutine[Any, Any, None]], *arguments: object) -> None:
        task = asyncio.get_running_loop().create_task(self._do(do, *arguments))
        self.tasks[task] = do.__qualname__
        task.add_done_callback(self.tasks.pop)

    async def _do(self, do: Callable[..., Coroutine[Any, Any, None]], *arguments: object) -> None:
        try:
            await do(*arguments)
        except (FleetError, asyncio.CancelledError) as exc:
            self._ledger.note(do.__qualname__, "ends with", type(exc).__name__)
            if isinstance(exc, asyncio.CancelledError):
                raise
        except BaseException as exc:
            self._ledger.fault(f"{do.__qualname__} raised {exc!r}")

    async def _request(self) -> None:
        if self.declaring.pools:
            self._start(self._ask)

    async def _ask(self) -> None:
        self.asked += 1
        mine, began = self.asked, clock()
        pool = self._chance.choice(self.declaring.pools)
        try:
            wait = self._chance.random() < 0.8
            reply = await pool.request({"method": "echo", "id": f"mine-{mine}", "params": mine}, REQUEST_S, wait)
            good = reply["result"] == mine and reply["id"] == f"mine-{mine}"
            self._ledger.expect(good, f"{reply} is no reply to request {mine}")
        finally:
            self._ledger.expect(clock() - began < REQUEST_S + 0.01, f"a request took {clock() - began} s")

    async def _loop(self) -> None:
        self._start(self._read)

    async def _read(self) -> None:
        subscription, reader = self.declaring.subscribe()
        many = self._chance.random() < 0.3
        async with subscription:
            try:
                if many:
                    async for batch in subscription.batches():
                        for message in batch:
                            reader.take(message)
                        await self._dawdle()
                else:
                    async for message in subscription:
                        reader.take(message)
                        await self._dawdle()
            finally:
                reader.closed = True

    async def _loop_over_connection(self) -> None:
        self._start(self._read_connection, self._connection())

    async def _read_connection(self, connection: Connection) -> None:
        loop = aiter(connection)
        if connection not in self._loops:
            self._loops[connection] = Reader(f"loops over {connection.name}", self._ledger, Overflow.PAUSE)
        reader = self._loops[connection]
        async for message in loop:
            reader.take(message)
            await self._dawdle()

    async def _dawdle(self) -> None:
        if self._chance.random() < 0.3:
            await asyncio.sleep(self._chance.choice([0, 0.05, 1.0, LONGEST_S]))
