"""Runs a module of wsfleet in a child process."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

__all__ = ["child_process", "import_path", "module_process"]

CHILD_TIMEOUT_S = 5.0
"""Seconds until a child is killed after the end of its standard input."""


def import_path() -> list[str]:
    """Return `sys.path` with absolute entries, for a child that may run in another directory."""
    return [os.path.abspath(entry) for entry in sys.path]


def module_process(
    module: str, *arguments: object, environ: Mapping[str, str] = os.environ
) -> tuple[list[str], dict[str, Any]]:
    """Return the command that runs `module` with this process's import path, and the keywords for starting it.

    The child gets its own session, so that Ctrl-C does not reach it.
    """
    command = [sys.executable, "-P", "-m", module, *map(str, arguments)]
    env = {**environ, "PYTHONPATH": os.pathsep.join(import_path())}
    return command, {"env": env, "start_new_session": True}


@contextmanager
def child_process(module: str, *arguments: object) -> Iterator[subprocess.Popen[bytes]]:
    """Run `python -m module arguments...` and close its standard input at the end of the block.

    The child ends at the end of its standard input, so it does not outlive the block or this process. If it does not
    end within CHILD_TIMEOUT_S, it is killed.
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
