"""Types of command line arguments that several commands share."""

from __future__ import annotations

import argparse

from wsfleet.config.faults import BadValue
from wsfleet.config.units import read_seconds

__all__ = ["count", "seconds"]


def count(text: str) -> int:
    """Return a whole number from 1."""
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number from 1, not {text!r}")
    return int(text)


def seconds(text: str) -> float:
    """Return a duration above 0: seconds, or with a unit as in "5 min"."""
    try:
        duration = read_seconds(text)
    except BadValue as exc:
        raise argparse.ArgumentTypeError(str(exc)) from None
    if duration <= 0:
        raise argparse.ArgumentTypeError("must be above 0")
    return duration
