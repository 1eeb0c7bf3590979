"""Events as a browser's EventSource takes them (WHATWG HTML, section 9.2)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

import msgspec

__all__ = ["MOST", "QUIET_S", "stream"]

MOST = 32
"""Watchers at a time."""

QUIET_S = 15.0
"""After so long without an event goes a comment, so that nobody in between takes the connection for dead."""


async def stream(events: AsyncIterator[dict[str, Any]]) -> AsyncGenerator[bytes, None]:
    """Yield what goes over the wire. Ends when the events do."""
    yield b": watching\n\n"
    # A task of its own, which goes on over the comments: an iterator that is cancelled may be at its end.
    coming: asyncio.Future[dict[str, Any]] | None = None
    try:
        while True:
            if coming is None:
                coming = asyncio.ensure_future(anext(events))
            done, _ = await asyncio.wait({coming}, timeout=QUIET_S)
            if not done:
                yield b": quiet\n\n"
                continue
            try:
                event = coming.result()
            except StopAsyncIteration:
                return
            coming = None
            yield _encoded(event)
    finally:
        # Nothing here may wait: whoever watches can be gone, and then every wait is cancelled (Starlette).
        if coming is not None:
            coming.add_done_callback(_heard)
            coming.cancel()
        close = getattr(events, "aclose", None)
        if close is not None:
            await close()


def _heard(coming: asyncio.Future[dict[str, Any]]) -> None:
    """Take note of the end, which is nobody's concern any more."""
    if not coming.cancelled():
        coming.exception()


def _encoded(event: dict[str, Any]) -> bytes:
    kind = event["topic"].partition(".")[0].removeprefix("$")
    # JSON has no line breaks outside of strings, and inside they are escaped: it is one line of data.
    return f"event: {kind}\n".encode() + b"data: " + msgspec.json.encode(event, enc_hook=str) + b"\n\n"
