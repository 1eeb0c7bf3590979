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
_FILE_MAX = 2**16  # longer than any secret; limits the read of an endless file such as /dev/zero
_BETWEEN = re.compile(r"[\s.,:;/@?#&=|'\"(){}\[\]<>\\]+")  # separators: a message may quote a part of a value
_SHORT = 4  # a shorter secret occurs in too many words to be searched for in them
_WHOLE = range(-(2**63), 2**63)


class SubstitutedText(str):
    """A string with `values` substituted. `template` is the original text of the file, which is not secret."""

    __slots__ = ("template", "values")

    template: str
    values: tuple[str, ...]


class _Unresolved:
    """Replaces a string whose substitution failed. The fault is already noted."""


UNRESOLVED = _Unresolved()


class Substitutor:
    """Substitutes values, and remembers them in `values` by reference. The `known` ones are not looked up."""

    def __init__(self, folder: Path, environ: Mapping[str, str], known: Mapping[str, str] | None = None) -> None:
        self.values = dict(known or {})
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
            raise BadValue("'${' without a '}'; write ${NAME}, or $${ for a literal ${")
        reference: str = part[1]
        value = self.values.get(reference)
        if value is None:
            value = self._file(reference[5:]) if reference.startswith("file:") else self._variable(reference)
            self.values[reference] = value
        self._secrets.add(value)
        values.append(value)
        return value

    def _variable(self, name: str) -> str:
        if not _NAME.fullmatch(name):
            raise BadValue(f"${{{name}}} is not a valid substitution; write ${{NAME}} or ${{file:PATH}}")
        if name not in self._environ:
            raise BadValue(
                f"the environment variable {name} is not set; set it, or write $${{{name}}} for a literal ${{{name}}}"
            )
        return self._environ[name]

    def _file(self, name: str) -> str:
        path = self._folder / name
        try:
            path = self._folder / Path(name).expanduser()
            if path.exists() and not path.is_file() and not path.is_dir():
                # Reading a FIFO would block until it has a writer.
                raise BadValue(f"{path} is not a regular file; name a file that contains the value")
            with path.open("rb") as file:
                content = file.read(_FILE_MAX + 1)
            if len(content) > _FILE_MAX:
                raise BadValue(f"{path} is larger than {_FILE_MAX} bytes; it must contain only the value")
            return content.decode().rstrip("\r\n")
        except UnicodeDecodeError:
            raise BadValue(f"{path} is not text in UTF-8; it must contain only the value") from None
        except (OSError, ValueError, RuntimeError) as exc:  # RuntimeError: "~user" with an unknown user
            reason = exc.strerror if isinstance(exc, OSError) else str(exc).rstrip(".").lower()
            raise BadValue(f"{path} cannot be read: {reason}; it must contain the value") from None

    def substitute_all(self, value: Any, place: Place, faults: list[tuple[Place, str]]) -> Any:
        """Return `value` with the references in all its strings substituted.

        A string whose substitution fails is replaced by UNRESOLVED, and the fault is added to `faults`. So are integers
        of more than 64 bits, which TOML does not allow, and tables and lists that are nested too deeply.
        """
        if len(place) > DEEPEST:
            faults.append((place[:3], f"is nested more than {DEEPEST} levels deep"))
            return UNRESOLVED
        if isinstance(value, dict):
            return {key: self.substitute_all(item, (*place, key), faults) for key, item in value.items()}
        if isinstance(value, list):
            return [self.substitute_all(item, (*place, index), faults) for index, item in enumerate(value)]
        if isinstance(value, int) and value not in _WHOLE:
            faults.append((place, "must be a 64-bit integer"))
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
        """Return `text`, a message about `place`, without the substituted values.

        Whole values are replaced by the text of the file, parts by `***`. Values at `place` are also searched for in
        pieces, since a message may quote one word of them.
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
    """Whether one of the places contains the other."""
    return all(map(operator.eq, one, other))


def _pieces(values: Iterable[str]) -> Iterator[str]:
    for value in values:
        yield from _BETWEEN.split(value)
