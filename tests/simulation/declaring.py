"""The declarations of a simulated program: endpoints, pools, processors and subscriptions with random options."""

import asyncio
import random
from collections.abc import Callable
from typing import Any

from tests.simulation.ledger import Deed, Handler, Ledger, Numbered, Reader, Watcher, key_of
from tests.simulation.network import Maker, Network
from wsfleet import (
    Buffer,
    Connection,
    Endpoint,
    Fleet,
    Limits,
    Liveness,
    Message,
    Overflow,
    Pool,
    Reconnect,
    Retry,
    Session,
    Subscription,
)
from wsfleet.core import errors

HOSTS = ("a.test", "b.test")


def is_welcome(message: Message[Any]) -> bool:
    data = message.data
    return "welcome" in (data.decode() if isinstance(data, bytes) else data)


def decode(payload: str | bytes) -> str:
    """A user's decoder; raises for payloads that the servers send malformed."""
    text = payload if isinstance(payload, str) else payload.decode()
    Numbered.of(text)
    return text


def topic_of(data: str) -> str:
    return f"trades.{Numbered.of(data).key}"


class Login:
    """An `on_open` that logs in, and sometimes fails."""

    def __init__(self, ledger: Ledger, chance: random.Random) -> None:
        self.__name__ = "login"
        self._ledger = ledger
        self._chance = chance
        self.healthy = False

    async def __call__(self, session: Session) -> None:
        chance = self._chance
        await session.send("login")
        trouble = 1.0 if self.healthy else chance.random()
        if trouble < 0.02:
            raise errors.Fatal("planted")
        if trouble < 0.06:
            raise ValueError("planted")
        if trouble < 0.09:
            raise asyncio.CancelledError
        if trouble < 0.15:
            await asyncio.sleep(10)
        welcome = await session.recv(is_welcome)
        self._ledger.note("logged in", session.endpoint, session.number, welcome.index)


