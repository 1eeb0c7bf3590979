"""The tests run with real sockets on asyncio and on uvloop; each has a transport and closes what it opened."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import pytest
import trustme

from tests.support.loops import pytest_asyncio_loop_factories, pytest_itemcollected
from tests.support.wirekit import Collector
from wsfleet.transport.base import DialRequest, Progress
from wsfleet.transport.websockets import WebSocketTransport, WebSocketWire

__all__ = ["pytest_asyncio_loop_factories", "pytest_itemcollected"]


@dataclass
class Authority:
    """A CA of the tests, and the contexts of both sides."""

    ca: trustme.CA

    def server(self, *names: str, **options: Any) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.ca.issue_cert(*(names or ("localhost", "127.0.0.1")), **options).configure_cert(context)
        return context

    def client(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # without the system's hundred CAs
        self.ca.configure_trust(context)
        return context


@pytest.fixture(scope="session")
def authority() -> Authority:
    return Authority(trustme.CA())


@pytest.fixture(autouse=True)
def _no_proxy_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for scheme in ("http", "https", "ws", "wss", "socks", "all", "no"):
        monkeypatch.delenv(f"{scheme}_proxy", raising=False)
        monkeypatch.delenv(f"{scheme}_proxy".upper(), raising=False)


@pytest.fixture(autouse=True)
async def no_callback_fails() -> AsyncIterator[None]:
    """Fail a test if a callback raises, unless it belongs to a server of the tests."""
    failed: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: failed.append(context))
    yield
    assert not [context for context in failed if "incoming connection" not in context["message"]]


@pytest.fixture
async def transport() -> AsyncIterator[WebSocketTransport]:
    transport = WebSocketTransport()
    yield transport
    await transport.aclose()


Connect = Callable[..., Awaitable[tuple[WebSocketWire, Collector]]]


@pytest.fixture
async def connect(transport: WebSocketTransport) -> AsyncIterator[Connect]:
    """Open a wire with fields of `DialRequest` and `Collector`, and start it; abort it after the test."""
    opened: list[tuple[WebSocketWire, Collector]] = []

    async def connect(uri: str, *, started: bool = True, **options: Any) -> tuple[WebSocketWire, Collector]:
        taken = {name: options.pop(name) for name in ("as_text", "chunk", "pause_every") if name in options}
        progress = options.pop("progress", Progress())
        wire = await transport.open(DialRequest("test", uri, options.pop("headers", {}), **options), progress)
        collector = Collector(**taken)
        opened.append((wire, collector))
        if started:
            collector.start(wire)
        return wire, collector

    yield connect
    for wire, collector in opened:
        if collector.wire is None:
            collector.start(wire)
        wire.abort()
    if opened:
        await asyncio.wait([collector.ended for _, collector in opened], timeout=5)
