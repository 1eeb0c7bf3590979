"""Substitutes `${NAME}` and `${file:PATH}` in the strings of a file, and hides the values in messages."""

from __future__ import annotations

import operator
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from wsfleet.config.faults import DEEPEST, BadValue, Place
from wsfleet.core.redact import HIDDEN

__all__ = ["UNRESOLVED", "SubstitutedText", "Substitutor"]

_PART = re.compile(r"\$\$|\$\{(?:([^}]*)(\}))?")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_FILE_MAX = 2**16  # a secret is shorter, and /dev/zero longer
_BETWEEN = re.compile(r"[\s.,:;/@?#&=|'\"(){}\[\]<>\\]+")  # what a value is taken apart at, so that a part is quoted
_SHORT = 4  # a shorter secret is part of too many words to be looked for inside of them
_WHOLE = range(-(2**63), 2**63)


class SubstitutedText(str):
    """A string with `values` substituted. `template` is the text of the file, which may be shown."""

    __slots__ = ("template", "values")

    template: str
    values: tuple[str, ...]


class _Unresolved:
    """In place of a string whose substitution failed: the fault is noted, the value is unknown."""


UNRESOLVED = _Unresolved()


class Substitutor:
    """Substitutes values, and remembers them."""

    def __init__(self, folder: Path, environ: Mapping[str, str]) -> None:
        self._folder = folder
        self._environ = environ
        self._secrets: set[str] = set()
        self._substituted: dict[str, str] = {}
        self._at: dict[Place, tuple[str, ...]] = {}

    def substitute(self, text: str) -> str:
        """Return `text` with its references substituted: `${NAME}`, `${file:PATH}`, `$$` for `$`. Raises BadValue."""
        if "$" not in text:
            return text
        values: list[str] = []
        made = _PART.sub(lambda part: self._part(part, values), text)
        if "${" not in text.replace("$$", ""):
            return made
        substituted = SubstitutedText(made)
        substituted.template, substituted.values = text, tuple(values)
        self._substituted[made] = text
        return substituted

    def _part(self, part: re.Match[str], values: list[str]) -> str:
        if part[0] == "$$":
            return "$"
        if not part[2]:
            raise BadValue("'${' without a '}'; write ${NAME}, or $${ for the text itself")
        reference: str = part[1]
        value = self._file(reference[5:]) if reference.startswith("file:") else self._variable(reference)
        self._secrets.add(value)
        values.append(value)
        return value

    def _variable(self, name: str) -> str:
        if not _NAME.fullmatch(name):
            raise BadValue(f"${{{name}}} names no environment variable; write ${{NAME}} or ${{file:PATH}}")
        if name not in self._environ:
            raise BadValue(
                f"the environment variable {name} is not set; set it, or write $${{{name}}} for the text itself"
            )
        return self._environ[name]

    def _file(self, name: str) -> str:
        path = self._folder / name
        try:
            path = self._folder / Path(name).expanduser()
            if path.exists() and not path.is_file() and not path.is_dir():
                # Reading a pipe would wait for its writer.
                raise BadValue(f"{path} is no file that ends; name one that holds the value")
            with path.open("rb") as file:
                content = file.read(_FILE_MAX + 1)
            if len(content) > _FILE_MAX:
                raise BadValue(f"{path} has more than {_FILE_MAX} bytes; a secret's file holds the secret alone")
            return content.decode().rstrip("\r\n")
        except UnicodeDecodeError:
            raise BadValue(f"{path} is not text in UTF-8; a secret's file holds the secret alone") from None
        except (OSError, ValueError, RuntimeError) as exc:  # RuntimeError: of "~somebody", who is unknown
            why = exc.strerror if isinstance(exc, OSError) else str(exc).rstrip(".").lower()
            raise BadValue(f"{path} cannot be read: {why}; it should hold the value") from None

    def substitute_all(self, value: Any, place: Place, faults: list[tuple[Place, str]]) -> Any:
        """Return `value` with the references in all its strings substituted.

        If one fails, UNRESOLVED takes its place and the fault is added to `faults`. The same happens to numbers of more
        than 64 bits, which TOML does not have, and to tables and lists that are nested too deeply.
        """
        if len(place) > DEEPEST:
            faults.append((place[:3], f"is nested in more than {DEEPEST} tables and lists"))
            return UNRESOLVED
        if isinstance(value, dict):
            return {key: self.substitute_all(item, (*place, key), faults) for key, item in value.items()}
        if isinstance(value, list):
            return [self.substitute_all(item, (*place, index), faults) for index, item in enumerate(value)]
        if isinstance(value, int) and value not in _WHOLE:
            faults.append((place, "must be a whole number of 64 bits; TOML has no others"))
            return UNRESOLVED
        if not isinstance(value, str):
            return value
        try:
            substituted = self.substitute(value)
        except BadValue as exc:
            faults.append((place, str(exc)))
            return UNRESOLVED
        if isinstance(substituted, SubstitutedText):
            self._at[place] = substituted.values
        return substituted

    def hide(self, text: str, place: Place = ()) -> str:
        """Return `text`, which is about `place`, without the substituted values.

        Whole values are replaced by the text of the file, parts by `***`. Values at `place` are also searched in
        pieces: a fault may quote one word of them.
        """
        for value, template in self._substituted.items():
            if not value:
                continue
            text = text.replace(repr(value), repr(template))
        pieces = {piece for at, values in self._at.items() if _touch(at, place) for piece in _pieces(values)}
        for secret in sorted(self._secrets | pieces, key=len, reverse=True):
            if len(secret) >= _SHORT:
                text = text.replace(secret, HIDDEN).replace(repr(secret)[1:-1], HIDDEN)
        return text


def _touch(one: Place, other: Place) -> bool:
    """Tell whether one of the places is in the other."""
    return all(map(operator.eq, one, other))


def _pieces(values: Iterable[str]) -> Iterator[str]:
    for value in values:
        yield from _BETWEEN.split(value)
