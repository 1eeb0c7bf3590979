"""Keeps one worker process alive, as a supervisor does a connection: start, listen, and again when it has died."""

from __future__ import annotations

import asyncio
import logging
import os
import random
import signal
import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from wsfleet.core.options import Reconnect
from wsfleet.core.retry import Backoff
from wsfleet.runtime.loop import EXIT_TIMEOUT_S, MISUSED
from wsfleet.runtime.sharding import Shard
from wsfleet.runtime.subprocess import import_path, module_process
from wsfleet.runtime.systemd import without_notifier
from wsfleet.runtime.workers.channel import Frame, pack, read_frame
from wsfleet.serve.status.merged import absent, counts

__all__ = ["Order", "WorkerProcess"]

logger = logging.getLogger("wsfleet.run")

AGAIN = Reconnect(initial_s=0.5, max_s=30.0, stable_s=30.0)
"""When a worker that died is started again: soon at first, seldom in the end."""


@dataclass(frozen=True, slots=True)
class Order:
    """What a worker is to run."""

    target: str
    index: int
    count: int
    shards: tuple[tuple[int, int, str], ...]
    level: int = logging.INFO
    log_json: bool = False
    turns: int = -1
    """An open file that workers lock while they write to the standard output."""
    observed: bool = False
    """Whether somebody looks at the fleet, so that events are to be told."""

    def frame(self) -> Frame:
        """Return it as the first frame of a channel, with what the worker needs to be like its parent."""
        return {
            "target": self.target,
            "index": self.index,
            "shards": [list(shard) for shard in self.shards],
            "level": self.level,
            "log_json": self.log_json,
            "turns": self.turns,
            "observed": self.observed,
            "path": import_path(),
            "pythonpath": os.environ.get("PYTHONPATH"),
        }


