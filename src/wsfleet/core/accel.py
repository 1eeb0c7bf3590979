"""The compiled extension modules, and the choice between them and the Python code.

Each extension module `_*.pyx` has functions and classes of the same names, with the same results, as the Python code.
Extensions are optional: if they are built, they are used. WSFLEET_NO_EXTENSIONS in the environment prevents both.
"""

from __future__ import annotations

import importlib
import logging
import os
from functools import cache
from typing import Any, TypeVar

__all__ = ["PARTS", "accelerated", "fastest", "note_once", "wanted"]

PARTS = (
    "wsfleet.pipeline._queue",
    "wsfleet.endpoint._envelopes",
    "wsfleet.transport._framing",
    "wsfleet.transport._scanner",
)
"""All compiled modules."""

T = TypeVar("T")

log = logging.getLogger("wsfleet")


def wanted() -> bool:
    """Return whether the environment allows compiled modules."""
    return not os.environ.get("WSFLEET_NO_EXTENSIONS")


def fastest(python: T, part: str) -> T:
    """Return the object named like `python` from the compiled module `part`, or `python` if `part` is not in use."""
    original: Any = python
    return getattr(importlib.import_module(part), original.__name__) if _in_use(part) else python


@cache
def accelerated() -> bool:
    """Return whether all compiled modules are in use."""
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
    """Log once per process that compiled modules are missing, unless the environment excludes them."""
    if wanted() and not accelerated():
        missing = ", ".join(part for part in PARTS if not _in_use(part))
        log.info(
            "%s not compiled; using the slower Python code, with the same results",
            missing,
            extra={"event": "extensions.missing"},
        )
