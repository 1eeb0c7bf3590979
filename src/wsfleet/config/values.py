"""Converts the values of a file to the types in the annotations of the options, so these are defined only once."""

from __future__ import annotations

import enum
import functools
import os
import re
import ssl
import types
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from wsfleet.config.faults import BadValue, Place, closest, did_you_mean
from wsfleet.config.references import References, is_reference
from wsfleet.config.substitution import UNRESOLVED, SubstitutedText, Substitutor
from wsfleet.config.units import SIZES, TIMES, read_seconds, read_size
from wsfleet.core.errors import ConfigError

__all__ = ["Reader", "Skip"]

T = TypeVar("T")

_SIZES = frozenset({"bytes", "max_size"})
_TLS_FILES = {
    "ca": str,  #: PEM file of the certificate authorities to trust instead of the system's
    "cert": str,  #: PEM file of the client certificate, for servers that request one
    "key": str,  #: PEM file of its private key, without a password
}


class Skip(Exception):
    """The value cannot be used. The fault is already noted."""


class Reader:
    """Converts the values of one file, and collects the faults in `faults`."""

    def __init__(self, folder: Path, substitutor: Substitutor) -> None:
        self.folder = folder
        self.faults: list[tuple[Place, str]] = []
        self._substitutor = substitutor
        self._references = References(folder)
        self._contexts: dict[tuple[str | None, ...], ssl.SSLContext] = {}

    def note(self, place: Place, text: str) -> None:
        """Note a fault, with substituted values hidden."""
        self.faults.append((place, self._substitutor.hide(text, place)))

    def table(self, table: Any, kinds: Mapping[str, Any], place: Place) -> tuple[dict[str, Any], set[str]]:
        """Return the valid values of `table`, converted to their kinds, and the keys of the others."""
        values: dict[str, Any] = {}
        faulty: set[str] = set()
        if not isinstance(table, dict):
            self.note(place, f"must be a table, not {_format_value(table)}")
            return values, faulty
        for key, value in table.items():
            if key not in kinds:
                self.note((*place, key), f"unknown key; {did_you_mean(key, kinds)}")
                faulty.add(closest(key, kinds) or key)  # so that a misspelt key is not also reported as missing
                continue
            try:
                values[key] = self.value(key, kinds[key], value, (*place, key))
            except Skip:
                faulty.add(key)
        return values, faulty

    def build(
        self, make: Callable[..., T], values: dict[str, Any], faulty: set[str], place: Place, **stand_ins: Any
    ) -> T:
        """Return `make(**values)`. Values that it rejects are noted and omitted; `stand_ins` replace required ones.

        Raises Skip if it rejects these too.
        """
        try:
            return make(**(stand_ins | values))
        except ConfigError as exc:
            found = exc.faults or (("", str(exc)),)
        for field, text in found:
            # Skip a fault about two keys if the other key is already noted.
            whole = f"{field} {text}".lstrip()
            if any(re.search(rf"\b{re.escape(key)}\b", whole) for key in faulty):
                continue
            self.note(*((*place, field), text) if field in values else (place, whole))
        refused = {field for field, _ in found}
        kept = {key: value for key, value in values.items() if key not in refused}
        if not values:
            raise Skip
        if len(kept) == len(values):  # the fault does not name a key
            kept = {}
        return self.build(make, kept, refused, place, **stand_ins)

    def value(self, field: str, hint: Any, value: Any, place: Place) -> Any:
        """Return `value` converted to the type `hint`. Raises Skip, with the fault noted."""
        kinds = _alternatives(hint)
        if value is UNRESOLVED:
            raise Skip  # the fault is already noted
        try:
            return self._convert(field, kinds, value, place)
        except BadValue as exc:
            self.note(place, str(exc))
            raise Skip from None

    def _convert(self, field: str, kinds: tuple[Any, ...], value: Any, place: Place) -> Any:
        match value:
            case bool():
                if bool in kinds:
                    return value
                if value is False and (False in kinds or type(None) in kinds):
                    return False if False in kinds else None
            case int() | float():
                if float in kinds or (int in kinds and isinstance(value, int)):
                    return value
            case str():
                return self._text(field, kinds, value)
            case dict():
                return self._table(field, kinds, value, place)
            case list():
                return self._list(field, kinds, value, place)
        raise _not_a(field, kinds, value)

    def _text(self, field: str, kinds: tuple[Any, ...], value: str) -> Any:
        # The environment may choose the server, but not the code to run.
        is_own = not isinstance(value, SubstitutedText)
        if _FUNCTION in kinds and is_own and (is_reference(value) or not _takes_text(kinds)):
            return self._references.find(value)
        if _FUNCTION in kinds and not _takes_text(kinds):
            raise BadValue("must be a function, and a function must be written in the file without substitution")
        if int in kinds or float in kinds:
            return _number(field, kinds, value)
        if bool in kinds and isinstance(value, SubstitutedText) and value in ("true", "false"):
            return value == "true"
        named = {str(kind.value): kind for each in kinds if _is_enum(each) for kind in each}
        named |= {kind: kind for kind in kinds if isinstance(kind, str)}
        if value in named:
            return named[value]
        if named:
            raise BadValue(f"{value!r} is unknown; {did_you_mean(value, named)}")
        if _takes_text(kinds):
            return str(value)
        raise _not_a(field, kinds, value)

    def _table(self, field: str, kinds: tuple[Any, ...], value: dict[str, Any], place: Place) -> Any:
        for kind in kinds:
            if isinstance(kind, type) and is_dataclass(kind):
                return self.build(kind, *self.table(value, _hints(kind), place), place)
            if kind is ssl.SSLContext:
                return self._context(*self.table(value, _TLS_FILES, place), place)
            if get_origin(kind) is Mapping:
                inner = get_args(kind)[1]
                return self.table(value, dict.fromkeys(value, inner), place)[0]
        if _takes_text(kinds) and len(value) == 1:
            ((key, item),) = value.items()
            if key == "function" and _FUNCTION in kinds:
                return self.value(field, Callable[..., Any], item, (*place, key))
            if key == "text":
                return self.value(field, str, item, (*place, key))
        raise _not_a(field, kinds, value)

    def _list(self, field: str, kinds: tuple[Any, ...], value: list[Any], place: Place) -> Any:
        if field == "on_open":
            return _sending(_plain(value))
        for kind in kinds:
            if get_origin(kind) is Sequence:
                inner = get_args(kind)[0]
                return tuple(self.value(field, inner, item, (*place, index)) for index, item in enumerate(value))
        raise _not_a(field, kinds, value)

    def _context(self, files: dict[str, str], faulty: set[str], place: Place) -> ssl.SSLContext:
        paths = {}
        for key, name in files.items():
            path = self.folder / os.path.expanduser(name)
            if os.path.isfile(path):  # Path.is_file raises without permission, and if the name is too long
                paths[key] = str(path)
            else:
                self.note((*place, key), f"there is no file {path}; name a file in PEM format")
        if "key" in files and "cert" not in files | dict.fromkeys(faulty):
            self.note(place, "has a key without a cert; add the certificate")
        elif len(paths) == len(files) and not faulty:
            wanted = (paths.get("ca"), paths.get("cert"), paths.get("key"))
            if wanted not in self._contexts:  # endpoints with the same files share one, because it is large
                self._contexts[wanted] = _make_context(*wanted)
            return self._contexts[wanted]
        raise Skip


