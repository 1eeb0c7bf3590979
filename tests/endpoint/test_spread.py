"""Attempts that could begin together are spread."""

import math

import pytest

from wsfleet.endpoint.spread import SPREAD_S, Spread


@pytest.mark.parametrize("count", [1, 2, 19, 20, 26, 40, 64, 100, 1000])
def test_attempts_are_spread_evenly(count: int) -> None:
    """No 100 ms have more than 4 % of the attempts, rounded up, and the last one begins within SPREAD_S."""
    spread = Spread(7.0, count)
    begun = []
    for _ in range(count):
        begun.append(spread.next_at)
        spread.begin(spread.next_at)
    assert begun[0] == 7.0 and begun[-1] < 7.0 + SPREAD_S
    most = max(sum(first <= other < first + 0.1 - 1e-9 for other in begun) for first in begun)
    assert most <= math.ceil(0.04 * count)
