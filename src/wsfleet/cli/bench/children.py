"""The child processes of `wsfleet bench`: a server that sends, and the programs, which run in turn.

`python -m wsfleet.cli.bench.children server SIZE` does nothing but send: JSON of SIZE bytes, encoded beforehand and
written in blocks, without an end, to every client that has said a word. It prints its port as the first line, and ends
when its standard input does.

`python -m wsfleet.cli.bench.children turns PORT CONNECTIONS SIZE TURN_S ROUNDS` runs the programs, so that showing the
progress costs them nothing. Each turn is a line of JSON on the standard output.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from functools import partial

import msgspec

from wsfleet.cli.bench.peer import Peer, frame, payloads, serve
from wsfleet.cli.bench.programs import PROGRAMS, Load
from wsfleet.runtime.loop import run_loop
from wsfleet.transport.open_files import raise_limit

__all__ = ["main"]


class _Sender(Peer):
    """Sends one block after the other, as fast as the client takes them."""

    def __init__(self, block: bytes) -> None:
        super().__init__()
        self._block = block
        self._asked = False

    def told(self) -> None:
        if not self._asked:
            self._asked = True
            self._send()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._send()

    def _send(self) -> None:
        while self._asked and self.open and not self.full:
            self.transport.write(self._block)


async def _take_turns(load: Load, rounds: int) -> None:
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
    kind, *arguments = sys.argv[1:]
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the command handles it, and ends this process
    raise_limit()
    if kind == "server":
        block = b"".join(map(frame, payloads(int(arguments[0]))))
        run_loop(serve(partial(_Sender, block)))
    else:
        port, connections, size, turn_s, rounds = arguments
        logging.getLogger("wsfleet").setLevel(logging.ERROR)
        run_loop(_take_turns(Load(int(port), int(connections), int(size), float(turn_s)), int(rounds)))


if __name__ == "__main__":
    main()