def _make_context(ca: str | None, cert: str | None, key: str | None) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=ca)
        if cert is not None:
            # Without a password argument, OpenSSL would prompt for one in the terminal.
            context.load_cert_chain(cert, key, password="")
    except (ssl.SSLError, OSError, ValueError) as exc:
        raise BadValue(
            f"cannot be used: {exc}; the files must be in PEM format, and the key must not have a password"
        ) from None
    return context


def _sending(payloads: list[Any]) -> Callable[[Any], Awaitable[None]]:
    async def on_open(session: Any) -> None:
        for payload in payloads:
            await session.send(payload)

    return on_open


def _plain(value: Any) -> Any:
    # Converts SubstitutedText back to str, which the payloads need.
    if value is UNRESOLVED:
        raise Skip
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, str) else value


def _number(field: str, kinds: tuple[Any, ...], text: str) -> int | float:
    if _is_time(field, kinds):
        return read_seconds(text)
    if field in _SIZES:
        return read_size(text)
    if isinstance(text, SubstitutedText):  # environment variables are always text
        try:
            return int(text) if int in kinds else float(text)
        except ValueError:
            pass
    raise _not_a(field, kinds, text)


# ---- annotations ----

_FUNCTION: Any = object()  # stands for every Callable[...]
_hints = functools.cache(get_type_hints)


def _alternatives(hint: Any) -> tuple[Any, ...]:
    origin = get_origin(hint)
    if origin in (Union, types.UnionType):
        return tuple(each for arg in get_args(hint) for each in _alternatives(arg))
    if origin is Literal:
        return get_args(hint)
    return (_FUNCTION,) if origin is Callable else (Any, _FUNCTION) if hint is Any else (hint,)


def _is_enum(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, enum.Enum)


def _is_time(field: str, kinds: tuple[Any, ...]) -> bool:
    return float in kinds and field.endswith("_s") and not field.endswith("_per_s")


def _takes_text(kinds: tuple[Any, ...]) -> bool:
    return str in kinds or Any in kinds


def _not_a(field: str, kinds: tuple[Any, ...], value: Any) -> BadValue:
    return BadValue(f"must be {_described(field, kinds)}, not {_format_value(value)}")


def _described(field: str, kinds: tuple[Any, ...]) -> str:
    texts: list[str] = []
    if _is_time(field, kinds):
        texts.append(f'a number of seconds or text with a unit ({", ".join(TIMES)}) as in "10 s"')
    elif field in _SIZES:
        texts.append(f'a number of bytes or text with a unit ({", ".join(SIZES)}) as in "16 MiB"')
    elif float in kinds:
        texts.append("a number")
    elif int in kinds:
        texts.append("a whole number")
    for kind in kinds:
        if _is_enum(kind):
            texts.append(f"one of {', '.join(repr(each.value) for each in kind)}")
        elif isinstance(kind, str):
            texts.append(repr(kind))
        elif isinstance(kind, type) and is_dataclass(kind):
            texts.append(f"a table of {', '.join(_hints(kind))}")
        elif kind is ssl.SSLContext:
            texts.append(f"a table of {', '.join(_TLS_FILES)}")
        elif get_origin(kind) is Mapping:
            texts.append("a table")
        elif get_origin(kind) is Sequence:
            texts.append("a list of whole numbers" if int in get_args(kind) else "a list of strings")
    if _takes_text(kinds):
        texts.append("text")
    if _FUNCTION in kinds:
        texts.append('"module:function"')
    if field == "on_open":
        texts.append("a list of payloads")
    if bool in kinds:
        texts.append("true or false")
    elif False in kinds or (type(None) in kinds and _is_time(field, kinds)):
        texts.append("false for none")
    return " or ".join(texts)


def _format_value(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return "a table" if isinstance(value, dict) else "a list" if isinstance(value, list) else repr(value)
