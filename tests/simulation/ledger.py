"""Observations of a simulation, to be compared with the fleet's own counts."""

import asyncio
import json
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from tests.simulation.world import clock
from wsfleet import ConnectionLost, FleetStats, Message, Overflow, State
from wsfleet.core.message import StateChange
from wsfleet.core.retry import is_host_failure
from wsfleet.endpoint.outages import PROOF_S
from wsfleet.endpoint.spread import SPREAD_S

LEGAL = {
    State.CONNECTING: {State.OPEN, State.BACKOFF, State.CLOSED, State.FAILED},
    State.OPEN: {State.BACKOFF, State.CLOSED, State.FAILED},
    State.BACKOFF: {State.CONNECTING, State.CLOSED},
    State.FAILED: {State.CONNECTING, State.CLOSED},
    State.CLOSED: set(),
}


class Numbered(NamedTuple):
    """The data of each message in a simulation: its maker, its number there, and a key."""

    maker: str
    number: int
    key: int

    @classmethod
    def of(cls, data: Any) -> "Numbered":
        """Read it from a message's decoded data, of any form."""
        if isinstance(data, dict):
            return cls(data["m"], data["n"], data["k"])
        maker, number, key, *_ = (data.decode() if isinstance(data, bytes) else data).split()
        return cls(maker, int(number), int(key))

    def text(self, form: str, **more: Any) -> str:
        """Write it as a payload of the form "json" or "text"."""
        if form == "json":
            return json.dumps({"m": self.maker, "n": self.number, "k": self.key, **more})
        return " ".join(map(str, [*self, *more, *more.values()]))


def key_of(message: Message[Any]) -> int:
    """The key of a message: for processors and for LATEST."""
    return Numbered.of(message.data).key


