"""The tasks in which processors work."""

from __future__ import annotations

import asyncio
import logging
import threading
from contextvars import Context as TaskContext

from wsfleet.core.context import Context
from wsfleet.pipeline.processor import Processor, Work

__all__ = ["WorkerTasks"]

log = logging.getLogger("wsfleet")


class WorkerTasks:
    """Starts the workers of processors, and replaces one that was cancelled from outside the fleet."""

    def __init__(self, context: Context) -> None:
        self.processors: dict[Processor, None] = {}
        """Those with a running worker, in the order of their start; also after their subscription is removed."""
        self.unclosed: set[Processor] = set()
        """Those whose workers have ended and whose sinks are still open."""
        self._context = context
        self._started: dict[asyncio.Task[None], tuple[Processor, asyncio.TaskGroup]] = {}
        # Shared by all tasks: there may be ten thousand.
        self._on_end = self._ended
        self._own = TaskContext()

    def start(self, processor: Processor, tasks: asyncio.TaskGroup) -> None:
        """Start the workers of `processor` in `tasks`."""
        for work in processor.work():
            self._start(processor, work, tasks)

    def has_thread(self, thread: threading.Thread) -> bool:
        """Whether `thread` makes the calls of a processor."""
        return any(thread in processor.threads for processor in self.processors)

    def _start(self, processor: Processor, work: Work, tasks: asyncio.TaskGroup) -> None:
        context = self._context.task_context()
        run = work(context)
        try:
            task = tasks.create_task(run, name=f"wsfleet-{processor.name}-processor", context=context)
        except RuntimeError:  # the group is being cancelled
            run.close()
            processor.give_up()
            return
        processor.tasks.add(task)
        self.processors[processor] = None
        self._started[task] = processor, tasks
        task.add_done_callback(self._on_end, context=self._own)

    def _ended(self, task: asyncio.Task[None]) -> None:
        processor, tasks = self._started.pop(task)
        processor.tasks.discard(task)
        if task.cancelled() and not processor.mailbox.closed:
            # The fleet closes the mailbox before it cancels. Without a worker the mailbox would stay full for ever.
            log.warning(
                "%s: worker task cancelled from outside the fleet; starting another",
                processor.name,
                extra={"event": "processor.cancelled", "subscription": processor.name},
            )
            self._start(processor, processor.another(), tasks)
        if not processor.tasks:
            self.processors.pop(processor, None)
            if processor.opened:
                self.unclosed.add(processor)
