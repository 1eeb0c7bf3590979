"""websockets: a task for each connection decodes and awaits the handler itself.

There is no buffer: a slow handler pauses its own socket. Messages are bytes, because the JSON decoder accepts them
directly.
"""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

import msgspec
from websockets import ClientConnection, ConnectionClosedOK, connect

from benchmarks.contender import Meter
from benchmarks.peers.opening import open_all
from benchmarks.scenarios import Target


async def run(target: Target, meter: Meter) -> None:
    decode = msgspec.json.Decoder().decode
    handle = meter.handle

    async def read(ws: ClientConnection) -> None:
        recv = ws.recv
        try:
            while True:
                await handle(decode(await recv(decode=False)))
        except ConnectionClosedOK:
            pass

    async with AsyncExitStack() as stack, asyncio.TaskGroup() as tasks:
        sockets = await open_all(connect, target, stack)
        for ws in sockets:
            tasks.create_task(read(ws))
        await meter.flow(lambda: sockets[0].send("go"))
        for ws in sockets:
            await ws.close()
