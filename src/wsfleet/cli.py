"""The command `wsfleet`."""

from __future__ import annotations

import argparse
import importlib
import inspect
import logging
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from wsfleet import Fleet, __version__, accelerated
from wsfleet.arguments import seconds
from wsfleet.config import Report, check
from wsfleet.config.faults import Wrong
from wsfleet.config.references import References, is_reference
from wsfleet.errors import ConfigError
from wsfleet.failures import describe
from wsfleet.redact import redact_uri
from wsfleet.runner import (
    ENDED_WELL,
    FAILED,
    INTERRUPTED,
    MISUSED,
    check_report,
    log_to_stderr,
    run_fleet,
    summary,
)

__all__ = ["main"]

NAMES = 5
"""So many endpoints of one proxy are named."""

# Each is a module with `add_arguments(parser)` and `main(args)`, loaded only when it is asked for.
_ROOMS = {
    "bench": "what a message costs on this machine: by hand, with wsfleet, and at best",
    "demo": "a thousand connections to a local server that misbehaves, watched live",
    "tap": "connect to one server and print what it says",
    "top": "watch a running fleet in the terminal",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code.

    0: ended well; 1: a required endpoint failed, or all did, or the balance does not hold; 2: the configuration or
    the command line is wrong; 130: interrupted twice.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    try:
        args = _parser(argv).parse_args(argv)
        code: int = args.main(args)
    except SystemExit as exc:  # what argparse does after --help, --version, and its own messages
        return exc.code if isinstance(exc.code, int) else ENDED_WELL
    except KeyboardInterrupt:
        return INTERRUPTED
    return code


def _parser(argv: Sequence[str]) -> argparse.ArgumentParser:
    parts = "compiled parts in use" if accelerated else "in Python alone"
    parser = argparse.ArgumentParser(prog="wsfleet", description="Keeps WebSocket connections alive.")
    parser.add_argument("--version", action="version", version=f"wsfleet {__version__} ({parts})")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    run = commands.add_parser("run", help="run the fleet of a TOML file or of a program")
    run.add_argument("target", metavar="FILE.toml | module:fleet", help="a Fleet, or a function that returns one")
    run.add_argument("--duration", type=seconds, metavar="SECONDS", help='drain and end after so long, also "5 min"')
    run.add_argument("--report", type=Path, metavar="FILE.json", help="write the last snapshot to this file, as JSON")
    run.add_argument("--quiet", action="store_true", help="log warnings and errors alone")
    run.set_defaults(main=_run)

    checked = commands.add_parser("check", help="tell everything that is wrong with a TOML file")
    checked.add_argument("file", metavar="FILE.toml", type=Path)
    checked.set_defaults(main=_check)

    for name, text in _ROOMS.items():
        command = commands.add_parser(name, help=text)
        if name in argv[:1]:
            room = importlib.import_module(f"wsfleet.{name}")
            room.add_arguments(command)
            command.set_defaults(main=room.main)
    return parser


def _check(args: argparse.Namespace) -> int:
    report = check(args.file)
    fleet = _told(report)
    if fleet is None:
        return MISUSED
    print(f"{args.file}: good; {len(fleet.connections)} endpoints, {len(fleet.subscriptions)} processors")
    for line in _proxies(report):
        print(line)
    return ENDED_WELL


def _proxies(report: Report) -> Iterator[str]:
    """Yield who goes through which proxy: one that the environment names stands in no file."""
    from websockets.uri import parse_uri

    from wsfleet.wire.dialing import usual_proxy

    users: dict[str, list[str]] = {}
    for name, endpoint in report.endpoints:
        proxy = endpoint.proxy or None
        where = "by the file"
        if endpoint.proxy is None and isinstance(endpoint.uri, str):
            proxy, where = usual_proxy(parse_uri(endpoint.uri)), "by the environment"
        if proxy is not None:
            users.setdefault(f"{redact_uri(proxy)}, {where}", []).append(name)
    for proxy, names in users.items():
        more = f", and {len(names) - NAMES} more" if len(names) > NAMES else ""
        yield f"through the proxy {proxy}: {', '.join(names[:NAMES])}{more}"


def _run(args: argparse.Namespace) -> int:
    fault = check_report(args.report) if args.report is not None else None
    if fault is not None:
        _complain(f"--report: {fault}")
        return MISUSED
    log_to_stderr(level=logging.WARNING if args.quiet else logging.INFO)
    fleet = _find(args.target)
    if fleet is None:
        return MISUSED
    try:
        code = run_fleet(fleet, duration=args.duration, report=args.report)
    except OSError as exc:
        _complain(f"--report: {exc}")
        code = FAILED
    for line in summary(fleet.stats()):
        print(line, file=sys.stderr)
    return code


def _find(target: str) -> Fleet | None:
    """Return the fleet of a TOML file or a program, or None when its faults have been told."""
    if is_reference(target) and not target.endswith(".toml"):
        try:
            return _import(target)
        except (ConfigError, Wrong) as exc:
            _complain(f"{target}: {exc}")
            return None
    if target.endswith(".py"):
        _complain(f"{target} is a Python file: write {_module(Path(target))}:fleet, where fleet is its Fleet")
        return None
    if not target.endswith(".toml") and not Path(target).is_file():
        _complain(f"{target!r} is neither a TOML file nor module:fleet")
        return None
    return _load(Path(target))


def _module(path: Path) -> str:
    parts = path.with_suffix("").parts
    return ".".join(parts) if all(part.isidentifier() for part in parts) else path.stem


def _load(path: Path) -> Fleet | None:
    return _told(check(path))


def _told(report: Report) -> Fleet | None:
    for warning in report.warnings:
        print(f"{warning.where}: warning: {warning.text}", file=sys.stderr)
    for fault in report.faults:
        print(fault, file=sys.stderr)
    return report.fleet


def _import(reference: str) -> Fleet:
    """Return the fleet that `reference` names, from the folder we are in. Raises Wrong and ConfigError."""
    found = References(Path()).find(reference, like=Fleet)
    if inspect.iscoroutinefunction(found):
        raise Wrong("is an async function; name a Fleet, or a plain function without arguments that returns one")
    if callable(found):
        try:
            found = found()
        except ConfigError:
            raise
        except Exception as exc:
            raise Wrong(f"the function raised {describe(exc)}") from exc
    if not isinstance(found, Fleet):
        raise Wrong(f"is {type(found).__name__}; name a Fleet, or a function without arguments that returns one")
    return found


def _complain(text: str) -> None:
    print(f"wsfleet: {text}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
