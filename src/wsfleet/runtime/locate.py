"""Finds the fleet that a command line names, and tells what is wrong with it."""

from __future__ import annotations

import inspect
import sys
from pathlib import Path

from wsfleet.config import Report, check
from wsfleet.config.faults import BadValue
from wsfleet.config.references import References, is_reference
from wsfleet.core.error_text import describe
from wsfleet.core.errors import ConfigError
from wsfleet.core.redact import redact_uri
from wsfleet.core.topics import unknown_kind
from wsfleet.fleet.fleet import Fleet

__all__ = ["complain", "find_fleet", "is_uri", "tell"]


def find_fleet(target: str, *, warn: bool = True) -> Fleet | None:
    """Return the fleet of a TOML file or a program, or None when its faults have been told."""
    if is_uri(target):
        return None
    if is_reference(target) and not target.endswith(".toml"):
        try:
            fleet = _import(target)
        except (ConfigError, BadValue) as exc:
            complain(f"{target}: {exc}")
            return None
        # What else a program publishes and connects to is its own affair, so other patterns may come to something.
        for row in fleet.stats().subscriptions if warn else ():
            fault = unknown_kind(row.pattern)
            if fault is not None:
                print(f"{target}: warning: {row.name}: {fault}", file=sys.stderr)
        return fleet
    if target.endswith(".py"):
        complain(f"{target} is a Python file: write {_module(Path(target))}:fleet, where fleet is its Fleet")
        return None
    if not target.endswith(".toml") and not Path(target).is_file():
        complain(f"{target!r} is neither a TOML file nor module:fleet")
        return None
    return tell(check(Path(target)), warn=warn)


def is_uri(target: str) -> bool:
    """Whether `target` is a URI, which is told here: whatever else would complain of it would quote its password."""
    if "://" in target:
        complain(f"{redact_uri(target)} is a URI; `wsfleet tap` shows what a server says")
    return "://" in target


def _module(path: Path) -> str:
    parts = path.with_suffix("").parts
    return ".".join(parts) if all(part.isidentifier() for part in parts) else path.stem


def tell(report: Report, *, warn: bool = True) -> Fleet | None:
    """Tell what is wrong with a file; return its fleet where nothing is."""
    for warning in report.warnings if warn else ():
        print(f"{warning.where}: warning: {warning.text}", file=sys.stderr)
    for fault in report.faults:
        print(fault, file=sys.stderr)
    return report.fleet


def _import(reference: str) -> Fleet:
    """Return the fleet that `reference` names, from the folder we are in. Raises BadValue and ConfigError."""
    found = References(Path()).find(reference, like=Fleet)
    if inspect.iscoroutinefunction(found):
        raise BadValue("is an async function; name a Fleet, or a plain function without arguments that returns one")
    if callable(found):
        try:
            found = found()
        except ConfigError:
            raise
        except Exception as exc:
            raise BadValue(f"the function raised {describe(exc)}") from exc
    if not isinstance(found, Fleet):
        raise BadValue(f"is {type(found).__name__}; name a Fleet, or a function without arguments that returns one")
    return found


def complain(text: str) -> None:
    """Say on the standard error why the command does not do what it was asked to."""
    print(f"wsfleet: {text}", file=sys.stderr)
