"""These tests run on asyncio's own loop, and on uvloop where it is installed."""

from tests.support.loops import pytest_asyncio_loop_factories, pytest_itemcollected

__all__ = ["pytest_asyncio_loop_factories", "pytest_itemcollected"]
