"""The foreign servers are met on both loops: asyncio's own, and uvloop where it is installed."""

import asyncio
from collections.abc import Callable
from typing import Any


def pytest_asyncio_loop_factories() -> dict[str, Callable[[], Any]]:
    try:
        import uvloop
    except ImportError:
        return {"asyncio": asyncio.new_event_loop}
    return {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}
