"""Argument types that several commands share."""

from __future__ import annotations

import argparse

from wsfleet.config.faults import BadValue
from wsfleet.config.units import read_seconds

__all__ = ["count", "seconds"]


def count(text: str) -> int:
    """Parse a whole number from 1."""
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number from 1, not {text!r}")
    return int(text)


def seconds(text: str) -> float:
    """Parse a duration above 0 and return seconds: a number of seconds, or with a unit, for example "5 min"."""
    try:
        duration = read_seconds(text)
    except BadValue as exc:
        raise argparse.ArgumentTypeError(str(exc)) from None
    if duration <= 0:
        raise argparse.ArgumentTypeError("must be above 0")
    return duration
