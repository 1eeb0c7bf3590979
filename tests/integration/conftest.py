"""These tests run on both loops: asyncio's own, and uvloop if it is installed."""

from tests.support.loops import pytest_asyncio_loop_factories, pytest_itemcollected

__all__ = ["pytest_asyncio_loop_factories", "pytest_itemcollected"]
