"""Credentials that several endpoints share: the result of one function, kept until it is refused or too old."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from typing import Any, Generic, TypeVar
from weakref import WeakKeyDictionary

from wsfleet.core.checks import check_seconds, refuse
from wsfleet.core.errors import ConfigError

__all__ = ["Credentials", "Uses"]

T = TypeVar("T")


class Uses:
    """The values of `Credentials` that the current attempt of one endpoint got."""

    __slots__ = ("__weakref__", "_got")

    def __init__(self) -> None:
        self._got: list[_Value[Any]] = []

    def begin(self) -> None:
        """Begin an attempt: from now on, values that this task gets belong to it."""
        self._got.clear()
        _uses.set(self)

    def add(self, value: _Value[Any]) -> None:
        self._got.append(value)

    def expire(self) -> None:
        """Discard the values of the attempt, because the server refused them."""
        for value in self._got:
            value.expired = True


_uses: ContextVar[Uses | None] = ContextVar("wsfleet_uses", default=None)
"""The endpoint whose `uri` or `headers` function runs: a value inside a URI is not visible from outside."""


class _Value(Generic[T]):
    """One result of the function."""

    __slots__ = ("content", "expired", "until")

    def __init__(self, content: T, until: float) -> None:
        self.content = content
        self.until = until
        self.expired = False


class _Cell(Generic[T]):
    """The current value, and the call in progress that will replace it."""

    __slots__ = ("call", "value")

    def __init__(self) -> None:
        self.value: _Value[T] | None = None
        self.call: asyncio.Future[_Value[T]] | None = None


class Credentials(Generic[T]):
    """The result of an async function, such as a token, for any number of endpoints.

    Give it to endpoints as `headers` or `uri`, or await it in their functions: `f"wss://...?token={await token()}"`.
    `function` is called for the first attempt, after the server has answered an attempt with 401 or 403, and once the
    value is older than `ttl_s` seconds. Attempts that need a value at the same time wait for one call. If it raises,
    all of them fail with its error, and the next attempt calls it again.

    With `shared=False`, each endpoint has a value of its own. Belongs to one event loop. Raises ConfigError for invalid
    arguments.
    """

    def __init__(
        self, function: Callable[[], Awaitable[T]], *, shared: bool = True, ttl_s: float | None = None
    ) -> None:
        faults = [("function", None if callable(function) else "must be an async function")]
        refuse("Credentials", [*faults, ("ttl_s", check_seconds(ttl_s, none=True))])
        self._function = function
        self._shared = shared
        self._ttl_s = float("inf") if ttl_s is None else ttl_s
        self._cells: WeakKeyDictionary[object, _Cell[T]] = WeakKeyDictionary()

    def __repr__(self) -> str:
        return f"<Credentials of {getattr(self._function, '__name__', 'function')}>"

    async def __call__(self) -> T:
        """Return the current value, and call the function first if there is none. Safe to cancel.

        Raises the error of the function.
        """
        uses = _uses.get()
        cell = self._cells.setdefault(self if self._shared or uses is None else uses, _Cell())
        value = cell.value
        while value is None or value.expired or value.until <= asyncio.get_running_loop().time():
            value = await (self._renew(cell) if cell.call is None else self._renewed(cell.call))
        if uses is not None:
            uses.add(value)
        return value.content

    async def _renew(self, cell: _Cell[T]) -> _Value[T]:
        """Call the function. If this task is cancelled, one of the waiting tasks calls it again."""
        loop = asyncio.get_running_loop()
        call = cell.call = loop.create_future()
        try:
            made = self._function()
            if not inspect.isawaitable(made):
                raise ConfigError(f"the function of {self!r} is not an async function")
            content = await made
        except Exception as exc:
            call.set_exception(exc)
            call.exception()  # nobody may be waiting for it
            raise
        except BaseException:
            call.cancel()
            raise
        finally:
            cell.call = None
        cell.value = _Value(content, loop.time() + self._ttl_s)
        call.set_result(cell.value)
        return cell.value

    async def _renewed(self, call: asyncio.Future[_Value[T]]) -> _Value[T] | None:
        """Wait for the call of another task. Return None if that task was cancelled."""
        await asyncio.wait([call])
        if call.cancelled():
            return None
        error = call.exception()
        if error is not None:
            raise error.with_traceback(None)  # otherwise each raise would add to the traceback
        return call.result()
