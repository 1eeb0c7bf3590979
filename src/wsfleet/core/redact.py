"""Removes secrets from logs, reports, topics, reprs and errors.

The URI of a feed often contains credentials: in the query (`?token=`), in the path (`/v2/<key>`) or as userinfo. The
parts that identify an endpoint (host, port, short parts of the path, plain words) are kept.

A value is taken for a secret because of its name, or because it does not consist of words. All patterns match in linear
time, because the text may come from a peer.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Iterable, Mapping
from urllib.parse import unquote, unquote_plus

__all__ = ["HIDDEN", "redact_headers", "redact_text", "redact_uri", "secrets_of"]

HIDDEN = "***"

KEY_LENGTH = 20
"""In a URI or a header, a value of at least this length that does not consist of words is taken for a key."""

# Names: the last word decides ("listenKey", "X-Amz-Signature", but not "KeyError"), or one of these endings.
_SECRET_WORD = re.compile(
    r"auth(?:entication|orization)?|bearer|code|cookies?|cred(?:ential)?s?|hmac|jwt|keys?|otp|pass(?:phrase|wd|word)?|pin|"
    r"pwd?|secrets?|session|sid|sign?|signature|ticket|tokens?"
)
_SECRET_ENDINGS = ("apikey", "auth", "credential", "jwt", "key", "passwd", "password", "secret", "sessionid", "token")
_AMBIGUOUS = frozenset({"code", "pass", "pin", "session", "sign"})
"""Names of secrets only as the whole name of a query parameter, or after another word of `_SECRET_WORD`."""
_WORDS = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])")
_SUFFIXES = frozenset({"id", "value", "hash"})  # "AWSAccessKeyId"
_SECRET_HEADER = re.compile(r"(?i)auth|cookie|token|key|secret|passw|sign|credential|session|jwt")

# Values.
_RUN = re.compile(rf"[\w\-~.%+=:]{{{KEY_LENGTH},}}")
# The alternatives do not overlap: otherwise a text of single letters could match in 2**n ways.
_WORDY = re.compile(r"(?:(?:[a-z]{0,14}|[A-Z][a-z]{1,14}|[A-Z]{1,14}|[vV]?\d{1,4})(?:[\-_.:~+=]|%20|$))+")

_NOTHING = frozenset({"None", "null", "true", "false", "True", "False"})

_URI = re.compile(r"(?i)(?<![a-z])([a-z][a-z0-9+.\-]{0,20}://)([^\s\"'<>`]+)")
_PAIR = re.compile(r"(?<![\w.\-%])([\w.\-%]{1,100})(=)(\"[^\"]*\"|'[^']*'|[^\s&;,\"'(){}\[\]<>]+)")
_QUOTED = re.compile(
    r"([\"'])([\w.\-]{1,100})(\1\s{0,3}:\s{0,3})(b?\"(?:[^\"\\]|\\.)*\"|b?'(?:[^'\\]|\\.)*'|[^\s,\"'{}\[\]]+)",
    re.DOTALL,
)
_ESCAPED = re.compile(r"(\\{1,4}[\"'])([\w.\-]{1,100})(\\{1,4}[\"']\s{0,3}:\s{0,3}\\{1,4}[\"'])([^\"'\\]+)")
_LINE = re.compile(r"(?i)(?<![\w\-])((?:proxy-)?authorization|(?:set-)?cookie)(\s{0,3}:\s{0,3})([^\r\n\"']+)")
_COLON = re.compile(r"(?<![\w.\-\"'])([\w.\-]{1,100})(:\s{0,3})([^\s,;\"'&<>(){}\[\]]+)")
_SCHEME = re.compile(r"(?i)\b(bearer|basic)(\s{1,3})([\w.~+/=\-]{6,})")


def redact_text(text: str, secrets: Iterable[str] = ()) -> str:
    """Return `text` with `***` in place of the given `secrets` and of everything that looks like a credential."""
    for secret in sorted(set(secrets), key=len, reverse=True):
        if len(secret) >= 8:
            text = text.replace(secret, HIDDEN)
        elif len(secret) >= 4:  # only as a whole word: "pass" must not match in "passed"
            text = re.sub(rf"(?<!\w){re.escape(secret)}(?!\w)", HIDDEN, text)
    text = _URI.sub(lambda found: _uri_in_text(found[0]), text)
    text = _LINE.sub(rf"\1\2{HIDDEN}", text)
    text = _hide_values(_PAIR, text)
    text = _hide_values(_QUOTED, text)
    text = _hide_values(_ESCAPED, text)
    # After a colon, plain words are prose: "invalid token: unexpected end".
    text = _hide_values(_COLON, text, lambda value: bool(re.search(r"\d", value)) or not _is_wordy(value))
    return _SCHEME.sub(lambda found: found[0] if _is_wordy(found[3]) else f"{found[1]}{found[2]}{HIDDEN}", text)


def redact_uri(uri: str) -> str:
    """Return `uri` without secrets: userinfo, secret query values, and parts that look like keys are hidden."""
    return _uri(uri)


def redact_headers(headers: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Return headers with the values of credential headers hidden."""
    return {name: HIDDEN if _is_secret_header(name) else _hide_keys(redact_text(value)) for name, value in headers}


