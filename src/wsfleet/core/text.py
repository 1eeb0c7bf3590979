"""Text for people: a peer's text made safe for a terminal, and the name that was probably meant."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

__all__ = ["one_line", "printable", "suggestion"]

# What a terminal would obey rather than show: C0 and C1 controls (escape sequences begin with one), DEL; and the
# format characters that reorder or hide what stands around them.
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ud800-\udfff]")


def printable(text: str) -> str:
    r"""Return `text` with its control characters, but for line feeds and tabs, written as `\u001b` and the like.

    In JSON this changes nothing but the spelling.
    """
    return _CONTROL.sub(lambda found: f"\\u{ord(found.group()):04x}", text)


def one_line(text: str) -> str:
    r"""Return `text` printable, and its line feeds as `\n`, so that it cannot forge another line of a log."""
    return printable(text).replace("\n", "\\n")


# What `websockets.connect`, from which many programs come, calls the same thing.
_ELSEWHERE = {
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
    """Return the end of a sentence that says that `name` is unknown; empty where nothing comes near it."""
    if name in _ELSEWHERE:
        return f"; did you mean {_ELSEWHERE[name]}?"
    near = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {near[0]!r}?" if near else ""
