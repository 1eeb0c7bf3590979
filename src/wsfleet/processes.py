"""Functions in spawned processes: for work that needs a core of its own. One process behind each thread of a crew."""

from __future__ import annotations

import asyncio
import inspect
import multiprocessing
import pickle
import signal
import threading
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

from wsfleet.errors import ConfigError, FleetError

__all__ = ["ProcessCall", "check_picklable"]


def check_picklable(function: Callable[..., Any]) -> None:
    """Raise ConfigError where `function` cannot be sent to another process."""
    try:
        pickle.dumps(function)
    except Exception as exc:
        name = getattr(function, "__qualname__", repr(function))
        text = f"{name} cannot be sent to another process ({exc}); offload='process' wants a function of a module"
        raise ConfigError(text, (("offload", text),)) from exc


class ProcessCall:
    """Makes calls in a process of its own. A process that died, or was too slow, is replaced at the next call."""

    def __init__(self, function: Callable[..., Any], timeout_s: float | None) -> None:
        self._function = function
        self._timeout_s = timeout_s
        self._process: multiprocessing.process.BaseProcess | None = None
        self._pipe: Connection | None = None
        self._closed = False
        self._lock = threading.Lock()

    def __call__(self, payload: Any) -> None:
        """Send `payload` over, and wait. Raises what the function raised, TimeoutError, or FleetError for a death."""
        pipe = self._start()
        data = pickle.dumps(payload)
        try:
            pipe.send_bytes(data)
            if not pipe.poll(self._timeout_s):
                raise TimeoutError(f"no end within timeout_s = {self._timeout_s:g} s; the process was killed")
            error = pipe.recv()
        except (EOFError, OSError) as exc:
            code = self._kill()
            if isinstance(exc, TimeoutError):
                raise
            raise FleetError(f"the process died during the call (exit code {code})") from None
        if error is not None:
            raise error

    def _start(self) -> Connection:
        with self._lock:
            if self._closed:
                raise FleetError("the fleet has ended")
            if self._pipe is not None and self._process is not None and self._process.is_alive():
                return self._pipe
        self._kill()
        context = multiprocessing.get_context("spawn")  # a fork would inherit the loop, its sockets and locks
        ours, theirs = context.Pipe()
        process = context.Process(target=_serve, args=(theirs, self._function), daemon=True)
        process.start()
        theirs.close()
        with self._lock:
            self._pipe, self._process = ours, process
            closed = self._closed
        if not closed:
            self._await_ready(ours)
        if closed:
            self._kill()
            raise FleetError("the fleet has ended")
        return ours

    def _await_ready(self, pipe: Connection) -> None:
        """Wait until the process has imported what it needs: that time is not the call's."""
        try:
            pipe.recv()
        except (EOFError, OSError):
            code = self._kill()
            raise FleetError(f"the process died before its first call (exit code {code})") from None

    def _kill(self) -> int | None:
        with self._lock:
            process, pipe = self._process, self._pipe
            self._process = self._pipe = None
        code = None
        if process is not None:
            process.kill()
            process.join()
            code = process.exitcode
            process.close()
        if pipe is not None:
            pipe.close()
        return code

    def stop(self) -> None:
        """End the process; a call under way fails. From any thread."""
        with self._lock:
            self._closed = True
            if self._process is not None:
                self._process.kill()

    def close(self) -> None:
        """Leave nothing behind. From the thread that makes the calls."""
        self._kill()


def _serve(pipe: Connection, function: Callable[..., Any]) -> None:
    """The process: one call after the other, until its parent is gone."""
    # Ctrl-C goes to the whole group; when to stop is the parent's to say.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    pipe.send(None)  # ready
    with asyncio.Runner() as runner:
        while True:
            try:
                payload = pickle.loads(pipe.recv_bytes())  # noqa: S301 - from our parent, over a private pipe
            except EOFError:
                return
            error: BaseException | None = None
            try:
                result = function(payload)
                if inspect.iscoroutine(result):
                    runner.run(result)
            except BaseException as exc:
                error = exc
            try:
                pipe.send(error)
            except Exception:
                pipe.send(FleetError(f"{type(error).__name__}: {error}"))
