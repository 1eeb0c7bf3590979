"""What a worker and its parent tell each other: frames of JSON over a pair of sockets, which ends with either of them.

A frame is its length in four bytes and one JSON object. The parent's end is read in its loop; the worker's in a thread,
so that a worker hears that it is to stop, or that its parent is gone, also while its loop is blocked.
"""

from __future__ import annotations

import asyncio
import os
import queue
import socket
import threading
from collections.abc import Callable
from typing import Any

import msgspec

__all__ = ["Channel", "Frame", "pack", "read_frame"]

Frame = dict[str, Any]

WAITING = 1_000
"""So many frames may wait to be written; more news than that are lost. Reports never wait behind one another."""

LAST_S = 5.0
"""How long the last frame may take to be written."""

_HEAD = 4


def pack(frame: Frame) -> bytes:
    """Return `frame` as it is written; whatever JSON cannot hold is told by its repr."""
    body = msgspec.json.encode(frame, enc_hook=repr)
    return len(body).to_bytes(_HEAD, "big") + body


async def read_frame(reader: asyncio.StreamReader) -> Frame:
    """Read the next frame. Raises IncompleteReadError at the end, and OSError."""
    size = int.from_bytes(await reader.readexactly(_HEAD), "big")
    frame: Frame = msgspec.json.decode(await reader.readexactly(size))
    return frame


class Channel:
    """The worker's end, which is its standard input."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._file = sock.makefile("rb")
        self._out: queue.SimpleQueue[Frame | None] = queue.SimpleQueue()
        self._writer = threading.Thread(target=self._write, name="wsfleet-channel-out", daemon=True)
        self._writer.start()

    @classmethod
    def of_standard_input(cls) -> Channel:
        """Take it over: what the user's code starts inherits an empty input, and not our socket."""
        sock = socket.socket(fileno=os.dup(0))
        empty = os.open(os.devnull, os.O_RDONLY)
        os.dup2(empty, 0)
        os.close(empty)
        return cls(sock)

    def receive(self) -> Frame | None:
        """Wait for the next frame; None when the parent is gone."""
        try:
            head = self._file.read(_HEAD)
            body = self._file.read(int.from_bytes(head, "big"))
        except OSError:
            return None
        if len(head) < _HEAD or not body:
            return None
        frame: Frame = msgspec.json.decode(body)
        return frame

    def listen(self, hear: Callable[[Frame | None], None]) -> None:
        """Call `hear` for each frame from now on, and at last for None, in a thread of its own."""

        def run() -> None:
            frame: Frame | None = {}
            while frame is not None:
                frame = self.receive()
                hear(frame)

        threading.Thread(target=run, name="wsfleet-channel-in", daemon=True).start()

    @property
    def is_idle(self) -> bool:
        """Whether everything has been taken to be written."""
        return self._out.empty()

    def send(self, frame: Frame, *, always: bool = False) -> bool:
        """Have `frame` encoded and written, from any thread and without waiting; False where too much waits."""
        if self._out.qsize() >= WAITING and not always:
            return False
        self._out.put(frame)
        return True

    def finish(self, frame: Frame) -> None:
        """Write the last frame, and wait until it is written, or cannot be."""
        self._out.put(frame)
        self._out.put(None)
        self._writer.join(LAST_S)

    def _write(self) -> None:
        while (frame := self._out.get()) is not None:
            try:
                self._sock.sendall(pack(frame))
            except OSError:  # the parent is gone, which whoever listens is told
                return
