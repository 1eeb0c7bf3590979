"""Whole lives of fleets by the thousand, each of which ends with a look for garbage."""

import gc

import pytest


@pytest.fixture(autouse=True)
def _little_to_collect() -> None:
    """What imports have made stays anyway; to look through it takes longer than a life.

    It is not thawed afterwards, or all that pytest froze at the start would be looked through again after every test.
    """
    gc.collect()
    gc.freeze()
