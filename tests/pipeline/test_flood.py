"""A server that sends as fast as it can, a processor that takes a millisecond: flat memory, and nothing lost."""

import pytest

from tests.support.soaking import Kind, soak
from wsfleet import Overflow


@pytest.mark.parametrize("overflow", list(Overflow))
async def test_a_flood_leaves_the_memory_flat_and_the_balance_exact(overflow: Overflow) -> None:
    """Two seconds of flood: no memory beyond the buffer's, every message in order or accounted for, at every moment."""
    outcome = await soak(Kind(overflow), 2.0)
    assert not outcome.faults(), outcome
    row, hub = outcome.stats.subscriptions[0], outcome.stats.hub
    if overflow is Overflow.FAIL:
        assert row.name == "$retired" and hub.unrouted > 0
    elif overflow is Overflow.PAUSE:
        # What the end found waiting was dropped, and that is all.
        assert row.dropped + row.failed <= 500 + 2**16 // 1000 + 1
    else:
        assert row.dropped > row.processed
