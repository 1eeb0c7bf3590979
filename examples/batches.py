"""S13: a queue between the feed and a database: what comes singly is stored in batches.

    python examples/batches.py ws://127.0.0.1:8765 --database prices.db --messages 50000 --mib 64

While one batch is written, the next gathers: a batch is what there is, up to `--batch`, and nobody waits for it to be
full. The queue is bounded in messages and in bytes. A batch that cannot be stored is tried again, then reported and
counted; at the end, what waits is stored.
"""

import argparse
import asyncio
import signal
import sqlite3
from collections import Counter
from pathlib import Path
from typing import Any

from wsfleet import Buffer, DeadLetter, Fleet, Message, Retry, Subscription

Price = dict[str, Any]


def make_fleet(uri: str, database: sqlite3.Connection, buffer: Buffer, batch: int) -> tuple[Fleet, Counter[int]]:
    fleet = Fleet(drain_s=30.0)
    fleet.connect(uri, name="feed", decode="json", topic="prices.{symbol}")
    sizes: Counter[int] = Counter()

    @fleet.process("prices.*", buffer=buffer, batch=batch, retry=Retry(attempts=5))
    def store(messages: list[Message[Price]]) -> None:
        """A plain def, since sqlite3 blocks; in one transaction, so that a retry stores nothing twice."""
        rows = [(m.received_at, m.data["symbol"], m.data["price"]) for m in messages]
        with database:
            database.executemany("INSERT INTO prices VALUES (?, ?, ?)", rows)
        sizes[len(rows)] += 1

    @fleet.process("$dead.store")
    async def tell(message: Message[DeadLetter]) -> None:
        letter = message.data
        print(f"not stored after {letter.attempts} attempts: {letter.message.data} ({letter.error})", flush=True)

    return fleet, sizes


async def count(prices: Subscription) -> None:
    """The other way to take batches: a loop of your own, for which handed out means processed."""
    async for messages in prices.batches():
        symbols = Counter(message.data["symbol"] for message in messages)
        print(f"{len(messages)} prices: {dict(symbols)}", flush=True)
        await asyncio.sleep(1)  # what comes meanwhile is the next batch


async def main(uri: str, path: Path, buffer: Buffer, batch: int, seconds: float) -> None:
    loop, stop = asyncio.get_running_loop(), asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    loop.call_later(seconds, stop.set)
    database = sqlite3.connect(path, check_same_thread=False)  # one thread at a time: `store` has one, and ends first
    database.execute("CREATE TABLE IF NOT EXISTS prices (received_at REAL, symbol TEXT, price REAL)")
    fleet, sizes = make_fleet(uri, database, buffer, batch)
    async with fleet.subscribe("prices.*", name="counted", buffer=buffer) as prices:
        async with fleet:
            counting = asyncio.create_task(count(prices))
            await stop.wait()
        await counting
    rows = {row.name: row for row in fleet.stats().subscriptions}
    (total,) = database.execute("SELECT count(*) FROM prices").fetchone()
    database.close()
    print(f"{rows['store'].processed} stored in {sizes.total()} batches of up to {max(sizes, default=0)}")
    print(f"{rows['store'].failed} failed, {rows['store'].dropped} dropped; the table has {total} rows")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("uri", help="a feed of JSON objects with symbol and price")
    parser.add_argument("--database", type=Path, default=Path("prices.db"), metavar="PATH", help="for SQLite")
    parser.add_argument("--batch", type=int, default=500, metavar="N", help="stored at once, at most (default: 500)")
    parser.add_argument("--messages", type=int, default=50_000, metavar="N", help="that may wait (default: 50000)")
    parser.add_argument("--mib", type=int, default=64, metavar="N", help="that may wait (default: 64)")
    parser.add_argument("--seconds", type=float, default=30.0, metavar="S", help="how long to run (default: 30)")
    args = parser.parse_args()
    asyncio.run(main(args.uri, args.database, Buffer(args.messages, args.mib * 2**20), args.batch, args.seconds))
