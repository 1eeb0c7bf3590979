"""The examples as processes."""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import wsfleet
from wsfleet.testing import FeedServer

# The examples must use the wsfleet that is tested here.
SOURCE = Path(wsfleet.__file__).parents[1]
EXAMPLES = Path(__file__).parents[2] / "examples"

# Time limit for events that must happen, not a measure of speed.
PATIENCE_S = 60.0


class Program:
    """A running example; `lines` contains the lines of both of its outputs."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.lines: list[str] = []

    async def says(self, text: str) -> str:
        """Read lines up to one that contains `text`."""
        if not await self._read(text):
            raise AssertionError(f"{text!r} was not printed\n{self}")
        return self.lines[-1]

    async def ends(self, number: signal.Signals | None = None) -> int:
        """Wait for its end, after a signal if one is given; return the exit code."""
        if number is not None:
            self.process.send_signal(number)
        await self._read(None)
        return await self.process.wait()

    async def _read(self, text: str | None) -> bool:
        """Read up to a line that contains `text`, or to the end; return whether there was one."""
        assert self.process.stdout is not None
        try:
            async with asyncio.timeout(PATIENCE_S):
                while line := (await self.process.stdout.readline()).decode():
                    self.lines.append(line.removesuffix("\n"))
                    if text is not None and text in line:
                        return True
        except TimeoutError:
            raise AssertionError(f"waited too long for {text or 'its end'!r}\n{self}") from None
        return False

    async def joins(self, server: FeedServer, clients: int = 1) -> None:
        """Wait until it has made this number of connections to the server."""
        joined = asyncio.ensure_future(server.wait_clients(clients))
        ended = asyncio.ensure_future(self.process.wait())
        await asyncio.wait({joined, ended}, timeout=PATIENCE_S, return_when=asyncio.FIRST_COMPLETED)
        missed = joined.cancel()
        ended.cancel()
        await asyncio.wait({joined, ended})
        if missed:
            await self.ends(signal.SIGKILL if self.process.returncode is None else None)
            raise AssertionError(f"it did not connect\n{self}")

    def with_text(self, text: str) -> list[str]:
        return [line for line in self.lines if text in line]

    def __str__(self) -> str:
        return "\n".join(self.lines)


@contextlib.asynccontextmanager
async def running(*command: object, cwd: Path, **environment: str) -> AsyncIterator[Program]:
    """Run Python with `command`, with warnings as errors.

    Without asyncio's debug mode, which logs a line if a busy machine delays a callback.
    """
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-W", "error", *map(str, command),
        cwd=cwd, env=os.environ | {"PYTHONPATH": str(SOURCE), "PYTHONASYNCIODEBUG": ""} | environment,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    try:
        yield Program(process)
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


def price(n: int, value: float = 100.0, symbol: str = "AMBER") -> dict[str, Any]:
    return {"symbol": symbol, "price": value, "n": n}


async def restart(server: FeedServer, program: Program, clients: int = 1) -> None:
    """Stop the server and start it again; return when this number of clients has reconnected."""
    await server.stop()
    await server.start()
    await program.joins(server, clients)
