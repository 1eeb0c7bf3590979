"""The server of `wsfleet bench`, in a process of its own: `python -m wsfleet.cli.bench.server SIZE`.

It does nothing but send: JSON of SIZE bytes, encoded beforehand and written in blocks, without an end, to every client
that has said a word. It prints its port as the first line, and ends when its standard input does.
"""

from __future__ import annotations

import asyncio
import signal
import sys
from functools import partial

from wsfleet.cli.bench.peer import Peer, frame, payloads, serve
from wsfleet.runtime.run import run_loop
from wsfleet.transport.open_files import raise_limit


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
        # asyncio calls this in the middle of a write; a write that fails in here would end the connection twice.
        asyncio.get_running_loop().call_soon(self._send)

    def _send(self) -> None:
        while self._asked and self.open and not self.full:
            self.transport.write(self._block)


def main() -> None:
    """Read the argument and serve."""
    block = b"".join(map(frame, payloads(int(sys.argv[1]))))
    # Ctrl-C is the command's to handle: this process ends with it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    raise_limit()
    run_loop(serve(partial(_Sender, block)))


if __name__ == "__main__":
    main()
