"""`wsfleet demo`: runs a fleet against a feed server with planned faults."""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from wsfleet.cli.arguments import count, seconds
from wsfleet.cli.demo.board import Board, Recoveries
from wsfleet.cli.demo.scenario import Price, make_plan
from wsfleet.core.message import Message
from wsfleet.core.options import Buffer, Endpoint, Liveness, Overflow, Reconnect
from wsfleet.fleet.fleet import Fleet
from wsfleet.runtime.loop import FAILED, INTERRUPTED, MISUSED
from wsfleet.runtime.report import check_report
from wsfleet.runtime.run import run_fleet
from wsfleet.runtime.subprocess import child_process
from wsfleet.transport.open_files import SPARE, raise_limit

__all__ = ["add_arguments", "main"]

REFRESH_S = 0.25
LINE_S = 1.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `wsfleet demo` to `parser`."""
    add = parser.add_argument
    add("--connections", type=count, default=1000, metavar="N", help="number of connections (default: %(default)s)")
    add("--duration", type=seconds, default=15.0, metavar="SECONDS", help='also "1 min" (default: %(default)g)')
    add("--report", type=Path, metavar="FILE.json", help="write the last snapshot to this file, as JSON")
    add("--seed", type=int, default=1, help="seed of the faults and prices (default: %(default)s)")


def main(args: argparse.Namespace) -> int:
    """Run the demo and return the exit code."""
    fault = check_report(args.report) if args.report else None
    if fault:
        print(f"wsfleet demo: --report: {fault}", file=sys.stderr)
        return MISUSED
    wanted = args.connections + SPARE
    limit = raise_limit()
    if limit is not None and limit < wanted:
        print(
            f"wsfleet demo: {args.connections:,} connections need {wanted:,} open files, the limit is {limit:,}; "
            f"use --connections {max(1, limit - SPARE)}, or raise the limit (ulimit -n)",
            file=sys.stderr,
        )
        return MISUSED
    try:
        with feed_server(args.connections, args.duration, args.seed) as port:
            return _run(args, port)
    except BrokenPipeError:  # the reader has closed the pipe
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except RuntimeError as exc:
        print(f"wsfleet demo: {exc}", file=sys.stderr)
        return FAILED


def _run(args: argparse.Namespace, port: int) -> int:
    # The demo causes hundreds of losses, and the board shows them.
    logging.getLogger("wsfleet").setLevel(logging.ERROR)
    recoveries = Recoveries()
    uri = f"ws://127.0.0.1:{port}"
    fleet = make_fleet(uri, args.connections, args.duration, recoveries)
    plan = make_plan(args.connections, args.duration, args.seed)
    title = f"to {uri}, seed {args.seed}"
    board = Board(title, plan, args.duration, ("prices", "slow-chart"), recoveries)
    show = _show_table if sys.stdout.isatty() and os.environ.get("TERM") != "dumb" else _show_lines
    code = run_fleet(fleet, duration=args.duration, report=args.report, watch=partial(show, board))
    if code != INTERRUPTED:
        print(board.summary(fleet.stats()), flush=True)
    return code


@contextmanager
def feed_server(connections: int, duration_s: float, seed: int) -> Iterator[int]:
    """Run the feed server in a child process, and yield its port. Raises RuntimeError if it does not start."""
    with child_process("wsfleet.cli.demo.server", connections, duration_s, seed) as server:
        assert server.stdout is not None  # noqa: S101 - it is a pipe
        port = server.stdout.readline()
        if not port:
            raise RuntimeError("the feed server did not start")
        yield int(port)


def make_fleet(uri: str, connections: int, duration_s: float, recoveries: Recoveries) -> Fleet:
    """Return the demo's fleet: `connections` endpoints, a fast and a slow processor, and one for state changes."""
    fleet = Fleet(name="demo", drain_s=2.0)

    @fleet.process("prices.*", name="prices", buffer=Buffer(messages=20_000))
    async def prices(message: Message[Price]) -> None:
        """Return at once: a fast processor."""

    @fleet.process("prices.AMBER", name="slow-chart", buffer=Buffer(messages=20, overflow=Overflow.DROP_OLDEST))
    async def slow_chart(message: Message[Price]) -> None:
        """Simulate a slow processor, which drops old prices and does not delay the other one."""
        await asyncio.sleep(0.02)

    fleet.process("$state.*", name="recoveries", buffer=Buffer(messages=max(10_000, 10 * connections)))(recoveries.note)
    # Short enough to detect a silent connection and reconnect within the run: 1.9 s for the default of 15 s.
    ping_s = max(0.5, min(2.0, duration_s / 8))
    for number in range(1, connections + 1):
        fleet.connect(
            Endpoint(
                f"{uri}/{number}",
                name=f"feed-{number}",
                proxy=False,
                decode=Price,
                topic="prices.{symbol}",
                close_s=0.5,
                reconnect=Reconnect(initial_s=0.1, max_s=2.0, stable_s=2.0),
                liveness=Liveness(ping_s=ping_s, pong_s=0.75 * ping_s),
            )
        )
    return fleet


async def _show_lines(board: Board, fleet: Fleet) -> None:
    try:
        print(board.announcement(), flush=True)
        while True:
            await asyncio.sleep(LINE_S)
            print(board.line(fleet.stats()), flush=True)
    except BrokenPipeError:
        return  # `wsfleet demo | head`: the run ends when this function returns


async def _show_table(board: Board, fleet: Fleet) -> None:
    from rich.live import Live

    loop = asyncio.get_running_loop()
    with Live(board.table(fleet.stats()), auto_refresh=False, transient=True) as live:
        took_s = 0.0
        while True:
            await asyncio.sleep(max(REFRESH_S, 20 * took_s))  # at most a twentieth of the time is spent on rendering
            began = loop.time()
            live.update(board.table(fleet.stats()), refresh=True)
            took_s = loop.time() - began