class Ledger:
    """The log of all events, and the faults found."""

    def __init__(self) -> None:
        self.log: list[str] = []
        self.faults: list[str] = []
        self.readers: list[Reader] = []
        self.states: dict[str, State] = {}
        self.restarted: set[str] = set()
        self.replies: set[Numbered] = set()
        self.until: dict[str, float] = {}
        self.open_since: dict[str, float] = {}
        self.lasted_until = float("-inf")
        self.host_failed: set[str] = set()
        self.fed: dict[str, list[list[int]]] = {}
        self.messages = 0

    def note(self, *what: object) -> None:
        self.log.append(f"{clock():.6f} " + " ".join(map(str, what)))

    def fault(self, text: str) -> None:
        self.note("FAULT", text)
        self.faults.append(text)

    def expect(self, holds: bool, text: str) -> None:
        if not holds:
            self.fault(text)

    def state_changed(self, change: StateChange) -> None:
        """A `$state` record: a valid transition, from the last state."""
        before = self.states.get(change.endpoint, change.previous)
        if before is State.CLOSED:  # its name was free, and was used again
            before = change.previous
        self.note("state", change.endpoint, change.previous, change.state, type(change.error).__name__, change.attempt)
        self.expect(change.previous is before, f"{change.endpoint} was {before}, not {change.previous}")
        restarts = change.state is State.CONNECTING and change.endpoint in self.restarted
        legal = change.state in LEGAL[change.previous] or restarts
        self.expect(legal, f"{change.endpoint}: {change.previous} to {change.state}")
        if change.state is State.CONNECTING and change.previous is State.BACKOFF and not restarts:
            early = self.until[change.endpoint] - clock()
            in_time = early < 1e-3 or self._outage_ended(change.endpoint)
            self.expect(in_time, f"{change.endpoint} waited {early} s less than the record contains")
        self._note_open(change)
        self.until[change.endpoint] = clock() + change.delay_s
        self.states[change.endpoint] = change.state

    def _note_open(self, change: StateChange) -> None:
        """Keep the times that `_outage_ended` needs."""
        opened_at = self.open_since.pop(change.endpoint, None)
        if opened_at is not None and clock() - opened_at >= PROOF_S:
            self.lasted_until = clock()
        if change.state is State.OPEN:
            self.open_since[change.endpoint] = clock()
        lost_at_once = isinstance(change.error, ConnectionLost)
        if lost_at_once or (change.error is not None and is_host_failure(change.error)):
            self.host_failed.add(change.endpoint)
        else:
            self.host_failed.discard(change.endpoint)

    def _outage_ended(self, endpoint: str) -> bool:
        """A wait may end early after a failure of the host, when another connection has been open for long enough."""
        proved = any(clock() - opened_at >= PROOF_S - 1e-3 for opened_at in self.open_since.values())
        recently = clock() - self.lasted_until <= 2 * SPREAD_S
        return endpoint in self.host_failed and bool(self.open_since) and (proved or recently)

    def check(self, stats: FleetStats) -> None:
        """Invariants at any time."""
        if not stats.balanced:
            self.fault(f"not balanced: {stats.to_dict()}")
        in_calls = sum(len(numbers) for reader in self.readers for numbers in reader.calls.values())
        done = sum(reader.done for reader in self.readers)
        rows = stats.subscriptions
        processed, pending = sum(row.processed for row in rows), sum(row.pending for row in rows)
        self.expect(processed == done, f"{processed} counted processed, {done} were")
        self.expect(pending >= in_calls, f"{pending} counted pending, {in_calls} are in calls")
        for row in rows:
            known = next((r for r in reversed(self.readers) if r.name == row.name and not r.closed), None)
            if known is not None:
                self.expect(row.processed == known.done, f"{row.name}: {row.processed} processed, {known.done} were")
                known.check_bound(row.pending, row.pending_bytes, self.fault)

    def check_end(self, stats: FleetStats) -> None:
        """Invariants when the fleet has ended."""
        self.check(stats)
        rows = stats.subscriptions
        failed, seen = sum(row.failed for row in rows), sum(reader.failed for reader in self.readers)
        self.expect(failed == seen, f"{failed} counted failed, {seen} did")
        for row in rows:
            self.expect(row.pending == row.pending_bytes == 0, f"{row.name}: {row.pending} are pending at the end")
        for endpoint in stats.endpoints:
            self.expect(endpoint.held == 0, f"{endpoint.name}: {endpoint.held} are held at the end")
            if endpoint.name != "$retired":
                self.expect(endpoint.state in ("CLOSED", "FAILED"), f"{endpoint.name} is {endpoint.state} at the end")
        fed = sum(len(numbers) for sockets in self.fed.values() for numbers in sockets)
        published = sum(endpoint.published for endpoint in stats.endpoints)
        self.expect(published <= fed, f"{published} were published, and only {fed} came")

    def check_complete(self, reader: "Reader", maker: str) -> None:
        """PAUSE loses nothing: of each socket, the first messages have been seen, without a gap."""
        for numbers in self.fed.get(maker, ()):
            there = [number in reader.numbers(maker) for number in numbers]
            if any(there):
                last = len(there) - there[::-1].index(True)
                missing = [number for number, seen in zip(numbers[:last], there, strict=False) if not seen]
                self.expect(not missing, f"{reader.name}: {missing} of {maker} were lost without being counted")


