"""Whole lives of fleets by the thousand, each of which ends with a look for garbage."""

import gc
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def _little_to_collect() -> Iterator[None]:
    """What imports have made stays anyway; to look through it takes longer than a life."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()
