"""picows' core alone: a listener that counts texts without decoding them."""

from __future__ import annotations

from picows import WSFrame, WSListener, WSMsgType, WSTransport

from benchmarks.contender import Meter
from benchmarks.peers.picows_listening import listen
from benchmarks.scenarios import Target

TEXT = WSMsgType.TEXT


async def run(target: Target, meter: Meter) -> None:
    count, expected = 0, meter.expected

    class Listener(WSListener):
        def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
            nonlocal count
            if frame.msg_type == TEXT:
                count += 1
                if count == expected:
                    meter.finish(count)
                    count = 0
            else:
                transport.disconnect()

    await listen(Listener, target, meter)
