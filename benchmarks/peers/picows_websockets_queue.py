"""picows.websockets and `asyncio.Queue(1000)`: a task for each connection puts into it, another one
decodes and handles.

Bytes wait in the queue, because they need less memory and time than decoded data.
"""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

import msgspec
from picows.websockets import ConnectionClosedOK
from picows.websockets.asyncio.client import ClientConnection, connect

from benchmarks.contender import Meter
from benchmarks.peers.opening import open_all
from benchmarks.scenarios import Target


async def run(target: Target, meter: Meter) -> None:
    decode = msgspec.json.Decoder().decode
    handle = meter.handle

    async def read(ws: ClientConnection, queue: asyncio.Queue[str | bytes]) -> None:
        recv, put = ws.recv, queue.put
        try:
            while True:
                await put(await recv(decode=False))
        except ConnectionClosedOK:
            pass

    async def work(queue: asyncio.Queue[str | bytes]) -> None:
        get = queue.get
        while True:
            await handle(decode(await get()))

    async with AsyncExitStack() as stack, asyncio.TaskGroup() as tasks:
        sockets = await open_all(connect, target, stack)
        workers = []
        for ws in sockets:
            queue = asyncio.Queue[str | bytes](1000)
            tasks.create_task(read(ws, queue))
            workers.append(tasks.create_task(work(queue)))
        await meter.flow(lambda: sockets[0].send("go"))
        for ws in sockets:
            await ws.close()
        for worker in workers:
            worker.cancel()
