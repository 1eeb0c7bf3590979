"""S8: a pool of connections to ask over, and the replies to what was asked: JSON-RPC, as nodes and exchanges speak it.

    python examples/request_reply.py ws://127.0.0.1:8765/rpc --size 4 --callers 20 --requests 1000

Each request goes to the member with the fewest outstanding. A member that is lost comes back by itself; what was asked
over it raises RequestLost at once, and here is asked again: asking twice for a price does no harm. Do not do that with
an order.
"""

import argparse
import asyncio
import itertools
from collections import Counter
from collections.abc import Iterator
from typing import Any

from wsfleet import Fleet, Message, Pool, RequestLost, RequestTimeout


async def show_notice(message: Message[Any]) -> None:
    """What is no reply to one of ours is a message like any other."""
    print(f"{message.endpoint} says {message.data}", flush=True)


async def ask(pool: Pool, symbol: str, timeout_s: float) -> str:
    """Ask for a price until there is an answer; return what became of it."""
    request = {"method": "price", "params": {"symbol": symbol}}
    while True:
        try:
            reply = await pool.request(request, timeout_s=timeout_s)
        except RequestLost as error:
            print(f"{symbol} is asked again: {error}", flush=True)
        except RequestTimeout as error:
            print(f"{symbol}: {error}", flush=True)
            return "timed out"
        else:
            return "refused" if "error" in reply else "answered"


async def call(pool: Pool, symbols: Iterator[str], timeout_s: float, outcomes: Counter[str]) -> None:
    for symbol in symbols:  # shared: each caller takes the next
        outcomes[await ask(pool, symbol, timeout_s)] += 1


async def main(uri: str, size: int, callers: int, requests: int, timeout_s: float) -> None:
    outcomes: Counter[str] = Counter()
    symbols = itertools.islice(itertools.cycle(("AMBER", "COBALT", "IVORY", "NOTHING")), requests)
    async with Fleet() as fleet:
        pool = fleet.pool(uri, size, show_notice, name="node")
        await pool.wait_open()
        async with asyncio.TaskGroup() as tasks:
            for _ in range(callers):
                tasks.create_task(call(pool, symbols, timeout_s, outcomes))
    for row in fleet.stats().endpoints:
        print(f"{row.name}: {row.connects} connects, {row.sent} sent, {row.answered} answered")
    print(", ".join(f"{count} {outcome}" for outcome, count in sorted(outcomes.items())))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("uri", help="a server of JSON-RPC that knows the method price")
    parser.add_argument("--size", type=int, default=4, metavar="N", help="how many connections (default: 4)")
    parser.add_argument("--callers", type=int, default=20, metavar="N", help="who ask at the same time (default: 20)")
    parser.add_argument("--requests", type=int, default=1000, metavar="N", help="how many in all (default: 1000)")
    parser.add_argument("--timeout", type=float, default=10.0, metavar="S", help="for each reply (default: 10)")
    args = parser.parse_args()
    asyncio.run(main(args.uri, args.size, args.callers, args.requests, args.timeout))
