"""Simulated servers that feed, answer, refuse, fall silent and fail at random."""

import asyncio
import json
import random
from dataclasses import dataclass, field
from typing import Any

from tests.simulation.ledger import Ledger, Numbered
from wsfleet.core.errors import ConnectFailed, ConnectionLost, HandshakeRejected
from wsfleet.testing import FakeSocket, FakeTransport
from wsfleet.testing.fake import FakeWire
from wsfleet.transport.base import DialRequest, Progress, Wire

CODES = (1000, 1001, 1006, 1008, 1011, 1012, 1013, 3000, 4000)
KEYS = 4


@dataclass
class Maker:
    """The server of one declared endpoint: it numbers its messages over all of its sockets."""

    name: str
    form: str
    logs_in: bool = False
    replies: bool = False
    count: int = 0
    sockets: list[list[int]] = field(default_factory=list)

    def next(self, chance: random.Random) -> Numbered:
        self.count += 1
        return Numbered(self.name, self.count, chance.randrange(KEYS))


class Socket(FakeSocket):
    """A socket whose write buffer may be full."""

    def __init__(self, target: DialRequest) -> None:
        super().__init__(target)
        self.writable = asyncio.Event()
        self.writable.set()

    @property
    def open(self) -> bool:
        return not self._gone and self._closing is None

    @property
    def name(self) -> str:
        """The endpoint's name."""
        return self._target.name

    @property
    def unread(self) -> int:
        """The number of messages that wait because the fleet has paused reading."""
        return len(self._waiting)

    def _lose(self, error: ConnectionLost) -> None:
        self.writable.set()
        super()._lose(error)


class SlowWire(FakeWire):
    """The fleet's end of this socket."""

    def __init__(self, socket: Socket) -> None:
        super().__init__(socket)
        self._writable = socket.writable

    @property
    def writable(self) -> bool:
        return self._writable.is_set()

    async def wait_writable(self) -> None:
        await self._writable.wait()


class Network(FakeTransport):
    """Decides the result of each attempt, and controls each socket."""

    def __init__(self, ledger: Ledger, chance: random.Random) -> None:
        super().__init__()
        self.healthy = False
        self.silent = False
        self.sockets: list[Socket] = []
        self.makers: dict[str, Maker] = {}
        self.tasks: set[asyncio.Task[None]] = set()
        self.opening = 0
        self._ledger = ledger
        self._chance = chance
        self._trouble = chance.choice([0.05, 0.3])

    def serve(self, name: str, maker: Maker) -> None:
        """From now on `maker` is the server of the endpoint `name`."""
        self.makers[name] = maker
        self._ledger.fed[maker.name] = maker.sockets

    async def open(self, target: DialRequest, progress: Progress) -> Wire:
        self.opening += 1
        try:
            await self._fate(target.name, progress)
        finally:
            self.opening -= 1
        socket = Socket(target)
        self.sockets.append(socket)
        self._ledger.note("accepted", target.name)
        life = self._live(socket, self.makers[target.name])
        task = asyncio.get_running_loop().create_task(life, name=f"server of {target.name}")
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)
        return SlowWire(socket)

    async def _fate(self, name: str, progress: Progress) -> None:
        chance = self._chance
        progress.stage = "tcp"
        await asyncio.sleep(chance.choice([0, 0, 0.01, 0.3]))
        if self.healthy or chance.random() >= self._trouble:
            return
        fate = chance.choice(["tcp", "tls", "429", "503", "401", "404", "hang"])
        self._ledger.note("refused", name, fate)
        progress.stage = "http" if fate.isdecimal() or fate == "hang" else fate
        if fate == "hang":
            await asyncio.sleep(10**6)
        elif not fate.isdecimal():
            raise ConnectFailed(fate, "planted")
        elif fate == "404" and chance.random() < 0.7:
            raise HandshakeRejected(502)
        raise HandshakeRejected(int(fate), {}, chance.choice([None, 0.0, 2.0]) if fate != "404" else None)

    async def _live(self, socket: Socket, maker: Maker) -> None:
        chance = random.Random(self._chance.random())
        numbers: list[int] = []
        maker.sockets.append(numbers)
        answering = asyncio.get_running_loop().create_task(self._answer(socket, maker, numbers, chance))
        self.tasks.add(answering)
        answering.add_done_callback(self.tasks.discard)
        try:
            for _ in range(chance.choice([2, 5, 15])):
                await asyncio.sleep(chance.choice([0, 0, 0.01, 0.2, 1.5]))
                if self.silent:
                    return
                await self._step(socket, maker, numbers, chance)
        except ConnectionLost:
            pass  # the fleet has closed it

    async def _feed(self, socket: Socket, maker: Maker, numbers: list[int], payloads: list[tuple[int, str]]) -> None:
        # Recorded before, because delivered messages are recorded by others before feed() returns.
        numbers += [number for number, _ in payloads if number]
        self._ledger.note("feeds", maker.name, len(payloads))
        await socket.feed(*[payload for _, payload in payloads])

    async def _step(self, socket: Socket, maker: Maker, numbers: list[int], chance: random.Random) -> None:
        step = chance.randrange(20)
        if self.healthy and step >= 14:
            step = 0
        match step:
            case 14:
                code = chance.choice(CODES)
                self._ledger.note("closes", maker.name, code)
                socket.close(code, "planted")
            case 15:
                self._ledger.note("loses", maker.name)
                socket.lose()
            case 16:
                self._ledger.note("falls silent", maker.name)
                socket.answers_pings = False
                await asyncio.sleep(chance.choice([1, 20]))
                socket.answers_pings = True
            case 17:
                socket.writable.clear()
                await asyncio.sleep(chance.choice([0, 0.5, 5]))
                socket.writable.set()
            case 18:
                await self._feed(socket, maker, numbers, [(0, "{"), (0, "")])
            case _:
                await self._burst(socket, maker, numbers, chance)

    async def _burst(self, socket: Socket, maker: Maker, numbers: list[int], chance: random.Random) -> None:
        made = [maker.next(chance) for _ in range(chance.choice([1, 1, 1, 2, 4, 10, 20]))]
        filling = {"x": "." * chance.choice([0, 0, 30])}
        await self._feed(socket, maker, numbers, [(each.number, each.text(maker.form, **filling)) for each in made])

    async def _answer(self, socket: Socket, maker: Maker, numbers: list[int], chance: random.Random) -> None:
        """Answers the messages of the fleet, mostly logins and requests; sometimes twice, or late."""
        try:
            while True:
                sent: Any = await socket.next_sent()
                self._ledger.note("server got", maker.name, "a request" if "params" in str(sent) else sent)
                fails = not self.healthy and chance.random() < 0.15
                if fails or (sent != "login" and not str(sent).startswith("{")):
                    continue
                await asyncio.sleep(chance.choice([0, 0, 0.1, 0.4]))
                await self._reply(socket, maker, numbers, sent, chance)
        except ConnectionLost:
            pass

    async def _reply(self, socket: Socket, maker: Maker, numbers: list[int], sent: str, chance: random.Random) -> None:
        each = maker.next(chance)
        if sent == "login":
            return await self._feed(socket, maker, numbers, [(each.number, each.text(maker.form, welcome=1))])
        asked = json.loads(sent)
        self._ledger.replies.add(each)
        reply = (each.number, each.text("json", id=asked["id"], result=asked["params"]))
        # A second reply is late: its request has ended.
        await self._feed(socket, maker, numbers, [reply] * chance.choice([1, 1, 1, 2]))
