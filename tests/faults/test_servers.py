"""Foreign servers that are killed or stopped while messages arrive."""

from pathlib import Path

import pytest

from tests.faults.kit import LIVELY, suffering
from tests.support.servers.base import HOST
from tests.support.servers.node_ws import NodeWs
from wsfleet.core.errors import ConnectFailed, ConnectionLost

pytestmark = pytest.mark.integration


def feed_of(server: NodeWs) -> str:
    """Its feed, with another host name than the other endpoint's."""
    return f"{server.uri.replace(HOST, 'localhost')}/feed?rate=200"


async def test_a_server_that_is_killed(tmp_path: Path) -> None:
    """SIGKILL is detected at once; attempts are refused at stage tcp until the server runs again."""
    async with NodeWs(tmp_path) as server, suffering(feed_of(server)) as case:
        await case.flows()
        await server.kill()
        await case.fails(3)
        lost, refused = case.errors[:2]
        assert isinstance(lost, ConnectionLost)
        assert lost.code == 1006
        assert isinstance(refused, ConnectFailed)
        assert isinstance(refused.__cause__, ConnectionRefusedError)
        assert case.shown.startswith("tcp: ")
        await server.start()
        await case.comes_back()
    assert case.sick.stats().losses == 1
    assert case.sessions() == [list(range(1, len(numbers) + 1)) for numbers in case.sessions()]


async def test_a_server_that_is_stopped(tmp_path: Path) -> None:
    """SIGSTOP is detected by pings; attempts are accepted by the system but not answered, until the
    server continues.
    """
    async with NodeWs(tmp_path) as server:
        async with suffering(feed_of(server), liveness=LIVELY, open_s=2.0) as case:
            await case.flows()
            server.freeze()
            try:
                await case.fails(2)
            finally:
                server.thaw()
            lost, unanswered = case.errors[:2]
            assert str(lost) == "connection lost: 1006 no answer to a ping for 0.3 s"
            assert str(unanswered) == "http: not done within open_s = 2 s"
            await case.comes_back()
        assert case.sessions() == [list(range(1, len(numbers) + 1)) for numbers in case.sessions()]
