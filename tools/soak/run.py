"""Runs one soak: the server in its process, the fleet and the measurements in this one."""

from __future__ import annotations

import asyncio
import gc
import json
import subprocess
import time
import tracemalloc
from collections import Counter
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import IO, Any, cast

from tools.soak.load import Load
from tools.soak.samples import OwnFaults, Samples, count_objects
from tools.soak.verdict import Criterion, End, judge
from wsfleet import Fleet, Limits
from wsfleet.runtime.subprocess import child_process

__all__ = ["Report", "soak"]

LOOKS, WEIGHINGS = 600, 60
LOOK_S, WEIGH_S = 1.0, 4.0
"""Number of samples of the fleet, and of the memory; the interval has a minimum, because sampling takes time."""

REHEARSAL_S, REHEARSED = 3.0, 40
"""A short soak before objects are counted, after which modules are imported and caches filled."""


@dataclass
class Report:
    """The result of a soak."""

    connections: int
    seconds: float
    seed: int
    samples: Samples
    end: End
    criteria: list[Criterion]
    faults: dict[str, int]

    @property
    def failed(self) -> list[Criterion]:
        """The criteria that do not hold."""
        return [each for each in self.criteria if each.holds is False]


def soak(
    connections: int,
    seconds: float,
    seed: int,
    run: Callable[[Coroutine[Any, Any, End]], End],
    report_progress: Callable[[str], None],
) -> Report:
    """Run the soak with `run`, which is asyncio.run or similar; `report_progress` is called with the progress."""
    tracemalloc.start()
    log = OwnFaults()  # everything fails all the time: this finds the important records in the log
    try:
        with child_process("tools.soak.server", connections, seed) as server, log.listening():
            uri = f"ws://127.0.0.1:{int(cast(IO[bytes], server.stdout).readline())}"
            run(_live(Samples(), uri, min(REHEARSED, connections), REHEARSAL_S, seed, lambda text: None))
            before = _counted()
            samples = Samples()
            end = run(_live(samples, uri, connections, seconds, seed, report_progress))
            after = _counted()
            faults = _ask(server)
    finally:
        tracemalloc.stop()
    criteria = judge(samples, end, log.found, before, after, connections)
    return Report(connections, seconds, seed, samples, end, criteria, faults)


def _counted() -> Counter[str]:
    for _ in range(3):  # objects released by a destructor are found by the next
        gc.collect()
    return count_objects()


def _ask(server: subprocess.Popen[bytes]) -> dict[str, int]:
    cast(IO[bytes], server.stdin).write(b"\n")
    cast(IO[bytes], server.stdin).flush()
    line = cast(IO[bytes], server.stdout).readline()
    if not line:
        raise RuntimeError("the server has ended too early")
    return cast("dict[str, int]", json.loads(line))


async def _live(
    samples: Samples, uri: str, connections: int, seconds: float, seed: int, report_progress: Callable[[str], None]
) -> End:
    """Run a fleet for this time; only numbers are left of it."""
    fleet = Fleet(limits=Limits(handshakes=32), drain_s=20.0)
    load = Load(fleet, uri, connections, seed)
    async with fleet:
        load.start()
        await _measure(samples, fleet, seconds, report_progress)
        await load.stop()
    # Transports that were closed last release their sockets in the next iterations of the loop.
    await asyncio.sleep(0.5)
    return End.of(fleet.stats(), load.handled, dict(load.asked))


async def _measure(samples: Samples, fleet: Fleet, seconds: float, report_progress: Callable[[str], None]) -> None:
    began = time.monotonic()
    look_s, weigh_s = max(LOOK_S, seconds / LOOKS), max(WEIGH_S, seconds / WEIGHINGS)
    weigh_at = began + weigh_s
    while (now := time.monotonic()) < began + seconds:
        await asyncio.sleep(min(look_s, began + seconds - now))
        samples.look(fleet)
        if time.monotonic() >= weigh_at:
            weigh_at += weigh_s
            samples.weigh()
            report_progress(f"{now - began:5.0f} s: {_line(samples)}")


def _line(samples: Samples) -> str:
    return (
        f"{samples.states['OPEN'][-1]:,} open, {samples.received[-1]:,} received, {samples.losses[-1]:,} lost, "
        f"RSS {samples.rss[-1] / 2**20:.1f} MiB, traced {samples.traced[-1] / 2**20:.1f} MiB"
    )
