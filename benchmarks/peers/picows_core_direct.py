"""picows' core: the listener decodes and calls a plain function, because it cannot await an async one."""

from __future__ import annotations

import msgspec
from picows import WSFrame, WSListener, WSMsgType, WSTransport

from benchmarks.contender import Meter
from benchmarks.peers.picows_listening import listen
from benchmarks.scenarios import Target

TEXT = WSMsgType.TEXT


async def run(target: Target, meter: Meter) -> None:
    decode = msgspec.json.Decoder().decode
    handle = meter.handle_now

    class Listener(WSListener):
        def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
            if frame.msg_type == TEXT:
                handle(decode(frame.get_payload_as_bytes()))
            else:
                transport.disconnect()

    await listen(Listener, target, meter)
