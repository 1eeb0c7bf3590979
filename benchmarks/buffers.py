"""The mailbox compared with `asyncio.Queue`, and fan-out with a loop of `put_nowait`, in one process without sockets.

    python -m benchmarks.buffers

A producer puts messages in batches and yields to the loop after each; consumers take them with `async for`, and
from the queue with `get`. Queue and mailbox have the same bound, 1,000 messages, and both make the producer wait
when it is reached. The messages are the same objects, created before. Both sides of a pair run in turn.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import uvloop

from benchmarks.figures import Figure, Part, write
from wsfleet import Buffer, Message, Subscription
from wsfleet.core.context import Context
from wsfleet.pipeline.hub import Hub
from wsfleet.pipeline.mailbox import Mailbox

BATCHES = (1, 10, 100)
FANS = (1, 10, 100, 1000)
GOALS = {1: 1.2, 10: 3.0, 100: 8.0}
"""Goal: the minimum ratio of the cost of `asyncio.Queue` to that of the mailbox, by size of the batch."""

PART = Part(
    "buffers",
    "the mailbox beside asyncio.Queue",
    pair_s=5.0,
    pairs=7,
    quick="--pairs 1 --messages 20 --most 10",
)

DELIVERIES = 100_000
LEAST = 20
"""Minimum number of batches in each run."""

BOUND = 1000
SIZE = 128

Batch = list[Message[Any]]


def messages(count: int) -> Batch:
    return [Message(number, "feed", "feed", number, 1, 1.0, SIZE) for number in range(count)]


class Ingest:
    """The source of the messages, which is paused while a mailbox is full."""

    def __init__(self) -> None:
        self.holders: set[Mailbox] = set()
        self.free = asyncio.Event()
        self.free.set()

    def hold(self, mailbox: Mailbox) -> None:
        self.holders.add(mailbox)
        self.free.clear()

    def overfull(self, mailbox: Mailbox) -> None:
        pass

    def release(self, mailbox: Mailbox) -> None:
        self.holders.discard(mailbox)
        if not self.holders:
            self.free.set()


class Owner:
    """The part of a fleet that a subscription uses. Create it in the running loop."""

    def __init__(self) -> None:
        self.context = Context()
        self.context.bind()

    def check_thread(self) -> None:
        pass

    def remove(self, mailbox: Mailbox) -> None:
        mailbox.close()

    def abandon(self, mailbox: Mailbox) -> None:
        mailbox.close()


async def timed(*tasks: Coroutine[Any, Any, None]) -> float:
    """Return the total CPU time of these coroutines."""
    began = time.process_time()
    await asyncio.gather(*tasks)
    return time.process_time() - began


async def through_queues(count: int, batch: Batch, fan: int) -> float:
    """Put `count` messages into each of `fan` queues, whose consumers take them; return the CPU time."""
    queues = [asyncio.Queue[Any](BOUND) for _ in range(fan)]

    async def produce() -> None:
        for _ in range(count // len(batch)):
            for message in batch:
                for queue in queues:
                    try:
                        queue.put_nowait(message)
                    except asyncio.QueueFull:
                        await queue.put(message)
            await asyncio.sleep(0)

    async def consume(queue: asyncio.Queue[Any]) -> None:
        get = queue.get
        for _ in range(count):
            await get()

    return await timed(produce(), *map(consume, queues))


async def through_mailboxes(count: int, batch: Batch, fan: int) -> float:
    """Deliver the messages by the hub, to a subscription in place of each queue, with limits and counters."""
    hub, feed = Hub(), Ingest()
    boxes = [hub.add(f"sub-{number}", "feed", Buffer(messages=BOUND)) for number in range(fan)]
    subscriptions = [Subscription(box, Owner()) for box in boxes]
    routes = hub.routes_of("feed")

    async def produce() -> None:
        for _ in range(count // len(batch)):
            if feed.holders:
                await feed.free.wait()
            hub.dispatch(batch, SIZE * len(batch), "feed", routes, feed)
            await asyncio.sleep(0)
        for box in boxes:
            box.finish()

    async def consume(subscription: Subscription) -> None:
        async for _ in subscription:
            pass

    cpu_s = await timed(produce(), *map(consume, subscriptions))
    for box, subscription in zip(boxes, subscriptions, strict=True):
        row = box.stats()
        assert (row.offered, row.processed, row.pending, row.dropped) == (count, count, 0, 0), row
        subscription.close()
    return cpu_s


def cost(flow: Callable[[int, Batch, int], Coroutine[Any, Any, float]], count: int, batch: int, fan: int) -> float:
    """Return the CPU time of one message for one consumer, in nanoseconds."""
    gc.collect()
    return uvloop.run(flow(count, messages(batch), fan)) / (count * fan) * 1e9


def measure(batch: int, fan: int, pairs: int, deliveries: int) -> dict[str, Any]:
    """Return both costs, and the ratio of the queue's cost to the mailbox's: the median over the pairs."""
    count = max(LEAST, deliveries // (batch * fan)) * batch
    each = [(cost(through_queues, count, batch, fan), cost(through_mailboxes, count, batch, fan)) for _ in range(pairs)]
    ratios = [queue / mailbox for queue, mailbox in each]
    return {
        "batch": batch,
        "subscriptions": fan,
        "queue_ns": median(queue for queue, _ in each),
        "mailbox_ns": median(mailbox for _, mailbox in each),
        "ratio": median(ratios),
        "ratio_min": min(ratios),
        "ratio_max": max(ratios),
        "goal": GOALS[batch] if fan == 1 else None,
    }


def line(row: dict[str, Any]) -> str:
    goal = "" if row["goal"] is None else f"{row['goal']:.1f}"
    spread = f"({row['ratio_min']:.2f} - {row['ratio_max']:.2f})"
    return (
        f"{row['subscriptions']:13,}{row['batch']:7}{row['queue_ns']:12,.0f} ns{row['mailbox_ns']:12,.0f} ns"
        f"{row['ratio']:8.2f}{spread:>17}{goal:>6}"
    )


def report(pairs: int, deliveries: int, most: int) -> list[dict[str, Any]]:
    """Measure all, print the table, and return its rows."""
    print("CPU time per message and consumer: asyncio.Queue, hub and mailbox, and their ratio")
    heads = f"{'subscriptions':>13}{'batch':>7}{'queue':>15}{'mailbox':>15}{'ratio':>8}{'(min - max)':>17}{'goal':>6}"
    print(heads)
    rows = []
    for fan in (each for each in FANS if each <= most):
        for batch in BATCHES:
            rows.append(measure(batch, fan, pairs, deliveries))
            print(line(rows[-1]), flush=True)
    return rows


def figures(data: Mapping[str, Any]) -> list[Figure]:
    return [
        Figure(
            f"asyncio.Queue, batches of {row['batch']}, {row['subscriptions']:,} subscribed",
            "mailbox",
            row["ratio"],
            row["goal"],
        )
        for row in data["rows"]
    ]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.buffers", description=PART.about)
    parser.add_argument("--pairs", type=int, default=PART.pairs, metavar="N", help="pairs of runs for each line")
    parser.add_argument("--messages", type=int, default=DELIVERIES, metavar="N", help="deliveries in each run")
    parser.add_argument("--most", type=int, default=FANS[-1], metavar="N", help="maximum number of subscriptions")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures to this file")
    options = parser.parse_args(arguments)
    data = {"rounds": options.pairs, "rows": report(options.pairs, options.messages, options.most)}
    write(options.json, figures(data), data)


if __name__ == "__main__":
    main()
