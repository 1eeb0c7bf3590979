"""Pytest fixtures for programs that use wsfleet. pytest loads them automatically if wsfleet is installed.

`feed_server` is a `FeedServer`, `fleet` a running `Fleet`, and `chaos` a `Chaos` of the server. The fixtures are
asynchronous and require pytest-asyncio, in strict or auto mode, or the plugin of anyio. See `docs/testing.md`.
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
"""`drain_s` of the fleet fixture: short, to limit the duration of tests."""

EXPECTED = "processors_may_fail"
"""The marker of a test in which processors may fail."""

_CHAOS = pytest.StashKey[Chaos]()


def _async_fixture(function: Callable[..., AsyncIterator[Any]]) -> Callable[..., AsyncIterator[Any]]:
    """Return a fixture for pytest-asyncio, which also works in its strict mode; without it, a plain one for anyio."""
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
async def fleet(request: pytest.FixtureRequest) -> AsyncIterator[Fleet]:
    """A running `wsfleet.Fleet`. After the test it is drained, and all its messages must be accounted for.

    The test fails if a processor has failed, unless it has the marker `processors_may_fail`.
    """
    async with Fleet(drain_s=DRAIN_S) as running:
        yield running
    failed = [f"{row.name} ({row.failed:,})" for row in running.stats().subscriptions if row.failed]
    if failed and request.node.get_closest_marker(EXPECTED) is None:
        text = f"processors failed: {', '.join(failed)}; see the log. Mark the test with {EXPECTED} if that is expected"
        pytest.fail(text, pytrace=False)
    assert running.stats().balanced, f"messages are unaccounted for: {running.stats().to_dict()}"  # noqa: S101


@pytest.fixture
def chaos(request: pytest.FixtureRequest, feed_server: FeedServer) -> Iterator[Chaos]:
    """A `wsfleet.testing.Chaos` of `feed_server`, for `with chaos:`. A failed test reports its seed and its faults."""
    running = Chaos(feed_server, seed=request.config.getoption("wsfleet_seed"))
    request.node.stash[_CHAOS] = running
    yield running
    running.stop()


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker `processors_may_fail`."""
    config.addinivalue_line("markers", f"{EXPECTED}: processors of the fleet fixture may fail in this test")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option `--wsfleet-seed`."""
    group = parser.getgroup("wsfleet")
    group.addoption(
        "--wsfleet-seed",
        type=int,
        default=None,
        metavar="N",
        help="seed of the chaos fixture; by default random for each test, and reported if the test fails",
    )


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Report the seed of a failed test with the `chaos` fixture."""
    report = yield
    chaos = item.stash.get(_CHAOS, None)
    if report.failed and chaos is not None:
        hint = f"to repeat these faults: --wsfleet-seed={chaos.seed}"
        report.sections.append(("wsfleet chaos", f"{chaos}\n{hint}"))
    return report
