"""The channel between a worker and its parent: JSON frames over a socket pair, which closes when either ends.

A frame is a length of four bytes and one JSON object. The parent reads its end in the event loop, the worker in a
thread, so that a worker is notified of a stop or of the parent's death also while its loop is blocked.
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
"""Maximum number of queued frames. Further events are dropped. Only one report is queued at a time."""

LAST_S = 5.0
"""Seconds until the attempt to write the last frame is given up."""

_HEAD = 4


def pack(frame: Frame) -> bytes:
    """Encode `frame`. Values that JSON does not have are converted with repr()."""
    body = msgspec.json.encode(frame, enc_hook=repr)
    return len(body).to_bytes(_HEAD, "big") + body


async def read_frame(reader: asyncio.StreamReader) -> Frame:
    """Read the next frame. Raises IncompleteReadError at the end of the stream, and OSError."""
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
        """Take the socket from standard input, and put /dev/null there: programs started by user code inherit it."""
        sock = socket.socket(fileno=os.dup(0))
        empty = os.open(os.devnull, os.O_RDONLY)
        os.dup2(empty, 0)
        os.close(empty)
        return cls(sock)

    def receive(self) -> Frame | None:
        """Wait for the next frame. Return None when the parent has ended."""
        try:
            head = self._file.read(_HEAD)
            body = self._file.read(int.from_bytes(head, "big"))
        except OSError:
            return None
        if len(head) < _HEAD or not body:
            return None
        frame: Frame = msgspec.json.decode(body)
        return frame

    def listen(self, on_frame: Callable[[Frame | None], None]) -> None:
        """Call `on_frame` in a thread for each frame, and finally with None."""

        def run() -> None:
            frame: Frame | None = {}
            while frame is not None:
                frame = self.receive()
                on_frame(frame)

        threading.Thread(target=run, name="wsfleet-channel-in", daemon=True).start()

    @property
    def is_idle(self) -> bool:
        """Whether no frame is queued."""
        return self._out.empty()

    def send(self, frame: Frame, *, always: bool = False) -> bool:
        """Queue `frame` for writing without blocking; thread-safe. Return False if the queue is full."""
        if self._out.qsize() >= WAITING and not always:
            return False
        self._out.put(frame)
        return True

    def finish(self, frame: Frame) -> None:
        """Write the last frame, and wait until it is written or LAST_S seconds have passed."""
        self._out.put(frame)
        self._out.put(None)
        self._writer.join(LAST_S)

    def _write(self) -> None:
        while (frame := self._out.get()) is not None:
            try:
                self._sock.sendall(pack(frame))
            except OSError:  # the parent has ended; the listening thread reports it
                return
