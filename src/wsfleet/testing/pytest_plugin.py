"""Fixtures for tests of programs that are built on wsfleet; pytest finds them by itself where wsfleet is installed.

`feed_server` is a `FeedServer`, `fleet` a running `Fleet`, `chaos` a `Chaos` on the server. They are asynchronous, so
they need pytest-asyncio, in either of its modes, or anyio's plugin. `docs/testing.md` shows them at work.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Generator, Iterator
from typing import Any, cast

import pytest

from wsfleet.fleet.fleet import Fleet
from wsfleet.testing.chaos import Chaos
from wsfleet.testing.feed_server import FeedServer

__all__ = ["chaos", "feed_server", "fleet"]

DRAIN_S = 1.0
"""How long the fixture's fleet waits for its processors at the end: a test should not have to wait for more."""

_CHAOS = pytest.StashKey[Chaos]()


def _async_fixture(function: Callable[..., AsyncIterator[Any]]) -> Callable[..., AsyncIterator[Any]]:
    """Return a fixture that pytest-asyncio takes in its strict mode, too; the same is a plain one for anyio."""
    try:
        import pytest_asyncio
    except ImportError:
        return pytest.fixture(function)
    return cast(Callable[..., AsyncIterator[Any]], pytest_asyncio.fixture(function))


@_async_fixture
async def feed_server() -> AsyncIterator[FeedServer]:
    """A `wsfleet.testing.FeedServer` that listens on a loopback port."""
    async with FeedServer() as server:
        yield server


@_async_fixture
async def fleet() -> AsyncIterator[Fleet]:
    """A running `wsfleet.Fleet`, to connect in. It is drained after the test, and its balance must hold."""
    async with Fleet(drain_s=DRAIN_S) as running:
        yield running
    assert running.stats().balanced, f"messages are unaccounted for: {running.stats().to_dict()}"  # noqa: S101


@pytest.fixture
def chaos(request: pytest.FixtureRequest, feed_server: FeedServer) -> Iterator[Chaos]:
    """A `wsfleet.testing.Chaos` on `feed_server`, for `with chaos:`. A failing test tells its seed and its faults."""
    running = Chaos(feed_server, seed=request.config.getoption("wsfleet_seed"))
    request.node.stash[_CHAOS] = running
    yield running
    running.stop()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add `--wsfleet-seed`."""
    group = parser.getgroup("wsfleet")
    group.addoption(
        "--wsfleet-seed",
        type=int,
        default=None,
        metavar="N",
        help="the seed of the chaos fixture; by default each test has another one, and tells it when it fails",
    )


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Tell the seed of a failing test that had the `chaos` fixture."""
    report = yield
    chaos = item.stash.get(_CHAOS, None)
    if report.failed and chaos is not None:
        again = f"to meet the same faults again: --wsfleet-seed={chaos.seed}"
        report.sections.append(("wsfleet chaos", f"{chaos}\n{again}"))
    return report
