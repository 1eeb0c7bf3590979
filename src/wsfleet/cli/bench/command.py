"""`wsfleet bench`: arguments, the run, and the output of the result."""

from __future__ import annotations

import argparse
import os
import platform
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from wsfleet.cli.arguments import count, seconds
from wsfleet.cli.bench.peer import SMALLEST
from wsfleet.cli.bench.programs import PROGRAMS
from wsfleet.core import __version__
from wsfleet.core.accel import accelerated
from wsfleet.runtime.loop import ENDED_WELL, FAILED, MISUSED
from wsfleet.runtime.report import check_report, write_report
from wsfleet.runtime.subprocess import child_process
from wsfleet.transport.open_files import raise_limit

if TYPE_CHECKING:
    from rich.progress import Progress
    from rich.table import Table

__all__ = ["add_arguments", "main"]

ROUNDS = 5
SHARE = 0.85  # share of the duration for the turns; the rest is for starting two processes, connecting and closing
SPARE_FILES = 64
LABELS = {"bare": "by hand", "wsfleet": "wsfleet", "ceiling": "the ceiling"}
ABOUT = """\
Messages per second of CPU time: received, decoded as JSON, and passed to an async function that does very little.
By hand: one loop on websockets per connection. The ceiling: the same messages from a list in memory.
The figures are medians of {rounds} rounds. Between runs, compare the ratios, not the absolute figures.
"""


class Line(NamedTuple):
    """The result of one turn, as printed by the process that runs the programs."""

    program: str
    messages: int
    cpu_s: float
    loop: str

    @property
    def rate(self) -> float:
        """Messages per second of CPU time."""
        return self.messages / self.cpu_s


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `wsfleet bench` to `parser`."""
    add = parser.add_argument
    add("--duration", type=seconds, default=20.0, metavar="SECONDS", help='also "1 min" (default: %(default)g)')
    add("--connections", type=count, default=8, metavar="N", help="number of connections (default: %(default)s)")
    add("--size", type=_size, default=128, metavar="BYTES", help="size of a message (default: %(default)s)")
    add("--report", type=Path, metavar="FILE.json", help="write the figures to this file, as JSON")


def _size(text: str) -> int:
    size = count(text)
    if not SMALLEST <= size <= 2**20:
        raise argparse.ArgumentTypeError(f"must be from {SMALLEST} to {2**20}, not {size}")
    return size


def main(args: argparse.Namespace) -> int:
    """Run the benchmark and return the exit code."""
    fault = check_report(args.report) if args.report else None
    limit = raise_limit()
    if fault is None and limit is not None and limit < args.connections + SPARE_FILES:
        fault = f"the limit of open files is too low for {args.connections:,} connections (ulimit -n)"
        return _print_error(fault, MISUSED)
    if fault is not None:
        return _print_error(f"--report: {fault}", MISUSED)
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        rounds = _measure(args)
    finally:
        signal.signal(signal.SIGTERM, before)
    if not rounds:
        return _print_error("ended before the first round was complete", FAILED)
    report = summary(rounds, vars(args))
    _show(report)
    try:
        if args.report:
            write_report(args.report, report)
    except OSError as exc:
        return _print_error(f"--report: {exc}", FAILED)
    return ENDED_WELL


def _print_error(text: str, code: int) -> int:
    print(f"wsfleet bench: {text}", file=sys.stderr)
    return code


def _measure(args: argparse.Namespace) -> list[dict[str, Line]]:
    """Run until the time is over or a signal arrives, and return the complete rounds."""
    names = tuple(PROGRAMS)
    turns: list[Line] = []
    try:
        with _progress() as progress:
            task = progress.add_task("starting", total=ROUNDS * len(names))
            for line in _turns(args):
                turns.append(line)
                progress.update(task, advance=1, description=LABELS[names[len(turns) % len(names)]])
    except KeyboardInterrupt:  # show the complete rounds
        pass
    whole = len(turns) // len(names)
    return [{line.program: line for line in turns[n * len(names) : (n + 1) * len(names)]} for n in range(whole)]


def _progress() -> Progress:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal)


def _turns(args: argparse.Namespace) -> Iterator[Line]:
    turn_s = args.duration * SHARE / ROUNDS / len(PROGRAMS)
    with child_process("wsfleet.cli.bench.children", "server", args.size) as server:
        assert server.stdout is not None  # noqa: S101 - it is a pipe
        port = server.stdout.readline()
        if not port:
            return
        arguments = (int(port), args.connections, args.size, turn_s, ROUNDS)
        with child_process("wsfleet.cli.bench.children", "turns", *arguments) as worker:
            assert worker.stdout is not None  # noqa: S101 - it is a pipe
            for line in worker.stdout:
                yield Line(**msgspec.json.decode(line))


def summary(rounds: list[dict[str, Line]], load: dict[str, Any]) -> dict[str, Any]:
    """Return the result in plain types for JSON: medians of the rates, and of the ratios within each round."""
    programs = {
        name: {
            "messages_per_cpu_s": median(each[name].rate for each in rounds),
            "times_bare": median(each[name].rate / each["bare"].rate for each in rounds),
            "of_ceiling": median(each[name].rate / each["ceiling"].rate for each in rounds),
            "messages": sum(each[name].messages for each in rounds),
        }
        for name in PROGRAMS
    }
    return {
        "wsfleet": __version__,
        "accelerated": accelerated(),
        "loop": rounds[0]["bare"].loop,
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "connections": load["connections"],
        "size": load["size"],
        "rounds": len(rounds),
        "programs": programs,
    }


def _show(report: dict[str, Any]) -> None:
    from rich.console import Console

    loop = report["loop"] + ("" if report["loop"] == "uvloop" else " (uvloop is faster: pip install 'wsfleet[fast]')")
    parts = "compiled parts in use" if report["accelerated"] else "pure Python, without compiled parts"
    console = Console(highlight=False, soft_wrap=True)
    with console.capture() as shown:
        console.print(f"wsfleet {report['wsfleet']}, {parts}; {report['python']}; {loop}", markup=False)
        console.print(f"{report['connections']:,} connections, messages of {report['size']:,} bytes\n", markup=False)
        console.print(_table(report["programs"]))
        console.print("\n" + ABOUT.format(rounds=report["rounds"]), markup=False, end="")
    try:
        print(shown.get(), end="", flush=True)
    except BrokenPipeError:  # the reader has closed the pipe
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _table(programs: dict[str, dict[str, float]]) -> Table:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0))
    table.add_column("")
    for head in ("messages/CPU s", "each", "by hand = 1", "of the ceiling"):
        table.add_column(head, justify="right")
    for name, row in programs.items():
        rate = row["messages_per_cpu_s"]
        cells = (f"{rate:,.0f}", f"{1e6 / rate:.2f} µs", f"{row['times_bare']:.2f}", f"{row['of_ceiling']:.0%}")
        table.add_row(LABELS[name], *cells, style="bold" if name == "wsfleet" else "")
    return table
