"""`wsfleet run --workers N`: one fleet in several processes, with one report, one shutdown, and one exit code."""

from __future__ import annotations

import asyncio
import logging
import math
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from wsfleet.config.reload import Reloader
from wsfleet.core.errors import FleetError
from wsfleet.core.message import State
from wsfleet.core.stats import RETIRED, FleetStats
from wsfleet.fleet.fleet import Fleet, control_of
from wsfleet.fleet.reloading import Reloaded, hangup
from wsfleet.runtime.base import BaseRun
from wsfleet.runtime.loop import EXIT_TIMEOUT_S, FAILED, INTERRUPTED, MISUSED, is_broken_pipe, run_loop, stop_signals
from wsfleet.runtime.report import exit_code, write_report
from wsfleet.runtime.run import ending_limit_s
from wsfleet.runtime.sharding import Shard, held
from wsfleet.runtime.workers.channel import Frame
from wsfleet.runtime.workers.process import Order, WorkerProcess
from wsfleet.serve.status.merged import absent, as_stats, merge
from wsfleet.serve.status.source import NoFile
from wsfleet.serve.status.workers_source import WorkersSource

__all__ = ["Coordinator", "run_workers"]

logger = logging.getLogger("wsfleet.run")

CHECK_S = 1.0
"""Seconds between the parent's checks of its workers; each worker reports at the same interval."""

Report = dict[str, Any]


def run_workers(
    coordinator: Coordinator,
    *,
    duration: float | None = None,
    report: str | Path | None = None,
    summarize: Callable[[], object] = bool,
) -> int:
    """Run the workers like `run_fleet` runs a fleet: signals, duration, report, exit code. Raises OSError."""
    try:
        run_loop(coordinator.serve(duration, summarize))
    finally:
        if report is not None:
            write_report(Path(report), coordinator.report())
    return coordinator.code()


