"""What went wrong, as it may be shown: the errors that attempts and sessions end with, without anybody's secrets."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Iterable, Iterator

from wsfleet.core.errors import ConnectFailed, ConnectionLost, Fatal, FleetError
from wsfleet.core.redact import redact_text
from wsfleet.core.text import one_line, printable

__all__ = [
    "attempt_failed",
    "describe",
    "hide_secrets",
    "is_exit_request",
    "is_ours",
    "loss",
    "shown",
    "unexpected",
]

LINE = 300
"""So much of somebody else's text goes into one line of the log."""


def is_exit_request(exc: BaseException) -> bool:
    """Whether the user's code asks the whole program to end."""
    return isinstance(exc, KeyboardInterrupt | SystemExit)


def is_ours(exc: BaseException) -> bool:
    """Whether `exc` is to end this task, or the program, and not just a failure of the user's code."""
    if isinstance(exc, asyncio.CancelledError):
        # One that nobody asked this task for comes from the user's code.
        task = asyncio.current_task()
        return task is None or task.cancelling() > 0
    return is_exit_request(exc) or isinstance(exc, GeneratorExit)


def attempt_failed(
    exc: BaseException,
    lost: ConnectionLost | None,
    stage: str,
    open_s: float | None,
    secrets: Iterable[str],
    way: str = "",
) -> Exception:
    """Return the error of an attempt that `exc` ended at `stage`.

    `lost` says that the connection was lost in `on_open`; `open_s` that it took longer than this; `way` is which way it
    went, as it may be shown.
    """
    exc = _fatal_in(exc) or exc
    through = f" ({way})" if way and stage != "on_open" else ""
    if isinstance(exc, ConnectFailed) and stage != "on_open":
        _say(exc, redact_text(exc.message, secrets) + through if exc.message else "")
        return exc if stage == "uri" else _without_frames(exc)
    cause: BaseException = exc
    if lost is not None and not isinstance(exc, Fatal):
        text, cause = redact_text(str(lost), secrets), lost
    elif open_s is not None and not isinstance(exc, Fatal):
        text = f"not done within open_s = {open_s:g} s{through}"
    else:
        text = _text(exc, secrets) + through
    error = ConnectFailed(stage, text)
    error.__cause__ = cause
    return error


def loss(
    lost: ConnectionLost, pause: tuple[float, str] | None, block: str | None, secrets: Iterable[str]
) -> ConnectionLost:
    """Return the loss of an open connection, and why: that we had stopped reading, or that the loop was blocked."""
    reason = redact_text(lost.reason, secrets)
    if pause is not None:
        reason = f"closed by the peer after {pause[0]:.0f} s paused by {pause[1]}" + (f" ({reason})" if reason else "")
    if block is not None:
        reason = f"{reason}; {block}" if reason else block
    if reason == lost.reason:
        return lost
    error = ConnectionLost(lost.code, reason)
    error.__cause__ = lost.__cause__
    return error


def unexpected(exc: BaseException, secrets: Iterable[str]) -> FleetError:
    """Return the error of an endpoint that a fault in the program ended: ours, or one in the user's `fatal`."""
    error = FleetError(one_line(f"unexpected {_text(exc, secrets)}"))
    error.__cause__ = exc
    return error


def shown(exc: BaseException) -> BaseException:
    """Return an exception of the user's code as records and logs may have it.

    It is the very same one, unless its text or one behind or in it has a secret; then one of its kind that has none.
    """
    try:
        if _is_clean(exc):
            return exc
        made = _cleaned(exc)
        if _is_clean(made):
            return made.with_traceback(exc.__traceback__)
        return FleetError(_text(exc, ())).with_traceback(exc.__traceback__)
    except Exception:
        # An exception that can neither be shown nor copied.
        return FleetError(type(exc).__name__).with_traceback(exc.__traceback__)


def _is_clean(exc: BaseException) -> bool:
    # Of an error in text the repr has the whole payload, which records have anyway.
    own = "" if isinstance(exc, UnicodeError) else repr(exc)
    return all(redact_text(text) == text for text in (own, *_texts(exc), *_texts_behind(exc)))


def _cleaned(exc: BaseException) -> BaseException:
    """Return one of the same kind, with nothing behind it, and without the secrets of its arguments and notes."""
    made: BaseException
    if isinstance(exc, BaseExceptionGroup):
        made = BaseExceptionGroup(redact_text(exc.message), [shown(each) for each in exc.exceptions])
    else:
        made = copy.copy(exc)
        made.args = tuple(redact_text(arg) if isinstance(arg, str) else arg for arg in exc.args)
    if hasattr(exc, "__notes__"):
        made.__notes__ = [redact_text(note) for note in exc.__notes__]
    return made


def describe(exc: BaseException) -> str:
    """Return an exception of the user's code as one line of a log."""
    try:
        text = " ".join(printable(_text(exc, ())).split())
    except Exception:
        return type(exc).__name__  # one that cannot be shown
    return text if len(text) <= LINE else f"{text[:LINE]}..."


def hide_secrets(error: BaseException, secrets: Iterable[str]) -> None:
    """Cut off the exceptions behind `error` if one of their texts, which are other people's, has a secret in it."""
    secrets = list(secrets)
    if any(redact_text(text, secrets) != text for text in _texts_behind(error)):
        error.__cause__ = None  # and with it, the context is not shown either
        error.__context__ = None


def _fatal_in(exc: BaseException) -> Fatal | None:
    """Return the Fatal in a group of exceptions: an `on_open` may have raised it in a task of its own."""
    while isinstance(exc, BaseExceptionGroup):
        found = exc.subgroup(Fatal)
        if found is None:
            return None
        exc = found.exceptions[0]
    return exc if isinstance(exc, Fatal) else None


def _text(exc: BaseException, secrets: Iterable[str]) -> str:
    name, text = type(exc).__name__, str(exc)
    return redact_text(f"{name}: {text}" if text else name, secrets)


def _say(error: ConnectFailed, message: str) -> None:
    """Give the wire's own error another text: a peer may have repeated our secrets in a header of its answer."""
    if message != error.message:
        error.args = tuple(message if arg is error.message else arg for arg in error.args)  # its repr shows them
        error.message = message


def _without_frames(error: ConnectFailed) -> ConnectFailed:
    """Return an error of the wire's without the frames that it came through.

    They show no line of the user's, and would keep what they hold for as long as it is the endpoint's last error; of
    ten thousand endpoints whose server is away that is a lot, for the garbage collector above all.
    """
    for exc in (error, *_behind(error)):
        exc.__traceback__ = None
    return error


def _texts(error: BaseException) -> Iterator[str]:
    """Yield what the last lines of its traceback say."""
    yield str(error)
    yield from map(str, getattr(error, "__notes__", ()))
    if isinstance(error, SyntaxError):
        yield f"{error.filename} {error.text}"


def _texts_behind(error: BaseException) -> Iterator[str]:
    for exc in _behind(error):
        yield from _texts(exc)


def _behind(error: BaseException) -> Iterator[BaseException]:
    """Yield the causes and contexts of `error`, those that are grouped in it, and theirs."""
    seen = {id(error)}
    todo = _related(error)
    while todo:
        exc = todo.pop()
        if exc is None or id(exc) in seen:
            continue
        seen.add(id(exc))
        yield exc
        todo += _related(exc)


def _related(exc: BaseException) -> list[BaseException | None]:
    grouped = exc.exceptions if isinstance(exc, BaseExceptionGroup) else ()
    return [exc.__cause__, exc.__context__, *grouped]
