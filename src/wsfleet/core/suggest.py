"""What was probably meant by the name of an option that does not exist."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = ["suggestion"]

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
