"""Checks of declared values: names, URIs, headers, numbers. A check returns a description of the fault, or None."""

from __future__ import annotations

import dis
import inspect
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from types import CodeType, FunctionType
from typing import Any
from urllib.parse import unquote, urlsplit

from wsfleet.core.errors import ConfigError

__all__ = [
    "HEADER_NAME",
    "Checked",
    "check_arguments",
    "check_authority",
    "check_count",
    "check_headers",
    "check_name",
    "check_proxy",
    "check_rate",
    "check_seconds",
    "check_subprotocols",
    "check_uri",
    "is_number",
    "make_name",
    "refuse",
    "returns_nothing",
]

# A name is used as a token of topics, so it is limited to the characters of a token (see core/topics.py). Characters
# with a meaning in HTML, in terminal markup or in Prometheus are allowed: pages, screens and metrics escape all texts.
_NOT_IN_NAMES = r"\s.*>\x00-\x1f\x7f-\x9f\ud800-\udfff"
_NAME = re.compile(rf"(?!\$)[^{_NOT_IN_NAMES}]+")
# RFC 9110, sections 5.6.2 (token) and 5.5 (field values). No line breaks, which would begin another header.
HEADER_NAME = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_HEADER_VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]*")
_OWN_HEADER = re.compile(
    r"(?i)host|upgrade|connection|sec-websocket-(?:key|version|extensions|protocol)|content-length|transfer-encoding"
)
_PROXY_SCHEMES = ("http://", "https://", "socks4://", "socks4a://", "socks5://", "socks5h://")


def check_name(name: object) -> str | None:
    """Check the name of an endpoint or subscription."""
    if not isinstance(name, str):
        return f"must be a str, not {type(name).__name__}"
    if not _NAME.fullmatch(name):
        return f"must be one token without '.', '*', '>', white space, control characters and leading '$', not {name!r}"
    return None


def make_name(text: str) -> str:
    """Return a valid name made from `text`."""
    return re.sub(f"[{_NOT_IN_NAMES}]+", "-", text).lstrip("$") or "x"


def check_uri(uri: str) -> str | None:
    """Check a WebSocket URI (RFC 6455, section 3). The description quotes no part of it."""
    if re.search(r"[\s\x00-\x1f\x7f\ud800-\udfff]", uri):
        return "contains white space or control characters"
    if not uri.lower().startswith(("ws://", "wss://")):
        return "must begin with ws:// or wss://"
    fault = check_authority(uri)
    if fault:
        return fault
    if "#" in uri:
        return "has a fragment (#), which WebSocket URIs do not allow"
    return None


def check_authority(uri: str) -> str | None:
    """Check the host, port and user of a URI. The message of the parser's exception could contain a password."""
    try:
        parts = urlsplit(uri)
    except ValueError:
        return "is not a URI"
    try:
        port = parts.port
    except ValueError:
        return "has a port that is not a number up to 65535"
    if port == 0:
        return "has port 0"
    if not parts.hostname:
        return "has no host"
    try:
        parts.hostname.encode("idna")
        unquote(parts.username or "", errors="strict")
        unquote(parts.password or "", errors="strict")
    except UnicodeError:
        return "has a host or user that cannot be encoded"
    if parts.username is not None and parts.password is None:
        return "has a user without a password"
    return None


def check_proxy(url: str) -> str | None:
    """Check the URL of a proxy. The description quotes no part of it."""
    if not url.lower().startswith(_PROXY_SCHEMES):
        return "must be an http://, https://, socks4://, socks4a://, socks5:// or socks5h:// URL with a host"
    fault = check_authority(url)
    if fault:
        return fault
    parts = urlsplit(url)
    if parts.path not in ("", "/") or parts.query or parts.fragment:
        return "has a path, query or fragment, which a proxy does not use"
    return None


def check_headers(headers: Mapping[str, str]) -> Iterator[str]:
    """Yield the faults of request headers: invalid names and values, and headers that the handshake sets itself."""
    for number, (name, value) in enumerate(headers.items(), 1):
        if not isinstance(name, str) or not HEADER_NAME.fullmatch(name):
            # Not quoted: it may be a whole header line with a credential.
            yield f"number {number} has an invalid name (RFC 9110, section 5.6.2)"
        elif _OWN_HEADER.fullmatch(name):
            yield f"{name} is set by the handshake itself"
        elif not isinstance(value, str) or not _HEADER_VALUE.fullmatch(value):
            yield f"the value of {name} must be a Latin-1 str without line breaks or control characters"


