"""Runs functions in spawned processes, for CPU-bound work: one process for each thread of the pool."""

from __future__ import annotations

import asyncio
import atexit
import inspect
import multiprocessing
import os
import pickle
import signal
import sys
import threading
import time
import traceback
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from typing import Any

from wsfleet.core.errors import ConfigError, FleetError

__all__ = ["ProcessCall", "check_not_importing", "check_picklable"]

_LEFT_TO_PARENT = (signal.SIGINT, signal.SIGTERM)
"""Signals that are sent to the whole process group. A child ignores them, so that the parent can drain first."""

PROCESS_END_S = 0.3
"""How long an idle process may take to exit cleanly, in seconds, before it is killed."""

_UNGUARDED = 78
"""The exit code of a process that would start the fleet again: EX_CONFIG of sysexits.h."""

_NO_GUARD = (
    "the process died before its first call: it imports the main module, which starts the fleet again; "
    "start the fleet under if __name__ == '__main__'"
)


def check_picklable(function: Callable[..., Any], *, declaring: bool = True) -> None:
    """Raise ConfigError if `function` cannot be sent to another process.

    With `declaring`, accept a function that a decorator declares: its name is not yet defined in its module.
    """
    name = getattr(function, "__qualname__", None) or repr(function)
    try:
        if _is_interactive(getattr(function, "__module__", None)):
            raise TypeError("it was defined interactively, not in a file")
        pickle.dumps(function)
    except Exception as exc:
        if declaring and _will_be_found(function):
            return
        text = (
            f"{name} cannot be sent to another process ({exc}); offload='process' needs a function defined in a module"
        )
        raise ConfigError(f"processor: offload: {text}", (("offload", text),)) from exc


def _is_interactive(module: str | None) -> bool:
    """Return whether `module` was read from stdin or a shell, so that a spawned process cannot import it."""
    main = sys.modules.get("__main__")
    if module != "__main__" or main is None or main.__spec__ is not None:
        return False
    return not os.path.exists(getattr(main, "__file__", None) or "")


def _will_be_found(function: Callable[..., Any]) -> bool:
    if not isinstance(function, types.FunctionType) or "<" in function.__qualname__:
        return False  # a lambda or a local function
    module = sys.modules.get(function.__module__)
    return (
        module is not None
        and not _is_interactive(function.__module__)
        and module.__dict__ is function.__globals__
        and getattr(module, function.__qualname__, None) is not function
    )


def check_not_importing() -> None:
    """Exit if this process was spawned to run calls and starts the fleet again. The parent reports the error."""
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        raise SystemExit(_UNGUARDED)


class ProcessCall:
    """Runs calls in another process. A process that died or timed out is replaced at the next call.

    It is not replaced if it ended before its first call because the program starts the fleet on import.
    """

    def __init__(self, function: Callable[..., Any], timeout_s: float | None) -> None:
        self._function = function
        self._timeout_s = timeout_s
        self._process: multiprocessing.process.BaseProcess | None = None
        self._pipe: Connection | None = None
        self._calling = False
        self._closed = False
        self._unguarded = False
        self._lock = threading.Lock()

    def __call__(self, payload: Any) -> None:
        """Run one call, and wait. Raises the error of the function, TimeoutError, or FleetError if the process died."""
        data = pickle.dumps(payload)
        try:
            answer = self._ask(self._start(), data)
        finally:
            with self._lock:
                self._calling = False
        error = pickle.loads(answer)  # noqa: S301 - from the child process, over a private pipe
        if error is not None:
            raise error

    def _ask(self, pipe: Connection, data: bytes) -> bytes:
        try:
            pipe.send_bytes(data)
            if pipe.poll(self._timeout_s):
                return pipe.recv_bytes()
        except (EOFError, OSError):
            raise FleetError(f"the process died during the call (exit code {self._kill()})") from None
        self._kill()
        raise TimeoutError(f"the call timed out after timeout_s = {self._timeout_s:g} s; its process was killed")

    def _start(self) -> Connection:
        """Return the pipe of a process that is ready for a call, and set `_calling`."""
        with self._lock:
            self._check_open()
            self._calling = True
            if self._pipe is not None and self._process is not None and self._process.is_alive():
                return self._pipe
        self._kill()
        ours, process = _spawn(self._function)
        with self._lock:
            self._pipe, self._process = ours, process
            closed = self._closed
        try:
            if closed:
                self._check_open()
            # Wait until it has imported its modules: that time does not count for the timeout.
            ours.recv_bytes()
        except FleetError:
            self._kill()
            raise
        except (EOFError, OSError):
            code = self._kill()
            self._unguarded = code == _UNGUARDED
            died = f"the process died before its first call (exit code {code})"
            raise FleetError(_NO_GUARD if self._unguarded else died) from None
        return ours

    def _check_open(self) -> None:
        if self._closed:
            raise FleetError("the fleet has ended")
        if self._unguarded:
            raise FleetError(_NO_GUARD)

    def _kill(self) -> int | None:
        with self._lock:
            process, pipe = self._process, self._pipe
            self._process = self._pipe = None
        code = None
        if pipe is not None:
            pipe.close()
        if process is not None:
            process.kill()
            process.join()
            # A thread that starts a process collects the ended ones, and may be about to note this one's exit code.
            while (code := process.exitcode) is None:
                time.sleep(0.001)
            _running.discard(process)
            process.close()
        return code

    def stop(self) -> None:
        """Run no more calls, and fail the call in progress. Callable from any thread."""
        with self._lock:
            self._closed = True
            if self._process is not None and self._calling:
                self._process.kill()

    def close(self) -> None:
        """End the process. Called in the thread that runs the calls."""
        with self._lock:
            process, pipe = self._process, self._pipe
        if process is not None and pipe is not None:
            pipe.close()
            process.join(PROCESS_END_S)
        self._kill()


