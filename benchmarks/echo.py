"""A server that answers each JSON-RPC request on `/`, and reads and drops all messages on `/drop`.

    python -m benchmarks.echo

It prints its port as the first line, and ends when its standard input does.
"""

from __future__ import annotations

import asyncio
import sys

import msgspec
import uvloop
from websockets.asyncio.server import ServerConnection, serve


async def handle(connection: ServerConnection) -> None:
    assert connection.request is not None
    if connection.request.path == "/drop":
        async for _ in connection:
            pass
    async for message in connection:
        request = msgspec.json.decode(message)
        reply = {"jsonrpc": "2.0", "id": request["id"], "result": request["params"]}
        await connection.send(msgspec.json.encode(reply), text=True)


async def main() -> None:
    async with serve(handle, "127.0.0.1", 0, compression=None, ping_interval=None) as server:
        print(next(iter(server.sockets)).getsockname()[1], flush=True)
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


if __name__ == "__main__":
    uvloop.run(main())
