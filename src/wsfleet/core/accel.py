"""The compiled parts: which there are, and whether they are in use.

Each compiled part is a module `_*.pyx` whose functions and classes have a twin of the same name in Python, with the
same results. They are built where that is possible, and used where they were built; with WSFLEET_NO_EXTENSIONS in the
environment, neither.
"""

from __future__ import annotations

import importlib
import logging
import os
from functools import cache
from typing import Any, TypeVar

__all__ = ["PARTS", "accelerated", "fastest", "note_once", "wanted"]

PARTS = ("wsfleet.pipeline._queue", "wsfleet.endpoint._envelopes", "wsfleet.transport._scanner")
"""All compiled modules."""

T = TypeVar("T")

log = logging.getLogger("wsfleet")


def wanted() -> bool:
    """Tell whether compiled parts may be used."""
    return not os.environ.get("WSFLEET_NO_EXTENSIONS")


def fastest(python: T, part: str) -> T:
    """Return the twin of `python` from the compiled module `part`, or `python` itself where there is none in use."""
    twin: Any = python
    return getattr(importlib.import_module(part), twin.__name__) if _in_use(part) else python


@cache
def accelerated() -> bool:
    """Tell whether every compiled part is in use."""
    return all(map(_in_use, PARTS))


@cache
def _in_use(part: str) -> bool:
    if not wanted():
        return False
    try:
        importlib.import_module(part)
    except ImportError:
        return False
    return True


@cache
def note_once() -> None:
    """Log, once in a process, that parts are missing; who did not want them knows."""
    if wanted() and not accelerated():
        missing = ", ".join(part for part in PARTS if not _in_use(part))
        log.info("%s not compiled: all works, in Python alone, but each message costs more CPU time", missing)
