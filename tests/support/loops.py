"""For a folder's conftest: its asynchronous tests run on asyncio's own loop, and on uvloop if it is installed.

A module that defines `LOOPS` runs only on those.
"""

import asyncio
import contextlib
import sys
from collections.abc import Callable
from typing import Any

import pytest


def pytest_asyncio_loop_factories(item: pytest.Item) -> dict[str, Callable[[], Any]]:
    factories: dict[str, Callable[[], Any]] = {"asyncio": asyncio.new_event_loop}
    with contextlib.suppress(ImportError):
        import uvloop

        factories["uvloop"] = uvloop.new_event_loop
        if sys.version_info[:2] == (3, 12):
            factories["uvloop"] = _without_debug(uvloop.Loop)
    module = item.getparent(pytest.Module)
    only = getattr(getattr(module, "obj", None), "LOOPS", factories)
    return {name: factory for name, factory in factories.items() if name in only}


def _without_debug(kind: type[asyncio.AbstractEventLoop]) -> Callable[[], Any]:
    """Python 3.12.1 sometimes crashes if uvloop, in its debug mode, records the stack of a callback."""

    class Loop(kind):  # type: ignore[misc, valid-type]
        def set_debug(self, enabled: bool) -> None:
            super().set_debug(False)

    def make() -> asyncio.AbstractEventLoop:
        loop = Loop()
        loop.set_debug(False)
        return loop

    return make


def pytest_itemcollected(item: pytest.Item) -> None:
    """A test that hangs on uvloop cannot be ended by a signal: uvloop only logs the exception of the
    signal's handler.
    """
    callspec = getattr(item, "callspec", None)
    if callspec is not None and "uvloop" in callspec.id:
        item.add_marker(pytest.mark.timeout(method="thread"))
