"""Takes secrets out of anything that is shown: logs, reports, topics, reprs, errors.

A feed's URI is often its password: tokens stand in the query (`?token=`), in the path (`/v2/<key>`) or before the
host. What a person needs to recognise an endpoint (host, port, short path parts) stays.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from urllib.parse import parse_qsl, urlsplit

__all__ = ["HIDDEN", "redact_headers", "redact_text", "redact_uri", "secrets_of"]

HIDDEN = "***"

# Query values are hidden unless the name is clearly harmless: a list of dangerous names is never complete.
_SECRET_NAME = (
    r"[\w.\-]*(?:token|key|sign|secret|passw|pwd|auth|credential|session|jwt|ticket|code|nonce|access|sig)[\w.\-]*"
)
_QUERY = re.compile(rf"(?i)([?&;\s\"'{{,]|^)({_SECRET_NAME})(=|\"?\s*:\s*\"?)([^&#;\s\"',}}]+)")
_USERINFO = re.compile(r"(?i)\b([a-z][a-z0-9+.\-]*://)[^/?#\s@]*@")
_KEY_SEGMENT = re.compile(r"(?<=/)([A-Za-z0-9_\-~.%+=]{20,})(?=[/?#\s\"',]|$)")
_BEARER = re.compile(r"(?i)\b(bearer|basic|token|digest|apikey)\s+[A-Za-z0-9._~+/=\-]{6,}")
_SECRET_HEADER = re.compile(r"(?i)auth|cookie|token|key|secret|passw|sign|credential|session|jwt")


def _segment(match: re.Match[str]) -> str:
    # A long path part that reads like words is a name, not a key: keys mix letters and digits.
    text = match.group(1)
    wordy = "." in text and not re.search(r"\d", text)
    return text if wordy else HIDDEN


def redact_text(text: str, secrets: Iterable[str] = ()) -> str:
    """Return `text` with everything that looks like a credential hidden, and the given `secrets` in any place."""
    for secret in sorted({s for s in secrets if len(s) >= 4}, key=len, reverse=True):
        text = text.replace(secret, HIDDEN)
    text = _USERINFO.sub(rf"\g<1>{HIDDEN}@", text)
    text = _QUERY.sub(rf"\g<1>\g<2>\g<3>{HIDDEN}", text)
    text = _BEARER.sub(rf"\g<1> {HIDDEN}", text)
    return re.sub(r"(?i)wss?://\S+", lambda m: _KEY_SEGMENT.sub(_segment, m.group(0)), text)


def redact_uri(uri: str) -> str:
    """Return `uri` as it may be shown: no userinfo, no secret-like query values, no key-like path parts (20 or more)."""
    return redact_text(uri)


def redact_headers(headers: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Return headers as they may be shown: the values of credential headers hidden."""
    return {name: HIDDEN if _SECRET_HEADER.search(name) else redact_text(value) for name, value in headers}


def secrets_of(uri: str, headers: Mapping[str, str]) -> list[str]:
    """Return what must not be seen of one attempt's URI and headers, to be taken out of other people's error texts."""
    parts = urlsplit(uri)
    found = [value for _, value in parse_qsl(parts.query) if value and value not in redact_uri(uri)]
    found += [part for part in (parts.username, parts.password) if part]
    found += [value for name, value in headers.items() if _SECRET_HEADER.search(name)]
    return found