@dataclass
class Reader:
    """The messages that one subscription returned: in order, never twice, and with the result of each."""

    name: str
    ledger: Ledger
    overflow: Overflow
    most: int = 1000
    most_bytes: int = 2**24
    attempts: int = 1
    concurrency: int = 1
    keyed: bool = False
    works: bool = False  # a processor, not a loop
    done: int = 0
    closed: bool = False
    tries: dict[tuple[str, int], int] = field(default_factory=dict)
    ended: set[tuple[str, int]] = field(default_factory=set)
    calls: dict[int, list[Numbered]] = field(default_factory=dict)
    last: dict[Any, int] = field(default_factory=dict)
    begun: int = 0

    def __post_init__(self) -> None:
        self.ledger.readers.append(self)

    @property
    def failed(self) -> int:
        """Messages whose calls began and have not succeeded."""
        return len(self.tries) - self.done

    def numbers(self, maker: str) -> set[int]:
        return {number for who, number in self.tries if who == maker}

    def take(self, message: Message[Any]) -> None:
        """A loop has got a message, which counts as processed."""
        self._see(self._read(message))
        self.done += 1

    def begin(self, messages: list[Message[Any]]) -> int:
        """A call begins; return its number."""
        self.begun += 1
        read = [self._read(message) for message in messages]
        busy = {each.key for others in self.calls.values() for each in others}
        expect = self.ledger.expect
        expect(len(self.calls) < self.concurrency, f"{self.name}: more than {self.concurrency} calls")
        expect(not (self.keyed and busy & {each.key for each in read}), f"{self.name}: two calls for one key")
        for each in read:
            self._see(each)
        self.calls[self.begun] = read
        return self.begun

    def over(self, call: int, well: bool) -> None:
        """A call has ended."""
        messages = self.calls.pop(call)
        if well:
            self.done += len(messages)
            self.ended |= {(each.maker, each.number) for each in messages}

    def check_bound(self, pending: int, pending_bytes: int, fault: Callable[[str], None]) -> None:
        if self.overflow is Overflow.PAUSE:
            return  # exceeded by at most one read for each endpoint
        if pending > self.most or (pending > 1 and pending_bytes > self.most_bytes):
            fault(
                f"{self.name}: {pending} messages, {pending_bytes} bytes are more than {self.most}, {self.most_bytes}"
            )

    def _read(self, message: Message[Any]) -> Numbered:
        read = Numbered.of(message.data)
        self.ledger.messages += 1
        self.ledger.expect(read not in self.ledger.replies, f"{self.name} got {read}, which is a reply")
        self.ledger.note(self.name, "got", message.topic, message.index, message.session, *read)
        return read

    def _see(self, each: Numbered) -> None:
        ident = (each.maker, each.number)
        tries = self.tries[ident] = self.tries.get(ident, 0) + 1
        expect = self.ledger.expect
        expect(ident not in self.ended, f"{self.name} got {ident} again after it was processed")
        expect(tries <= self.attempts, f"{self.name} got {ident} {tries} times")
        if tries > 1:
            return
        lane = (each.maker, each.key) if self.keyed or self.overflow is Overflow.LATEST else each.maker
        before = self.last.get(lane, 0)
        expect(each.number > before, f"{self.name} got {ident} after {before}")
        self.last[lane] = each.number


class Watcher:
    """A processor of `$` records, which counts them by topic, and passes state changes to the ledger."""

    def __init__(self, name: str, ledger: Ledger) -> None:
        self.reader = Reader(name, ledger, Overflow.DROP_OLDEST, most=10**6)
        self.counts: Counter[str] = Counter()

    async def __call__(self, message: Message[Any]) -> None:
        self.counts[message.topic] += 1
        self.reader.tries[message.topic, self.reader.done] = 1
        self.reader.done += 1
        if isinstance(message.data, StateChange):
            self.reader.ledger.state_changed(message.data)


Deed = Callable[[], Awaitable[None]]


class Handler:
    """A processor's function, whose behaviour at each call is random."""

    def __init__(self, reader: Reader, chance: random.Random, batch: bool, timed: bool, deeds: Iterable[Deed]) -> None:
        self.reader = reader
        self._chance = chance
        self._batch = batch
        self._timed = timed
        self._deeds = list(deeds)
        self._trouble = chance.choice([0.0, 0.1, 0.4])

    async def __call__(self, payload: Any) -> None:
        call = self.reader.begin(payload if self._batch else [payload])
        well = False
        try:
            await self._act()
            well = True
        finally:
            self.reader.ledger.note(self.reader.name, "ends", call, well)
            self.reader.over(call, well)

    async def _act(self) -> None:
        chance = self._chance
        if chance.random() >= self._trouble:
            if chance.random() < 0.6:
                await asyncio.sleep(chance.choice([0, 0, 0.01, 0.1, 0.5]))
            return
        match chance.randrange(12):
            case 0 | 1 | 2:
                raise ValueError("planted")
            case 3:
                await asyncio.sleep(chance.choice([0, 0.2]))
                raise ValueError("planted, later")
            case 4:
                raise asyncio.CancelledError
            case 5:
                self._cancel_worker()
                await asyncio.sleep(1)
            case 6 if not self._timed:
                try:
                    await asyncio.sleep(2)
                except asyncio.CancelledError:
                    await asyncio.sleep(0.1)  # suppresses cancellation
            case 7 if self._deeds:
                await chance.choice(self._deeds)()
            case _:
                await asyncio.sleep(chance.choice([0.5, 2]))

    @staticmethod
    def _cancel_worker() -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
