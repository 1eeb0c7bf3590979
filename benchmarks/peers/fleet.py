"""wsfleet with its defaults: supervised connections, each with its mailbox and a processor called for every message."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from benchmarks.contender import Meter
from benchmarks.scenarios import Target
from wsfleet import Endpoint, Fleet


async def run(target: Target, meter: Meter) -> None:
    await receive(target, meter, "json", meter.process)


async def receive(target: Target, meter: Meter, decode: str, process: Callable[[Any], Awaitable[None]]) -> None:
    context, load = target.ssl, target.load
    async with Fleet() as fleet:
        opened = [
            fleet.connect(
                Endpoint(
                    target.uri,
                    name=f"feed-{number}",
                    decode=decode,
                    ssl=context,
                    compression="deflate" if load.deflate else None,
                ),
                process,
            )
            for number in range(load.connections)
        ]
        for connection in opened:
            await connection.wait_open()
        await meter.flow(lambda: opened[0].send("go"))
        await fleet.close()
    stats = fleet.stats()
    assert stats.balanced, stats
    assert sum(subscription.processed for subscription in stats.subscriptions) == meter.handled, stats
    assert sum(endpoint.received_bytes for endpoint in stats.endpoints) == meter.handled * load.size, stats
