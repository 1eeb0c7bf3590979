"""Lets the programs run in turn: `python -m wsfleet.cli.bench.turns PORT CONNECTIONS SIZE TURN_S ROUNDS`.

In a process of its own, so that showing how far it is costs the programs nothing. Each turn is a line of JSON on the
standard output.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys

import msgspec

from wsfleet.cli.bench.programs import PROGRAMS, Load
from wsfleet.runtime.loop import run_loop
from wsfleet.transport.open_files import raise_limit

__all__ = ["main"]

SPARE_FILES = 64


async def take_turns(load: Load, rounds: int) -> None:
    """Run every program once in each round, or until nobody waits for the result any more."""
    # Nothing is ever written there: readable means ended.
    asyncio.get_running_loop().add_reader(sys.stdin, os._exit, 0)
    for _ in range(rounds):
        for name, program in PROGRAMS.items():
            turn = await program(load)
            loop = type(asyncio.get_running_loop()).__module__.partition(".")[0]
            line = {"program": name, "messages": turn.messages, "cpu_s": turn.cpu_s, "loop": loop}
            print(msgspec.json.encode(line).decode(), flush=True)


def main() -> None:
    """Read the arguments and run."""
    port, connections, size, turn_s, rounds = sys.argv[1:]
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the command's to handle
    logging.getLogger("wsfleet").setLevel(logging.ERROR)
    raise_limit()
    run_loop(take_turns(Load(int(port), int(connections), int(size), float(turn_s)), int(rounds)))


if __name__ == "__main__":
    main()
