"""The base class of sinks: writes a line of JSON for each message, in a separate thread."""

from __future__ import annotations

import asyncio
import logging
import queue
import select
import threading
from collections.abc import Callable
from concurrent.futures import Future
from io import RawIOBase
from typing import Any

import msgspec

from wsfleet.core.message import Message
from wsfleet.core.redact import redact_text

__all__ = ["LineSink", "line"]

logger = logging.getLogger("wsfleet.sinks")

GRACE_S = 1.0
"""How long, in seconds, `close` waits for a blocked write, for example to a full pipe or a dead network disk."""

_BYTES = (bytes, bytearray, memoryview)
_encode = msgspec.json.Encoder().encode


def line(message: Message[Any]) -> bytes:
    """Return the message as one line of JSON. Data that JSON cannot represent is replaced by its redacted repr."""
    try:
        return _line(message, _plain(message.data))
    except (TypeError, ValueError, OverflowError, RecursionError, msgspec.MsgspecError):
        return _line(message, _text(_foreign(message.data)))


def _line(message: Message[Any], data: Any) -> bytes:
    shown = {
        "topic": _text(message.topic),
        "endpoint": _text(message.endpoint),
        "index": message.index,
        "session": message.session,
        "received_at": message.received_at,
        "size": message.size,
        "data": data,
    }
    return _encode(shown) + b"\n"


def _text(text: str) -> str:
    # JSON files are UTF-8, which cannot encode lone surrogates. Names and reprs may contain them.
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode()


def _plain(data: Any) -> Any:
    if type(data) is str:
        return data
    data = msgspec.to_builtins(data, builtin_types=_BYTES, enc_hook=_foreign)
    return _mark_bytes(data) if _has_bytes(data) else data


def _foreign(value: Any) -> str:
    # Exceptions on `$` topics, and objects that a user's decode function returned.
    try:
        if isinstance(value, BaseException):
            return redact_text(f"{type(value).__name__}: {value}")
        return redact_text(repr(value))
    except Exception:
        return f"<{type(value).__name__}>"


def _has_bytes(value: Any) -> bool:
    # Checked first: most messages contain no bytes, and a copy would cost more than the encoding.
    if isinstance(value, dict):
        return any(_has_bytes(item) for item in value.values())
    if isinstance(value, list | tuple):
        return any(_has_bytes(item) for item in value)
    return isinstance(value, _BYTES)


def _mark_bytes(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _mark_bytes(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_mark_bytes(item) for item in value]
    return {"base64": value} if isinstance(value, _BYTES) else value


class _Thread:
    """A daemon thread that runs calls one after another. It ends after the call `last`.

    Not a ThreadPoolExecutor, because the interpreter waits for its threads at exit. A blocked write to a pipe without a
    reader would then prevent the exit of the program.
    """

    def __init__(self, name: str, last: Callable[[], None]) -> None:
        self._calls: queue.SimpleQueue[tuple[Future[None], Callable[[], None]]] = queue.SimpleQueue()
        self._last = last
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def call(self, function: Callable[[], None]) -> Future[None]:
        future: Future[None] = Future()
        self._calls.put((future, function))
        return future

    def stop(self) -> Future[None]:
        return self.call(self._last)

    def join(self) -> None:
        self._thread.join(GRACE_S)

    def _run(self) -> None:
        function = None
        while function is not self._last:
            future, function = self._calls.get()
            if not future.set_running_or_notify_cancel():
                continue
            try:
                function()
            except BaseException as exc:
                future.set_exception(exc)
            else:
                future.set_result(None)


class LineSink:
    """Writes lines to a file or a stream. Subclasses open it.

    A batch is one write if the system allows it, so that the lines of several writers to one file are not mixed. After
    a partial write, the next write starts on a new line.
    """

    name = "lines"
    batch = 1000

    def __init__(self) -> None:
        self._file: RawIOBase | None = None
        self._thread: _Thread | None = None
        self._torn = False

    def _open_file(self) -> tuple[RawIOBase, bool]:
        """Open the file. Return it, and whether it ends with an incomplete line. Called in the thread."""
        raise NotImplementedError

    async def open(self) -> None:
        """Open the file. Raises OSError. Safe to cancel. If it raises, the file is closed."""
        self._thread = _Thread(f"wsfleet-{self.name}", self._close_file)
        try:
            await asyncio.wrap_future(self._thread.call(self._open))
        except BaseException:
            await self.close()
            raise

    async def write(self, messages: list[Message[Any]]) -> None:
        """Append a line for each message, and flush. If cancelled, a write in progress continues.

        Raises OSError, with the number of messages that were written whole as its attribute `written`.
        """
        if self._thread is None:
            raise ValueError(f"{self.name}: not open")
        await asyncio.wrap_future(self._thread.call(lambda: self._append(b"".join(map(line, messages)))))

    async def close(self) -> None:
        """Close the file after the current write. If the write does not end within a second, log it and abandon it."""
        thread, self._thread = self._thread, None
        if thread is None:
            return
        stopped = thread.stop()
        try:
            async with asyncio.timeout(GRACE_S):
                await asyncio.shield(asyncio.wrap_future(stopped))
        except TimeoutError:
            logger.warning(
                "%s: write still blocked after %g s; closing without it",
                self.name,
                GRACE_S,
                extra={"event": "sink.blocked"},
            )
        else:
            thread.join()  # the last call is done, so the thread ends at once

    def _open(self) -> None:
        self._file, self._torn = self._open_file()

    def _close_file(self) -> None:
        if self._file is not None:
            self._file.close()

    def _append(self, lines: bytes) -> None:
        assert self._file is not None, "open comes first"  # noqa: S101
        view = memoryview(b"\n" + lines if self._torn else lines)
        done = 0
        try:
            while done < len(view):
                written = self._file.write(view[done:])
                if written is None:  # another process has set our standard output to non-blocking mode
                    select.select([], [self._file], [])
                else:
                    done += written
        except OSError as exc:
            # A line that is in the file whole is written, so that it is neither counted as failed nor repeated.
            exc.written = bytes(view[:done]).count(b"\n") - (self._torn and done > 0)  # type: ignore[attr-defined]
            raise
        finally:
            if done:
                self._torn = view[done - 1] != 0x0A
