"""A wall clock that jumps: it only affects the timestamps of messages."""

import asyncio
import time

import pytest

from tests.faults.kit import LIVELY, Numbered, suffering
from wsfleet import Fleet, Message, Reconnect
from wsfleet.core.errors import HandshakeRejected
from wsfleet.endpoint import liveness
from wsfleet.testing import FakeTransport

HOUR_S = 3600.0


class Clock:
    """The system's clock with an offset."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.off_s = 0.0
        real = time.time
        monkeypatch.setattr(time, "time", lambda: real() + self.off_s)


@pytest.mark.parametrize("jump_s", [HOUR_S, -HOUR_S])
async def test_a_clock_that_jumps_in_mid_flow(monkeypatch: pytest.MonkeyPatch, jump_s: float) -> None:
    """A jump of one hour changes no ping, timeout or wait; `received_at` follows the clock."""
    clock = Clock(monkeypatch)
    dates: list[float] = []

    async with Numbered() as server, suffering(f"ws://localhost:{server.port}", liveness=LIVELY) as case:

        async def note(message: Message[object]) -> None:
            dates.append(message.received_at)

        case.fleet.process("sick", name="dates")(note)
        await case.flows()
        clock.off_s = jump_s
        await case.flows(more=60)
        assert case.errors == []
        assert case.sick.session_count == 1
        assert abs(dates[-1] - dates[0] - jump_s) < HOUR_S / 2
        server.drop()
        await case.fails()
        await case.comes_back()
    case.destroyed(server.handed)


@pytest.mark.looptime
@pytest.mark.parametrize("jump_s", [HOUR_S, -HOUR_S])
async def test_a_clock_that_jumps_in_a_wait(monkeypatch: pytest.MonkeyPatch, jump_s: float) -> None:
    """The durations of backoff and Retry-After do not depend on the wall clock."""
    monkeypatch.setattr(liveness, "LOOK_S", HOUR_S)  # simulated hours run faster
    clock, loop = Clock(monkeypatch), asyncio.get_running_loop()
    transport = FakeTransport()
    for error in (HandshakeRejected(503, retry_after_s=1800.0), OSError("down")):
        transport.refuse(error)
    fleet = Fleet(transport=transport)
    fleet.connect("ws://feed.test/", reconnect=Reconnect(initial_s=100.0, max_s=100.0, jitter=0.0))
    async with fleet:
        began = loop.time()
        await asyncio.sleep(10)
        clock.off_s = jump_s
        await transport.accept()
        assert loop.time() - began == pytest.approx(1900.0, abs=1.0)
