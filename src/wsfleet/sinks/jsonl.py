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
    """Appends to the file `path`, which is created at the start of the fleet. Its folder must exist.

    Several processes can append to one file: their batches are not mixed. If a process died within a line, the next
    batch starts on a new line.
    """

    name = "jsonl"

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path

    def __repr__(self) -> str:
        return f"<sink jsonl:{self.path}>"

    def _open_file(self) -> tuple[RawIOBase, bool]:
        # Opened for reading too, to check the last line. The path may also be a pipe or a terminal, which has no end.
        return open(self.path, "ab+" if self.path.is_file() or not self.path.exists() else "ab", buffering=0), False

    def _append(self, lines: bytes) -> None:
        assert self._file is not None, "open comes first"  # noqa: S101
        try:
            with _alone(self._file):
                if self._file.readable():
                    self._torn = _ends_within_a_line(self._file)
                super()._append(lines)
        except OSError as exc:
            exc.filename = str(self.path)  # a failed write does not set it
            raise


@contextmanager
def _alone(file: RawIOBase) -> Iterator[None]:
    """Lock the file against other processes of wsfleet, if the file system supports locks."""
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
    # A killed process may have left an incomplete line. New lines must not be appended to it.
    if not file.seek(0, os.SEEK_END):
        return False
    file.seek(-1, os.SEEK_END)
    return file.read(1) != b"\n"


def from_argument(argument: str, folder: Path) -> JsonLines:
    """Return the sink for `jsonl:ARGUMENT`. Raises ConfigError if the path cannot be a file."""
    if not argument:
        raise ConfigError("jsonl: a path is missing; write jsonl:PATH")
    path = folder / os.path.expanduser(argument)
    if os.path.isdir(path):  # Path.is_dir raises without permission, and for a name that is too long
        raise ConfigError(f"jsonl: {path} is a folder; give the path of a file")
    if not os.path.isdir(path.parent):
        raise ConfigError(f"jsonl: there is no folder {path.parent}; create it first")
    return JsonLines(path)
