"""The counts balance after each step of any run, and no longer balance if one message is lost at any point."""

import asyncio
import random
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import looptime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.flows import DROP_OLDEST, balanced, feeding, keeper, opened, turns
from wsfleet import Buffer, Fleet, FleetError, Message, Reconnect, Subscription
from wsfleet.core.errors import ConnectFailed, ConnectionLost
from wsfleet.endpoint.ingest import Ingest
from wsfleet.endpoint.session import Session, SessionCore
from wsfleet.fleet import registry as registry_module
from wsfleet.pipeline import hub as hub_module
from wsfleet.pipeline.hub import Hub
from wsfleet.pipeline.mailbox import Mailbox
from wsfleet.testing import FakeSocket, FakeTransport

URI = "ws://feed.test/"
BUFFERS = [Buffer(), Buffer(3), Buffer(2, 20), Buffer(3, overflow=DROP_OLDEST), Buffer(10, 15, DROP_OLDEST)]
PATTERNS = [">", "a.*", "*", "$dead.>", "$slow.>", "$state.>", "$malformed.>", "news.>"]
PAYLOADS: list[str | bytes] = ['{"t": "x"}', '{"t": "é"}', "[1]", "{", b"\xff", '"' + "x" * 30 + '"', "1"]


class Sink:
    name = "sink"
    batch = 2

    async def open(self) -> None:
        await asyncio.sleep(0)

    async def write(self, messages: list[Message[Any]]) -> None:
        await asyncio.sleep(0.1)
        if len(messages) % 2:
            raise OSError("no")
        messages.clear()

    async def close(self) -> None:
        await asyncio.sleep(0)


async def fails(message: Message[Any]) -> None:
    await asyncio.sleep(0)
    raise ValueError


async def slow(message: Message[Any]) -> None:
    await asyncio.sleep(0.7)


async def hangs(message: Message[Any]) -> None:
    await asyncio.Event().wait()


async def quick(message: Message[Any]) -> None:
    if message.data == [1]:
        raise asyncio.CancelledError


async def login(session: Any) -> None:
    await session.recv(lambda message: message.data == [1])


async def refuses(session: Any) -> None:
    await session.recv()
    await session.recv()
    raise ValueError


