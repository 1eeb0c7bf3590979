"""Errors of attempts and sessions, and their texts, without secrets."""

from __future__ import annotations

import asyncio
import copy
import ssl
from collections.abc import Iterable, Iterator

from wsfleet.core.errors import ConnectFailed, ConnectionLost, Fatal, FleetError, HandshakeRejected
from wsfleet.core.redact import redact_text
from wsfleet.core.text import one_line, printable

__all__ = [
    "advice",
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
"""Maximum length, in characters, of an exception's text in one line of the log."""


def advice(error: BaseException | None, credentials: str) -> str | None:
    """Return what to check after an error that another attempt would not remove, or None.

    `credentials` says where the user sets them.
    """
    status = error.status if isinstance(error, HandshakeRejected) else None
    if status in (401, 403):
        return f"the credentials are missing or wrong; {credentials}"
    if status in (404, 410):
        return "there is no such path; check the part of the URI after the host"
    if error is not None and isinstance(error.__cause__, ssl.SSLCertVerificationError):
        return "for a private certificate authority, set SSL_CERT_FILE to its certificate"
    return None


def is_exit_request(exc: BaseException) -> bool:
    """Return whether user code requests the exit of the program."""
    return isinstance(exc, KeyboardInterrupt | SystemExit)


def is_ours(exc: BaseException) -> bool:
    """Return whether `exc` must end this task or the program. False for a failure of user code."""
    if isinstance(exc, asyncio.CancelledError):
        # Without a cancel request for this task, user code raised it.
        task = asyncio.current_task()
        return task is None or task.cancelling() > 0
    return is_exit_request(exc) or isinstance(exc, GeneratorExit)


def attempt_failed(
    exc: BaseException,
    lost: ConnectionLost | None,
    stage: str,
    open_s: float | None,
    secrets: Iterable[str],
    route: str = "",
    traffic: str = "",
) -> Exception:
    """Return the error of an attempt that ended with `exc` at `stage`.

    `lost` is set if the connection was lost during `on_open`, `open_s` if the attempt exceeded this deadline. `route`
    describes proxies and redirects, already redacted; `traffic` the messages of the session, for `on_open`.
    """
    exc = _fatal_in(exc) or exc
    suffix = f" ({route})" if route and stage != "on_open" else ""
    if isinstance(exc, ConnectFailed) and stage != "on_open":
        _set_message(exc, redact_text(exc.message, secrets) + suffix if exc.message else "")
        return exc if stage == "uri" else _without_frames(exc)
    cause: BaseException = exc
    if lost is not None and not isinstance(exc, Fatal):
        text, cause = redact_text(str(lost), secrets), lost
    elif open_s is not None and not isinstance(exc, Fatal):
        text = f"not done within open_s = {open_s:g} s" + (f" ({traffic})" if stage == "on_open" else suffix)
    else:
        text = _text(exc, secrets) + suffix
    error = ConnectFailed(stage, text)
    error.__cause__ = cause
    return error


def loss(
    lost: ConnectionLost, pause: tuple[float, str] | None, block: str | None, secrets: Iterable[str]
) -> ConnectionLost:
    """Return the loss of an open connection with its cause: a pause of reading (`pause`), or a blocked event loop."""
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
    """Return the error of an endpoint that ended because of a bug, in wsfleet or in the user's `fatal` function."""
    error = FleetError(one_line(f"unexpected {_text(exc, secrets)}"))
    error.__cause__ = exc
    return error


def shown(exc: BaseException) -> BaseException:
    """Return an exception of user code without secrets, for records and logs.

    Returns `exc` itself, unless its text or the text of a related exception contains a secret. In that case, returns a
    copy without the secret and without related exceptions.
    """
    try:
        if _is_clean(exc):
            return exc
        made = _cleaned(exc)
        if _is_clean(made):
            return made.with_traceback(exc.__traceback__)
        return FleetError(_text(exc, ())).with_traceback(exc.__traceback__)
    except Exception:
        # An exception that cannot be formatted or copied.
        return FleetError(type(exc).__name__).with_traceback(exc.__traceback__)


def _is_clean(exc: BaseException) -> bool:
    # The repr of a UnicodeError contains the whole payload, which is part of the record anyway.
    own = "" if isinstance(exc, UnicodeError) else repr(exc)
    return all(redact_text(text) == text for text in (own, *_texts(exc), *_texts_behind(exc)))


def _cleaned(exc: BaseException) -> BaseException:
    """Return a copy without causes and contexts, and with redacted arguments and notes."""
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
    """Return an exception of user code as one line of a log."""
    try:
        text = " ".join(printable(_text(exc, ())).split())
    except Exception:
        return type(exc).__name__  # its __str__ raises
    return text if len(text) <= LINE else f"{text[:LINE]}..."


def hide_secrets(error: BaseException, secrets: Iterable[str]) -> None:
    """Remove the cause and the context of `error` if a text of the exceptions behind it contains a secret."""
    secrets = list(secrets)
    if any(redact_text(text, secrets) != text for text in _texts_behind(error)):
        error.__cause__ = None  # sets __suppress_context__ too
        error.__context__ = None


def _fatal_in(exc: BaseException) -> Fatal | None:
    """Return a Fatal in a group of exceptions: an `on_open` with a TaskGroup may have raised it."""
    while isinstance(exc, BaseExceptionGroup):
        found = exc.subgroup(Fatal)
        if found is None:
            return None
        exc = found.exceptions[0]
    return exc if isinstance(exc, Fatal) else None


def _text(exc: BaseException, secrets: Iterable[str]) -> str:
    name, text = type(exc).__name__, str(exc)
    return redact_text(f"{name}: {text}" if text else name, secrets)


def _set_message(error: ConnectFailed, message: str) -> None:
    """Replace the text of an error of the transport: a peer may have repeated our secrets in a response header."""
    if message != error.message:
        error.args = tuple(message if arg is error.message else arg for arg in error.args)  # shown by its repr
        error.message = message


def _without_frames(error: ConnectFailed) -> ConnectFailed:
    """Return an error of the transport without its traceback.

    The traceback contains no frame of user code. Its frames would keep their objects alive for as long as this is the
    last error of the endpoint. With ten thousand endpoints that cannot connect, this slows the garbage collector down.
    """
    for exc in (error, *_behind(error)):
        exc.__traceback__ = None
    return error


def _texts(error: BaseException) -> Iterator[str]:
    """Yield the texts in the last lines of the traceback."""
    yield str(error)
    yield from map(str, getattr(error, "__notes__", ()))
    if isinstance(error, SyntaxError):
        yield f"{error.filename} {error.text}"


def _texts_behind(error: BaseException) -> Iterator[str]:
    for exc in _behind(error):
        yield from _texts(exc)


def _behind(error: BaseException) -> Iterator[BaseException]:
    """Yield the causes, the contexts and the grouped exceptions of `error`, recursively."""
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
