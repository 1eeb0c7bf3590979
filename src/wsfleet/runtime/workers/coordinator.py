"""`wsfleet run --workers N`: one fleet in several processes, with one report, one end, and one exit code."""

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
from wsfleet.fleet.fleet import Fleet
from wsfleet.fleet.reloading import Reloaded, hangup, reload_and_tell
from wsfleet.runtime.run import (
    ENDED_WELL,
    FAILED,
    INTERRUPTED,
    LEAVE_S,
    MISUSED,
    ending_limit_s,
    nobody_reads,
    run_loop,
    stop_signals,
    write_report,
)
from wsfleet.runtime.sharding import Shard, held
from wsfleet.runtime.systemd import ENDING, Notifier
from wsfleet.runtime.workers.channel import Frame
from wsfleet.runtime.workers.process import Order, WorkerProcess
from wsfleet.serve.status.merged import absent, as_stats, merge
from wsfleet.serve.status.source import NoFile
from wsfleet.serve.status.workers_source import WorkersSource

__all__ = ["Coordinator", "run_workers"]

logger = logging.getLogger("wsfleet.run")

LOOK_S = 1.0
"""How often the parent looks after its workers, each of which reports as often."""

Report = dict[str, Any]


def run_workers(
    coordinator: Coordinator,
    *,
    duration: float | None = None,
    report: str | Path | None = None,
) -> int:
    """Run `crew` as `runner.run_fleet` does a fleet: signals, duration, report, exit code. Raises OSError."""
    try:
        run_loop(coordinator.serve(duration))
    finally:
        if report is not None:
            write_report(Path(report), coordinator.report())
    return coordinator.code()


