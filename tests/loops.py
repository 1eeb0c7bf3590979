"""For a folder's conftest: its asynchronous tests run on asyncio's own loop, and on uvloop where it is installed."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest


def pytest_asyncio_loop_factories() -> dict[str, Callable[[], Any]]:
    try:
        import uvloop
    except ImportError:
        return {"asyncio": asyncio.new_event_loop}
    return {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}


def pytest_itemcollected(item: pytest.Item) -> None:
    """A test that hangs on uvloop cannot be ended by a signal: uvloop only logs what the signal's handler raises."""
    callspec = getattr(item, "callspec", None)
    if callspec is not None and "uvloop" in callspec.id:
        item.add_marker(pytest.mark.timeout(method="thread"))
