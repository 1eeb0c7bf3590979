"""Fills `${NAME}` and `${file:PATH}` into the strings of a file, and keeps what came in that way out of sight."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from wsfleet.config.faults import Place, Wrong
from wsfleet.redact import HIDDEN

__all__ = ["BROKEN", "Filled", "Filler"]

_PART = re.compile(r"\$\$|\$\{(?:([^}]*)(\}))?")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_FILE_MAX = 2**16  # a secret is shorter, and /dev/zero longer
_SHORT = 4  # a shorter secret is part of too many words to be looked for inside of them


class Filled(str):
    """A string that something was filled into. `template` is what stands in the file, and may be shown."""

    __slots__ = ("template",)

    template: str


class _Broken:
    """Stands where a string could not be filled: the fault is noted, the value is given but unknown."""


BROKEN = _Broken()


class Filler:
    """Fills strings, and remembers with what."""

    def __init__(self, folder: Path, environ: Mapping[str, str]) -> None:
        self._folder = folder
        self._environ = environ
        self._secrets: set[str] = set()
        self._filled: dict[str, str] = {}

    def fill(self, text: str) -> str:
        """Return `text` with its references filled in: `${NAME}`, `${file:PATH}`, `$$` for `$`. Raises Wrong."""
        if "$" not in text:
            return text
        made = _PART.sub(self._part, text)
        if "${" not in text.replace("$$", ""):
            return made
        filled = Filled(made)
        filled.template = text
        self._filled[made] = text
        return filled

    def _part(self, part: re.Match[str]) -> str:
        if part[0] == "$$":
            return "$"
        if not part[2]:
            raise Wrong("'${' without a '}'; write ${NAME}, or $${ for the text itself")
        reference: str = part[1]
        value = self._file(reference[5:]) if reference.startswith("file:") else self._variable(reference)
        self._secrets.add(value)
        return value

    def _variable(self, name: str) -> str:
        if not _NAME.fullmatch(name):
            raise Wrong(f"${{{name}}} names no environment variable; write ${{NAME}} or ${{file:PATH}}")
        if name not in self._environ:
            raise Wrong(
                f"the environment variable {name} is not set; set it, or write $${{{name}}} for the text itself"
            )
        return self._environ[name]

    def _file(self, name: str) -> str:
        path = self._folder / Path(name).expanduser()
        try:
            with path.open("rb") as file:
                content = file.read(_FILE_MAX + 1)
            if len(content) > _FILE_MAX:
                raise Wrong(f"{path} has more than {_FILE_MAX} bytes; a secret's file holds the secret alone")
            return content.decode().rstrip("\r\n")
        except UnicodeDecodeError:
            raise Wrong(f"{path} is not text in UTF-8; a secret's file holds the secret alone") from None
        except (OSError, ValueError) as exc:
            why = exc.strerror if isinstance(exc, OSError) else str(exc)
            raise Wrong(f"{path} cannot be read: {why}; it should hold the value") from None

    def fill_all(self, value: Any, place: Place, faults: list[tuple[Place, str]]) -> Any:
        """Return `value` with every string in it filled; where that fails stands BROKEN, and the fault in `faults`."""
        if isinstance(value, dict):
            return {key: self.fill_all(item, (*place, key), faults) for key, item in value.items()}
        if isinstance(value, list):
            return [self.fill_all(item, (*place, index), faults) for index, item in enumerate(value)]
        if not isinstance(value, str):
            return value
        try:
            return self.fill(value)
        except Wrong as exc:
            faults.append((place, str(exc)))
            return BROKEN

    def hide(self, text: str) -> str:
        """Return `text` without anything that was filled in: whole values as they stand in the file, parts as `***`."""
        for value, template in self._filled.items():
            if not value:
                continue
            text = text.replace(repr(value), repr(template))
        for secret in sorted(self._secrets, key=len, reverse=True):
            if len(secret) >= _SHORT:
                text = text.replace(secret, HIDDEN).replace(repr(secret)[1:-1], HIDDEN)
        return text
