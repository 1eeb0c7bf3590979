"""Cancelling any task at any await cancels it, keeps the counts balanced, and leaves nothing open."""

import asyncio
import itertools
import os

import pytest

from tests.simulation.script import EVERYTHING, HOLDERS, NEVER, PARTS, WORKERS, Script
from wsfleet import Fleet, Message, Reconnect, Retry, Session
from wsfleet.testing import FeedServer

EVERY = int(os.environ.get("WSFLEET_CANCEL_EVERY", "4"))
"""The suite cancels in every fourth turn; each task begins at another one. 1 is every turn."""

COLLECTS = 10
"""This many cancellations share a garbage collection: a fault that it finds may be that of an earlier turn."""


VICTIMS = [*HOLDERS, *PARTS, *WORKERS, EVERYTHING]


@pytest.mark.parametrize("victim", VICTIMS)
def test_a_cancellation_in_any_iteration_of_the_loop(victim: str) -> None:
    """Cancelled in the n-th turn, for many n in which it exists, a task is cancelled, and all others continue or end
    in order.
    """
    rehearsal = Script("context" if victim != "serve" else victim, NEVER)
    rehearsal.play()
    assert not rehearsal.faults
    turns, hits = rehearsal.alive[victim][VICTIMS.index(victim) % EVERY :: EVERY], 0
    for number, turn in enumerate(turns, 1):
        script = Script(victim, turn)
        script.play(collects=number % COLLECTS == 0 or number == len(turns))
        assert not script.faults, f"cancelled in turn {turn}: {script.faults}"
        hits += script.cancelled is not None
    # The compiled parts use the real clock, so that a turn may be missed.
    assert hits >= len(turns) * 0.9 - 1


@pytest.mark.parametrize("how", ["context", "serve"])
async def test_a_cancellation_in_many_iterations_on_real_sockets(how: str) -> None:
    """With a real server, cancelling the task that runs the fleet after any number of turns leaves no socket open."""
    async with FeedServer() as server:
        finished = False
        for turns in itertools.chain(range(12), range(12, 400, 40)):
            holder, fleet = _hold(server, how)
            for _ in range(turns):
                await asyncio.sleep(0)
                if turns > 30:
                    await asyncio.sleep(0.0005)
            holder.cancel()
            await asyncio.wait({holder})
            assert holder.cancelled()
            stats = fleet.stats()
            assert stats.balanced, stats.to_dict()
            assert all(row.pending == 0 for row in stats.subscriptions)
            await server.wait_clients(0)
            finished = finished or any(row.processed for row in stats.subscriptions)
        assert finished


def _hold(server: FeedServer, how: str) -> tuple["asyncio.Task[None]", Fleet]:
    fleet = Fleet(drain_s=1.0)

    async def run_on_open(session: Session) -> None:
        await session.send("login")

    async def take(message: Message[str]) -> None:
        await asyncio.sleep(0.001)
        if message.index % 3 == 0:
            raise ValueError("planted")

    fleet.connect(server.uri, take, name="feed", on_open=run_on_open, retry=Retry(2, 0, 0), reconnect=Reconnect(0.01))
    pool = fleet.pool(server.uri, 2, name="pool")

    async def use() -> None:
        await fleet.connections["feed"].wait_open()
        await server.send("1", "2", "3", "4")
        await pool.send("x")
        await asyncio.sleep(0.02)
        server.drop()
        await asyncio.sleep(3600)

    async def context() -> None:
        async with fleet:
            await use()

    async def serve() -> None:
        using = asyncio.create_task(use())
        try:
            await fleet.serve()
        finally:
            using.cancel()
            await asyncio.wait({using})

    return asyncio.create_task(context() if how == "context" else serve()), fleet
