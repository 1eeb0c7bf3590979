"""Text for people: escapes control characters for terminals and logs, and suggests similar names."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

__all__ = ["one_line", "plural", "printable", "suggestion"]

# Characters that a terminal interprets: C0 and C1 controls (escape sequences begin with one) and DEL. Also the format
# characters that reorder or hide other characters.
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ud800-\udfff]")


def printable(text: str) -> str:
    r"""Return `text` with control characters, except line feeds and tabs, escaped as `\u001b`.

    In JSON text the escapes are equivalent to the characters.
    """
    return _CONTROL.sub(lambda found: f"\\u{ord(found.group()):04x}", text)


def one_line(text: str) -> str:
    r"""Return `text` printable and with line feeds as `\n`, so that it cannot inject lines into a log."""
    return printable(text).replace("\n", "\\n")


def plural(count: int, noun: str) -> str:
    """Return the count and the noun: "1 endpoint", "2,000 endpoints"."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


# Names of options in `websockets.connect` and other libraries, and their equivalents here.
_EQUIVALENTS = {
    "additional_headers": "headers={...}",
    "extra_headers": "headers={...}",
    "user_agent_header": 'headers={"User-Agent": ...}',
    "origin": 'headers={"Origin": ...}',
    "ping_interval": "liveness=Liveness(ping_s=...)",
    "ping_timeout": "liveness=Liveness(pong_s=...)",
    "open_timeout": "open_s=...",
    "close_timeout": "close_s=...",
    "max_queue": "buffer=Buffer(messages=...)",
    "ssl_context": "ssl=...",
    "on_message": "the processor: connect(uri, function)",
    "handler": "the processor: connect(uri, function)",
    "max_attempts": "reconnect=Reconnect(max_restarts=...)",
    "max_restarts": "reconnect=Reconnect(max_restarts=...)",
    "ping_s": "liveness=Liveness(ping_s=...)",
    "pong_s": "liveness=Liveness(pong_s=...)",
    "stale_s": "liveness=Liveness(stale_s=...)",
    "overflow": "buffer=Buffer(overflow=...)",
}


def suggestion(name: str, known: Iterable[str]) -> str:
    """Return "; did you mean ...?" for an unknown `name`, or an empty string if no known name is similar."""
    if name in _EQUIVALENTS:
        return f"; did you mean {_EQUIVALENTS[name]}?"
    near = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {near[0]!r}?" if near else ""
