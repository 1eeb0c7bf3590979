"""`wsfleet` as a process."""

import asyncio
import contextlib
import signal
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import pytest


@dataclass
class Ended:
    code: int | None
    out: str
    err: str

    def lines(self) -> list[str]:
        return self.err.splitlines()


class Command:
    """`wsfleet` in its own process."""

    def __init__(self, process: asyncio.subprocess.Process, folder: Path) -> None:
        self.process = process
        self.notes = folder / "notes"
        self._log = ""
        self._out, self._err = asyncio.create_task(self._read_out()), asyncio.create_task(self._read_err())

    async def _read_out(self) -> bytes:
        assert self.process.stdout is not None
        return await self.process.stdout.read()

    async def _read_err(self) -> None:
        assert self.process.stderr is not None
        async for line in self.process.stderr:
            self._log += line.decode()

    def kill(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):  # it has ended meanwhile
            self.process.send_signal(number)

    async def until_noted(self, *texts: str) -> None:
        """Wait until handlers have recorded all of these values."""
        await self._until(lambda: self.notes.exists() and set(texts) <= set(self.notes.read_text().split()))

    async def until_logged(self, text: str) -> None:
        """Wait until the text is on the standard error."""
        await self._until(lambda: text in self._log)

    async def _until(self, seen: Callable[[], bool]) -> None:
        while not seen():
            if self._err.done():
                pytest.fail(f"ended early:\n{self._log}")
            await asyncio.sleep(0.01)

    async def ended(self) -> Ended:
        out, _ = await asyncio.gather(self._out, self._err)
        return Ended(await self.process.wait(), out.decode(), self._log)

    async def drained(self) -> Ended:
        self.kill(signal.SIGTERM)
        return await self.ended()

    async def abandon(self) -> None:
        if self.process.returncode is None:
            self.process.kill()
        await self.ended()


Start = Callable[..., Awaitable[Command]]
