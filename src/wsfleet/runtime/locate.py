"""Finds the fleet that a command line names, and prints the faults of its file or program."""

from __future__ import annotations

import inspect
import sys
from pathlib import Path

from wsfleet.config import Report, check
from wsfleet.config.faults import BadValue
from wsfleet.config.reading import Given
from wsfleet.config.references import References, is_reference
from wsfleet.core.error_text import describe
from wsfleet.core.errors import ConfigError
from wsfleet.core.redact import redact_uri
from wsfleet.core.topics import can_match, unknown_kind
from wsfleet.fleet.fleet import Fleet, control_of

__all__ = ["find_fleet", "is_uri", "print_error", "print_faults"]


def find_fleet(target: str, *, warn: bool = True, given: Given | None = None) -> Fleet | None:
    """Return the fleet of a TOML file or a program. Return None, with the faults printed, if there are any.

    `given` is the file as another process has read it.
    """
    if is_uri(target):
        return None
    if is_reference(target) and not target.endswith(".toml"):
        try:
            fleet = _import(target)
        except (ConfigError, BadValue) as exc:
            print_error(f"{target}: {exc}")
            return None
        topics = control_of(fleet).endpoint_topics()
        for row in fleet.stats().subscriptions if warn else ():
            fault = unknown_kind(row.pattern)
            # Without endpoints yet, the program declares them later.
            if topics and not row.pattern.startswith("$") and not any(can_match(row.pattern, each) for each in topics):
                known = ", ".join(sorted(set(topics))[:3])
                fault = f"no topic of an endpoint can match {row.pattern!r}; there are {known}"
            if fault is not None:
                print(f"{target}: warning: {row.name}: {fault}", file=sys.stderr)
        return fleet
    if target.endswith(".py"):
        print_error(f"{target} is a Python file; write {_module(Path(target))}:fleet, where fleet is its Fleet")
        return None
    if given is None and not target.endswith(".toml") and not Path(target).is_file():
        print_error(f"{target!r} is neither a TOML file nor module:fleet")
        return None
    return print_faults(check(Path(target), given=given), warn=warn)


def is_uri(target: str) -> bool:
    """Whether `target` is a URI. Prints the error, since other errors would show the URI's password."""
    if "://" in target:
        print_error(f"{redact_uri(target)} is a URI; use `wsfleet tap` to print the messages of a server")
    return "://" in target


def _module(path: Path) -> str:
    parts = path.with_suffix("").parts
    return ".".join(parts) if all(part.isidentifier() for part in parts) else path.stem


def print_faults(report: Report, *, warn: bool = True) -> Fleet | None:
    """Print the faults of a file; return its fleet, or None if there are faults."""
    for warning in report.warnings if warn else ():
        print(f"{warning.where}: warning: {warning.text}", file=sys.stderr)
    for fault in report.faults:
        print(fault, file=sys.stderr)
    return report.fleet


def _import(reference: str) -> Fleet:
    """Return the fleet that `reference` names, with the working directory in the path. Raises BadValue, ConfigError."""
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


def print_error(text: str) -> None:
    """Print an error of the command on standard error."""
    print(f"wsfleet: {text}", file=sys.stderr)
