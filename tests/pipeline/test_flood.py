"""A server that sends at full speed and a processor that needs a millisecond: memory is bounded and nothing is lost."""

import pytest

from tests.support.soaking import Kind, soak
from wsfleet import Overflow


@pytest.mark.parametrize("overflow", list(Overflow))
async def test_in_a_flood_memory_is_bounded_and_counts_balance(overflow: Overflow) -> None:
    """In two seconds of flood, memory stays within the buffer, and each message is in order or accounted for at any
    time.
    """
    outcome = await soak(Kind(overflow), 2.0)
    assert not outcome.faults(), outcome
    row, hub = outcome.stats.subscriptions[0], outcome.stats.hub
    if overflow is Overflow.FAIL:
        assert row.name == "$retired" and hub.unrouted > 0
    elif overflow is Overflow.PAUSE:
        # Only the messages that waited at the shutdown were dropped.
        assert row.dropped + row.failed <= 500 + 2**16 // 1000 + 1
    else:
        assert row.dropped > row.processed
