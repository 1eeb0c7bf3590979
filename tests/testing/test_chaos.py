"""Random faults are determined by the seed, can be survived, and stop on request."""

import itertools

import pytest

from tests.testing.program import program
from wsfleet.testing import Chaos, FeedServer, faults


@pytest.mark.parametrize("seed", range(4))
async def test_nothing_is_lost_beyond_the_faults(seed: int) -> None:
    """Under chaos, all missing numbers are explained by faults, and afterwards all messages arrive."""
    async with FeedServer() as server, program(server) as running:
        with Chaos(server, seed, messages=20, seconds=0.1) as chaos:
            await server.send_numbered(200)
        await server.send_numbered(50)
        await running.until(250)
        audit = server.audit(running.seen)
        assert audit.clean, (audit, str(chaos))
        assert set(range(201, 251)) <= set(running.seen)
        assert len(chaos.done) > 3
        assert str(chaos).startswith(f"seed {seed}, ")


async def test_a_seed_determines_all_faults() -> None:
    """A seed determines the faults and their order; without one, a random seed is used."""
    async with FeedServer() as server:
        drawn = []
        for seed in (7, 7, 8, None, None):
            chaos = Chaos(server, seed)
            drawn.append(list(itertools.islice(chaos._steps(), 50)))
            assert chaos.done == drawn[-1]
    assert drawn[0] == drawn[1]
    assert len({repr(steps) for steps in drawn}) == 4


async def test_connected_clients_get_a_fault() -> None:
    """Clients that are already connected get a fault too."""
    async with FeedServer() as server, program(server) as running:
        await server.wait_clients(1)
        with Chaos(server, 1, messages=0, seconds=0.02) as chaos:
            await running.error()
        assert isinstance(chaos.done[0], faults.ConnectionFault)
        await server.wait_clients(1)
