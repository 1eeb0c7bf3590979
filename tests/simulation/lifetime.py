"""One run of a fleet from a seed: declared, run with faults, checked, and ended in one of many ways."""

import asyncio
import random
from dataclasses import dataclass

from tests.simulation.declaring import Declaring
from tests.simulation.ledger import Ledger
from tests.simulation.network import Network
from tests.simulation.user import LONGEST_S, User
from tests.simulation.world import HOUR, Hung, World, clock
from wsfleet import Overflow, State
from wsfleet.core.errors import EndpointFailed

HEALTHY_S = 10.0
"""Duration without faults before the network becomes silent."""

SETTLE_S = 1800.0
"""Time after which everything in progress has ended: each call, each wait for another attempt, each reply."""

LOOK_S = 2.3

END_S = 10.0 + 2.0 + 5.0
"""The longest `drain_s` and `close_s`, and the time of calls that suppress their cancellation."""

ENDS = ("return", "raise", "cancel", "close", "serve")


class Mine(Exception):
    """Raised by the body of the context."""


@dataclass
class Outcome:
    """The result of a seed."""

    seed: int
    log: list[str]
    faults: list[str]
    messages: int


def simulate(seed: int) -> Outcome:
    """Run the program of this seed."""
    world, ledger = World(seed), Ledger()
    life = Life(seed, ledger)
    try:
        world.run(life.live())
    except (Hung, Exception) as exc:
        ledger.faults.append(f"{type(exc).__name__}: {exc}")
    return Outcome(seed, ledger.log, ledger.faults + world.faults, ledger.messages)


