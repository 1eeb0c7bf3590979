"""Sinks write messages without a user function: `wsfleet.sinks.open("jsonl:trades.jsonl")`.

A sink can be used in place of a processor function. It is opened at the start of the fleet, flushed after each batch,
and closed after the drain. To add a sink, add a module with a `from_argument` function to this package and to
`_MODULES`. The interface is `wsfleet.pipeline.handler.Sink`.

Input: lists of messages. Output: files and other stores. Imports core and pipeline.
"""

from __future__ import annotations

import importlib
from difflib import get_close_matches
from pathlib import Path

from wsfleet.core.errors import ConfigError
from wsfleet.pipeline.handler import Sink

__all__ = ["Sink", "open"]

_MODULES = {
    "jsonl": "wsfleet.sinks.jsonl",
    "stdout": "wsfleet.sinks.stdout",
}


def open(spec: str, *, folder: Path | None = None) -> Sink:
    """Return the sink for `spec`: `"stdout"` or `"jsonl:PATH"`.

    A relative path starts from `folder`, by default the current directory. The file is opened at the start of the
    fleet. Raises ConfigError for an unknown name, a missing path, or a path that cannot be a file.
    """
    name, _, argument = spec.partition(":")
    if name not in _MODULES:
        close = get_close_matches(name, _MODULES, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"there are {', '.join(_MODULES)}"
        raise ConfigError(f"no sink is named {name!r}; {hint}")
    made: Sink = importlib.import_module(_MODULES[name]).from_argument(argument, folder or Path())
    return made
