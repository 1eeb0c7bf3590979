"""aiohttp and `asyncio.Queue(1000)`: a task for each connection decodes into its queue, another one handles."""

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

    async def read(ws: Any, queue: asyncio.Queue[Any]) -> None:
        receive, put = ws.receive, queue.put
        text = aiohttp.WSMsgType.TEXT
        while True:
            message = await receive()
            if message.type is not text:
                return
            await put(decode(message.data))

    async def work(queue: asyncio.Queue[Any]) -> None:
        get = queue.get
        while True:
            await handle(await get())

    async with session_for(target) as session, asyncio.TaskGroup() as tasks:
        sockets = await connect(session, target)
        meter.opened()
        workers = []
        for ws in sockets:
            queue = asyncio.Queue[Any](1000)
            tasks.create_task(read(ws, queue))
            workers.append(tasks.create_task(work(queue)))
        await sockets[0].send_str("go")
        await meter.done.wait()
        for ws in sockets:
            await ws.close()
        for worker in workers:
            worker.cancel()
