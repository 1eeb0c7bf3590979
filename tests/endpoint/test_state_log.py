"""Log records while an endpoint is down: each cause, occasional reminders, and the recovery."""

import asyncio
import logging

import pytest

from wsfleet import Fleet, Reconnect, State
from wsfleet.cli.tap import explain
from wsfleet.core.errors import ConnectFailed, ConnectionLost, HandshakeRejected
from wsfleet.endpoint.state_log import CHANGES, StateLog
from wsfleet.testing import FakeTransport

DNS = ConnectFailed("dns", "no such name")
TCP = ConnectFailed("tcp", "connection refused")


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


def test_each_new_kind_of_error_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    """The last warning contains the current error, and a repeated error adds no line."""
    story = StateLog("feed")
    for now, error in enumerate([DNS, DNS, TCP, TCP, HandshakeRejected(503)]):
        story.waiting(error, 1.0, float(now))
    assert [text.split(";")[0] for text in warnings(caplog)] == [
        "feed: dns: no such name",
        "feed: tcp: connection refused",
        "feed: http: the server answered 503",
    ]


def test_a_long_outage_is_logged_in_a_few_lines(caplog: pytest.LogCaptureFixture) -> None:
    """While the error stays the same, increasingly rare lines contain since when the endpoint is down, and why."""
    story = StateLog("feed")
    for now in range(0, 8 * 3600, 30):
        story.waiting(TCP, 30.0, float(now))
    lines = warnings(caplog)
    assert lines[1] == "feed: still down for 5 min, 11 attempts; last: tcp: connection refused"
    assert [line.split(",")[0] for line in lines[2:]] == [
        f"feed: still down for {past}" for past in ("15 min", "35 min", "75 min", "2.6 h", "5.2 h")
    ]


def test_the_recovery_is_logged_as_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    """After a warning, the recovery is logged as a warning with the duration; a first OPEN without a warning is not."""
    story = StateLog("feed")
    story.opened("ws://feed.test/", 0.0)
    assert warnings(caplog) == []
    story.waiting(TCP, 1.0, 100.0)
    story.opened("ws://feed.test/", 142.0)
    story.failed(TCP, 150.0)
    story.opened("ws://feed.test/", 152.0)
    assert [text.partition(": ")[2] for text in warnings(caplog)] == [
        "tcp: connection refused; next attempt in 1.0 s",
        "open again after 42 s (ws://feed.test/)",
        "failed for good: tcp: connection refused",
        "open again after 2.0 s (ws://feed.test/)",
    ]


LOGIN = "the credentials are missing or wrong"
PATH = "there is no such path; check the part of the URI after the host"


@pytest.mark.parametrize(("status", "cause"), [(401, LOGIN), (403, LOGIN), (404, PATH), (410, PATH), (418, None)])
def test_a_final_refusal_is_logged_with_advice(
    caplog: pytest.LogCaptureFixture, status: int, cause: str | None
) -> None:
    """The log of a failed endpoint contains the same advice as `wsfleet tap`."""
    error = HandshakeRejected(status)
    StateLog("feed").failed(error, 0.0)
    where = {LOGIN: ("; check the options headers and uri", "; use --header 'Authorization: ...'")}
    logged, shown = where.get(cause, ("", "")) if cause is not None else ("", "")
    hint = "" if cause is None else f": {cause}"
    assert warnings(caplog) == [f"feed: failed for good: http: the server answered {status}{hint}{logged}"]
    assert explain(error).endswith(f"the server answered {status}{hint}{shown}")


def test_the_lines_about_a_flapping_endpoint_are_bounded(caplog: pytest.LogCaptureFixture) -> None:
    """An endpoint that is lost after each opening logs a few lines, one that reports this, and one every 5 minutes."""
    story = StateLog("feed")
    for now in range(0, 3600, 2):
        story.waiting(ConnectionLost(1006), 1.0, float(now))
        story.opened("ws://feed.test/", now + 1.0)
    lines = warnings(caplog)
    assert [line.split(" (")[0] for line in lines[: 2 * CHANGES]] == [
        "feed: connection lost: 1006; next attempt in 1.0 s",
        "feed: open again after 1.0 s",
    ] * CHANGES
    times = ("6.0 s", *(f"{minutes} min" for minutes in range(5, 60, 5)))
    assert [line.split(", ")[0] for line in lines[2 * CHANGES :]] == [
        f"feed: lost again and again for {time}" for time in times
    ]
    assert all(line.endswith("; from now on reported every 5 min") for line in lines[2 * CHANGES :])


def test_the_lines_about_alternating_errors_are_bounded(caplog: pytest.LogCaptureFixture) -> None:
    """Alternating errors are not logged for each attempt; the recovery is logged."""
    story = StateLog("feed")
    for now in range(0, 240, 2):
        story.waiting(TCP if now % 4 else DNS, 1.0, float(now))
    story.opened("ws://feed.test/", 240.0)
    lines = warnings(caplog)
    assert len(lines) == CHANGES + 2
    assert lines[-2].startswith("feed: still down for 6.0 s, 4 attempts; last: ")
    assert lines[-1] == "feed: open again after 4 min (ws://feed.test/)"


@pytest.mark.looptime
async def test_the_end_of_a_flapping_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """If the changes of an endpoint were no longer logged, it is reported after it has been open for five minutes."""
    story, uri = StateLog("feed"), "ws://feed.test/"
    for _ in range(2 * CHANGES):
        story.log_state(State.BACKOFF, ConnectionLost(1006), 1.0, uri)
        story.log_state(State.OPEN, None, 0.0, uri)
        await asyncio.sleep(1.0)
    await asyncio.sleep(299.5)
    assert warnings(caplog)[-1] == "feed: open for 5 min without a loss, after 6 attempts"
    before = len(warnings(caplog))
    story.log_state(State.BACKOFF, ConnectionLost(1006), 1.0, uri)
    assert len(warnings(caplog)) == before + 1
    story.log_state(State.CLOSED, None, 0.0, uri)


def test_the_end_of_an_unlogged_outage_is_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    """For an endpoint that reconnects all night, INFO has the first OPEN and the warnings; DEBUG has the rest."""
    caplog.set_level(logging.DEBUG)
    story = StateLog("feed")
    story.opened("ws://feed.test/", 0.0)
    for now in range(1, 3600, 2):
        story.waiting(ConnectionLost(1006), 1.0, float(now))
        story.opened("ws://feed.test/", now + 1.0)
    opened = [record for record in caplog.records if record.getMessage() == "feed: open (ws://feed.test/)"]
    assert [record.levelno for record in opened[:2]] == [logging.INFO, logging.DEBUG]
    assert sum(record.levelno == logging.INFO for record in caplog.records) == 1
    assert len(caplog.records) == 1 + 2 * 1800


@pytest.mark.looptime
async def test_a_fleet_logs_an_outage_and_its_end(caplog: pytest.LogCaptureFixture) -> None:
    """The output of a program without a logging configuration while an endpoint cannot be reached for a while."""
    transport = FakeTransport()
    for error in (DNS, TCP, TCP):
        transport.refuse(error)
    async with Fleet(transport=transport) as fleet:
        feed = fleet.connect("ws://feed.test/", name="feed", reconnect=Reconnect(initial_s=1.0, jitter=0.0))
        await transport.accept("feed")
        await feed.wait_open()
    assert [text.partition(": ")[2].split(" (")[0] for text in warnings(caplog)] == [
        "dns: no such name; next attempt in 1.0 s",
        "tcp: connection refused; next attempt in 2.0 s",
        "open again after 7.0 s",
    ]
