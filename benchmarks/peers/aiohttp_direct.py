"""aiohttp: a task for each connection decodes and awaits the handler itself. Messages are bytes, as with websockets."""

from __future__ import annotations

import asyncio
from typing import Any

import aiohttp
import msgspec

from benchmarks.contender import Meter
from benchmarks.scenarios import Target


async def connect(session: aiohttp.ClientSession, target: Target) -> list[Any]:
    """Return the number of connections that the load requires."""
    compress = 15 if target.load.deflate else 0
    return [
        await session.ws_connect(target.uri, compress=compress, decode_text=False)
        for _ in range(target.load.connections)
    ]


def session_for(target: Target) -> aiohttp.ClientSession:
    """Return a session that is not limited to 100 connections."""
    return aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0, ssl=target.ssl or True))


async def run(target: Target, meter: Meter) -> None:
    decode = msgspec.json.Decoder().decode
    handle = meter.handle

    async def read(ws: Any) -> None:
        receive = ws.receive
        text = aiohttp.WSMsgType.TEXT
        while True:
            message = await receive()
            if message.type is not text:
                return
            await handle(decode(message.data))

    async with session_for(target) as session, asyncio.TaskGroup() as tasks:
        sockets = await connect(session, target)
        for ws in sockets:
            tasks.create_task(read(ws))
        await meter.flow(lambda: sockets[0].send_str("go"))
        for ws in sockets:
            await ws.close()
