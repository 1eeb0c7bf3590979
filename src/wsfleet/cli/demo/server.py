"""The demo's feed server, a child process: `python -m wsfleet.cli.demo.server CONNECTIONS DURATION SEED`.

It sends numbered prices to every client and carries out the plan of faults. It prints its port as the first line. It
ends at the end of its standard input, which the parent's death also causes.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
import time

from websockets.asyncio.server import ServerConnection, serve
from websockets.protocol import State

from wsfleet.cli.demo.scenario import LATEST_START, Fault, Prices, make_plan
from wsfleet.runtime.loop import run_loop
from wsfleet.transport.open_files import raise_limit

MESSAGES_PER_S = 5000  # in total; with more, this server would be the bottleneck
MESSAGES_PER_CONNECTION_S = 5

INTERVAL_S = 0.02  # connections are served in slices of this length, for an even load
MAX_UNSENT = 2**18  # bytes; a client that does not read misses messages


def _rate(connections: int) -> float:
    """Return the number of messages per second for each connection."""
    return min(MESSAGES_PER_CONNECTION_S, MESSAGES_PER_S / connections)


class DemoServer:
    """Sends prices to the clients that connect to `/<number>`, and carries out the faults of the plan."""

    def __init__(self, connections: int, duration_s: float, seed: int) -> None:
        self._connections = connections
        self._latest_start_s = duration_s * LATEST_START
        self._plan = make_plan(connections, duration_s, seed)
        self._prices = Prices(seed)
        slices = max(1, round(1 / _rate(connections) / INTERVAL_S))
        self._healthy: list[dict[int, ServerConnection]] = [{} for _ in range(slices)]  # by slice, then by number
        self._flapping: frozenset[int] = frozenset()
        self._all_connected = asyncio.Event()

    async def handle(self, client: ServerConnection) -> None:
        """Serve one client until its connection is closed."""
        path = client.request.path if client.request else ""
        number = int(path[1:]) if path[1:].isdecimal() else 0
        if number in self._flapping:
            await client.close(1013, "try again later")
            return
        turn = self._healthy[number % len(self._healthy)]
        turn[number] = client
        if sum(map(len, self._healthy)) == self._connections:
            self._all_connected.set()
        await client.wait_closed()
        if turn.get(number) is client:
            del turn[number]

    async def send_prices(self) -> None:
        """Send one message to every healthy connection per round, until cancelled. A round consists of all slices."""
        started, slices = time.monotonic(), 0
        while True:
            turn, n = slices % len(self._healthy), slices // len(self._healthy) + 1
            frames = self._prices.frames(n)
            for number, client in self._healthy[turn].items():
                if client.state is State.OPEN and client.transport.get_write_buffer_size() < MAX_UNSENT:
                    client.transport.write(frames[number % len(frames)])
            slices += 1
            behind = time.monotonic() - started - slices * INTERVAL_S
            if behind > 1.0:  # after a suspend or high load, the missed messages are skipped, not sent in a burst
                started += behind
            await asyncio.sleep(max(0.0, -behind))

    async def misbehave(self) -> None:
        """Carry out the plan after all are connected, or at the latest after `LATEST_START` of the duration."""
        try:
            async with asyncio.timeout(self._latest_start_s):
                await self._all_connected.wait()
        except TimeoutError:
            pass
        began = time.monotonic()
        async with asyncio.TaskGroup() as tasks:
            for fault in self._plan:
                await asyncio.sleep(began + fault.at_s - time.monotonic())
                tasks.create_task(self._inject(fault))

    async def _inject(self, fault: Fault) -> None:
        clients = [turn.pop(number) for turn in self._healthy for number in fault.members & turn.keys()]
        for client in clients:
            if fault.kind == "silence":
                client.transport.pause_reading()
            else:
                client.transport.abort()
        if fault.kind == "flap":
            self._flapping = fault.members
            await asyncio.sleep(fault.lasting_s)
            self._flapping = frozenset()


async def serve_demo(connections: int, duration_s: float, seed: int) -> None:
    """Serve until standard input ends."""
    demo = DemoServer(connections, duration_s, seed)
    server = serve(
        demo.handle,
        "127.0.0.1",
        0,
        compression=None,
        ping_interval=None,
        open_timeout=None,
        logger=logging.getLogger("wsfleet.demo"),
        backlog=4096,
    )
    loop = asyncio.get_running_loop()
    parent_ended = asyncio.Event()
    loop.add_reader(sys.stdin, parent_ended.set)  # nothing is written to it, so readable means end of file
    listening = await server
    try:
        async with asyncio.TaskGroup() as tasks:
            print(next(iter(listening.sockets)).getsockname()[1], flush=True)
            work = [tasks.create_task(demo.send_prices()), tasks.create_task(demo.misbehave())]
            await parent_ended.wait()
            for task in work:
                task.cancel()
    finally:
        loop.remove_reader(sys.stdin)
        listening.close(close_connections=False)
        for client in listening.connections:
            client.transport.abort()


def main() -> None:
    """Read the three arguments and serve."""
    connections, duration_s, seed = sys.argv[1:]
    # The command handles Ctrl-C, and this process ends with it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    raise_limit()
    run_loop(serve_demo(int(connections), float(duration_s), int(seed)))


if __name__ == "__main__":
    main()
