"""`jsonl:PATH`: appends a line of JSON for each message to a file."""

from __future__ import annotations

import os
from io import RawIOBase
from pathlib import Path

from wsfleet.errors import ConfigError
from wsfleet.sinks.base import LineSink

__all__ = ["JsonLines", "from_argument"]


class JsonLines(LineSink):
    """Appends to `path`, which is made at the fleet's start; its folder must be there."""

    name = "jsonl"

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path

    def __repr__(self) -> str:
        return f"<sink jsonl:{self.path}>"

    def _open_file(self) -> tuple[RawIOBase, bool]:
        torn = _ends_within_a_line(self.path)
        return open(self.path, "ab", buffering=0), torn

    def _append(self, lines: bytes) -> None:
        try:
            super()._append(lines)
        except OSError as exc:
            exc.filename = str(self.path)  # "No space left on device" does not say where
            raise


def _ends_within_a_line(path: Path) -> bool:
    # A program that was killed may have left half a line; what is appended must not become its other half.
    if not path.is_file() or path.stat().st_size == 0:
        return False
    with open(path, "rb") as file:
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
