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
    """Prints to the standard output, past Python's buffer, so that a line is out when its message is processed."""

    name = "stdout"

    def __repr__(self) -> str:
        return "<sink stdout>"

    def _open_file(self) -> tuple[RawIOBase, bool]:
        sys.stdout.flush()
        try:
            number = sys.stdout.fileno()
        except OSError:
            return _Replaced(), False
        # A duplicate, so that closing the sink leaves the program its standard output.
        return open(os.dup(number), "wb", buffering=0), False

    def _append(self, lines: bytes) -> None:
        try:
            with _turn():
                super()._append(lines)
        except BrokenPipeError as exc:
            raise BrokenPipeError(exc.errno, "nobody reads the standard output any more") from None


def take_turns(fd: int) -> None:
    """Have this process write only while it holds a lock on the file `fd`.

    A pipe takes a large batch in pieces, between which others that write to the same output may come: workers do.
    """
    global _turns
    _turns = fd


@contextmanager
def _turn() -> Iterator[None]:
    if _turns is None:
        yield
        return
    import fcntl

    with _one_thread:  # the lock is the whole process's
        fcntl.lockf(_turns, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.lockf(_turns, fcntl.LOCK_UN)


class _Replaced(RawIOBase):
    """A `sys.stdout` without a file behind it: a notebook, a test that captures."""

    def write(self, data: memoryview) -> int:  # type: ignore[override]
        sys.stdout.write(bytes(data).decode())
        sys.stdout.flush()
        return len(data)


def from_argument(argument: str, folder: Path) -> StandardOutput:
    """Return the sink for `stdout`; raises ConfigError where something is behind a colon."""
    if argument:
        raise ConfigError(f"stdout: takes nothing behind the colon, not {argument!r}")
    return StandardOutput()
