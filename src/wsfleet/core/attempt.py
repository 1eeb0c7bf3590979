"""The attempt that a `uri` or `headers` function of an endpoint is called for."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["Attempt", "HeadersFunction", "UriFunction", "check_attempt_function", "takes_attempt"]


@dataclass(frozen=True, slots=True)
class Attempt:
    """An attempt to connect, and the last message before it: the optional argument of a `uri` or `headers` function.

    Messages that were received may still wait in mailboxes: they will be processed, so a server that is asked to resume
    must not send them again. Messages that `on_open` discarded by raising do not count as received, nor those of a
    worker process that died, because those in its mailboxes were lost.
    """

    endpoint: str  #: the name of the endpoint, or of the member of a pool
    last_index: int  #: `index` of the last message that was received; 0 if there was none
    last_message_at: float | None  #: its `received_at`; None if there was none
    session: int  #: the number that the connection will have


UriFunction = Callable[[], Awaitable[str]] | Callable[[Attempt], Awaitable[str]]
HeadersFunction = Callable[[], Awaitable[Mapping[str, str]]] | Callable[[Attempt], Awaitable[Mapping[str, str]]]


def takes_attempt(function: Callable[..., Any]) -> bool:
    """Return whether `function` must be called with the attempt. A parameter with a default does not receive it."""
    return not _accepts(function) and _accepts(function, None)


def check_attempt_function(function: Callable[..., Any]) -> str | None:
    """Check the arguments of a `uri` or `headers` function. A function without a signature passes."""
    if _accepts(function) or _accepts(function, None):
        return None
    return "must take no argument, or one: the Attempt"


def _accepts(function: Callable[..., Any], *arguments: object) -> bool:
    try:
        # A decorated function may take other arguments than the function that it wraps.
        signature = inspect.signature(function, follow_wrapped=False)
    except (TypeError, ValueError):
        return not arguments
    try:
        signature.bind(*arguments)
    except TypeError:
        return False
    return True
