"""What can be wrong with a declared value: names, URIs, headers, numbers. A check returns the fault, or None."""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import FunctionType
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
    "check_uri",
    "is_number",
    "refuse",
]

# A name is a token of topics (see there), so what a token cannot have, it cannot either.
_NAME = re.compile(r"(?!\$)[^\s.*>\x00-\x1f\x7f-\x9f\ud800-\udfff]+")
# RFC 9110, section 5.6.2 (token) and 5.5 (field values): nothing that could end the header line.
HEADER_NAME = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_HEADER_VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]*")
_OWN_HEADER = re.compile(
    r"(?i)host|upgrade|connection|sec-websocket-(?:key|version|extensions|protocol)|content-length|transfer-encoding"
)
_PROXY_SCHEMES = ("http://", "https://", "socks4://", "socks4a://", "socks5://", "socks5h://")


def check_name(name: object) -> str | None:
    """Return what is wrong with `name` as the name of an endpoint or subscription, or None."""
    if not isinstance(name, str):
        return f"must be a str, not {type(name).__name__}"
    if not _NAME.fullmatch(name):
        return f"must be one token without dot, '*', '>', space or leading '$', not {name!r}"
    return None


def check_uri(uri: str) -> str | None:
    """Return what is wrong with `uri` as a WebSocket URI (RFC 6455, section 3), or None. Quotes nothing of it."""
    if re.search(r"[\s\x00-\x1f\x7f\ud800-\udfff]", uri):
        return "contains white space or control characters"
    if not uri.lower().startswith(("ws://", "wss://")):
        return "must begin with ws:// or wss://"
    fault = check_authority(uri)
    if fault:
        return fault
    if "#" in uri:
        return "has a fragment (#), which means nothing to a WebSocket server"
    return None


def check_authority(uri: str) -> str | None:
    """Return what is wrong with the host, port or user of a URI. The parser's own words would quote a password."""
    try:
        parts = urlsplit(uri)
    except ValueError:
        return "is not a URI"
    try:
        port = parts.port
    except ValueError:
        return "has a port that is no number up to 65535"
    if port == 0:
        return "has port 0"
    if not parts.hostname:
        return "names no host"
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
    """Return what is wrong with `url` as a proxy's, or None. Quotes nothing of it."""
    if not url.lower().startswith(_PROXY_SCHEMES):
        return "must be an http://, https://, socks4://, socks4a://, socks5:// or socks5h:// URL with a host"
    fault = check_authority(url)
    if fault:
        return fault
    parts = urlsplit(url)
    if parts.path not in ("", "/") or parts.query or parts.fragment:
        return "has a path, which means nothing to a proxy"
    return None


def check_headers(headers: Mapping[str, str]) -> Iterator[str]:
    """Yield what is wrong with request headers: what could forge other headers, and what is the handshake's own."""
    for number, (name, value) in enumerate(headers.items(), 1):
        if not isinstance(name, str) or not HEADER_NAME.fullmatch(name):
            # Not quoted: it may be a whole line, with the credential.
            yield f"number {number} has what is not a header name in place of one (RFC 9110, section 5.6.2)"
        elif _OWN_HEADER.fullmatch(name):
            yield f"{name} belongs to the handshake itself"
        elif not isinstance(value, str) or not _HEADER_VALUE.fullmatch(value):
            yield f"the value of {name} must be a str of Latin-1 without line breaks or control characters"


def is_number(value: object) -> bool:
    """Whether `value` is a finite number; a bool is none."""
    try:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:  # an int beyond all floats
        return False


def check_seconds(value: object, *, zero: bool = False, none: bool = False) -> str | None:
    """Return what is wrong with `value` as a duration, or None. `zero` and `none` allow what they are called."""
    if none and value is None:
        return None
    if is_number(value) and (value > 0 or (zero and value == 0)):  # type: ignore[operator]
        return None
    return f"must be a number of seconds{' from 0' if zero else ' above 0'}{' or None' if none else ''}, not {value!r}"


def check_rate(value: object) -> str | None:
    """Return what is wrong with `value` as a number a second, or None."""
    if value is None or (is_number(value) and value > 0):  # type: ignore[operator]
        return None
    return f"must be a number above 0 or None, not {value!r}"


def check_count(value: object, least: int = 1, *, most: float = math.inf, none: bool = False) -> str | None:
    """Return what is wrong with `value` as a whole number from `least` to `most`, or None."""
    if none and value is None:
        return None
    if isinstance(value, int) and not isinstance(value, bool) and least <= value <= most:
        return None
    limits = f"from {least}" if most == math.inf else f"from {least} to {most:,}"
    return f"must be a whole number {limits}{' or None' if none else ''}, not {value!r}"


def check_arguments(function: Callable[..., Any]) -> str | None:
    """Return why `function` cannot be called with one argument, or None. Of some functions nobody knows."""
    if isinstance(function, FunctionType) and _plainly_takes_one(function):
        return None
    try:
        # What a decorator wraps may take other arguments than those that it is given.
        signature = inspect.signature(function, follow_wrapped=False)
    except (TypeError, ValueError):
        return None
    try:
        signature.bind(object())
    except TypeError as exc:
        return f"must take one argument: {exc}"
    return None


def _plainly_takes_one(function: FunctionType) -> bool:
    # A signature takes many times as long to make, and ten thousand endpoints may be declared.
    code = function.__code__
    needed = code.co_argcount - len(function.__defaults__ or ())
    named = code.co_kwonlyargcount - len(function.__kwdefaults__ or ())
    return needed <= 1 <= code.co_argcount and not named and not function.__dict__


def refuse(what: str, faults: Iterable[tuple[str, str | None]]) -> None:
    """Raise one ConfigError with all the faults, given as `(field, text)`; a text of None is none."""
    found = tuple((name, text) for name, text in faults if text)
    if found:
        raise ConfigError("; ".join(f"{what}: {name} {text}" for name, text in found), found)


class Checked:
    """Refuses a declaration that cannot work; subclasses yield what is wrong with it as `(field, text)`."""

    __slots__ = ()

    def __post_init__(self) -> None:
        refuse(type(self).__name__, self._faults())

    def _faults(self) -> Iterator[tuple[str, str | None]]:
        return iter(())