class Coordinator:
    """The workers of one fleet, seen as one.

    Each runs the endpoints that are its share of what `shards` leaves of `fleet`, which is asked for its declarations
    and never started.
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
        self.worker_processes: list[WorkerProcess] = []
        self._limit_s = ending_limit_s(fleet)
        self._watchers: list[Callable[[int, Frame], None]] = []
        self._merged: Report | None = None
        self._draining = self._interrupted = self._misused = self._failed = False
        self._notifier = Notifier()
        self._started = asyncio.Event()
        self._reloader = fleet._reloader if isinstance(fleet._reloader, Reloader) else None
        self._reloading = False
        self._keeping: list[asyncio.Task[None]] = []
        self._hang_ups: set[asyncio.Task[None]] = set()
        self._turns = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the last worker
        self.required = {name for name, each in fleet.connections.items() if each.required}
        pages = [each for each in fleet.observers if hasattr(each, "over")]
        blank = fleet.stats().to_dict()
        for index in range(count):
            mine = (*shards, Shard(index, count, "worker"))
            shares = tuple((s.index, s.count, s.level) for s in mine)
            told = Order(target, index, count, shares, level, log_json, self._turns.fileno(), bool(pages))
            self.worker_processes.append(WorkerProcess(told, absent(blank, held(fleet, *mine)), self._hear))
        self._observers = [page.over(WorkersSource(self)) for page in pages]

    # Looking

    def report(self) -> Report:
        """Return one report for all, with a line on the workers themselves; merged when there is news, at most."""
        if self._merged is None:
            self._merged = merge([worker_process.report for worker_process in self.worker_processes])
        return self._merged | {"workers": self._workers()}  # a process may have ended without news

    def ended(self) -> tuple[FleetStats, dict[str, Any]]:
        """Return what a summary is made of: the counts, and the report's part on the workers."""
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
        """Call `watcher` with everything that a worker says, and its index, until what this returns is called."""
        self._watchers.append(watcher)
        return lambda: self._watchers.remove(watcher)

    @property
    def count(self) -> int:
        """How many there are."""
        return len(self.worker_processes)

    async def reload(self) -> Reloaded:
        """Read the file again, have every worker change what is its own, and return a line for each change.

        Raises ConfigError with every fault of the file, and then nothing was changed; FleetError where another reload
        is under way, or the end has begun.
        """
        if self._reloader is None:
            raise NoFile("these workers run a program, and no file that could be read again; restart them")
        if self._reloading or self._draining:
            raise FleetError("a reload is under way" if self._reloading else "the end has begun")
        self._reloading = True
        try:
            report = await self._reloader.read()
            fleet = report.fleet or Fleet()  # it has one, or read() had raised
            self.required = {name for name, each in fleet.connections.items() if each.required}
            self._expect(fleet)
            faults = await asyncio.gather(*(worker_process.reload() for worker_process in self.worker_processes))
            self._expect(fleet)  # some may have been about to end
            sessions = {row["name"]: row["connects"] for row in self.report()["endpoints"]}
            return self._reloader.note(report, sessions, [fault for found in faults for fault in found])
        finally:
            self._reloading = False
            self._merged = None
            if self._has_ended():
                self.drain()

    def _expect(self, fleet: Fleet) -> None:
        """Workers that are not there will run their shares of `fleet`; those that had nothing left, again."""
        blank = fleet.stats().to_dict()
        for worker_process in self.worker_processes:
            share, again = held(fleet, *worker_process.shards), worker_process.done
            if not self._draining and (share or not again) and worker_process.expect(absent(blank, share)) and again:
                self._keeping.append(self._start(worker_process.keep()))

    # Running

    async def serve(self, duration: float | None = None) -> None:
        """Run all workers until the last has ended; nothing of them is left."""
        loop = asyncio.get_running_loop()
        timer = None if duration is None else loop.call_later(duration, self.drain)
        with stop_signals(self._drain_and_tell, self._interrupt), hangup(self._hang_up):
            try:
                for observer in self._observers:
                    observer.bind()
                    await observer.start()
                await self._run()
            except FleetError as exc:  # an address is taken
                logger.error("%s", exc)
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
            beside = [tasks.create_task(each) for each in (self._look_after(), self._tell_manager())]
            while keeping := [task for task in self._keeping if not task.done()]:
                await asyncio.wait(keeping)
            for task in beside:
                task.cancel()

    def drain(self) -> None:
        """Let the end begin: workers finish what came in. One that does not end in time is killed."""
        if not self._draining:
            self._draining = True
            self._notifier.stopping()
            self._end("drain", self._limit_s)

    def _end(self, how: str, limit_s: float) -> None:
        for worker_process in self.worker_processes:
            worker_process.tell(how)
            asyncio.get_running_loop().call_later(limit_s, worker_process.kill)

    def _drain_and_tell(self) -> None:
        if not self._draining:
            logger.info("ending: what came in is processed first; once more to stop at once")
        self.drain()

    def _interrupt(self) -> None:
        self._interrupted = True
        self._draining = True
        self._end("stop", LEAVE_S - 1)  # the rest of that time is for the report

    def _hang_up(self) -> None:
        task = asyncio.get_running_loop().create_task(self._reload())
        self._hang_ups.add(task)
        task.add_done_callback(self._hang_ups.discard)

    async def _reload(self) -> None:
        self._notifier.reloading()
        await reload_and_tell(self.reload)
        self._notifier.ready(self._status())

    async def _look_after(self) -> None:
        patience = None if self._notifier.watchdog_s is None else math.ceil(self._notifier.watchdog_s / LOOK_S) + 1
        while True:
            await asyncio.sleep(LOOK_S)
            if nobody_reads(1):  # `wsfleet run --workers 3 feeds.toml | head`
                self.drain()
            for worker_process in self.worker_processes:
                # What the service manager does with us where we are silent, we do with a worker. Looks are counted,
                # not seconds: where we were late ourselves, its words may lie unread.
                worker_process.silent += 1
                if patience is not None and worker_process.started and worker_process.silent > patience:
                    logger.error(
                        "%s has said nothing for %d s: it is killed",
                        worker_process.name,
                        worker_process.silent * LOOK_S,
                    )
                    worker_process.kill()

    async def _tell_manager(self) -> None:
        await self._started.wait()
        self._notifier.ready(self._status())
        await self._notifier.keep(self._status)

    def _status(self) -> str:
        if self._draining:
            return ENDING
        report = self.report()
        rows = [row["state"] for row in report["endpoints"] if row["name"] != RETIRED]
        workers = f"{report['workers']['running']} of {len(self.worker_processes)} workers"
        return f"{rows.count(State.OPEN):,} of {len(rows):,} endpoints open, in {workers}"

    def _hear(self, worker_process: WorkerProcess, frame: Frame) -> None:
        if frame["kind"] != "event":
            self._merged = None
        for watcher in tuple(self._watchers):
            watcher(worker_process.index, frame)
        if all(each.started or each.done for each in self.worker_processes):
            self._started.set()
        if frame["kind"] == "ended" and not self._draining:
            self._one_ended(worker_process)

    def _one_ended(self, worker_process: WorkerProcess) -> None:
        """A worker has ended by itself: that may be the end of all."""
        if worker_process.code == MISUSED:
            self._misused = True
        if worker_process.failed or self._misused:
            # A required endpoint failed, a sink did not open: in one process that is the end at once, too.
            self._draining = True
            self._end("stop", LEAVE_S)
        elif not self._reloading and self._has_ended():
            self.drain()

    def _has_ended(self) -> bool:
        """Whether one has ended, and the others have nothing to do."""
        done = [worker_process.done for worker_process in self.worker_processes]
        return any(done) and all(
            worker_process.done or not worker_process.report["endpoints"] for worker_process in self.worker_processes
        )

    def code(self) -> int:
        """Return the exit code of all, by the same rules as for one fleet."""
        if self._misused:
            return MISUSED
        if self._interrupted:
            return INTERRUPTED
        if self._failed or any(
            worker_process.failed or worker_process.died_ending for worker_process in self.worker_processes
        ):
            return FAILED
        report = self.report()
        states = [row["state"] for row in report["endpoints"] if row["name"] != RETIRED]
        failed = not report["balanced"] or (states and all(state == State.FAILED for state in states))
        return FAILED if failed else ENDED_WELL
