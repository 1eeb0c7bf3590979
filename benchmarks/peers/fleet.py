"""wsfleet by its defaults: supervised connections, each with its mailbox and a processor called for every message."""

from __future__ import annotations

from benchmarks.contender import Meter
from wsfleet import Endpoint, Fleet


async def run(uri: str, connections: int, meter: Meter) -> None:
    async with Fleet() as fleet:
        opened = [
            fleet.connect(Endpoint(uri, name=f"feed-{number}", decode="json"), meter.process)
            for number in range(connections)
        ]
        for connection in opened:
            await connection.wait_open()
        meter.opened()
        await opened[0].send("go")
        await meter.done.wait()
        await fleet.close()
    stats = fleet.stats()
    assert stats.balanced, stats
    assert sum(subscription.processed for subscription in stats.subscriptions) == meter.result()["count"], stats
