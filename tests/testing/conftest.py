"""The tests run on asyncio and on uvloop, because faults use the sockets directly."""

from tests.support.loops import pytest_asyncio_loop_factories, pytest_itemcollected

__all__ = ["pytest_asyncio_loop_factories", "pytest_itemcollected"]
