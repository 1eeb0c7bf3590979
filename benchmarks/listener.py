"""Programs that receive from the paced server: the age of each message when it is processed, and its cost.

    python -m benchmarks.listener PROGRAM ROLE-AS-JSON

`hear` starts one of these processes with its servers, and returns its report. Every program runs on uvloop, decodes
with msgspec, and otherwise has its library's defaults.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import resource
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import msgspec
import uvloop
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from wsfleet import Endpoint, Fleet
from wsfleet.runtime.subprocess import child_process
from wsfleet.transport.open_files import raise_limit

HANDSHAKES = 64
"""Number of concurrent handshakes: wsfleet's default limit, used for all programs."""

WARM_S = 1.0
LIMIT_S = 600.0

Handler = Callable[[Any], Awaitable[None]]


@dataclass(frozen=True)
class Role:
    """The load of a program: `connections` paced ones, and perhaps a flood, whose messages take `spin_s` each."""

    connections: int
    seconds: float
    port: int = 0
    flood_port: int | None = None
    spin_s: float = 0.0
    warm_s: float = WARM_S

    @property
    def uris(self) -> list[str]:
        """All addresses, that of the flood last."""
        ports = [self.port] * self.connections + ([] if self.flood_port is None else [self.flood_port])
        return [f"ws://127.0.0.1:{port}" for port in ports]


@dataclass(frozen=True)
class Heard:
    """The report of a program. The costs are CPU time; `rss` is the memory of the whole process, after the flow."""

    count: int
    flooded: int
    p50_us: float
    p99_us: float
    cpu_s: float
    open_cpu_s: float
    rss: int


class Record:
    """The handlers, and their measurements."""

    def __init__(self, role: Role) -> None:
        self.role = role
        self.ages: list[int] = []
        self.flooded = 0
        self._began = time.process_time()
        self._opened = self._from = 0.0

    def handlers(self) -> tuple[Handler, Handler]:
        """Return the handler of a paced message's data, and that of the flood's."""
        note, now, spin_s = self.ages.append, time.monotonic_ns, self.role.spin_s

        async def handle(data: Any) -> None:
            note(now() - data["at"])

        async def work(data: Any) -> None:
            self.flooded += 1
            if spin_s:
                until = time.thread_time() + spin_s
                while time.thread_time() < until:
                    pass

        return handle, work

    def processors(self) -> tuple[Handler, Handler]:
        """Return these handlers as processors of wsfleet."""
        note, now = self.ages.append, time.monotonic_ns
        _, work_on = self.handlers()

        async def process(message: Any) -> None:
            note(now() - message.data["at"])

        async def work(message: Any) -> None:
            await work_on(message.data)

        return process, work

    def opened(self) -> None:
        """All connections are open."""
        self._opened = time.process_time()

    async def listen(self) -> Heard:
        """Return the measurements after a warm-up."""
        await asyncio.sleep(self.role.warm_s)
        self.ages.clear()
        flooded, cpu_s = self.flooded, time.process_time()
        await asyncio.sleep(self.role.seconds)
        cpu_s = time.process_time() - cpu_s
        ages = sorted(self.ages)
        p50, p99 = (ages[int(len(ages) * part)] / 1000 for part in (0.5, 0.99))
        open_cpu_s = self._opened - self._began
        return Heard(len(ages), self.flooded - flooded, p50, p99, cpu_s, open_cpu_s, _rss())


def _rss() -> int:
    """The process's memory in bytes; if the system does not provide it, its peak."""
    statm = Path("/proc/self/statm")
    if statm.exists():
        return int(statm.read_text().split()[1]) * resource.getpagesize()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


async def fleet(record: Record) -> Heard:
    """wsfleet, one endpoint with its processor for each connection."""
    role = record.role
    process, work = record.processors()
    async with Fleet() as running:
        connections = [
            running.connect(
                Endpoint(uri, name=f"feed-{number}", decode="json", proxy=False),
                process if number < role.connections else work,
            )
            for number, uri in enumerate(role.uris)
        ]
        for connection in connections:
            await connection.wait_open()
        record.opened()
        await connections[-1].send("go")
        await connections[0].send("go")
        heard = await record.listen()
    assert running.stats().balanced, running.stats()
    return heard


async def _by_hand(record: Record, queued: bool) -> Heard:
    role = record.role
    decode = msgspec.json.Decoder().decode
    handle, work = record.handlers()
    free = asyncio.Semaphore(HANDSHAKES)

    async def open_one(uri: str) -> ClientConnection:
        async with free:
            return await connect(uri, compression=None, proxy=None)

    async def read(socket: ClientConnection, handle: Handler) -> None:
        recv = socket.recv
        try:
            while True:
                await handle(decode(await recv(decode=False)))
        except ConnectionClosed:
            pass

    async def consume(queue: asyncio.Queue[Any], handle: Handler) -> None:
        get = queue.get
        while True:
            await handle(await get())

    async with asyncio.TaskGroup() as tasks:
        sockets = await asyncio.gather(*map(open_one, role.uris))
        workers = []
        for number, socket in enumerate(sockets):
            handler = handle if number < role.connections else work
            if queued:
                queue = asyncio.Queue[Any](1000)
                workers.append(tasks.create_task(consume(queue, handler)))
                handler = queue.put
            workers.append(tasks.create_task(read(socket, handler)))
        record.opened()
        await sockets[-1].send("go")
        await sockets[0].send("go")
        heard = await record.listen()
        for worker in workers:
            worker.cancel()
        for socket in sockets:
            socket.transport.abort()
    return heard


async def direct(record: Record) -> Heard:
    """websockets, a loop for each connection that decodes and awaits the handler itself."""
    return await _by_hand(record, queued=False)


async def queue(record: Record) -> Heard:
    """websockets, the same loop with an `asyncio.Queue(1000)`, and a worker for each connection."""
    return await _by_hand(record, queued=True)


PROGRAMS = {"fleet": fleet, "direct": direct, "queue": queue}


def hear(
    program: str, connections: int, seconds: float, *, rate: float, flood: float | None = None, warm_s: float = WARM_S
) -> Heard:
    """Start servers and program, and return its report; `flood` is the CPU time of a message of the flood."""
    raise_limit()
    with ExitStack() as stack:
        ports: list[int] = []
        for module, *arguments in (
            ("benchmarks.paced", connections, rate),
            ("wsfleet.cli.bench.children", "server", 128),
        ):
            server = stack.enter_context(child_process(module, *arguments))
            assert server.stdout is not None
            ports.append(int(server.stdout.readline()))
        role = Role(connections, seconds, ports[0], None if flood is None else ports[1], flood or 0.0, warm_s)
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.listener", program, json.dumps(asdict(role))],
            stdout=subprocess.PIPE,
            cwd=Path(__file__).parents[1],
            env=os.environ | {"PYTHONHASHSEED": "0"},
            timeout=LIMIT_S,
        )
    if done.returncode:
        raise SystemExit(f"{program} failed")
    return Heard(**json.loads(done.stdout))


def main(program: str, role: str) -> None:
    logging.getLogger("wsfleet").setLevel(logging.ERROR)  # the drain of the flood at the end is logged
    raise_limit()
    print(json.dumps(asdict(uvloop.run(PROGRAMS[program](Record(Role(**json.loads(role))))))))


if __name__ == "__main__":
    main(*sys.argv[1:])
