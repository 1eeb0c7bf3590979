"""Opens the connections of a contender whose library has the interface of websockets."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import Any

from benchmarks.scenarios import Target


async def open_all(connect: Callable[..., Any], target: Target, stack: AsyncExitStack, **options: Any) -> list[Any]:
    """Return the number of connections that the load requires; `stack` closes them."""
    if target.load.tls:
        options["ssl"] = target.ssl
    compression = "deflate" if target.load.deflate else None
    return [
        await stack.enter_async_context(connect(target.uri, compression=compression, **options))
        for _ in range(target.load.connections)
    ]
