"""The command `wsfleet`."""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import logging
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from wsfleet.cli.arguments import seconds
from wsfleet.config import Report, check
from wsfleet.core import __version__
from wsfleet.core.accel import accelerated
from wsfleet.core.checks import check_proxy
from wsfleet.core.redact import redact_uri
from wsfleet.core.stats import FleetStats
from wsfleet.core.text import plural
from wsfleet.runtime.locate import find_fleet, is_uri, print_error, print_faults
from wsfleet.runtime.logs import log_to_stderr
from wsfleet.runtime.loop import ENDED_WELL, FAILED, INTERRUPTED, MISUSED
from wsfleet.runtime.report import check_report, log_summary, summary
from wsfleet.runtime.run import run_fleet
from wsfleet.runtime.sharding import Shard, divide, parse_shard

__all__ = ["main"]

MAX_WORKERS = 256

NAMES = 5
"""Maximum number of endpoints to name for a proxy."""


class _Command(NamedTuple):
    """A command whose module has `add_arguments(parser)` and `main(args)`. The module is imported only if used."""

    help: str
    extra: str  #: the extra that installs the packages it needs
    needs: tuple[str, ...]


_COMMANDS = {
    "bench": _Command("measure the cost of a message: bare websockets, wsfleet, upper bound", "cli", ("rich",)),
    "demo": _Command("run a thousand connections against a local server with faults", "cli", ("rich",)),
    "tap": _Command("connect to one server and print its messages", "cli", ("rich",)),
    "top": _Command("show a running fleet in the terminal", "top", ("textual", "httpx")),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code.

    0: success; 1: a required endpoint failed, all endpoints failed, or the balance does not hold; 2: the configuration
    or the command line is not valid; 130: interrupted twice.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    missing = _missing(argv[0]) if argv else None
    if missing is not None:
        print(f"wsfleet {argv[0]}: {missing}", file=sys.stderr)
        return MISUSED
    try:
        args = build_parser(argv).parse_args(argv)
        code: int = args.main(args)
    except SystemExit as exc:  # argparse raises it for --help, --version and errors
        return exc.code if isinstance(exc.code, int) else ENDED_WELL
    except KeyboardInterrupt:
        return INTERRUPTED
    return code


def build_parser(argv: Sequence[str]) -> argparse.ArgumentParser:
    parts = "compiled parts in use" if accelerated() else "pure Python"
    parser = argparse.ArgumentParser(
        prog="wsfleet", description="Keep WebSocket connections open and account for every message."
    )
    parser.add_argument("--version", action="version", version=f"wsfleet {__version__} ({parts})")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    run = commands.add_parser("run", help="run the fleet of a TOML file or of a program")
    run.add_argument("target", metavar="FILE.toml | module:fleet", help="a Fleet, or a function that returns one")
    run.add_argument("--duration", type=seconds, metavar="SECONDS", help='drain and end after this time; also "5 min"')
    run.add_argument("--report", type=Path, metavar="FILE.json", help="write the last snapshot to this file, as JSON")
    run.add_argument("--quiet", action="store_true", help="log only warnings and errors")
    run.add_argument("--workers", type=_workers, metavar="N", help="divide the endpoints among N processes")
    run.add_argument("--shard", type=_shard, metavar="I/N", help="run only shard I (from 0) of N of the endpoints")
    run.add_argument("--log-json", action="store_true", help="log one JSON object per line")
    run.set_defaults(main=_run)

    check_parser = commands.add_parser("check", help="print all faults of a TOML file")
    check_parser.add_argument("file", metavar="FILE.toml")
    check_parser.set_defaults(main=_check)

    for name, each in _COMMANDS.items():
        command = commands.add_parser(name, help=each.help)
        if name in argv[:1]:
            module = importlib.import_module(f"wsfleet.cli.{name}")
            module.add_arguments(command)
            command.set_defaults(main=module.main)
    return parser


def _missing(name: str) -> str | None:
    """Return an error that names the packages missing for the command `name` and the extra to install, or None."""
    command = _COMMANDS.get(name)
    missing = [] if command is None else [each for each in command.needs if importlib.util.find_spec(each) is None]
    if command is None or not missing:
        return None
    return f'{" and ".join(missing)} missing; install "wsfleet[{command.extra}]"'


def _workers(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= MAX_WORKERS:
        raise argparse.ArgumentTypeError(f"must be a number of processes from 1 to {MAX_WORKERS}, not {text!r}")
    return int(text)


def _shard(text: str) -> Shard:
    try:
        return parse_shard(text)
    except ValueError as exc:
        raise argparse.ArgumentTypeError(str(exc)) from None


def _check(args: argparse.Namespace) -> int:
    if is_uri(args.file):
        return MISUSED
    report = check(Path(args.file))
    fleet = print_faults(report)
    if fleet is None:
        return MISUSED
    endpoints = plural(len(fleet.connections), "endpoint")
    print(f"{args.file}: good; {endpoints}, {plural(len(fleet.subscriptions), 'processor')}")
    for observer in fleet.observers:
        print(f"would serve {observer}")
    code = ENDED_WELL
    for proxy, fault, users in _proxies(report):
        if fault is None:
            print(f"proxy {proxy}: {users}")
        else:
            print_error(f"the environment's proxy {fault}: {users}")
            code = MISUSED
    return code


def _proxies(report: Report) -> Iterator[tuple[str, str | None, str]]:
    """Yield each proxy in use, its fault or None, and its endpoints. Includes proxies from the environment."""
    from websockets.uri import parse_uri

    from wsfleet.transport.dial import usual_proxy

    users: dict[tuple[str, str | None], list[str]] = {}
    for name, endpoint in report.endpoints:
        proxy = endpoint.proxy or None
        source = "from the file"
        if endpoint.proxy is None and isinstance(endpoint.uri, str):
            proxy, source = usual_proxy(parse_uri(endpoint.uri)), "from the environment"
        if proxy is not None:
            users.setdefault((f"{redact_uri(proxy)}, {source}", check_proxy(proxy)), []).append(name)
    for (proxy, fault), names in users.items():
        more = f", and {len(names) - NAMES} more" if len(names) > NAMES else ""
        yield proxy, fault, f"{', '.join(names[:NAMES])}{more}"


def _run(args: argparse.Namespace) -> int:
    fault = check_report(args.report) if args.report is not None else None
    if fault is not None:
        print_error(f"--report: {fault}")
        return MISUSED
    level = logging.WARNING if args.quiet else logging.INFO
    log_to_stderr(level, as_json=args.log_json)
    fleet = find_fleet(args.target)
    if fleet is None:
        return MISUSED
    shards = () if args.shard is None else (args.shard,)
    divide(fleet, *shards)
    if args.workers is None:
        run, coordinator = partial(run_fleet, fleet, summarize=partial(_summarize, args.log_json)), None
    else:
        # Imported only if used, to keep the start of a single process fast.
        workers = importlib.import_module("wsfleet.runtime.workers.coordinator")
        coordinator = workers.Coordinator(args.target, fleet, args.workers, shards, level=level, log_json=args.log_json)
        run = partial(
            workers.run_workers, coordinator, summarize=lambda: _summarize(args.log_json, *coordinator.ended())
        )
    try:
        code = run(duration=args.duration, report=args.report)
    except OSError as exc:
        print_error(f"--report: {exc}")
        code = FAILED
    except KeyboardInterrupt:  # before the signals are handled, or after the end
        code = INTERRUPTED
    ended = (fleet.stats(), None) if coordinator is None else coordinator.ended()
    _summarize(args.log_json, *ended)
    return code


def _summarize(as_json: bool, stats: FleetStats, workers: dict[str, Any] | None = None) -> None:
    if as_json:
        log_summary(stats, workers)
    else:
        for line in summary(stats, workers):
            print(line, file=sys.stderr, flush=True)
