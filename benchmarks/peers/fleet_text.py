"""wsfleet with its defaults, and undecoded text: the processor only counts. To be compared with `picows_core`."""

from __future__ import annotations

from benchmarks.contender import Meter
from benchmarks.peers.fleet import receive
from benchmarks.scenarios import Target


async def run(target: Target, meter: Meter) -> None:
    await receive(target, meter, "text", meter.tally)
