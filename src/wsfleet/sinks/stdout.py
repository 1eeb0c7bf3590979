"""`stdout`: prints a line of JSON for each message."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from io import RawIOBase
from pathlib import Path

from wsfleet.core.errors import ConfigError
from wsfleet.sinks.base import LineSink

__all__ = ["StandardOutput", "from_argument", "take_turns"]

_turns: int | None = None
_one_thread = threading.Lock()


class StandardOutput(LineSink):
    """Writes to the standard output without Python's buffer, so a line is written when its message is processed."""

    name = "stdout"

    def __repr__(self) -> str:
        return "<sink stdout>"

    def _open_file(self) -> tuple[RawIOBase, bool]:
        sys.stdout.flush()
        try:
            number = sys.stdout.fileno()
        except OSError:
            return _Replaced(), False
        # A duplicate: closing the sink must not close the standard output of the program.
        return open(os.dup(number), "wb", buffering=0), False

    def _append(self, lines: bytes) -> None:
        try:
            with _turn():
                super()._append(lines)
        except BrokenPipeError as exc:
            raise BrokenPipeError(exc.errno, "the reader of the standard output has closed it") from None


def take_turns(fd: int) -> None:
    """Make this process lock the file `fd` for each write.

    A large batch is written to a pipe in several parts. The lock prevents other workers from writing between them.
    """
    global _turns
    _turns = fd


@contextmanager
def _turn() -> Iterator[None]:
    if _turns is None:
        yield
        return
    import fcntl

    with _one_thread:  # a file lock belongs to the process, not to a thread
        fcntl.lockf(_turns, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.lockf(_turns, fcntl.LOCK_UN)


class _Replaced(RawIOBase):
    """Writes to a `sys.stdout` without a file descriptor, as in a notebook or a test that captures output."""

    def write(self, data: memoryview) -> int:  # type: ignore[override]
        sys.stdout.write(bytes(data).decode())
        sys.stdout.flush()
        return len(data)


def from_argument(argument: str, folder: Path) -> StandardOutput:
    """Return the sink for `stdout`. Raises ConfigError for an argument."""
    if argument:
        raise ConfigError(f"stdout: does not take an argument, but got {argument!r}")
    return StandardOutput()
