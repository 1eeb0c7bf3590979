"""A bad or broken line between fleet and server, with the kernel's TCP at both ends."""

import asyncio
import contextlib
import errno
import socket
import struct
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.faults.cable import FAR, Cable
from tests.faults.kit import LIVELY, Case, Numbered, suffering, until
from wsfleet import Liveness, State
from wsfleet.core.errors import ConnectFailed, ConnectionLost


@contextlib.asynccontextmanager
async def over_a_cable(**options: Any) -> AsyncIterator[tuple[Cable, Numbered, Case]]:
    """The faulty endpoint's server is at the cable's far end, the other one's at the near end."""
    async with Cable(seed=5) as cable, contextlib.AsyncExitStack() as stack:
        with cable.far_end():
            server = await stack.enter_async_context(Numbered(host=FAR))
        case = await stack.enter_async_context(suffering(server.uri, **options))
        await case.flows()
        yield cable, server, case


@pytest.mark.parametrize(
    "line",
    [
        {"delay_s": 0.1},
        {"spread_s": 0.05},
        {"twice": 0.5},
        {"loss": 0.05},
        {"loss": 0.03, "twice": 0.1, "delay_s": 0.01, "spread_s": 0.03},
    ],
    ids=["delay", "reordering", "duplicates", "loss", "all of it"],
)
async def test_a_bad_line(line: dict[str, float]) -> None:
    """Delay, reordering, duplicates and loss of packets are handled by TCP: no number is missing, and nothing is
    reported.
    """
    async with over_a_cable() as (cable, server, case):
        vars(cable).update(line)
        await case.flows(more=150)
        assert cable.overtaken > 0 or "spread_s" not in line
        assert cable.lost > 0 or "loss" not in line
        assert case.errors == []
        assert case.sick.session_count == 1
        vars(cable).update(dict.fromkeys(line, 0.0))
        case.sick.restart()  # a good line for the close, and for the last numbers
        await case.comes_back()
        assert case.sessions()[0] == server.handed[0][: len(case.sessions()[0])]


async def test_a_cable_that_is_cut_for_a_moment() -> None:
    """A line that is interrupted for less than pong_s loses nothing, because TCP retransmits."""
    async with over_a_cable() as (cable, _, case):
        cable.is_cut = True
        await until(lambda: cable.lost >= 3, "packets are lost")
        await case.flows("calm")
        cable.is_cut = False
        await case.flows(more=50)
        assert case.errors == []
        assert case.sick.session_count == 1
        (numbers,) = case.sessions()
        assert numbers == list(range(1, len(numbers) + 1))


async def test_a_cable_that_stays_cut() -> None:
    """A line that is silently interrupted is detected by pings; attempts fail at stage tcp until it is restored."""
    async with over_a_cable(liveness=LIVELY, open_s=2.0) as (cable, server, case):
        cable.is_cut = True
        error = await case.fails(3)
        assert str(error) == "connection lost: 1006 no answer to a ping for 0.3 s"
        assert str(case.errors[1]) == "tcp: not done within open_s = 2 s"
        assert case.changes[-1].state in (State.BACKOFF, State.CONNECTING)
        cable.is_cut = False
        await case.comes_back()
        await until(lambda: len(server.clients) == 1, "the server notices the end of the old connection")
    case.destroyed(server.handed)


async def test_a_half_open_connection() -> None:
    """A restarted server, which does not know the connection, resets it at the next ping."""
    async with over_a_cable(liveness=Liveness(ping_s=0.1)) as (cable, server, case):
        cable.is_cut = True
        for client in server.clients:
            linger = struct.pack("ii", 1, 0)
            client.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        server.drop()
        await until(lambda: not server.clients, "the restarted server has no connection")
        await asyncio.sleep(0.01)
        assert case.sick.state is State.OPEN
        cable.is_cut = False
        error = await case.fails()
        assert isinstance(error, ConnectionLost)
        assert error.code == 1006
        assert isinstance(error.__cause__, ConnectionResetError)
        await case.comes_back()
    case.destroyed(server.handed)


async def test_no_way_there() -> None:
    """Without a route each attempt fails at once with the system's error, and the first one after that opens."""
    async with over_a_cable(liveness=LIVELY) as (cable, server, case):
        cable.unplug()
        await case.fails(3)
        error = case.errors[1]
        assert isinstance(error, ConnectFailed)
        assert isinstance(error.__cause__, OSError)
        assert (error.stage, error.__cause__.errno) == ("tcp", errno.ENETUNREACH)
        cable.plug()
        await case.comes_back()
    case.destroyed(server.handed)
