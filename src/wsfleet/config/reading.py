"""Reads a TOML file. Every error is reported as Unreadable with its place, whatever the file contains."""

from __future__ import annotations

import re
import tomllib
from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from wsfleet.config.faults import Fault

__all__ = ["Given", "Unreadable", "parse", "read"]

_TOML_PLACE = re.compile(r"(.*) \(at (?:line (\d+), column (\d+)|end of document)\)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Given:
    """A file as another process has read it: its text, and the value of each `${...}` in it."""

    text: str = field(repr=False)
    values: Mapping[str, str] = field(repr=False)


class Unreadable(Exception):
    """The file cannot be read as TOML. `fault` has the place and the reason."""

    def __init__(self, where: str, text: str) -> None:
        super().__init__(text)
        self.fault = Fault.of(where, text)


def read(path: Path) -> str:
    """Return the text of the file at `path`. Raises Unreadable."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as exc:
        raise Unreadable(str(path), f"is not UTF-8 (byte {exc.start}); TOML is written in UTF-8") from None
    except OSError as exc:
        raise Unreadable(str(path), f"cannot be read: {exc.strerror}; name a TOML file") from None


def parse(path: Path, text: str) -> dict[str, Any]:
    """Return the document in `text`, which was read from `path`. Raises Unreadable."""
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as exc:
        raise _not_toml(path, text, exc) from None
    except RecursionError:
        raise Unreadable(_breaking_line(path, text), "is nested too deeply to be read") from None
    except ValueError:  # from int(): sys.get_int_max_str_digits()
        raise Unreadable(_breaking_line(path, text), "has a number with too many digits") from None


def _not_toml(path: Path, text: str, error: tomllib.TOMLDecodeError) -> Unreadable:
    found = _TOML_PLACE.fullmatch(str(error))
    if found is None:
        return Unreadable(str(path), str(error))
    line, column = (found[2], found[3]) if found[2] else (text.count("\n") + 1, len(text.rpartition("\n")[2]) + 1)
    reason = found[1][:1].lower() + found[1][1:]
    return Unreadable(f"{path}:{line}:{column}", f"not TOML: {reason}; the rest of the file was not checked")


def _breaking_line(path: Path, text: str) -> str:
    """Return the line that tomllib cannot parse, by bisection: RecursionError and ValueError do not contain it."""
    lines = text.split("\n")

    def breaks(count: int) -> bool:
        try:
            tomllib.loads("\n".join(lines[:count]))
        except tomllib.TOMLDecodeError:  # before that line: a statement is cut off
            return False
        except (RecursionError, ValueError):
            return True
        return False

    return f"{path}:{1 + bisect_left(range(1, len(lines)), True, key=breaks)}"
