"""websockets and a batched mailbox: a task for each connection appends to a deque, another one decodes and handles.

websockets may hold the same number, instead of 16 frames, so that it pauses reading less often.
"""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

import msgspec
from websockets import ClientConnection, ConnectionClosedOK, connect

from benchmarks.contender import Meter
from benchmarks.peers.batching import BOUND, Batches
from benchmarks.peers.opening import open_all
from benchmarks.scenarios import Target


async def run(target: Target, meter: Meter) -> None:
    decode = msgspec.json.Decoder().decode

    async def read(ws: ClientConnection, batches: Batches) -> None:
        recv, waiting, wake = ws.recv, batches.waiting, batches.wake
        append = waiting.append
        try:
            while True:
                append(await recv(decode=False))
                if len(waiting) == 1:
                    wake()
                elif len(waiting) >= BOUND:
                    await batches.room()
        except ConnectionClosedOK:
            pass

    async with AsyncExitStack() as stack, asyncio.TaskGroup() as tasks:
        sockets = await open_all(connect, target, stack, max_queue=BOUND)
        workers = []
        for ws in sockets:
            batches = Batches()
            tasks.create_task(read(ws, batches))
            workers.append(tasks.create_task(batches.work(decode, meter.handle)))
        await meter.flow(lambda: sockets[0].send("go"))
        for ws in sockets:
            await ws.close()
        for worker in workers:
            worker.cancel()
