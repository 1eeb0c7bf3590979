"""Runs a module of ours in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

__all__ = ["child_process", "import_path", "module_process"]

CHILD_TIMEOUT_S = 5.0
"""How long a child may go on after the end of its standard input."""


def import_path() -> list[str]:
    """Return where this process imports from, for one that may run in another folder."""
    return [os.path.abspath(entry) for entry in sys.path]


def module_process(
    module: str, *arguments: object, environ: Mapping[str, str] = os.environ
) -> tuple[list[str], dict[str, Any]]:
    """Return the command that runs a module of ours as we would, and the keywords to start it with.

    It imports what we import. In a session of its own Ctrl-C does not reach it.
    """
    command = [sys.executable, "-P", "-m", module, *map(str, arguments)]
    env = {**environ, "PYTHONPATH": os.pathsep.join(import_path())}
    return command, {"env": env, "start_new_session": True}


@contextmanager
def child_process(module: str, *arguments: object) -> Iterator[subprocess.Popen[bytes]]:
    """Run `python -m module arguments...`; at the end of the block its standard input ends.

    That is its sign to end, too, so that it outlives neither the block nor this process; where it does not, it is
    killed.
    """
    command, options = module_process(module, *arguments)
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, **options)  # noqa: S603
    with process:
        assert process.stdin is not None  # noqa: S101 - it is a pipe
        try:
            yield process
        finally:
            process.stdin.close()
            try:
                process.wait(timeout=CHILD_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                process.kill()
