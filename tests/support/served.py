"""The HTTP interface of a fleet, served on loopback from a `FleetView`, as the peer of `wsfleet top`."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from tests.support.fleetview import FleetView, matching
from wsfleet.serve.status.schema import Query


class Served:
    """A fake interface. `token` is required if given; `odd` is the answer to every request."""

    def __init__(self, view: FleetView) -> None:
        self.view = view
        self.token: str | None = None
        self.odd: Response | None = None
        self.url = ""
        self.asked: list[Request] = []
        self.ending = asyncio.Event()
        self.app = Starlette(
            routes=[
                Route("/api/overview", self._overview),
                Route("/api/history", self._history),
                Route("/api/endpoints", self._endpoints),
                Route("/api/events", self._events),
                Route("/{rest:path}", self._nothing),
            ]
        )

    def _refused(self, request: Request) -> Response | None:
        self.asked.append(request)
        if self.odd is not None:
            return self.odd
        if self.token is not None and request.headers.get("authorization") != f"Bearer {self.token}":
            return PlainTextResponse("wants a token", 401)
        return None

    async def _overview(self, request: Request) -> Response:
        return self._refused(request) or JSONResponse(self.view.shown)

    async def _history(self, request: Request) -> Response:
        return self._refused(request) or JSONResponse({"samples": self.view.past})

    async def _endpoints(self, request: Request) -> Response:
        asked = request.query_params
        query = Query(**{name: int(asked[name]) if asked[name].isdigit() else asked[name] for name in asked})
        return self._refused(request) or JSONResponse(matching(self.view.rows, query))

    async def _events(self, request: Request) -> Response:
        async def events() -> AsyncIterator[str]:
            yield ": this is a comment\n\n"
            for event in self.view.sent:
                data = {name: value for name, value in event.items() if name != "kind"}
                yield f"event: {event['kind']}\ndata: {json.dumps(data)}\n\n"
            await self.ending.wait()

        return self._refused(request) or StreamingResponse(events(), media_type="text/event-stream")

    async def _nothing(self, request: Request) -> Response:
        return self._refused(request) or PlainTextResponse("not found", 404)


class _Server(uvicorn.Server):
    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """The test's own process handles the signals."""
        yield


@asynccontextmanager
async def serving(served: Served, port: int = 0) -> AsyncIterator[Served]:
    """Serve on loopback until the end of the block."""
    listening = socket.create_server(("127.0.0.1", port))
    served.url = f"http://127.0.0.1:{listening.getsockname()[1]}"
    served.ending.clear()
    config = uvicorn.Config(served.app, log_config=None, lifespan="off", ws="none", timeout_graceful_shutdown=1)
    server = _Server(config)
    running = asyncio.create_task(server.serve(sockets=[listening]))
    try:
        yield served
    finally:
        served.ending.set()
        server.should_exit = True
        await running
        listening.close()
