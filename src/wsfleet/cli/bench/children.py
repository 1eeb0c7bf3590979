"""The child processes of `wsfleet bench`: a server that sends, and the programs, which run in turn.

`python -m wsfleet.cli.bench.children server SIZE` sends JSON messages of SIZE bytes, encoded in advance and written in
blocks, to every client after the client's first message. It prints its port as the first line, and ends at the end of
its standard input.

`python -m wsfleet.cli.bench.children turns PORT CONNECTIONS SIZE TURN_S ROUNDS` runs the programs. In a separate
process, the progress display does not affect them. It prints each turn as a line of JSON.
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
    """Sends blocks as fast as the client reads them, after the client's first message."""

    def __init__(self, block: bytes) -> None:
        super().__init__()
        self._block = block
        self._started = False

    def message_received(self) -> None:
        if not self._started:
            self._started = True
            self._send()

    def resume_writing(self) -> None:
        super().resume_writing()
        # asyncio calls this during a write; a write that fails in here would end the connection twice.
        asyncio.get_running_loop().call_soon(self._send)

    def _send(self) -> None:
        while self._started and self.open and not self.full:
            self.transport.write(self._block)


async def _take_turns(load: Load, rounds: int) -> None:
    """Run every program once per round. The process exits when the parent has ended."""
    # Nothing is written to standard input, so readable means end of file.
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
