"""The routes and handlers of the HTTP interface."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import PurePath
from typing import Any, TypeVar

import msgspec
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from wsfleet.core import __version__
from wsfleet.core.errors import ConfigError, FleetError
from wsfleet.core.redact import redact_text
from wsfleet.core.time_slice import in_slices
from wsfleet.fleet.reloading import Reloaded, reload_logged
from wsfleet.serve.prometheus import exposition
from wsfleet.serve.status.cache import Snapshot, SnapshotCache
from wsfleet.serve.status.events import MAX_WATCHERS, event_stream
from wsfleet.serve.status.source import NoFile, Source
from wsfleet.serve.status.tables import ENDPOINTS, SUBSCRIPTIONS, BadParameter, Query, Table, TableSchema

__all__ = ["make_app", "page_files"]

log = logging.getLogger("wsfleet")

T = TypeVar("T")

TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
"""Media types of the page's files."""


def make_app(source: Source, cache: SnapshotCache) -> Starlette:
    """Create the application."""
    handlers = _Handlers(source, cache)
    routes = [
        *(Route(path, _page(file)) for path, file in page_files().items()),
        Route("/metrics", handlers.metrics),
        Route("/healthz", handlers.healthz),
        Route("/readyz", handlers.readyz),
        Route("/api/stats", handlers.stats),
        Route("/api/overview", handlers.overview),
        Route("/api/history", handlers.history),
        Route("/api/endpoints", handlers.endpoints),
        Route("/api/subscriptions", handlers.subscriptions),
        Route("/api/events", handlers.events),
        Route("/api/reload", handlers.reload, methods=["POST"]),
    ]
    return Starlette(routes=routes)


def _json(data: Any, status: int = 200) -> Response:
    # enc_hook: names may be of a type derived from str.
    return Response(msgspec.json.encode(data, enc_hook=str), status, media_type="application/json")


def page_files() -> dict[str, Traversable]:
    """Return the static files of the page by path. They contain no data of the fleet."""
    folder = resources.files("wsfleet.serve.status").joinpath("page")
    files = [file for file in (folder.iterdir() if folder.is_dir() else ()) if PurePath(file.name).suffix in TYPES]
    return {"/" if file.name == "index.html" else f"/{file.name}": file for file in files}


def _page(file: Traversable) -> Callable[[Request], Awaitable[Response]]:
    media_type = TYPES[PurePath(file.name).suffix]

    async def page(request: Request) -> Response:
        return Response(file.read_bytes(), media_type=media_type)

    return page


class _Handlers:
    """The request handlers."""

    def __init__(self, source: Source, cache: SnapshotCache) -> None:
        self._source = source
        self._cache = cache
        self._reloading = asyncio.Lock()
        self._watching = 0

    async def metrics(self, request: Request) -> Response:
        report, accept = (await self._cache.get()).report, request.headers.get("accept", "")
        body, media_type = await _in_thread(partial(exposition, report, accept=accept, version=__version__))
        return Response(body, media_type=media_type)

    async def healthz(self, request: Request) -> Response:
        report = (await self._cache.get()).report
        state = {key: report[key] for key in ("balanced", "loop_lag_s")}
        return _json({"healthy": report["balanced"], **state}, 200 if report["balanced"] else 503)

    async def readyz(self, request: Request) -> Response:
        snapshot = await self._cache.get()
        count = (await snapshot.overview(self._source))["down_count"]
        status = 503 if count else 200
        if "text/plain" in request.headers.get("accept", ""):
            return PlainTextResponse("".join(_lines(snapshot.worst, count)), status)
        listed = [{key: each[key] for key in ("name", "state", "since", "error")} for each in snapshot.worst]
        return _json({"ready": not count, "down": listed, "down_count": count}, status)

    async def stats(self, request: Request) -> Response:
        return StreamingResponse(_encoded(await self._cache.get()), media_type="application/json")

    async def overview(self, request: Request) -> Response:
        return _json(await (await self._cache.get()).overview(self._source))

    async def history(self, request: Request) -> Response:
        return _json({"samples": self._source.history()})

    async def endpoints(self, request: Request) -> Response:
        return await self._table(request, ENDPOINTS, lambda snapshot: snapshot.endpoints)

    async def subscriptions(self, request: Request) -> Response:
        return await self._table(request, SUBSCRIPTIONS, lambda snapshot: snapshot.subscriptions)

    async def _table(self, request: Request, schema: TableSchema, table: Callable[[Snapshot], Table]) -> Response:
        try:
            query = Query.read(request.query_params.multi_items(), schema)
        except BadParameter as exc:
            return PlainTextResponse(f"{exc}\n", 400)
        return _json(await table(await self._cache.get()).answer(query))

    async def events(self, request: Request) -> Response:
        if self._watching >= MAX_WATCHERS:
            return PlainTextResponse(f"too many event streams (at most {MAX_WATCHERS})\n", 503, {"retry-after": "5"})
        return StreamingResponse(self._watched(), media_type="text/event-stream")

    async def _watched(self) -> AsyncIterator[bytes]:
        self._watching += 1
        try:
            async with contextlib.aclosing(event_stream(self._source.events())) as events:
                async for event in events:
                    yield event
        finally:
            self._watching -= 1

    async def reload(self, request: Request) -> Response:
        async with self._reloading:
            try:
                done = await reload_logged(self._source.reload)
            except NoFile as exc:
                return PlainTextResponse(f"{exc}\n", 409)
            except ConfigError as exc:
                faults = [f"{where}: {text}" for where, text in exc.faults] or str(exc).splitlines()
                return _json({"faults": [redact_text(fault) for fault in faults]}, 422)
            except FleetError as exc:
                return PlainTextResponse(f"{exc}\n", 409)
        return _json(done.to_dict() if isinstance(done, Reloaded) else {"changed": done})


def _lines(down: Sequence[Mapping[str, Any]], count: int) -> Iterable[str]:
    if not count:
        yield "ready\n"
    for each in down:
        since = datetime.fromtimestamp(each["since"], UTC).isoformat(timespec="seconds")
        error = f": {each['error']}" if each["error"] else ""
        yield f"{each['name']} {each['state']} since {since}{error}\n"
    if count > len(down):
        yield f"and {count - len(down)} more\n"


async def _encoded(snapshot: Snapshot) -> AsyncIterator[bytes]:
    """Encode the report as JSON, a few rows per iteration of the event loop."""
    begin = b"{"
    for key, value in snapshot.report.items():
        yield begin + msgspec.json.encode(key) + b":"
        begin = b","
        if isinstance(value, list):
            comma = b"["
            async for rows in in_slices(value):
                yield comma + msgspec.json.encode(rows, enc_hook=str)[1:-1]
                comma = b","
            yield b"]" if value else b"[]"
        else:
            yield msgspec.json.encode(value, enc_hook=str)
    yield b"}"


async def _in_thread(function: Callable[..., T], *args: Any) -> T:
    """Call `function` in a new thread, to keep the loop's executor free. If cancelled, the thread continues."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[T] = loop.create_future()

    def set_outcome(result: T | None, error: BaseException | None) -> None:
        if done.cancelled():
            return
        if error is not None:
            done.set_exception(error)
        else:
            done.set_result(result)  # type: ignore[arg-type]

    def run() -> None:
        result: T | None = None
        error: BaseException | None = None
        try:
            result = function(*args)
        except BaseException as exc:
            error = exc
        try:
            loop.call_soon_threadsafe(set_outcome, result, error)
        except RuntimeError:  # the loop is closed
            pass

    threading.Thread(target=run, name="wsfleet-observe", daemon=True).start()
    return await done