class Declaring:
    """Declares the parts of one fleet, and records them."""

    def __init__(self, ledger: Ledger, network: Network, chance: random.Random) -> None:
        self.ledger = ledger
        self.network = network
        self.chance = chance
        self.fleet = self._fleet()
        self.connections: list[Connection] = []
        self.pools: list[Pool] = []
        self.logins: list[Login] = []
        # The processors of endpoints that were never closed: they must have got all messages.
        self.own: dict[str, tuple[Reader, list[Maker]]] = {}
        self.deeds: list[Deed] = []
        self.watcher: Watcher | None = None
        self._count = 0

    def _fleet(self) -> Fleet:
        chance = self.chance
        limits = Limits(handshakes=chance.choice([1, 2, 64]), connects_per_s=chance.choice([None, None, 4.0]))
        return Fleet(limits=limits, drain_s=chance.choice([0, 0.5, 10]), transport=self.network)

    def name(self, kind: str) -> str:
        self._count += 1
        return f"{kind}-{self._count}"

    def first(self) -> None:
        """Declarations before the start."""
        chance = self.chance
        if chance.random() < 0.7:
            self.watcher = Watcher("watcher", self.ledger)
            for pattern in ("$state.>", "$dead.>", "$gap.>", "$malformed.>")[: chance.choice([1, 4])]:
                self.fleet.process(pattern, name=self.name("watcher"), buffer=Buffer(10**6))(self.watcher)
        for _ in range(chance.randint(1, 4)):
            self.connect()
        for _ in range(chance.choice([0, 0, 1])):
            self.pool()
        for _ in range(chance.randint(0, 2)):
            self.process()

    # Endpoints

    def connect(self, name: str | None = None) -> None:
        chance = self.chance
        name = name or self.name("feed")
        maker = Maker(self.name(f"{name}/"), chance.choice(["text", "json"]), logs_in=chance.random() < 0.4)
        self.network.serve(name, maker)
        endpoint = self._endpoint(name, maker)
        if chance.random() < 0.6:
            handler, options = self._handler(name)
            connection = self.fleet.connect(endpoint, handler, **options)
            self.own[name] = handler.reader, [maker]
        else:
            connection = self.fleet.connect(endpoint)
        self.connections.append(connection)
        self.ledger.note("declared", connection.name)

    def pool(self) -> None:
        chance = self.chance
        name, size = self.name("pool"), chance.choice([1, 2, 3])
        makers = [Maker(f"{name}-{n}", "json", replies=True) for n in range(1, size + 1)]
        for maker in makers:
            self.network.serve(maker.name, maker)
        endpoint = self._endpoint(name, makers[0])
        # Ids made by the user, or by wsfleet.
        how: Any = {"identify": lambda data: (data["id"], data)} if chance.random() < 0.5 else {}
        if chance.random() < 0.4:
            handler, options = self._handler(name)
            pool = self.fleet.pool(endpoint, size, handler, **how, **options)
            self.own[name] = handler.reader, makers
        else:
            pool = self.fleet.pool(endpoint, size, **how)
        self.pools.append(pool)
        self.ledger.note("declared", pool.name, size)

    def _endpoint(self, name: str, maker: Maker) -> Endpoint:
        chance = self.chance
        json = maker.form == "json"
        on_open = None
        if maker.logs_in:
            on_open = Login(self.ledger, chance)
            self.logins.append(on_open)
        uri = f"ws://{chance.choice(HOSTS)}/"
        kept = chance.choice([0, 0, 3])
        return Endpoint(
            self._uri(uri) if chance.random() < 0.2 else uri,
            name=name,
            open_s=chance.choice([0.5, 3.0]),
            close_s=chance.choice([0.1, 2.0]),
            on_open=on_open,
            decode="json" if json else decode,
            topic=chance.choice(["trades.{k}" if json else topic_of, None]),
            keep_last=kept,
            sends_per_s=chance.choice([None, None, 5.0]),
            reconnect=self._reconnect(),
            liveness=Liveness(
                ping_s=chance.choice([None, 1.0, 5.0]),
                pong_s=chance.choice([None, 1.0, 3.0]),
                stale_s=chance.choice([None, None, 5.0]),
            ),
            required=chance.random() < 0.03,
        )

    def _reconnect(self) -> Reconnect:
        chance = self.chance
        return Reconnect(
            initial_s=chance.choice([0.0, 0.1, 0.5]),
            max_s=chance.choice([0.5, 3.0]),
            stable_s=chance.choice([0.2, 30.0]),
            max_restarts=chance.choice([None, None, None, 5]),
            window_s=5.0,
        )

    def _uri(self, uri: str) -> Callable[[], Any]:
        chance = random.Random(self.chance.random())

        async def fresh() -> str:
            await asyncio.sleep(chance.choice([0, 0.05]))
            if chance.random() < 0.1:
                raise OSError("planted")
            return uri

        return fresh

    # Subscriptions

    def _buffer(self) -> Buffer:
        chance = self.chance
        overflow = chance.choice([*Overflow, Overflow.PAUSE])
        key = key_of if overflow is Overflow.LATEST and chance.random() < 0.7 else None
        # A subscription that must not overflow has room.
        most = chance.choice([3, 8, 20]) if overflow is not Overflow.FAIL else chance.choice([8, 100])
        return Buffer(most, chance.choice([2**24, 200]), overflow, key)

    def _handler(self, name: str) -> tuple[Handler, Any]:
        chance = self.chance
        buffer = self._buffer()
        batch = chance.choice([None, None, 1, 3])
        concurrency = chance.choice([1, 1, 2, 4])
        retry = chance.choice([None, None, Retry(3, 0.0, 0.0), Retry(2, 0.1, 1.0)])
        timeout_s = chance.choice([None, None, None, 0.3])
        keyed = chance.random() < 0.3
        if chance.random() < 0.4:  # without options, whose calls may begin within a read
            batch, concurrency, retry, timeout_s, keyed = None, 1, None, None, False
        reader = Reader(
            name,
            self.ledger,
            buffer.overflow,
            buffer.messages,
            buffer.bytes,
            attempts=retry.attempts if retry else 1,
            concurrency=concurrency,
            keyed=keyed,
            works=True,
        )
        own = random.Random(chance.random())
        handler = Handler(reader, own, batch is not None, timeout_s is not None, self.deeds)
        options = {"buffer": buffer, "concurrency": concurrency, "batch": batch, "retry": retry}
        options |= {"key": key_of if keyed else None, "timeout_s": timeout_s}
        self.ledger.note("handler", name, buffer.overflow, buffer.messages, batch, concurrency, keyed, retry, timeout_s)
        return handler, options

    def process(self) -> None:
        name = self.name("work")
        handler, options = self._handler(name)
        self.fleet.process(self._pattern(), name=name, **options)(handler)

    def subscribe(self) -> tuple[Subscription, Reader]:
        name, buffer = self.name("loop"), self._buffer()
        reader = Reader(name, self.ledger, buffer.overflow, buffer.messages, buffer.bytes)
        replay = self.chance.choice([None, "last"])
        return self.fleet.subscribe(self._pattern(), name=name, buffer=buffer, replay=replay), reader

    def _pattern(self) -> str:
        return self.chance.choice([">", "trades.*", "news.>", "*"])
