"""S3: two fleets and a page about their health, side by side in `asyncio.gather`.

    python examples/gather.py --prices ws://127.0.0.1:8765 --orders ws://127.0.0.1:8765/orders --port 8080
    curl http://127.0.0.1:8080

Two fleets share nothing: each has its own topics, processors and end. Here the orders get longer to drain.
"""

import argparse
import asyncio
import json
import signal
from typing import Any

from wsfleet import Fleet, Message


def make_fleets(prices_uri: str, orders_uri: str) -> tuple[Fleet, Fleet]:
    prices, orders = Fleet(name="prices", drain_s=1.0), Fleet(name="orders", drain_s=30.0)

    async def show(message: Message[dict[str, Any]]) -> None:
        print(f"{message.endpoint:8} {message.index:5}  {message.data}", flush=True)

    prices.connect(prices_uri, show, name="prices", decode="json")
    orders.connect(orders_uri, show, name="orders", decode="json")
    return prices, orders


async def health(port: int, fleets: tuple[Fleet, ...], stop: asyncio.Event) -> None:
    """Answer every HTTP request with what the fleets count, as JSON, until `stop`."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        body = json.dumps({fleet.name: fleet.stats().to_dict() for fleet in fleets}).encode()
        head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        writer.write(head.encode() + body)
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", port) as server:
        print(f"health: http://127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)
        await stop.wait()


async def main(args: argparse.Namespace) -> None:
    loop, stop = asyncio.get_running_loop(), asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    loop.call_later(args.seconds, stop.set)
    fleets = make_fleets(args.prices, args.orders)

    async def end() -> None:
        await stop.wait()
        await asyncio.gather(*(fleet.close() for fleet in fleets))

    await asyncio.gather(*(fleet.serve() for fleet in fleets), health(args.port, fleets, stop), end())
    for fleet in fleets:
        (own,) = fleet.stats().subscriptions
        print(f"{fleet.name}: {own.processed} processed, {own.dropped} dropped")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--prices", required=True, metavar="URI")
    parser.add_argument("--orders", required=True, metavar="URI")
    parser.add_argument("--port", type=int, default=0, help="of the page (default: a free one)")
    parser.add_argument("--seconds", type=float, default=60.0, metavar="S", help="how long to run (default: 60)")
    asyncio.run(main(parser.parse_args()))
