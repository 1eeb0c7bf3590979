"""The call of `on_open` on a new socket, and what ends it: its own end, or the socket's."""

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
"""How long an on_open may go on after its connection was lost."""


@calls_user_code("ingest")
async def run_on_open(
    session: SessionCore,
    on_open: Callable[[Session], Awaitable[Any]],
    ingest: Ingest,
    expire: Callable[[], object],
    close_s: float,
) -> None:
    """Run `on_open`; raise what it raises, or the loss of the connection meanwhile.

    `expire` cancels it. A close that the peer has begun is a loss within `close_s`.
    """
    loop = asyncio.get_running_loop()
    # A socket lost while on_open waits for something else would go unnoticed until the deadline. If it waits for the
    # socket it is told so, and may have something to say.
    session.on_lost = lambda: loop.call_later(GRACE_S, expire)
    try:
        if session.lost_error is None:
            made = on_open(Session(session))
            if not inspect.isawaitable(made):
                # Another attempt would find the same function.
                raise Fatal("on_open did not return an awaitable: declare it with async def")
            await made
    except Exception:
        if session.lost_error is None and not session.can_send:
            # It could not send, as the peer is closing: why, the loss will say.
            session.on_lost = None
            await asyncio.wait([session.ended], timeout=close_s)
        raise
    finally:
        session.on_lost = None
    if session.lost_error is not None:
        raise session.lost_error