def check_subprotocols(names: object) -> str | None:
    """Check the names of subprotocols."""
    if isinstance(names, Sequence) and not isinstance(names, str):
        tokens = all(isinstance(name, str) and HEADER_NAME.fullmatch(name) for name in names)
        if tokens and len(set(names)) == len(names):
            return None
    return "must be a sequence of unique names (RFC 6455, section 4.1)"


def is_number(value: object) -> bool:
    """Return whether `value` is a finite number and not a bool."""
    try:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:  # an int that is too large for a float
        return False


def check_seconds(value: object, *, zero: bool = False, none: bool = False) -> str | None:
    """Check a duration in seconds. `zero` allows 0, `none` allows None."""
    if none and value is None:
        return None
    if is_number(value) and (value > 0 or (zero and value == 0)):  # type: ignore[operator]
        return None
    return f"must be a number of seconds{' from 0' if zero else ' above 0'}{' or None' if none else ''}, not {value!r}"


def check_rate(value: object) -> str | None:
    """Check a rate per second. None is allowed."""
    if value is None or (is_number(value) and value > 0):  # type: ignore[operator]
        return None
    return f"must be a number above 0 or None, not {value!r}"


def check_count(value: object, least: int = 1, *, most: float = math.inf, none: bool = False) -> str | None:
    """Check a whole number from `least` to `most`. `none` allows None."""
    if none and value is None:
        return None
    if isinstance(value, int) and not isinstance(value, bool) and least <= value <= most:
        return None
    limits = f"from {least}" if most == math.inf else f"from {least} to {most:,}"
    return f"must be a whole number {limits}{' or None' if none else ''}, not {value!r}"


def check_arguments(function: Callable[..., Any]) -> str | None:
    """Check that `function` can be called with one argument. A function without a signature passes."""
    if isinstance(function, FunctionType) and _clearly_takes_one(function):
        return None
    try:
        # A decorated function may take other arguments than the function that it wraps.
        signature = inspect.signature(function, follow_wrapped=False)
    except (TypeError, ValueError):
        return None
    try:
        signature.bind(object())
    except TypeError as exc:
        return f"must take one argument: {exc}"
    return None


def returns_nothing(function: Callable[..., Any]) -> bool:
    """Whether `function` is a plain function without a return value: by its annotation, or because it has none."""
    while isinstance(function, partial):
        function = function.func
    if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
        return False
    if getattr(function, "__annotations__", {}).get("return", ...) in (None, "None"):
        return True
    function = getattr(function, "__func__", function)  # of a method
    if not isinstance(function, FunctionType) or inspect.isgeneratorfunction(function):
        return False
    results = list(_results(function.__code__))
    return bool(results) and all(result is None for result in results)


def _results(code: CodeType) -> Iterator[object]:
    """Yield for each return of a function the constant that it returns, or the code for a value that is computed."""
    before = None
    for each in dis.get_instructions(code):
        if each.opname == "RETURN_CONST":
            yield each.argval
        elif each.opname == "RETURN_VALUE":
            # `return value or None` jumps to the instruction after the one that loads None.
            constant = before is not None and before.opname == "LOAD_CONST" and not each.is_jump_target
            yield before.argval if constant and before is not None else code
        before = each


def _clearly_takes_one(function: FunctionType) -> bool:
    # Much faster than a signature, for declarations of ten thousand endpoints.
    code = function.__code__
    needed = code.co_argcount - len(function.__defaults__ or ())
    named = code.co_kwonlyargcount - len(function.__kwdefaults__ or ())
    return needed <= 1 <= code.co_argcount and not named and not function.__dict__


def refuse(subject: str, faults: Iterable[tuple[str, str | None]]) -> None:
    """Raise one ConfigError with all faults, given as `(field, text)`. A text of None is not a fault."""
    found = tuple((name, text) for name, text in faults if text)
    if found:
        raise ConfigError("; ".join(f"{subject}: {name} {text}" for name, text in found), found)


class Checked:
    """Raises ConfigError for an invalid declaration. Subclasses yield its faults as `(field, text)`."""

    __slots__ = ()

    def __post_init__(self) -> None:
        refuse(type(self).__name__, self._faults())

    def _faults(self) -> Iterator[tuple[str, str | None]]:
        return iter(())
