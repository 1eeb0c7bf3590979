"""The feed server is met on both loops, since its faults reach for the sockets below them."""

from tests.support.loops import pytest_asyncio_loop_factories, pytest_itemcollected

__all__ = ["pytest_asyncio_loop_factories", "pytest_itemcollected"]