def secrets_of(uri: str, headers: Mapping[str, str]) -> list[str]:
    """Return the secrets in the URI and headers of an attempt, to remove them from the texts of foreign exceptions."""
    found: list[str] = []

    def take(secret: str) -> str:
        found.append(secret)
        return HIDDEN

    _uri(uri, take)
    userinfo = re.match(r"[^/?#]*//([^/?#]*:[^/?#]*)@", uri)
    if userinfo:  # as in an Authorization header (RFC 7617, section 2)
        found.append(base64.b64encode(unquote(userinfo[1]).encode(errors="replace")).decode())
    for name, value in headers.items():
        if _is_secret_header(name):
            found.append(value)
            found += re.split(r"[\s;,]+|(?<=\w)=(?=\w)", value)  # "Bearer <token>", "name=<cookie>; ..."
        else:
            _hide_keys(value, take)
    plain = {unquote(secret) for secret in found} | {unquote_plus(secret) for secret in found}
    return [secret for secret in {*found, *plain} if _is_distinct(secret)]


def _is_distinct(secret: str) -> bool:
    """Whether to search for `secret` in other texts. A short number is also a port, a status or a close code there."""
    if secret.lower() in ("bearer", "basic"):
        return False
    return len(secret) >= (8 if secret.isdecimal() else 4)


Hide = Callable[[str], str]


def _hidden(_: str) -> str:
    return HIDDEN


def _is_secret(name: str, *, alone: bool) -> bool:
    """Return whether a value with this name is a secret. `alone`: also if the name is a single ambiguous word."""
    words = [word.lower() for word in _WORDS.findall(name)]
    while len(words) > 1 and words[-1] in _SUFFIXES:
        words.pop()
    if not words:
        return False
    if words[-1] in _AMBIGUOUS:
        return alone if len(words) == 1 else any(map(_SECRET_WORD.fullmatch, words[:-1]))
    return _SECRET_WORD.fullmatch(words[-1]) is not None or "".join(words).endswith(_SECRET_ENDINGS)


def _is_secret_header(name: str) -> bool:
    """Return whether the value of this header is a secret. Header names are not prose, so a part of a word suffices."""
    return _SECRET_HEADER.search(name) is not None or _is_secret(re.sub(r"(?i)^x-", "", name), alone=True)


def _is_wordy(text: str) -> bool:
    return _WORDY.fullmatch(text) is not None


def _hide_keys(text: str, hide: Hide = _hidden) -> str:
    return _RUN.sub(lambda found: found[0] if _is_wordy(found[0]) else hide(found[0]), text)


def _hide_values(pattern: re.Pattern[str], text: str, doubtful: Callable[[str], bool] | None = None) -> str:
    """Hide the last group of each match, a value, if its name, two groups before, is that of a secret. Keep quotes."""

    def replace(found: re.Match[str]) -> str:
        *before, name, between, value = found.groups()
        if not _is_secret(name, alone=False) or value in _NOTHING or (doubtful is not None and not doubtful(value)):
            return found[0]
        quote = value[-1] if value[-1] in "\"'" else ""
        return f"{''.join(before)}{name}{between}{quote}{HIDDEN}{quote}"

    return pattern.sub(replace, text)


def _uri(uri: str, hide: Hide = _hidden) -> str:
    """Return `uri` with `hide` applied to each secret in it. Accepts invalid URIs."""
    scheme, slashes, rest = uri.partition("://")
    if not slashes:
        scheme, rest = "", uri
    place, mark, query = _cut(rest, "?#")
    authority, slash, path = _cut(place, "/")
    port = authority.rpartition(":")[2]
    if "@" not in authority and ":" in authority and "@" in path and not port.isdigit() and "]" not in port:
        authority, slash, path = place, "", ""  # the password contains a slash that should be %2F
    userinfo, at, host = authority.rpartition("@")
    if at:
        for part in userinfo.split(":", 1):
            if part:
                hide(part)
        userinfo = HIDDEN
    path = "/".join(_part(part, hide) for part in path.split("/"))
    query = "".join(_part(part, hide) for part in re.split(r"([&;?#])", query))
    return f"{scheme}{slashes}{userinfo}{at}{host}{slash}{path}{mark}{query}"


def _uri_in_text(found: str) -> str:
    """Redact a URI found in text. A closing parenthesis or punctuation after the URI is not part of it."""
    rest = found[len(found.rstrip(").,;:")) :]
    if ")" in rest and found.count(")") > found.count("("):
        rest = rest[rest.index(")") :]
        return _uri(found[: -len(rest)]) + rest
    return _uri(found)


def _cut(text: str, marks: str) -> tuple[str, str, str]:
    """Split `text` at the first character of `marks`."""
    found = re.search(f"[{marks}]", text)
    return (text[: found.start()], found[0], text[found.end() :]) if found else (text, "", "")


def _part(part: str, hide: Hide) -> str:
    """Redact one part of a path or query: `name=value`, a value alone, or in a path also `name;of=...`."""
    if ";" in part and part != ";":
        return ";".join(_part(each, hide) for each in part.split(";"))
    name, equals, value = part.partition("=")
    if equals and value and _is_secret(unquote(name), alone=True):
        return f"{name}={hide(value)}"
    if equals and value:
        return f"{_hide_keys(name, hide)}={_hide_keys(value, hide)}"
    return _hide_keys(part, hide)
