"""Parses amounts with a unit: "500 ms", "16 MiB"."""

from __future__ import annotations

import re
from fractions import Fraction

from wsfleet.config.faults import BadValue, did_you_mean

__all__ = ["SIZES", "TIMES", "read_seconds", "read_size"]

TIMES = {"ms": Fraction(1, 1000), "s": Fraction(1), "min": Fraction(60), "h": Fraction(3600)}
SIZES = {
    "B": Fraction(1),
    "KB": Fraction(10**3),
    "MB": Fraction(10**6),
    "GB": Fraction(10**9),
    "KiB": Fraction(2**10),
    "MiB": Fraction(2**20),
    "GiB": Fraction(2**30),
}

_AMOUNT = re.compile(r"([+-]?(?:[0-9_]{1,40}(?:\.[0-9]{1,40})?|\.[0-9]{1,40}))\s*([^\s\d.][^\d]*)?", re.ASCII)


def read_seconds(text: str) -> float:
    """Parse a duration and return seconds, which is also the default unit. Raises BadValue."""
    return float(_read(text, TIMES, "10 s"))


def read_size(text: str) -> int:
    """Parse a size and return bytes, which is also the default unit. Raises BadValue, also for fractions of a byte."""
    size = _read(text, SIZES, "16 MiB")
    if size.denominator != 1:
        raise BadValue(f"{text!r} is not a whole number of bytes")
    return int(size)


def _read(text: str, units: dict[str, Fraction], example: str) -> Fraction:
    found = _AMOUNT.fullmatch(text.strip())
    try:
        number = Fraction(found[1]) if found else None
    except ValueError:  # misplaced underscores
        number = None
    if found is None or number is None:
        raise BadValue(f'{text!r} is not an amount; write a number, or a number with a unit as in "{example}"')
    unit = (found[2] or "").strip()
    if unit and unit not in units:
        raise BadValue(f"{text!r}: unknown unit {unit!r}; {did_you_mean(unit, units)}")
    return number * (units[unit] if unit else 1)
