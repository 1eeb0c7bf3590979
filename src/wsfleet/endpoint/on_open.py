"""Runs `on_open` on a new connection until it returns or the connection is lost."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from typing import Any

from wsfleet.core.errors import Fatal
from wsfleet.core.loop_watchdog import calls_user_code
from wsfleet.endpoint.ingest import Ingest
from wsfleet.endpoint.session import Session, SessionCore

__all__ = ["run_on_open"]

GRACE_S = 0.1
"""Seconds that on_open may go on after the loss of its connection."""


@calls_user_code("ingest")
async def run_on_open(
    session: SessionCore,
    on_open: Callable[[Session], Awaitable[Any]],
    ingest: Ingest,
    expire: Callable[[], object],
    close_s: float,
) -> None:
    """Run `on_open`. Raises its errors, and ConnectionLost if the connection is lost meanwhile.

    `expire` cancels it. A close begun by the peer is a loss within `close_s` seconds.
    """
    loop = asyncio.get_running_loop()
    # Without this, a loss while on_open waits for something else would be noticed only at the deadline. If it waits for
    # the connection, it gets the error, and has GRACE_S to handle it.
    session.on_lost = lambda: loop.call_later(GRACE_S, expire)
    try:
        if session.lost_error is None:
            made = on_open(Session(session))
            if not inspect.isawaitable(made):
                # Fatal, because another attempt would call the same function.
                raise Fatal("on_open did not return an awaitable: declare it with async def")
            await made
    except Exception:
        if session.lost_error is None and not session.can_send:
            # Sending failed because the peer is closing. Wait for the loss, which has the reason.
            session.on_lost = None
            await asyncio.wait([session.ended], timeout=close_s)
        raise
    finally:
        session.on_lost = None
    if session.lost_error is not None:
        raise session.lost_error