class Coordinator(BaseRun):
    """Runs the workers of one fleet, and presents them as one run.

    `shards` selects a part of `fleet`, and each worker runs its shard of that part. `fleet` itself supplies only the
    declarations; it is never started.
    """

    def __init__(
        self,
        target: str,
        fleet: Fleet,
        count: int,
        shards: tuple[Shard, ...] = (),
        *,
        level: int = logging.INFO,
        log_json: bool = False,
    ) -> None:
        super().__init__()
        self.worker_processes: list[WorkerProcess] = []
        self._limit_s = ending_limit_s(fleet)
        self._watchers: list[Callable[[int, Frame], None]] = []
        self._merged: Report | None = None
        self._misused = self._failed = False
        self._reloader = reloader if isinstance(reloader := control_of(fleet).reloader, Reloader) else None
        self._reloading = False
        self._keeping: list[asyncio.Task[None]] = []
        self._turns = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the last worker
        self.required = {name for name, each in fleet.connections.items() if each.required}
        pages = [each for each in fleet.observers if hasattr(each, "over")]
        blank = fleet.stats().to_dict()
        given = None if self._reloader is None else self._reloader.given
        for index in range(count):
            own = (*shards, Shard(index, count, "worker"))
            own_fields = tuple((shard.index, shard.count, shard.level) for shard in own)
            order = Order(target, index, count, own_fields, level, log_json, self._turns.fileno(), bool(pages))
            report = absent(blank, held(fleet, *own))
            self.worker_processes.append(WorkerProcess(order, given, report, self._on_frame))
        self._observers = [page.over(WorkersSource(self)) for page in pages]

    # State

    def report(self) -> Report:
        """Return the merged report, with the key `workers`. It is cached until a worker sends something."""
        if self._merged is None:
            self._merged = merge([worker_process.report for worker_process in self.worker_processes])
        return self._merged | {"workers": self._workers()}  # a process may have ended without news

    def ended(self) -> tuple[FleetStats, dict[str, Any]]:
        """Return the arguments of `summary`: the counts, and the report's part about the workers."""
        report = self.report()
        return as_stats(report), report["workers"]

    def _workers(self) -> dict[str, Any]:
        lost: dict[str, float] = {}
        for worker_process in self.worker_processes:
            lost = {key: count + lost.get(key, 0) for key, count in worker_process.lost.items()}
        return {
            "count": len(self.worker_processes),
            "running": sum(worker_process.started for worker_process in self.worker_processes),
            "restarts": sum(worker_process.restarts for worker_process in self.worker_processes),
            "lost": lost,
        }

    def watch(self, watcher: Callable[[int, Frame], None]) -> Callable[[], None]:
        """Call `watcher` with a worker's index and each frame that it sends. Return a function that removes it."""
        self._watchers.append(watcher)
        return lambda: self._watchers.remove(watcher)

    @property
    def count(self) -> int:
        """Number of workers."""
        return len(self.worker_processes)

    async def reload(self) -> Reloaded:
        """Reload the file in every worker, and return a line for each change.

        Raises ConfigError with every fault of the file, before anything is changed; FleetError if another reload is in
        progress, or if the fleet is draining.
        """
        if self._reloader is None:
            raise NoFile("the fleet comes from a program, not from a file; restart it instead")
        if self._reloading or self._draining:
            raise FleetError("a reload is already in progress" if self._reloading else "the fleet is draining")
        self._reloading = True
        try:
            report = await self._reloader.read()
            fleet = report.fleet or Fleet()  # for mypy: read() raises if there is none
            self.required = {name for name, each in fleet.connections.items() if each.required}
            for worker_process in self.worker_processes:
                worker_process.given = report.given
            self._expect(fleet)
            faults = await asyncio.gather(*(worker_process.reload() for worker_process in self.worker_processes))
            self._expect(fleet)  # again: a worker may have ended during the reload
            sessions = {row["name"]: row["connects"] for row in self.report()["endpoints"]}
            for worker_process in self.worker_processes:
                sessions |= {name: history.sessions for name, history in worker_process.histories.items()}
            return self._reloader.note(report, sessions, [fault for found in faults for fault in found])
        finally:
            self._reloading = False
            self._merged = None
            if self._has_ended():
                self.drain()

    def _expect(self, fleet: Fleet) -> None:
        """Set the expected endpoints of workers without a process, and start those that had ended if they have any."""
        blank = fleet.stats().to_dict()
        for worker_process in self.worker_processes:
            names, ended = held(fleet, *worker_process.shards), worker_process.done
            if not self._draining and (names or not ended) and worker_process.expect(absent(blank, names)) and ended:
                self._keeping.append(self._start(worker_process.keep()))

    # Running

    async def serve(self, duration: float | None = None, summarize: Callable[[], object] = bool) -> None:
        """Run all workers until the last one has ended. A third signal ends the process after `summarize`."""
        loop = asyncio.get_running_loop()
        timer = None if duration is None else loop.call_later(duration, self.drain)
        stops = stop_signals(self._drain_on_signal, self._interrupt, last=summarize)
        with stops, hangup(self._reload_on_signal):
            try:
                for observer in self._observers:
                    observer.bind()
                    await observer.start()
                await self._run()
            except FleetError as exc:  # an observer's address is in use
                logger.error("%s", exc, extra={"event": "run.failed"})
                self._failed = True
            finally:
                for observer in self._observers:
                    await observer.stop()
                self._turns.close()
                if timer is not None:
                    timer.cancel()

    async def _run(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            self._start = tasks.create_task
            self._keeping = [self._start(worker_process.keep()) for worker_process in self.worker_processes]
            others = [tasks.create_task(each) for each in (self._supervise(), self._notify_manager())]
            while keeping := [task for task in self._keeping if not task.done()]:
                await asyncio.wait(keeping)
            for task in others:
                task.cancel()

    def _begin_drain(self) -> None:
        self._end("drain", self._limit_s)  # a worker that does not end in time is killed

    def _end(self, how: str, limit_s: float) -> None:
        for worker_process in self.worker_processes:
            worker_process.command(how)
            asyncio.get_running_loop().call_later(limit_s, worker_process.kill)

    def _interrupt(self) -> None:
        self._interrupted = True
        self._draining = True
        self._end("stop", EXIT_TIMEOUT_S - 1)  # the last second is for writing the report

    async def _supervise(self) -> None:
        watchdog_s = self._notifier.watchdog_s
        max_missed = None if watchdog_s is None else math.ceil(watchdog_s / CHECK_S) + 1
        while True:
            await asyncio.sleep(CHECK_S)
            if is_broken_pipe(1):  # `wsfleet run --workers 3 feeds.toml | head`
                self.drain()
            for worker_process in self.worker_processes:
                # The service manager's watchdog covers this process only, so the same timeout applies to the workers.
                # Checks are counted instead of seconds: after a delay of this loop, frames may be unread.
                worker_process.missed_checks += 1
                if max_missed is not None and worker_process.started and worker_process.missed_checks > max_missed:
                    logger.error(
                        "%s: no report for %d s; killing it",
                        worker_process.name,
                        worker_process.missed_checks * CHECK_S,
                        extra={"event": "worker.unresponsive", "worker": worker_process.index},
                    )
                    worker_process.kill()

    def status(self) -> str:
        """Return the numbers of open endpoints and of running workers, as text."""
        report = self.report()
        rows = [row["state"] for row in report["endpoints"] if row["name"] != RETIRED]
        workers = f"{report['workers']['running']} of {len(self.worker_processes)} workers"
        return f"{rows.count(State.OPEN):,} of {len(rows):,} endpoints open, in {workers}"

    def _on_frame(self, worker_process: WorkerProcess, frame: Frame) -> None:
        if frame["kind"] != "event":
            self._merged = None
        for watcher in tuple(self._watchers):
            watcher(worker_process.index, frame)
        if all(each.started or each.done for each in self.worker_processes):
            self.running.set()
        if frame["kind"] == "ended" and not self._draining:
            self._on_worker_ended(worker_process)

    def _on_worker_ended(self, worker_process: WorkerProcess) -> None:
        """Stop or drain the other workers, if necessary, after a worker has ended by itself."""
        if worker_process.code == MISUSED:
            self._misused = True
        if worker_process.failed or self._misused:
            # A required endpoint failed or a sink could not be opened. That stops a single process at once, too.
            self._draining = True
            self._end("stop", EXIT_TIMEOUT_S)
        elif not self._reloading and self._has_ended():
            self.drain()

    def _has_ended(self) -> bool:
        """Whether a worker has ended, and the others have ended or have no endpoints."""
        done = [worker_process.done for worker_process in self.worker_processes]
        return any(done) and all(
            worker_process.done or not worker_process.report["endpoints"] for worker_process in self.worker_processes
        )

    def code(self) -> int:
        """Return the exit code, by the rules for a single process."""
        if self._misused:
            return MISUSED
        if self._interrupted:
            return INTERRUPTED
        if self._failed or any(
            worker_process.failed or worker_process.died_draining for worker_process in self.worker_processes
        ):
            return FAILED
        report = self.report()
        return exit_code(report["balanced"], [row["state"] for row in report["endpoints"] if row["name"] != RETIRED])
