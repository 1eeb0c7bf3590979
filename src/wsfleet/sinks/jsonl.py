"""`jsonl:PATH`: appends a line of JSON for each message to a file."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from io import RawIOBase
from pathlib import Path

from wsfleet.core.errors import ConfigError
from wsfleet.sinks.base import LineSink

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

__all__ = ["JsonLines", "from_argument"]


class JsonLines(LineSink):
    """Appends to `path`, which is made at the fleet's start; its folder must be there.

    Several processes may append to one file: each batch of lines is whole, and where one of them died in the middle of
    a line, the next line begins on a line of its own.
    """

    name = "jsonl"

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path

    def __repr__(self) -> str:
        return f"<sink jsonl:{self.path}>"

    def _open_file(self) -> tuple[RawIOBase, bool]:
        # Read is only whether it ends within a line; a pipe or a terminal that the path may name has no end.
        return open(self.path, "ab+" if self.path.is_file() or not self.path.exists() else "ab", buffering=0), False

    def _append(self, lines: bytes) -> None:
        assert self._file is not None, "open comes first"  # noqa: S101
        try:
            with _alone(self._file):
                if self._file.readable():
                    self._torn = _ends_within_a_line(self._file)
                super()._append(lines)
        except OSError as exc:
            exc.filename = str(self.path)  # "No space left on device" does not say where
            raise


@contextmanager
def _alone(file: RawIOBase) -> Iterator[None]:
    """Let no other process of ours append meanwhile, where the file system has locks."""
    locked = fcntl is not None
    try:
        if fcntl is not None:
            fcntl.flock(file, fcntl.LOCK_EX)
    except OSError:
        locked = False
    try:
        yield
    finally:
        if fcntl is not None and locked:
            fcntl.flock(file, fcntl.LOCK_UN)


def _ends_within_a_line(file: RawIOBase) -> bool:
    # A program that was killed may have left half a line; what is appended must not become its other half.
    if not file.seek(0, os.SEEK_END):
        return False
    file.seek(-1, os.SEEK_END)
    return file.read(1) != b"\n"


def from_argument(argument: str, folder: Path) -> JsonLines:
    """Return the sink for `jsonl:ARGUMENT`; raises ConfigError where no file can be made there."""
    if not argument:
        raise ConfigError("jsonl: a path is missing; write jsonl:PATH")
    path = folder / os.path.expanduser(argument)
    if os.path.isdir(path):  # Path's own raises where it may not look, or the name is too long
        raise ConfigError(f"jsonl: {path} is a folder; name a file")
    if not os.path.isdir(path.parent):
        raise ConfigError(f"jsonl: there is no folder {path.parent}; make it first")
    return JsonLines(path)
