"""The load of the soak: every overflow policy, every kind of processor, pools and loops."""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from collections import Counter
from collections.abc import Coroutine
from typing import Any

from wsfleet import Buffer, Endpoint, Fleet, Liveness, Message, Overflow, Reconnect, Retry, Session
from wsfleet.core.errors import FleetError, NotOpen

KINDS = ("async", "def", "batch", "key", "retry")
WORK_S = 0.005
MEMBERS = 8
"""Connections of the pool, and at most a tenth of all."""

REQUESTS = 10
"""Number of concurrent requests."""

OWN = 4
"""Each OWNth connection has its own processor."""


def key_of(message: Message[Any]) -> int:
    return int(message.data.get("k", 0))


class Load:
    """Declares the fleet, and uses it until it is stopped."""

    def __init__(self, fleet: Fleet, uri: str, connections: int, seed: int) -> None:
        self.fleet = fleet
        self.processed = 0  # in the loop
        self._in_threads: list[list[int]] = []
        self.asked: Counter[str] = Counter()
        self._chance = random.Random(seed)
        self._uri = uri
        self._count = itertools.count(1)
        self._tasks: set[asyncio.Task[None]] = set()
        members = min(MEMBERS, max(1, connections // 10))
        self.pool = fleet.pool(f"{uri}/pool", members, name="pool")
        for policy, kind in itertools.product(Overflow, KINDS):
            self._process(policy, kind)
        for _ in range(connections - members):
            self._connect()

    @property
    def handled(self) -> int:
        """Number of messages that processors and loops got, and did not fail."""
        return self.processed + sum(count for (count,) in self._in_threads)

    def _connect(self) -> None:
        number = next(self._count)
        policy = list(Overflow)[number % len(Overflow)]
        kind = KINDS[number // len(Overflow) % len(KINDS)]
        login = number % 3 == 0
        endpoint = Endpoint(
            f"{self._uri}/feed/{number}{'/login' if login else ''}",
            name=f"feed-{number}",
            decode="json",
            topic=f"{policy.value}.{kind}",
            on_open=_log_in if login else None,
            compression="deflate" if number % 10 == 0 else None,
            keep_last=number % 2,
            open_s=5.0,
            reconnect=Reconnect(initial_s=0.1, max_s=3.0),
            liveness=Liveness(ping_s=4.0, pong_s=4.0),
        )
        if number % OWN:
            self.fleet.connect(endpoint)
        else:
            self.fleet.connect(endpoint, self._function("async"), buffer=Buffer(100, overflow=policy))

    # Processors

    def _process(self, policy: Overflow, kind: str) -> None:
        options: dict[str, Any] = {
            "batch": {"batch": 20},
            "key": {"key": key_of, "concurrency": 4},
            "retry": {"retry": Retry(2, 0.001, 0.001)},
        }.get(kind, {})
        key = key_of if policy is Overflow.LATEST else None
        buffer = Buffer(300, overflow=policy, key=key)
        self.fleet.process(f"{policy.value}.{kind}", name=f"{policy.value}-{kind}", buffer=buffer, **options)(
            self._function(kind)
        )

    def _function(self, kind: str) -> Any:
        async def work(message: Message[Any]) -> None:
            await asyncio.sleep(WORK_S)
            self.processed += 1

        def work_in_thread(message: Message[Any]) -> None:
            time.sleep(WORK_S)
            counts[0] += 1

        async def work_on_batch(messages: list[Message[Any]]) -> None:
            await asyncio.sleep(WORK_S)
            self.processed += len(messages)

        async def fail_at_times(message: Message[Any]) -> None:
            if message.index % 50 == 0:
                raise ValueError("planted")
            self.processed += 1

        counts = [0]
        if kind == "def":
            self._in_threads.append(counts)
        return {"def": work_in_thread, "batch": work_on_batch, "retry": fail_at_times}.get(kind, work)

    # Actions of the user

    def start(self) -> None:
        """Begin to use the running fleet."""
        doings: list[Coroutine[Any, Any, None]] = [self._look_again(), self._come_and_go(), self._trouble()]
        doings += [self._ask() for _ in range(REQUESTS)]
        doings += [self._loop(pattern) for pattern in ("pause.*", ">", "latest.*")]
        self._tasks = {asyncio.get_running_loop().create_task(doing) for doing in doings}

    async def stop(self) -> None:
        """Stop all of this. Raises the exceptions of the tasks."""
        for task in self._tasks:
            task.cancel()
        for result in await asyncio.gather(*self._tasks, return_exceptions=True):
            if isinstance(result, Exception):
                raise result

    async def _look_again(self) -> None:
        """FAIL ends a subscription when it overflows: subscribe again."""
        while True:
            await asyncio.sleep(1.0)
            for kind in KINDS:
                if f"fail-{kind}" not in self.fleet.subscriptions:
                    self._process(Overflow.FAIL, kind)
                    self.asked["processors opened again"] += 1

    async def _come_and_go(self) -> None:
        """Close a connection, and declare another one."""
        while True:
            await asyncio.sleep(0.5)
            await self._any().close()
            self._connect()
            self.asked["connections closed and declared anew"] += 1

    async def _trouble(self) -> None:
        while True:
            await asyncio.sleep(0.2)
            try:
                self._any().restart()
                self.asked["restarts"] += 1
            except NotOpen:
                pass  # it is just being closed

    def _any(self) -> Any:
        names = [name for name in self.fleet.connections if name.startswith("feed-")]
        return self.fleet.connections[self._chance.choice(names)]

    async def _ask(self) -> None:
        while True:
            await asyncio.sleep(self._chance.uniform(0.0, 0.5))
            try:
                await self.pool.request({"method": "m", "params": ["p" * 100]}, timeout_s=5.0)
                self.asked["requests answered"] += 1
            except FleetError as exc:
                self.asked[type(exc).__name__] += 1

    async def _loop(self, pattern: str) -> None:
        """Subscribe, read messages for some seconds, and repeat."""
        while True:
            until = time.monotonic() + self._chance.uniform(2.0, 6.0)
            buffer = Buffer(200, overflow=Overflow.DROP_OLDEST)
            async with self.fleet.subscribe(pattern, buffer=buffer, replay="last") as subscription:
                async for _ in subscription:
                    self.processed += 1
                    if time.monotonic() > until:
                        break
            self.asked["loops"] += 1


async def _log_in(session: Session) -> None:
    await session.send("login")
    await session.recv(lambda message: "welcome" in message.data)
