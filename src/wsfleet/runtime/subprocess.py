"""Runs a module of ours in a process of its own, beside a command."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["child_process"]

LEAVE_S = 5.0


@contextmanager
def child_process(module: str, *arguments: object) -> Iterator[subprocess.Popen[bytes]]:
    """Run `python -m module arguments...`; at the end of the block its standard input ends.

    That is its sign to end, too, so that it outlives neither the block nor this process; where it does not, it is
    killed. It imports what we import, from wherever that is. In a session of its own Ctrl-C does not reach it.
    """
    process = subprocess.Popen(  # noqa: S603 - our own interpreter, and a module of ours
        [sys.executable, "-P", "-m", module, *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(os.path.abspath(entry) for entry in sys.path)},
        start_new_session=True,
    )
    with process:
        assert process.stdin is not None  # noqa: S101 - it is a pipe
        try:
            yield process
        finally:
            process.stdin.close()
            try:
                process.wait(timeout=LEAVE_S)
            except subprocess.TimeoutExpired:
                process.kill()
