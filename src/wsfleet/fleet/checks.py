"""Checks of arguments to `Fleet` and its methods. Each raises ConfigError or TypeError and names the argument."""

from __future__ import annotations

from functools import partial
from typing import Any

from wsfleet.core.checks import check_name, check_seconds, refuse
from wsfleet.core.errors import ConfigError
from wsfleet.core.keywords import EndpointOptions, ProcessorOptions
from wsfleet.core.options import Buffer, Endpoint, Limits
from wsfleet.core.text import suggestion
from wsfleet.core.topics import check_pattern
from wsfleet.pipeline.handler import Function, Plan, Sink, check_plan, is_sink

__all__ = [
    "check_buffer",
    "check_fleet",
    "check_process",
    "check_process_pattern",
    "check_replay",
    "check_subscribe_pattern",
    "split_options",
]


def check_fleet(name: str, limits: Limits, drain_s: float) -> None:
    """Check the arguments of `Fleet()`."""
    if not isinstance(name, str) or not name:
        raise ConfigError(f"Fleet: name must be a str, not {name!r}", (("name", "must be a str"),))
    if not isinstance(limits, Limits):
        raise ConfigError(f"Fleet: limits must be Limits, not {limits!r}", (("limits", "must be Limits"),))
    refuse("Fleet", [("drain_s", check_seconds(drain_s, zero=True))])


def check_subscribe_pattern(pattern: Any) -> None:
    """Check a topic pattern."""
    fault = check_pattern(pattern)
    if fault:
        raise ConfigError(fault, (("pattern", fault),))


def check_process_pattern(pattern: object) -> None:
    """Check the pattern of a processor at once: the decorator made from it may never be called with a function."""
    if callable(pattern) or is_sink(pattern):
        fault = 'write @fleet.process("pattern")'
        raise ConfigError(f"process() takes the pattern first: {fault}", (("pattern", fault),))
    check_subscribe_pattern(pattern)


def check_process(pattern: object, name: str | None, plan: Plan, buffer: Buffer) -> None:
    """Check the arguments of `Fleet.process`, and raise one ConfigError with all faults."""
    found: list[ConfigError] = []
    named = [("name", None if name is None else check_name(name))]
    checks = (
        partial(check_process_pattern, pattern),
        partial(refuse, "processor", named),
        partial(check_plan, plan, buffer),
    )
    for check in checks:
        try:
            check()
        except ConfigError as exc:
            found.append(exc)
    if found:
        raise ConfigError("; ".join(map(str, found)), tuple(fault for each in found for fault in each.faults))


def check_buffer(buffer: Buffer) -> None:
    """Check that `buffer` is a Buffer."""
    if not isinstance(buffer, Buffer):
        raise ConfigError(f"buffer must be a Buffer, not {buffer!r}", (("buffer", "must be a Buffer"),))


def check_replay(replay: object) -> None:
    """Check the `replay` of a subscription."""
    if replay not in (None, "last"):
        raise ConfigError(f"replay must be None or 'last', not {replay!r}", (("replay", "must be None or 'last'"),))


def split_options(
    endpoint: Endpoint | str, target: Function | Sink | None, options: dict[str, Any]
) -> tuple[Endpoint, dict[str, Any]]:
    """Separate the endpoint's options from the processor's. Raises TypeError for options that do not belong."""
    fields, keywords = (*EndpointOptions.__annotations__, "decode"), ProcessorOptions.__annotations__
    unknown = [name for name in options if name not in fields and name not in keywords]
    if unknown:
        known = [*fields, *keywords]
        raise TypeError("; ".join(f"unknown option {name!r}{suggestion(name, known)}" for name in unknown))
    mine = {name: value for name, value in options.items() if name in fields}
    process = {name: value for name, value in options.items() if name in keywords}
    if process and target is None:
        raise TypeError(f"{next(iter(process))!r} is an option of a processor, and none is given")
    if isinstance(endpoint, Endpoint):
        if mine:
            raise TypeError(f"{next(iter(mine))!r} is a field of Endpoint; set it on the one that is given")
        return endpoint, process
    return Endpoint(endpoint, **mine), process