class Life:
    """One fleet, its user, and the network."""

    def __init__(self, seed: int, ledger: Ledger) -> None:
        self._seed = seed
        self._ledger = ledger
        self._chance = random.Random(f"{seed}, life")

    def _own(self, whose: str) -> random.Random:
        return random.Random(f"{self._seed}, {whose}")

    async def live(self) -> None:
        ledger, chance = self._ledger, self._chance
        before = asyncio.all_tasks()
        self._network = Network(ledger, self._own("network"))
        self._declaring = Declaring(ledger, self._network, self._own("declaring"))
        self._user = User(self._declaring, ledger, self._own("user"))
        self._fleet = self._declaring.fleet
        self._declaring.first()
        end = chance.choice(ENDS)
        ledger.note("a life that ends with", end)
        task = asyncio.get_running_loop().create_task(self._serve() if end == "serve" else self._context(end))
        when = chance.uniform(0, 8) if end == "cancel" else HOUR
        cancelling = asyncio.get_running_loop().call_later(when, self._cancel, task)
        await asyncio.wait({task})
        cancelling.cancel()
        self._judge_end(end, task)
        ledger.check_end(self._fleet.stats())
        await self._leave_nothing(before)

    def _cancel(self, task: "asyncio.Task[None]") -> None:
        self._ledger.note("cancelled")
        task.cancel()

    async def _context(self, end: str) -> None:
        try:
            async with self._fleet:
                await self._body()
                if end == "raise":
                    raise Mine
                if end == "close":
                    asyncio.get_running_loop().call_later(self._chance.random(), self._user.close)
                    await self._fleet.wait()
                self._began_to_end = clock()
        except BaseException:
            self._began_to_end = getattr(self, "_began_to_end", clock())
            raise

    async def _serve(self) -> None:
        served = asyncio.get_running_loop().create_task(self._fleet.serve())
        try:
            await asyncio.sleep(0)
            await self._body()
        finally:
            self._began_to_end = clock()
            if self._chance.random() < 0.5:
                self._user.close()
            else:
                served.cancel()
            await asyncio.wait({served})
        if not served.cancelled():
            served.result()

    async def _body(self) -> None:
        for _ in range(self._chance.choice([0, 5, 15, 40])):
            if self._fleet._lifecycle.ending:
                return
            await self._user.act()
        if self._chance.random() < 0.5:
            await self._settle()

    async def _settle(self) -> None:
        """The network recovers, and then is silent: the fleet must become idle, in the expected state."""
        self._ledger.note("settles")
        self._network.healthy = True
        for login in self._declaring.logins:
            login.healthy = True
        await asyncio.sleep(HEALTHY_S)
        self._network.silent = True
        restless = self._restless()
        until = clock() + SETTLE_S
        while restless and clock() < until and not self._fleet._lifecycle.ending:
            await asyncio.sleep(LOOK_S)
            self._ledger.check(self._fleet.stats())
            # The fleet need not stay idle: an endpoint that gets no data reconnects.
            restless &= self._restless()
        if not self._fleet._lifecycle.ending:
            self._ledger.expect(not restless, f"idle, but: {sorted(restless)}")
            self._look_for_drops()

    def _look_for_drops(self) -> None:
        """Messages from a socket for a mailbox with PAUSE are never dropped before the end."""
        rows = {row.name: row for row in self._fleet.stats().subscriptions}
        for name, (reader, _) in self._declaring.own.items():
            if reader.overflow is Overflow.PAUSE and name in rows:
                self._ledger.expect(not rows[name].dropped, f"{name} dropped {rows[name].dropped}, though it pauses")

    def _restless(self) -> set[str]:
        """Deviations from the expected state when nothing happens any more."""
        fleet, found = self._fleet, set()
        stats = fleet.stats()
        rows = {row.name: row for row in stats.subscriptions}
        for reader in self._ledger.readers:
            if reader.works and not reader.closed and reader.name in fleet.subscriptions and rows[reader.name].pending:
                found.add(f"{reader.name} has messages pending")
        for endpoint in stats.endpoints:
            # A connection without a processor keeps messages for a first loop, which may never come.
            supervisor = fleet._registry.supervisors.get(endpoint.name)
            kept = len(supervisor.ingest.early or ()) if supervisor is not None else 0
            waits = endpoint.held > kept and not endpoint.paused_by
            if endpoint.state not in ("OPEN", "FAILED", "CLOSED", "") or waits:
                found.add(f"{endpoint.name} is not open")
            for name in endpoint.paused_by:
                if name not in fleet.subscriptions:
                    found.add(f"{endpoint.name} is paused by {name}, which is gone")
                    continue
                buffer, row = fleet.subscriptions[name]._mailbox.buffer, rows[name]
                if row.pending <= buffer.messages // 2 and row.pending_bytes <= buffer.bytes // 2:
                    found.add(f"{endpoint.name} is paused by {name}, which is not full")
        paused = {endpoint.name for endpoint in stats.endpoints if endpoint.paused_by}
        return found | {
            f"messages for {socket.name} are unread, although the socket is not paused"
            for socket in self._network.sockets
            if socket.open and socket.unread and socket.name not in paused
        }

    def _judge_end(self, end: str, task: "asyncio.Task[None]") -> None:
        ledger = self._ledger
        took = clock() - getattr(self, "_began_to_end", clock())
        ledger.expect(took <= END_S, f"the end took {took} s")
        if task.cancelled():
            ledger.expect(end in ("cancel", "serve"), f"cancelled, and it was to {end}")
            return
        error = task.exception()
        ledger.note("ended with", type(error).__name__)
        if isinstance(error, EndpointFailed):
            required = [s for s in self._fleet._registry.supervisors.values() if s.endpoint.required]
            failed = any(s.state is State.FAILED for s in required)
            ledger.expect(failed, f"{error!r}, and no required endpoint is FAILED")
        elif end == "raise" and not self._user.closed:
            ledger.expect(isinstance(error, Mine), f"raised {error!r} instead of the body's own")
        elif not isinstance(error, Mine):
            ledger.expect(error is None, f"ended with {error!r}")

    async def _leave_nothing(self, before: "set[asyncio.Task[object]]") -> None:
        """The user's tasks end by themselves; nothing of the fleet is left."""
        ledger, user = self._ledger, self._user
        await asyncio.sleep(LONGEST_S + 1.0)
        for name in user.tasks.values():
            ledger.fault(f"{name} goes on after the fleet's end")
        for socket in self._network.sockets:
            ledger.expect(not socket.open, f"{socket!r} is open after the fleet's end")
        ledger.expect(not self._network.opening, "an attempt goes on after the fleet's end")
        mine = {*user.tasks, *self._network.tasks}
        for task in mine:
            task.cancel()
        if mine:
            await asyncio.wait(mine)
        await asyncio.sleep(0)
        left = asyncio.all_tasks() - before
        ledger.expect(not left, f"tasks are left: {sorted(map(repr, left))}")
        self._check_complete()
        timers = [timer for timer in asyncio.get_running_loop().timers() if "_too_late" not in repr(timer)]
        ledger.expect(not timers, f"timers are left: {timers}")

    def _check_complete(self) -> None:
        rows = {row.name: row for row in self._fleet.stats().subscriptions}
        for name, (reader, makers) in self._declaring.own.items():
            if reader.overflow is Overflow.PAUSE and name in rows and not rows[name].dropped:
                for maker in makers:
                    if not (maker.logs_in or maker.replies):
                        self._ledger.check_complete(reader, maker.name)
