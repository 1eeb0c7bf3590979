"""Opens the connections of a contender on picows' core, and lets the meter begin the flow."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from picows import WSListener, WSMsgType, WSTransport, ws_connect

from benchmarks.contender import Meter
from benchmarks.scenarios import Target

MAX_SIZE = 2**20


async def listen(make: Callable[[], WSListener], target: Target, meter: Meter) -> None:
    """Run a listener for each connection until the meter is done."""
    options: dict[str, Any] = {"ssl_context": target.ssl} if target.load.tls else {}
    opened: list[WSTransport] = []
    for _ in range(target.load.connections):
        transport, _listener = await ws_connect(make, target.uri, max_frame_size=MAX_SIZE, **options)
        opened.append(transport)

    async def begin() -> None:
        opened[0].send(WSMsgType.TEXT, b"go")

    await meter.flow(begin)
    for transport in opened:
        transport.send_close()
    for transport in opened:
        await transport.wait_disconnected()
