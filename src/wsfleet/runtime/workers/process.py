"""Supervises one worker process: starts it, reads its frames, and restarts it with backoff after it has died."""

from __future__ import annotations

import asyncio
import logging
import os
import random
import signal
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgspec

from wsfleet.config.reading import Given
from wsfleet.core.options import Reconnect
from wsfleet.core.retry import Backoff
from wsfleet.endpoint.continuity import History
from wsfleet.runtime.loop import EXIT_TIMEOUT_S, MISUSED
from wsfleet.runtime.sharding import Shard
from wsfleet.runtime.subprocess import import_path, module_process
from wsfleet.runtime.systemd import without_notifier
from wsfleet.runtime.workers.channel import Frame, pack, read_frame
from wsfleet.serve.status.merged import absent, counts

__all__ = ["Order", "WorkerProcess"]

logger = logging.getLogger("wsfleet.run")

RESTART = Reconnect(initial_s=0.5, max_s=30.0, stable_s=30.0)
"""Backoff for restarts of a worker that died."""


@dataclass(frozen=True, slots=True)
class Order:
    """The parameters of a worker process."""

    target: str
    index: int
    count: int
    shards: tuple[tuple[int, int, str], ...]
    level: int = logging.INFO
    log_json: bool = False
    turns: int = -1
    """File descriptor that workers lock while they write to standard output."""
    observed: bool = False
    """Whether the worker sends events, because an observer uses them."""

    def frame(self) -> Frame:
        """Return the first frame of the channel: these parameters, and the parent's import path."""
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
    """One worker and its successive processes.

    `report` is the last report of the current process; its counts are zero while there is no process. `lost` sums the
    last reports of the processes that have ended. Messages received after a process's last report are not counted.
    `histories` are those of its endpoints, from which the next process goes on.
    """

    def __init__(
        self, order: Order, given: Given | None, blank: dict[str, Any], news: Callable[[WorkerProcess, Frame], None]
    ) -> None:
        self.index = order.index
        self.shards = tuple(Shard(*shard) for shard in order.shards)
        self.name = f"worker {order.index}"
        self.report = blank
        self.given = given
        """The configuration file as the parent has last accepted it. Each process starts from it, not from the disk."""
        self.histories: dict[str, History] = {}
        self.pid: int | None = None
        self.started = False
        self.done = False
        self.died_draining = False
        self.missed_checks = 0  # checks by the parent since the last frame
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
        self._backoff = Backoff(RESTART, random.random)

    async def keep(self) -> None:
        """Keep a process running until it ends by itself or by a command. Cancelling kills it."""
        loop = asyncio.get_running_loop()
        while not self._shutdown.is_set():
            began = loop.time()
            code = await self._live()
            if self.done:
                return
            if loop.time() - began > RESTART.stable_s:
                self._backoff.reset()
            delay_s = self._backoff.next()
            self._died(code, delay_s)
            try:
                async with asyncio.timeout(delay_s):
                    await self._shutdown.wait()
            except TimeoutError:
                self.restarts += 1

    def command(self, do: str) -> None:
        """Send "drain", "stop" or "reload". Without a process, the first two prevent the next start."""
        if do != "reload":
            self._shutdown.set()
        if self._writer is not None:
            self._writer.write(pack({"do": do, "given": self.given if do == "reload" else None}))

    async def reload(self) -> list[str]:
        """Let the process apply `given`, wait for the result, and return the faults it found.

        Returns an empty list if there is no process or if it ends meanwhile. Cancelling does not stop the reload.
        """
        if self._writer is None:
            return []
        waiting: asyncio.Future[list[str]] = asyncio.get_running_loop().create_future()
        self._reloading.append(waiting)
        self.command("reload")
        return await waiting

    def expect(self, blank: dict[str, Any]) -> bool:
        """Set the report of the next process to `blank`. Return False, without effect, if a process is running."""
        if self._writer is not None:
            return False
        if self.done:  # the counts of the ended process are no longer in `report`
            for key, count in counts(self.report).items():
                self.lost[key] += count
            self.done, self.code, self.histories = False, None, {}
        self.report = blank
        return True

    def kill(self) -> None:
        """End the process at once."""
        if self._process is not None and self._process.returncode is None:
            self._process.kill()

    async def _live(self) -> int:
        """Run one process until it ends, and return its exit code."""
        process, reader, self._writer = await self._spawn()
        self._process, self.pid, self.missed_checks = process, process.pid, 0
        loop = asyncio.get_running_loop()
        listening, exited = loop.create_task(self._listen(reader)), loop.create_task(process.wait())
        try:
            await asyncio.wait({listening, exited}, return_when=asyncio.FIRST_COMPLETED)
            # Either its last frame is still unread, or the frame was read and user code keeps the process alive.
            await asyncio.wait({listening, exited}, timeout=EXIT_TIMEOUT_S)
            self.kill()
            return await exited
        finally:
            self.kill()
            listening.cancel()
            await asyncio.gather(listening, exited, return_exceptions=True)
            self._writer.close()
            self._process = self._writer = self.pid = None
            self.started = False
            self._reloaded([])

    async def _spawn(self) -> tuple[asyncio.subprocess.Process, asyncio.StreamReader, asyncio.StreamWriter]:
        ours, theirs = socket.socketpair()
        order = self._order
        # The worker ignores the arguments; they identify it in a process list.
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
        writer.write(pack(order.frame() | {"given": self.given, "histories": self.histories}))
        return process, reader, writer

    async def _listen(self, reader: asyncio.StreamReader) -> None:
        try:
            while not self.done:
                self._on_frame(await read_frame(reader))
        except (asyncio.IncompleteReadError, OSError):
            return  # the process has died

    def _on_frame(self, frame: Frame) -> None:
        self.missed_checks = 0
        self.report = frame.pop("report", self.report)
        if "histories" in frame:
            self.histories = msgspec.convert(frame.pop("histories"), dict[str, History])
        match frame["kind"]:
            case "started":
                self.started = True
            case "reloaded":
                self._reloaded(frame["faults"])
            case "ended" if frame["code"] != MISUSED or not self.restarts:
                # A restarted worker that finds a fault, as in a changed module, is restarted again until it is gone.
                self.code, self.failed, self.done = frame["code"], frame.get("failed", False), True
        self._news(self, frame)

    def _reloaded(self, faults: list[str]) -> None:
        for waiting in self._reloading:
            if not waiting.done():
                waiting.set_result([f"{self.name}: not reloaded: {fault}" for fault in faults])
        self._reloading.clear()

    def _died(self, code: int, delay_s: float) -> None:
        """Add the counts of the dead process to `lost`, and log its death."""
        last_counts = counts(self.report)
        for key, count in last_counts.items():
            self.lost[key] += count
        cause = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        queued = last_counts["pending"] + last_counts["held"]
        lost = f"lost {queued:,} queued messages, and those received after its last report"
        fields = {"event": "worker.died", "worker": self.index, "error": cause}
        if self._shutdown.is_set():
            self.died_draining = True
            error = f"worker died ({cause})"
            logger.error("%s: died (%s) while draining; %s", self.name, cause, lost, extra=fields)
        else:
            error = f"worker died ({cause}); restarting it"
            log_fields = fields | {"delay_s": delay_s}
            logger.error("%s: died (%s); restarting in %.1f s; %s", self.name, cause, delay_s, lost, extra=log_fields)
        self.report = absent(self.report, error=error)
        died_at = time.time()
        self.histories = {name: each.of_dead_process(died_at) for name, each in self.histories.items()}
        self._news(self, {"kind": "died"})
