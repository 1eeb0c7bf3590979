"""Where messages can go without a function: `wsfleet.sinks.open("jsonl:trades.jsonl")`.

A sink is taken wherever a processor is. It is opened when the fleet starts, appended to, flushed for every batch,
and closed after the drain. One more sink is one more module here with a `from_argument`, and its line below; what it
has to do is the `Sink` of `wsfleet.pipeline.handler`.
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
    """Return the sink that `spec` names: `"stdout"`, or `"jsonl:PATH"` with a path from `folder` (default: here).

    Nothing is opened yet. Raises ConfigError for an unknown name, or where a path is missing or no place for a file.
    """
    name, _, argument = spec.partition(":")
    if name not in _MODULES:
        close = get_close_matches(name, _MODULES, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"there are {', '.join(_MODULES)}"
        raise ConfigError(f"no sink is named {name!r}; {hint}")
    made: Sink = importlib.import_module(_MODULES[name]).from_argument(argument, folder or Path())
    return made