def _spawn(function: Callable[..., Any]) -> tuple[Connection, multiprocessing.process.BaseProcess]:
    """Start a process; return the parent's end of the pipe, and the process."""
    check_picklable(function, declaring=False)
    context = multiprocessing.get_context("spawn")  # a fork would inherit the loop, its sockets and locks
    ours, theirs = context.Pipe()
    try:
        process = context.Process(target=_serve, args=(theirs, function), daemon=True)
        with _signals_blocked():
            process.start()
        _running.add(process)
    except BaseException:
        ours.close()
        raise
    finally:
        theirs.close()
    return ours, process


@contextmanager
def _signals_blocked() -> Iterator[None]:
    """Block signals that a new process inherits as blocked: Ctrl-C may come to the whole group while it starts."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    # Started later, the resource tracker of multiprocessing would unblock the signals again.
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _LEFT_TO_PARENT)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _kill_running() -> None:
    for process in list(_running):
        process.kill()


# If the fleet was not shut down: at exit, multiprocessing would wait forever for processes that ignore SIGTERM.
_running: set[multiprocessing.process.BaseProcess] = set()
atexit.register(_kill_running)


def _serve(pipe: Connection, function: Callable[..., Any]) -> None:
    """Run one call after the other in the child process, until the parent closes the pipe."""
    # The parent decides when to stop. Unlike SIG_IGN, handlers that do nothing are not inherited by programs that the
    # function may start.
    for each in _LEFT_TO_PARENT:
        signal.signal(each, lambda number, frame: None)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _LEFT_TO_PARENT)
    with asyncio.Runner() as runner:
        try:
            pipe.send_bytes(b"ready")
            while True:
                data = pipe.recv_bytes()
                pipe.send_bytes(_pickled(_run_call(function, data, runner)))
        except (EOFError, OSError):
            return  # the parent closed the pipe or exited


def _run_call(function: Callable[..., Any], data: bytes, runner: asyncio.Runner) -> BaseException | None:
    """Run one call; return its exception, or None."""
    try:
        result = function(pickle.loads(data))  # noqa: S301 - from the parent process, over a private pipe
        if inspect.iscoroutine(result):
            runner.run(result)
    except BaseException as exc:  # no exception may end the process
        exc.add_note("in the process:\n" + "".join(traceback.format_exception(exc)).rstrip())
        return exc
    return None


def _pickled(error: BaseException | None) -> bytes:
    """Return `error` pickled; or, if it cannot be pickled and unpickled, a FleetError with its text."""
    try:
        data = pickle.dumps(error)
        pickle.loads(data)  # noqa: S301 - pickled one line above
    except Exception:
        text = "".join(traceback.format_exception_only(type(error), error)).rstrip()
        data = pickle.dumps(FleetError(text))
    return data
