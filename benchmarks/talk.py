"""Processes that are controlled by lines of stdin, and answer each with a line of JSON."""

from __future__ import annotations

import json
import subprocess
import sys
from types import TracebackType
from typing import Any

__all__ = ["Child"]


class Child:
    """A running module of this package; it ends with its stdin, at the end of the `with` block or of this process."""

    def __init__(self, module: str, *arguments: object) -> None:
        command = [sys.executable, "-m", f"benchmarks.{module}", *map(str, arguments)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)

    def __enter__(self) -> Child:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(timeout=30.0)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def send(self, command: str) -> None:
        """Send a command, without waiting for its answer."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{command}\n")

    def answer(self) -> Any:
        """Wait for the next line. Raises RuntimeError if the process has ended instead."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self._process.args!r} has ended too early")
        return json.loads(line)

    def ask(self, command: str) -> Any:
        """Send a command, and return its answer."""
        self.send(command)
        return self.answer()
