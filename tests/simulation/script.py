"""One scripted run, always the same, with a step for each method that a user may await."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, cast

from tests.simulation.network import SlowWire, Socket
from tests.simulation.world import World, clock
from wsfleet import Buffer, Fleet, FleetStats, Liveness, Message, Overflow, Reconnect, Retry, Session, State
from wsfleet.core.errors import ConnectFailed, ConnectionLost, FleetError
from wsfleet.testing import FakeTransport
from wsfleet.transport.base import DialRequest, Progress, Wire

HOLDERS = ("context", "serve")
PARTS = ("request", "send", "wait_open", "wait", "loop", "batches", "iter", "close", "close_pool", "asks_to_close")
WORKERS = ("wsfleet-feed-processor", "wsfleet-work-processor", "wsfleet-feed")
EVERYTHING = "everything"

URI = "ws://feed.test/"
LONG_S = 100.0

NEVER = 10**9
"""The turn of a trial run, which records in which turns each task can be cancelled."""

WATCHED = 40
"""Number of turns after the cancellation in which the balance is checked; at the end it is always checked."""


class Network(FakeTransport):
    """A feed that is lost, refused once and reconnected; a pool that answers; another one that does not answer."""

    def __init__(self) -> None:
        super().__init__()
        self.sockets: list[Socket] = []
        self.tasks: set[asyncio.Task[None]] = set()
        self._attempts = 0

    async def open(self, target: DialRequest, progress: Progress) -> Wire:
        await asyncio.sleep(0.01)
        if target.name == "feed":
            self._attempts += 1
            if self._attempts == 2:
                raise ConnectFailed("tcp", "planted")
        socket = Socket(target)
        self.sockets.append(socket)
        life = self._feed if target.name == "feed" else self._answer
        self.tasks.add(asyncio.get_running_loop().create_task(life(socket), name="server"))
        return SlowWire(socket)

    async def _feed(self, socket: Socket) -> None:
        try:
            await socket.next_sent()
            await socket.feed("0", "welcome", "1")
            await socket.feed("2", "3", "4", "5")
            socket.writable.clear()
            await asyncio.sleep(0.05)
            socket.writable.set()
            await socket.feed("6", "7")
            await asyncio.sleep(0.1)
        except ConnectionLost:
            return
        if self._attempts == 1:
            socket.lose()

    async def _answer(self, socket: Socket) -> None:
        try:
            while True:
                sent = await socket.next_sent()
                await asyncio.sleep(0.02)
                await socket.feed(cast(str, sent))  # its id makes it a reply
        except ConnectionLost:
            pass


class Script:
    """Runs the script with a `victim` that is cancelled in the loop's turn of the number `turn`."""

    def __init__(self, victim: str, turn: int) -> None:
        self.victim = victim
        self.turn = turn
        self.alive: dict[str, list[int]] = {}
        self.cancelled: asyncio.Task[Any] | None = None
        self.faults: list[str] = []
        self.seen: list[str] = []
        self.parts: dict[str, asyncio.Task[None]] = {}

    def play(self, *, collects: bool = True) -> FleetStats:
        """Run the script and collect faults; with `collects`, also those of earlier runs that the garbage collector
        finds.
        """
        world = World(0)
        world.loop.on_turn = self._on_turn
        world.run(self._play(), until=LONG_S, collects=collects)
        self.faults += world.faults
        return self.fleet.stats()

    def _on_turn(self, turn: int) -> None:
        if turn < 2:
            return  # nothing has begun
        if self.turn == NEVER:
            for name in {EVERYTHING, *(task.get_name() for task in self._tasks())}:
                self.alive.setdefault(name, []).append(turn)
        if turn == self.turn:
            for task in self._tasks():
                if self.victim in (EVERYTHING, task.get_name()) and task.cancel():
                    self.cancelled = task
        if self.turn <= turn < self.turn + WATCHED and not self.fleet.stats().balanced:
            self.faults.append(f"not balanced in turn {turn}: {self.fleet.stats().to_dict()}")

    @staticmethod
    def _tasks() -> list[asyncio.Task[Any]]:
        return [task for task in asyncio.all_tasks() if task.get_name() not in ("script", "server")]

    async def _play(self) -> None:
        task = asyncio.current_task()
        assert task is not None
        task.set_name("script")
        self.network = Network()
        self._declare()
        holding = self._serve() if self.victim == "serve" else self._context()
        holder = self._task(self.victim if self.victim in HOLDERS else "holder", holding)
        await asyncio.wait({holder})
        await self.fleet.close()  # if it never began
        if not holder.cancelled() and holder.exception() is not None:
            self.faults.append(f"the fleet ended with {holder.exception()!r}")
        await self._look_back(task, holder)

    def _declare(self) -> None:
        self.fleet = Fleet(transport=self.network, drain_s=1.0)
        buffer = Buffer(4, overflow=Overflow.PAUSE)
        self.feed = self.fleet.connect(
            URI,
            self._take,
            name="feed",
            on_open=self._log_in,
            buffer=buffer,
            retry=Retry(2, 0.01, 0.01),
            reconnect=Reconnect(0.01, 0.02, jitter=0),
            liveness=Liveness(ping_s=0.05),
        )
        self.pool = self.fleet.pool(URI, 2, name="pool")
        self.extra = self.fleet.connect(URI, name="extra")
        self.fleet.process("feed", name="work", batch=3, concurrency=2, timeout_s=0.03)(self._take_some)

    async def _log_in(self, session: Session) -> None:
        await session.send("login")
        await session.recv(lambda message: message.data == "welcome")

    async def _take(self, message: Message[str]) -> None:
        await asyncio.sleep(0.005)
        if message.data == "3" and self.seen.count("3") % 2 == 0:
            self.seen.append("3")
            raise ValueError("planted")
        self.seen.append(message.data)

    async def _take_some(self, messages: list[Message[str]]) -> None:
        await asyncio.sleep(0.05 if any(message.data == "6" for message in messages) else 0.01)

    # The program

    def _task(self, name: str, doing: Coroutine[Any, Any, None]) -> "asyncio.Task[None]":
        return asyncio.get_running_loop().create_task(doing, name=name)

    async def _context(self) -> None:
        async with self.fleet:
            await self._body()

    async def _serve(self) -> None:
        body = self._task("body", self._ends_well(self._close_after_body))
        try:
            await self.fleet.serve()
        finally:
            self.parts["body"] = body

    async def _close_after_body(self) -> None:
        await asyncio.sleep(0)
        await self._body()
        await self.fleet.close()

    async def _body(self) -> None:
        for name in PARTS[:-3]:
            self._begin(name)
        await self._until_done("request", "send", "wait_open")
        self.fleet.publish("news", "x")
        self._begin("close")
        self._begin("close_pool")
        await self._until_done("close", "close_pool")
        while self.feed.session_count < 2 and self.feed.state is not State.CLOSED:
            await asyncio.sleep(0.02)
        await asyncio.sleep(0.08)
        self._begin("asks_to_close")
        await asyncio.sleep(0.02)

    async def _until_done(self, *names: str) -> None:
        parts = [self.parts[name] for name in names if name in self.parts]
        if parts:
            await asyncio.wait(parts)

    def _begin(self, name: str) -> None:
        if not self.fleet._lifecycle.ending:
            self.parts[name] = self._task(name, self._ends_well(getattr(self, f"_{name}")))

    async def _ends_well(self, do: Callable[[], Awaitable[None]]) -> None:
        try:
            await do()
        except FleetError:
            pass  # the fleet has ended, or the connection is closed

    async def _request(self) -> None:
        reply = await self.pool.request({"method": "m", "id": "mine"}, 2.0)
        if reply["id"] != "mine":
            self.faults.append(f"{reply} is no reply")

    async def _send(self) -> None:
        await self.feed.wait_open()
        await asyncio.sleep(0.01)
        await self.feed.send("x")

    async def _wait_open(self) -> None:
        await self.extra.wait_open()

    async def _wait(self) -> None:
        await self.fleet.wait()

    async def _loop(self) -> None:
        async with self.fleet.subscribe(">", buffer=Buffer(2, overflow=Overflow.DROP_OLDEST)) as everything:
            async for _ in everything:
                await asyncio.sleep(0.01)

    async def _batches(self) -> None:
        async with self.fleet.subscribe("*") as everything:
            async for _ in everything.batches():
                await asyncio.sleep(0.01)

    async def _iter(self) -> None:
        numbers = [message.data async for message in self.feed]
        if numbers != [*"01234567", *"01234567"][: len(numbers)]:
            self.faults.append(f"the loop over the connection was given {numbers}")

    async def _close(self) -> None:
        await self.extra.close()

    async def _close_pool(self) -> None:
        await self.pool.close()

    async def _asks_to_close(self) -> None:
        await self.fleet.close()

    # Afterwards

    async def _look_back(self, me: "asyncio.Task[Any]", holder: "asyncio.Task[None]") -> None:
        """Everything has ended, or ends now; cancelled tasks are cancelled; nothing is open."""
        began = clock()
        if self.parts:
            _, going_on = await asyncio.wait(self.parts.values(), timeout=3.0)
            self.faults += [f"{task.get_name()} goes on after the fleet's end" for task in going_on]
        for task in (holder, *self.parts.values()):
            if task.done() and not task.cancelled() and task.exception() is not None and task is not holder:
                self.faults.append(f"{task.get_name()} raised {task.exception()!r}")
        victim = self.cancelled
        if victim is not None and self.victim != EVERYTHING and not victim.cancelled():
            self.faults.append(f"{self.victim} was cancelled, and came to {victim!r}")
        self.faults += [f"{socket!r} is open" for socket in self.network.sockets if socket.open]
        for task in self.network.tasks:
            task.cancel()
        if self.network.tasks:
            await asyncio.wait(self.network.tasks)
        await asyncio.sleep(0)
        self.faults += [f"left: {task!r}" for task in asyncio.all_tasks() - {me}]
        if clock() - began > 2.5:
            self.faults.append("a call took too long to end with the fleet")
        self._look_at(self.fleet.stats())

    def _look_at(self, stats: FleetStats) -> None:
        if not stats.balanced:
            self.faults.append(f"not balanced at the end: {stats.to_dict()}")
        for row in stats.subscriptions:
            if row.pending or row.pending_bytes:
                self.faults.append(f"{row.name}: {row.pending} are pending at the end")
        for endpoint in stats.endpoints:
            if endpoint.name != "$retired" and endpoint.state != "CLOSED":
                self.faults.append(f"{endpoint.name} is {endpoint.state} at the end")
