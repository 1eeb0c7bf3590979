"""A feed to try the examples on, which is restarted again and again.

    python examples/feed.py --port 8765 --restart 10

Every path gets prices: {"symbol": "AMBER", "price": 101.25, "n": 1}. On the path /private a client has to show a
bearer token, log in, and subscribe to symbols first; `log_in` shows how. On the path /rpc it answers JSON-RPC requests
for prices, and says nothing of its own.
"""

import argparse
import asyncio
import hmac
import itertools
import json
import random
from collections.abc import Iterable
from typing import Any

from websockets.asyncio.server import ServerConnection

from wsfleet.testing import FeedServer

SYMBOLS = ("AMBER", "COBALT", "IVORY")
SECRET = b"open sesame"


async def log_in(client: ServerConnection) -> Iterable[str]:
    """See a client of /private through its login; return the symbols that it subscribed to."""
    assert client.request is not None
    if client.request.path != "/private":
        return SYMBOLS
    if not client.request.headers.get("Authorization", "").startswith("Bearer "):
        await client.close(4401, "a token is missing")
    login = json.loads(await client.recv())
    signature = hmac.new(SECRET, str(login["time"]).encode(), "sha256").hexdigest()
    good = hmac.compare_digest(signature, login["signature"])
    await client.send(json.dumps({"op": "login", "ok": good}))
    wanted = json.loads(await client.recv())["symbols"]
    await client.send(json.dumps({"op": "subscribe", "symbols": wanted}))
    return set(wanted)


async def answer(client: ServerConnection) -> None:
    """Answer JSON-RPC requests like {"jsonrpc": "2.0", "id": 1, "method": "price", "params": {"symbol": "AMBER"}}."""
    async for payload in client:
        request = json.loads(payload)
        reply: dict[str, Any] = {"jsonrpc": "2.0", "id": request["id"]}
        if request["method"] == "price" and request["params"]["symbol"] in SYMBOLS:
            reply["result"] = round(random.gauss(100, 1), 2)
        else:
            reply["error"] = {"code": -32602, "message": "no such price"}
        await asyncio.sleep(0.01)
        await client.send(json.dumps(reply))


async def main(port: int, restart_s: float, pause_s: float) -> None:
    numbers = itertools.count(1)

    async def serve(client: ServerConnection) -> None:
        assert client.request is not None
        if client.request.path == "/rpc":
            return await answer(client)
        symbols = await log_in(client)
        while True:
            symbol, price = random.choice(SYMBOLS), random.gauss(100, 1)
            if symbol in symbols:
                await client.send(json.dumps({"symbol": symbol, "price": round(price, 2), "n": next(numbers)}))
            await asyncio.sleep(pause_s)

    async with FeedServer(port=port, on_client=serve) as server:
        print(f"serving {server.uri}; Ctrl-C ends it", flush=True)
        while True:
            await asyncio.sleep(restart_s)
            await server.stop()
            print("down for a second", flush=True)
            await asyncio.sleep(1)
            await server.start()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--port", type=int, default=8765)
    parser.add_argument("--restart", type=float, default=10.0, metavar="SECONDS", help="how long it is up at a time")
    parser.add_argument("--pause", type=float, default=0.1, metavar="SECONDS", help="between two prices")
    args = parser.parse_args()
    try:
        asyncio.run(main(args.port, args.restart, args.pause))
    except KeyboardInterrupt:
        pass
