"""Writes messages to a terminal or a pipe without blocking the event loop."""

from __future__ import annotations

import asyncio
import base64
import os
import queue
import threading
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Self, TextIO

import msgspec

from wsfleet.core.text import printable

__all__ = ["OutputStream", "Render", "lines_for"]

Render = Callable[[str | bytes], str]

HEX_BYTES = 32  # of a binary message, on a terminal


class OutputStream:
    """Renders and writes messages in a thread, so that a slow reader delays the messages but not the event loop.

    It writes directly to the file descriptor. Python's buffered stream would be flushed when the process exits, and
    that could block. The thread is a daemon, so a blocked write does not keep the process alive.
    """

    def __init__(self, fd: int, render: Render) -> None:
        self._fd = fd
        self._render = render
        self._jobs: queue.SimpleQueue[tuple[Sequence[str | bytes], asyncio.Future[None]] | None] = queue.SimpleQueue()
        self._loop = asyncio.get_running_loop()

    def __enter__(self) -> Self:
        threading.Thread(target=self._work, name="wsfleet-output", daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._jobs.put(None)

    async def write(self, messages: Sequence[str | bytes]) -> None:
        """Write messages, and wait until they are written.

        Raises OSError; BrokenPipeError if the reader has closed the pipe. If cancelled, the messages may or may not be
        written.
        """
        written = self._loop.create_future()
        self._jobs.put((messages, written))
        await written

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            messages, written = job
            error: Exception | None = None
            try:
                data = memoryview("".join(map(self._render, messages)).encode(errors="backslashreplace"))
                while data:
                    data = data[os.write(self._fd, data) :]
            except Exception as exc:
                error = exc
            try:
                self._loop.call_soon_threadsafe(_settle, written, error)
            except RuntimeError:  # the loop is already closed
                return


def _settle(written: asyncio.Future[None], error: Exception | None) -> None:
    if written.done():  # cancelled
        return
    if error is None:
        written.set_result(None)
    else:
        written.set_exception(error)


def lines_for(stream: TextIO, pretty: bool) -> Render:
    """Return the function that renders a message as lines for `stream`; `pretty` formats JSON."""
    if stream.isatty():
        return _coloured if pretty else _shown
    return _piped_json if pretty else _piped


def _piped(message: str | bytes) -> str:
    return f"{message if isinstance(message, str) else base64.b64encode(message).decode()}\n"


def _piped_json(message: str | bytes) -> str:
    # The output is always valid JSON, since a program may read it.
    formatted = _formatted(message)
    if formatted is not None:
        return formatted + "\n"
    other = message if isinstance(message, str) else {"base64": base64.b64encode(message).decode()}
    return msgspec.json.encode(other).decode() + "\n"


def _shown(message: str | bytes) -> str:
    if isinstance(message, str):
        return printable(message) + "\n"
    head = message[:HEX_BYTES]
    text = "".join(chr(byte) if 32 <= byte < 127 else "." for byte in head)
    more = " ..." if len(message) > HEX_BYTES else ""
    return f"<{len(message):,} bytes> {head.hex(' ')}{more}  |{text}|\n"


def _coloured(message: str | bytes) -> str:
    formatted = _formatted(message)
    if formatted is None:
        return _shown(message)
    from rich.console import Console
    from rich.highlighter import JSONHighlighter

    console = Console(force_terminal=True)
    with console.capture() as captured:
        console.print(JSONHighlighter()(printable(formatted)), soft_wrap=True)
    return captured.get()


def _formatted(message: str | bytes) -> str | None:
    # Formatted without decoding, so that numbers and the order of keys stay as the peer wrote them.
    try:
        formatted = msgspec.json.format(message, indent=2)
    except (msgspec.DecodeError, RecursionError):
        return None
    return formatted if isinstance(formatted, str) else formatted.decode(errors="replace")
