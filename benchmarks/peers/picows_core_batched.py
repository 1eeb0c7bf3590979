"""picows' core and a batched mailbox: the listener appends to a deque, a task decodes and handles in batches.

A full mailbox pauses reading its socket; the messages of the last read still arrive.
"""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
from picows import WSFrame, WSListener, WSMsgType, WSTransport

from benchmarks.contender import Meter
from benchmarks.peers.batching import BOUND, Batches
from benchmarks.peers.picows_listening import listen
from benchmarks.scenarios import Target

TEXT = WSMsgType.TEXT


class Listener(WSListener):
    """Reads one connection into its mailbox."""

    def __init__(self, batches: Batches) -> None:
        super().__init__()
        self._waiting = batches.waiting
        self._wake = batches.wake
        self._paused = False

    def on_ws_connected(self, transport: WSTransport) -> None:
        self._transport = transport.underlying_transport

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        if frame.msg_type != TEXT:
            transport.disconnect()
            return
        waiting = self._waiting
        if not waiting:
            self._wake()
        elif len(waiting) >= BOUND and not self._paused:
            self._paused = True
            self._transport.pause_reading()
        waiting.append(frame.get_payload_as_bytes())

    def resume(self) -> None:
        if self._paused:
            self._paused = False
            self._transport.resume_reading()


async def run(target: Target, meter: Meter) -> None:
    decode = msgspec.json.Decoder().decode
    workers: list[asyncio.Task[Any]] = []

    def make() -> Listener:
        batches = Batches()
        listener = Listener(batches)
        workers.append(asyncio.create_task(batches.work(decode, meter.handle, listener.resume)))
        return listener

    await listen(make, target, meter)
    for worker in workers:
        worker.cancel()
