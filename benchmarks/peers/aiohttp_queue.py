"""aiohttp and `asyncio.Queue(1000)`: a task for each connection puts into its queue, another one decodes and handles.

Bytes wait in the queue, because they need less memory and time than decoded data.
"""

from __future__ import annotations

import asyncio
from typing import Any

import aiohttp
import msgspec

from benchmarks.contender import Meter
from benchmarks.peers.aiohttp_direct import connect, session_for
from benchmarks.scenarios import Target


async def run(target: Target, meter: Meter) -> None:
    decode = msgspec.json.Decoder().decode
    handle = meter.handle

    async def read(ws: Any, queue: asyncio.Queue[bytes]) -> None:
        receive, put = ws.receive, queue.put
        text = aiohttp.WSMsgType.TEXT
        while True:
            message = await receive()
            if message.type is not text:
                return
            await put(message.data)

    async def work(queue: asyncio.Queue[bytes]) -> None:
        get = queue.get
        while True:
            await handle(decode(await get()))

    async with session_for(target) as session, asyncio.TaskGroup() as tasks:
        sockets = await connect(session, target)
        workers = []
        for ws in sockets:
            queue = asyncio.Queue[bytes](1000)
            tasks.create_task(read(ws, queue))
            workers.append(tasks.create_task(work(queue)))
        await meter.flow(lambda: sockets[0].send_str("go"))
        for ws in sockets:
            await ws.close()
        for worker in workers:
            worker.cancel()