class WorkerProcess:
    """One worker, over all of the processes that it has been.

    `report` is its last one, and counts nothing while no process is there. `lost` is what the last reports of those
    processes counted that are gone: of what they had received after that, where they died, nobody knows.
    """

    def __init__(self, order: Order, blank: dict[str, Any], news: Callable[[WorkerProcess, Frame], None]) -> None:
        self.index = order.index
        self.shards = tuple(Shard(*shard) for shard in order.shards)
        self.name = f"worker {order.index}"
        self.report = blank
        self.pid: int | None = None
        self.started = False
        self.done = False
        self.died_ending = False
        self.silent = 0  # the parent's looks since its last word
        self.restarts = 0
        self.lost: dict[str, float] = dict.fromkeys(counts(blank), 0)
        self.code: int | None = None
        self.failed = False
        self._order = order
        self._news = news
        self._process: asyncio.subprocess.Process | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._shutdown = asyncio.Event()
        self._reloading: list[asyncio.Future[list[str]]] = []
        self._backoff = Backoff(AGAIN, random.random)

    async def keep(self) -> None:
        """Have a process running until it ends by itself, or was told to. Cancelling kills it."""
        loop = asyncio.get_running_loop()
        while not self._shutdown.is_set():
            began = loop.time()
            code = await self._live()
            if self.done:
                return
            if loop.time() - began > AGAIN.stable_s:
                self._backoff.reset()
            delay_s = self._backoff.next()
            self._died(code, delay_s)
            try:
                async with asyncio.timeout(delay_s):
                    await self._shutdown.wait()
            except TimeoutError:
                self.restarts += 1

    def tell(self, do: str) -> None:
        """Have the process drain, stop, or reload; one that is not there, or starts, is told in time."""
        if do != "reload":
            self._shutdown.set()
        if self._writer is not None:
            self._writer.write(pack({"do": do}))

    async def reload(self) -> list[str]:
        """Have the process read its file again, and wait until it has; return what it found wrong with it.

        One that is not there, or ends meanwhile, finds nothing. Cancelling changes nothing.
        """
        if self._writer is None:
            return []
        waiting: asyncio.Future[list[str]] = asyncio.get_running_loop().create_future()
        self._reloading.append(waiting)
        self.tell("reload")
        return await waiting

    def expect(self, blank: dict[str, Any]) -> bool:
        """Where no process is there, `blank` is what the next one will run. False where one is."""
        if self._writer is not None:
            return False
        if self.done:  # and counted what nobody counts from now on
            for key, count in counts(self.report).items():
                self.lost[key] += count
            self.done, self.code = False, None
        self.report = blank
        return True

    def kill(self) -> None:
        """End the process at once."""
        if self._process is not None and self._process.returncode is None:
            self._process.kill()

    async def _live(self) -> int:
        """Run one process to its end, and return its exit code."""
        process, reader, self._writer = await self._spawn()
        self._process, self.pid, self.silent = process, process.pid, 0
        loop = asyncio.get_running_loop()
        listening, over = loop.create_task(self._listen(reader)), loop.create_task(process.wait())
        try:
            await asyncio.wait({listening, over}, return_when=asyncio.FIRST_COMPLETED)
            # Its last words may still be under way; or it has said them, and something of the user's keeps it.
            await asyncio.wait({listening, over}, timeout=EXIT_TIMEOUT_S)
            self.kill()
            return await over
        finally:
            self.kill()
            listening.cancel()
            await asyncio.gather(listening, over, return_exceptions=True)
            self._writer.close()
            self._process = self._writer = self.pid = None
            self.started = False
            self._reloaded([])

    async def _spawn(self) -> tuple[asyncio.subprocess.Process, asyncio.StreamReader, asyncio.StreamWriter]:
        ours, theirs = socket.socketpair()
        order = self._order
        # The arguments are for those who list processes.
        command, options = module_process(
            "wsfleet.runtime.workers.worker",
            f"{order.index}/{order.count}",
            order.target,
            environ=without_notifier(os.environ),
        )
        with theirs:
            process = await asyncio.create_subprocess_exec(
                *command, stdin=theirs.fileno(), pass_fds=[order.turns], **options
            )
        reader, writer = await asyncio.open_connection(sock=ours)
        writer.write(pack(order.frame()))
        return process, reader, writer

    async def _listen(self, reader: asyncio.StreamReader) -> None:
        try:
            while not self.done:
                self._hear(await read_frame(reader))
        except (asyncio.IncompleteReadError, OSError):
            return  # it has died

    def _hear(self, frame: Frame) -> None:
        self.silent = 0
        self.report = frame.pop("report", self.report)
        match frame["kind"]:
            case "started":
                self.started = True
            case "reloaded":
                self._reloaded(frame["faults"])
            case "ended" if frame["code"] != MISUSED or not self.restarts:
                # A file that was spoilt meanwhile is no reason to end: it is tried again later.
                self.code, self.failed, self.done = frame["code"], frame.get("failed", False), True
        self._news(self, frame)

    def _reloaded(self, faults: list[str]) -> None:
        for waiting in self._reloading:
            if not waiting.done():
                waiting.set_result([f"{self.name} changed nothing: {fault}" for fault in faults])
        self._reloading.clear()

    def _died(self, code: int, delay_s: float) -> None:
        """Account for what is gone with the process."""
        before = counts(self.report)
        for key, count in before.items():
            self.lost[key] += count
        how = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        lost = f"lost: {before['pending'] + before['held']:,} messages that waited there, and what it has not told of"
        if self._shutdown.is_set():
            self.died_ending = True
            error = f"its worker died ({how})"
            logger.error("%s died (%s) before its end; %s", self.name, how, lost)
        else:
            error = f"its worker died ({how}); it is started again"
            logger.error("%s died (%s), and is started again in %.1f s; %s", self.name, how, delay_s, lost)
        self.report = absent(self.report, error=error)
        self._news(self, {"kind": "died"})