class World:
    """A fleet in which random events happen. Each `do_` is one of them."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.transport = FakeTransport()
        self.fleet = Fleet(transport=self.transport, drain_s=2.0)
        self.sockets: list[FakeSocket] = []
        self.held: list[Subscription] = []
        self.loops: list[Any] = []
        self.feeding: list[asyncio.Task[None]] = []
        self.number = 0

    def _target(self) -> Any:
        return self.random.choice([None, fails, slow, hangs, quick, Sink()])

    def do_connect(self) -> None:
        self.number += 1
        target = self._target()
        options: dict[str, Any] = {"buffer": self.random.choice(BUFFERS)} if target is not None else {}
        self.fleet.connect(
            URI,
            target,
            name=f"e{self.number}",
            decode=self.random.choice(["json", "text", dict]),
            on_open=self.random.choice([None, None, login, refuses]),
            topic=self.random.choice([None, "a.b", lambda data: f"a.{data['t']}"]),
            reconnect=Reconnect(initial_s=0.1, max_s=1.0, max_restarts=self.random.choice([None, None, 1])),
            **options,
        )

    async def do_accept(self) -> None:
        try:
            self.sockets.append(await asyncio.wait_for(self.transport.accept(), 0.01))
        except TimeoutError:
            pass

    def do_refuse(self) -> None:
        if self.transport._attempts:
            self.transport.refuse(ConnectFailed("tcp", "no"))

    async def _feed(self, socket: FakeSocket, payloads: list[str | bytes]) -> None:
        try:
            await socket.feed(*payloads)
        except ConnectionLost:
            pass

    def do_feed(self) -> None:
        for socket in self.random.sample(self.sockets, min(2, len(self.sockets))):
            payloads = self.random.choices(PAYLOADS, k=self.random.randint(1, 6))
            self.feeding.append(asyncio.create_task(self._feed(socket, payloads)))

    def do_lose(self) -> None:
        if self.sockets:
            socket = self.sockets.pop(self.random.randrange(len(self.sockets)))
            self.random.choice([socket.lose, socket.close])()

    def do_publish(self) -> None:
        self.fleet.publish(self.random.choice(["news.a", "a.b", "x"]), self.random.choice(["é" * 8, b"x", 7]))

    def do_process(self) -> None:
        target = self._target() or quick
        self.fleet.process(self.random.choice(PATTERNS), buffer=self.random.choice(BUFFERS))(target)

    def do_subscribe(self) -> None:
        self.held.append(self.fleet.subscribe(self.random.choice(PATTERNS), buffer=self.random.choice(BUFFERS)))

    def do_close_subscription(self) -> None:
        names = list(self.fleet.subscriptions)
        if names:
            self.fleet.subscriptions[self.random.choice(names)].close()

    def do_forget(self) -> None:
        if self.held:
            del self.held[self.random.randrange(len(self.held))]

    def do_loop(self) -> None:
        connections = list(self.fleet.connections.values())
        if connections:
            try:
                self.loops.append(aiter(self.random.choice(connections)))
            except FleetError:
                self.loops.clear()

    async def do_take(self) -> None:
        sources: list[Any] = [*self.held, *self.loops]
        if sources:
            source = self.random.choice(sources)
            for _ in range(self.random.randint(1, 4)):
                try:
                    await asyncio.wait_for(anext(source), 0.01)
                except (TimeoutError, StopAsyncIteration, FleetError):
                    break

    def _connection(self) -> Any:
        connections = list(self.fleet.connections.values())
        return self.random.choice(connections) if connections else None

    def do_close_connection(self) -> None:
        connection = self._connection()
        if connection is not None:
            self.feeding.append(asyncio.create_task(connection.close()))

    def do_restart(self) -> None:
        connection = self._connection()
        if connection is not None and connection.state != "CLOSED":
            try:
                connection.restart()
            except FleetError:
                pass

    def do_cancel_worker(self) -> None:
        workers = [task for w in self.fleet._lifecycle.workers.processors for task in w.tasks]
        if workers:
            self.random.choice(workers).cancel()

    async def do_wait(self) -> None:
        await asyncio.sleep(self.random.choice([0.0, 0.05, 0.5, 3.0]))


THINGS = [name for name in vars(World) if name.startswith("do_")]
# Events that move messages are more frequent than those that remove parts.
USUAL = ["do_feed"] * 6 + ["do_accept"] * 4 + ["do_wait"] * 3 + ["do_take"] * 2 + ["do_publish"] * 2


async def live(world: World, things: list[str], end: str) -> None:
    async def body() -> None:
        async with world.fleet:
            world.do_connect()
            for thing in things:
                done = getattr(world, thing)()
                if done is not None:
                    await done
                await turns(world.random.randrange(3))
            if end == "raise":
                raise KeyError
            if end == "cancel":
                await asyncio.Event().wait()
            if end == "close":
                await world.fleet.close()

    mine = asyncio.create_task(body())
    if end == "cancel":
        await asyncio.wait([mine], timeout=30)
        mine.cancel()
    await asyncio.wait([mine])
    error = None if mine.cancelled() else mine.exception()
    if end != "raise" or not isinstance(error, KeyError):
        assert mine.cancelled() is (end == "cancel") and error is None, error
    for task in world.feeding:
        task.cancel()
    if world.feeding:
        await asyncio.wait(world.feeding)


def run_watched(world: World, main: Any) -> int:
    """Run `main` in a loop with simulated time, and check the balance after each iteration of it."""
    looks = 0
    loop = looptime.new_event_loop()
    loop.set_debug(False)
    turn = loop._run_once

    def watched() -> None:
        nonlocal looks
        turn()
        looks += 1
        stats = world.fleet.stats() if world.fleet._lifecycle._context.loop is loop else None
        assert stats is None or stats.balanced, stats.to_dict()

    loop._run_once = watched
    try:
        loop.run_until_complete(main)
        loop.run_until_complete(loop.shutdown_asyncgens())
    finally:
        loop.close()
    return looks


@given(st.integers(0, 2**32), st.integers(0, 60), st.sampled_from(["leave", "raise", "cancel", "close"]))
@settings(max_examples=settings().max_examples // 2)
def test_the_counts_balance_after_every_iteration(seed: int, count: int, end: str) -> None:
    """For any arrivals, failures, hangs, cancellations and drains, the counts balance after each iteration of the
    loop.
    """
    world = World(seed)
    things = [world.random.choice(USUAL + THINGS) for _ in range(count)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        assert run_watched(world, live(world, things, end)) > 0
        stats = world.fleet.stats()
        assert stats.balanced
        assert all(row.pending == 0 and row.pending_bytes == 0 for row in stats.subscriptions)
        assert all(row.held == 0 and row.paused_by == () for row in stats.endpoints)
        world.held.clear()
        world.loops.clear()


# Planted losses


class Lossy:
    """A fleet with all features, in which one fault can be planted at any point."""

    def __init__(self) -> None:
        self.transport = FakeTransport()
        self.fleet = Fleet(transport=self.transport, drain_s=0.01)
        self.gate = asyncio.Event()
        self.gate.set()
        self.fleet.connect(URI, self.gated, name="feed", decode="json", on_open=self.login)

    async def gated(self, message: Message[Any]) -> None:
        await self.gate.wait()

    async def login(self, session: Session) -> None:
        await session.recv(lambda message: message.data == "go")

    @contextmanager
    def fault(self, where: Any, name: str, replacement: Callable[..., Any]) -> Iterator[None]:
        """Replaces a function once by `replacement(original, ...)`."""
        original = getattr(where, name)
        calls = 0

        def once(*args: Any, **options: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == 1:
                return replacement(original, *args, **options)
            return original(*args, **options)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(where, name, once)
            yield
        assert calls, "the planted fault was never reached"

    async def start(self) -> FakeSocket:
        socket = await self.transport.accept("feed")
        await socket.feed('"early"', "{", '"go"')
        await self.fleet.connections["feed"].wait_open()
        await turns(5)
        balanced(self.fleet)
        return socket


async def out_of_the_feed_one_by_one(lossy: Lossy) -> None:
    def lose(original: Any, self: Ingest, messages: list[Any], *rest: Any) -> None:
        original(self, messages[1:], *rest)

    socket = await lossy.start()
    with lossy.fault(Ingest, "hand_over", lose):
        await socket.feed("1", "{", "2")


async def a_malformed_one_that_nobody_counts(lossy: Lossy) -> None:
    socket = await lossy.start()
    with lossy.fault(Ingest, "read", lambda original, *args: None):
        await socket.feed("{")


async def into_the_held(lossy: Lossy) -> None:
    def lose(original: Any, self: SessionCore, payloads: list[Any], at: float) -> None:
        original(self, payloads[1:], at)

    with lossy.fault(SessionCore, "_hold", lose):
        socket = await lossy.transport.accept("feed")
        await socket.feed('"early"', '"go"')


async def out_of_the_held(lossy: Lossy) -> None:
    socket = await lossy.transport.accept("feed")
    await socket.feed('"early"')
    session = lossy.fleet._registry.supervisors["feed"].session
    assert session is not None
    session._held.clear()


async def from_held_to_published(lossy: Lossy) -> None:
    with lossy.fault(Ingest, "read", lambda original, *args: None):
        socket = await lossy.transport.accept("feed")
        await socket.feed('"early"', '"go"')
        await lossy.fleet.connections["feed"].wait_open()


async def from_held_to_recv(lossy: Lossy) -> None:
    def lose(original: Any, self: SessionCore, place: int) -> Any:
        self._held.pop(0)
        return original(self, 0)

    with lossy.fault(SessionCore, "_take", lose):
        socket = await lossy.transport.accept("feed")
        await socket.feed('"early"', '"go"')
        await turns()


async def from_held_to_discarded(lossy: Lossy) -> None:
    with lossy.fault(SessionCore, "discard", lambda original, self: None):
        socket = await lossy.transport.accept("feed")
        await socket.feed('"early"')
        socket.lose()
        await turns(5)


async def from_feed_to_hub(lossy: Lossy) -> None:
    def lose(original: Any, self: Hub, route: Any, messages: list[Any], nbytes: int) -> Any:
        return original(self, route, messages[1:], nbytes - 1)

    socket = await lossy.start()
    with lossy.fault(Hub, "deliver", lose):
        await socket.feed("1", "2")


async def from_feed_to_hub_mixed(lossy: Lossy) -> None:
    def lose(original: Any, self: Hub, messages: list[Any], *rest: Any) -> None:
        original(self, messages[:-1], *rest)

    socket = await lossy.start()
    with lossy.fault(Hub, "dispatch_mixed", lose):
        await socket.feed("1", "{", "2")


async def from_the_hub_to_nobody(lossy: Lossy) -> None:
    def lose(original: Any, self: Hub, route: Any, messages: list[Any], nbytes: int) -> None:
        self.published += len(messages)

    socket = await lossy.start()
    with lossy.fault(Hub, "deliver", lose):
        await socket.feed("1")


async def from_hub_to_mailbox(lossy: Lossy) -> None:
    def lose(original: Any, self: Hub, route: Any, messages: list[Any], nbytes: int) -> Any:
        self.published += 1
        self.routed += 1
        self.deliveries += len(route)
        return original(self, route, messages[1:], nbytes - 1)

    socket = await lossy.start()
    with lossy.fault(Hub, "deliver", lose):
        await socket.feed("1", "2")


async def from_hub_to_mailbox_injected(lossy: Lossy) -> None:
    await lossy.start()
    lossy.fleet.process("news", name="news")(keeper([]))
    with lossy.fault(Mailbox, "inject", lambda original, self, message: True):
        lossy.fleet.publish("news", 1)


async def one_of_several_mailboxes_left_out(lossy: Lossy) -> None:
    socket = await lossy.start()
    lossy.fleet.process("feed", name="other")(keeper([]))

    def lose(original: Any, self: Hub, route: Any, *rest: Any) -> Any:
        self.deliveries += 1
        return original(self, route[1:], *rest)

    with lossy.fault(Hub, "deliver", lose):
        await socket.feed("1")


async def out_of_the_mailbox(lossy: Lossy) -> None:
    socket = await lossy.start()
    lossy.gate.clear()
    await socket.feed("1", "2", "3")
    await turns()
    box = next(iter(lossy.fleet._registry.processors))
    assert len(box.waiting) == 2
    box.waiting.popleft()


async def into_the_mailbox_again(lossy: Lossy) -> None:
    socket = await lossy.start()
    lossy.gate.clear()
    await socket.feed("1", "2")
    await turns()
    box = next(iter(lossy.fleet._registry.processors))
    box.waiting.append([*box.waiting][-1])


async def from_mailbox_to_processor(lossy: Lossy) -> None:
    socket = await lossy.start()
    lossy.gate.clear()
    await socket.feed("1")
    await turns()
    next(iter(lossy.fleet._registry.processors)).in_hand -= 1
    lossy.gate.set()
    await turns()


async def a_call_that_is_counted_twice(lossy: Lossy) -> None:
    socket = await lossy.start()
    lossy.gate.clear()
    await socket.feed("1")
    await turns()
    next(iter(lossy.fleet._registry.processors)).processed += 1
    lossy.gate.set()
    await turns()


async def a_failure_that_nobody_counts(lossy: Lossy) -> None:
    def lose(original: Any, self: Any, messages: Any, error: Any, attempts: Any) -> None:
        self.mailbox.in_hand -= len(messages)

    await lossy.start()
    lossy.fleet.process("news", name="news")(fails)
    processor = next(p for p in lossy.fleet._registry.processors.values() if p.mailbox.name == "news")
    with lossy.fault(type(processor), "_failed", lose):
        lossy.fleet.publish("news", 1)
        await turns(5)


async def from_batch_to_sink(lossy: Lossy) -> None:
    class Losing(Sink):
        batch = 10

        async def write(self, messages: list[Message[Any]]) -> None:
            lossy.fleet.subscriptions["sink"]._mailbox.in_hand -= 1

    await lossy.start()
    lossy.fleet.process("news", name="sink")(Losing())
    await turns(5)
    for n in range(3):
        lossy.fleet.publish("news", n)
    await turns(5)


async def from_mailbox_to_loop(lossy: Lossy) -> None:
    await lossy.start()
    async with lossy.fleet.subscribe("news") as subscription:
        for n in range(3):
            lossy.fleet.publish("news", n)
        subscription._mailbox.waiting.popleft()
        await anext(subscription)
        assert not lossy.fleet.stats().balanced


async def a_drop_that_nobody_counts(lossy: Lossy) -> None:
    await lossy.start()
    async with lossy.fleet.subscribe("news", buffer=Buffer(1, overflow=DROP_OLDEST)):
        with lossy.fault(Mailbox, "_drop", lambda original, self, message: None):
            lossy.fleet.publish("news", 1)
            lossy.fleet.publish("news", 2)


async def a_drop_on_close(lossy: Lossy) -> None:
    await lossy.start()
    subscription = lossy.fleet.subscribe("news")
    lossy.fleet.publish("news", 1)
    lossy.fleet.publish("news", 2)
    with lossy.fault(Mailbox, "_drop", lambda original, self, message: None):
        subscription.close()


async def a_subscription_that_nobody_sums_up(lossy: Lossy) -> None:
    await lossy.start()
    async with lossy.fleet.subscribe("news"):
        lossy.fleet.publish("news", 1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hub_module, "add_rows", lambda total, row: total)
        async with lossy.fleet.subscribe("news"):
            lossy.fleet.publish("news", 1)


async def an_endpoint_that_nobody_sums_up(lossy: Lossy) -> None:
    socket = await lossy.start()
    await socket.feed("1")
    with lossy.fault(registry_module, "add_rows", lambda original, total, row: total):
        await lossy.fleet.connections["feed"].close()


async def a_subscription_removed_without_a_trace(lossy: Lossy) -> None:
    await lossy.start()
    async with lossy.fleet.subscribe("news"):
        lossy.fleet.publish("news", 1)
    lossy.fleet._registry.hub._retired = None


@pytest.mark.parametrize(
    "plant",
    [
        out_of_the_feed_one_by_one,
        a_malformed_one_that_nobody_counts,
        into_the_held,
        out_of_the_held,
        from_held_to_published,
        from_held_to_recv,
        from_held_to_discarded,
        from_feed_to_hub,
        from_feed_to_hub_mixed,
        from_the_hub_to_nobody,
        from_hub_to_mailbox,
        from_hub_to_mailbox_injected,
        one_of_several_mailboxes_left_out,
        out_of_the_mailbox,
        into_the_mailbox_again,
        from_mailbox_to_processor,
        a_call_that_is_counted_twice,
        a_failure_that_nobody_counts,
        from_batch_to_sink,
        from_mailbox_to_loop,
        a_drop_that_nobody_counts,
        a_drop_on_close,
        a_subscription_that_nobody_sums_up,
        an_endpoint_that_nobody_sums_up,
        a_subscription_removed_without_a_trace,
    ],
)
async def test_a_planted_loss_is_detected(plant: Callable[[Lossy], Any]) -> None:
    """If one message is lost or counted twice at any point, `balanced` becomes false and stays false."""
    lossy = Lossy()
    async with lossy.fleet:
        assert balanced(lossy.fleet)
        await plant(lossy)
        assert not lossy.fleet.stats().balanced
        lossy.gate.set()
    assert not lossy.fleet.stats().balanced
    assert lossy.fleet.stats().to_dict()["balanced"] is False


async def test_without_a_planted_fault_the_counts_balance() -> None:
    """Without a planted fault, the fleet of these tests balances until its end."""
    lossy = Lossy()
    async with lossy.fleet:
        socket = await lossy.start()
        lossy.fleet.process("news", name="news")(fails)
        lossy.fleet.process("news", name="sink")(Sink())
        async with lossy.fleet.subscribe("news", buffer=Buffer(1, overflow=DROP_OLDEST)) as subscription:
            await turns(5)
            await socket.feed("1", "{", "2")
            for n in range(3):
                lossy.fleet.publish("news", n)
            await anext(subscription)
            balanced(lossy.fleet)
        await lossy.fleet.connections["feed"].close()
        lossy.fleet.connect(URI, name="feed")
        await opened(lossy.fleet, lossy.transport)
        balanced(lossy.fleet)
    balanced(lossy.fleet)


# Effects beside the balance


async def test_a_cancelled_drain_keeps_the_balance() -> None:
    """If the drain is cancelled, current calls are failed and the rest dropped: each message is counted."""
    transport = FakeTransport()
    fleet = Fleet(transport=transport, drain_s=1000)
    fleet.connect(URI, hangs, name="feed")

    async def main() -> None:
        async with feeding(fleet, transport) as socket:
            await socket.feed("1", "2", "3")
            await turns()

    mine = asyncio.create_task(main())
    while fleet._lifecycle.phase != "ending":
        await turns()
    await turns()
    mine.cancel()
    await asyncio.wait([mine])
    assert mine.cancelled()
    (mine_row,) = balanced(fleet).subscriptions
    assert (mine_row.offered, mine_row.failed, mine_row.dropped, mine_row.pending) == (3, 1, 2, 0)


async def test_messages_of_a_failed_on_open_are_discarded() -> None:
    """If `on_open` fails, held messages that were not answered are discarded, and the next attempt starts afresh."""
    transport = FakeTransport()
    fleet = Fleet(transport=transport)
    fleet.connect(URI, name="feed", on_open=refuses, reconnect=Reconnect(initial_s=0))
    async with fleet, fleet.subscribe(">") as everything:
        for attempt in (1, 2):
            socket = await transport.accept("feed")
            await socket.feed("1", "2", "3", "4")
            await turns(5)
            stats = balanced(fleet).endpoints[0]
            assert (stats.received, stats.answered, stats.discarded, stats.held) == (
                4 * attempt,
                2 * attempt,
                2 * attempt,
                0,
            )
        assert everything.stats().offered == 0


async def test_messages_that_arrive_while_held_ones_are_published_follow_them() -> None:
    """A thousand held messages are published in order before newer ones, and these do not fail `on_open`."""
    transport = FakeTransport()
    fleet = Fleet(transport=transport)

    async def slow_login(session: Session) -> None:
        await session.recv(lambda message: message.data == "go")

    slept = []
    sleep = asyncio.sleep

    async def meanwhile(delay: float, result: Any = None) -> Any:
        # While they are published, more messages arrive than on_open may hold.
        if not slept and fleet.connections["feed"].state == "OPEN" and fleet.stats().endpoints[0].held:
            slept.append(asyncio.create_task(socket.feed(*(str(n) for n in range(1000, 3000)))))
        return await sleep(delay, result)

    fleet.connect(URI, name="feed", on_open=slow_login)
    async with fleet, fleet.subscribe("feed", buffer=Buffer(10**6)) as everything:
        socket = await transport.accept("feed")
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("wsfleet.core.time_slice.SLICE_S", 0.0)
            patch.setattr(asyncio, "sleep", meanwhile)
            await socket.feed(*(str(n) for n in range(999)), "go")
            await fleet.connections["feed"].wait_open()
            while not slept or not slept[0].done():
                await sleep(0)
        await slept[0]
        assert fleet.connections["feed"].session_count == 1
        seen = [int((await anext(everything)).data) for _ in range(everything.stats().pending)]
        assert seen == [*range(999), *range(1000, 3000)]
        assert not socket.paused
        balanced(fleet)
