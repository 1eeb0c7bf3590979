"""Reconnecting and giving up, over hours of simulated time."""

import asyncio
import email.utils
import itertools
import random
import ssl
import time
from collections.abc import Callable, Mapping

import pytest

from wsfleet import Endpoint, Fleet, Limits, Liveness, Message, Reconnect, State
from wsfleet.core import errors
from wsfleet.core.errors import ConnectFailed, HandshakeRejected
from wsfleet.core.message import StateChange
from wsfleet.endpoint import liveness
from wsfleet.testing import FakeTransport, FeedServer
from wsfleet.transport.base import DialRequest, Progress, Wire

URI = "ws://feed.test/"
FOREVER = Liveness(ping_s=None)


def clock() -> float:
    return asyncio.get_running_loop().time()


class Counting(FakeTransport):
    """Records each attempt, and ends it as the test specifies."""

    def __init__(self, act: Callable[["Counting", DialRequest], object] = lambda transport, target: None) -> None:
        super().__init__()
        self.times: list[float] = []
        self.targets: list[DialRequest] = []
        self._act = act

    async def open(self, target: DialRequest, progress: Progress) -> Wire:
        self.times.append(clock())
        self.targets.append(target)
        self._act(self, target)
        return await super().open(target, progress)

    @property
    def waits(self) -> list[float]:
        return [later - earlier for earlier, later in itertools.pairwise(self.times)]


@pytest.fixture(autouse=True)
def rare_sweeps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Simulated hours run faster if the check is not made twice a second."""
    monkeypatch.setattr(liveness, "LOOK_S", 3600.0)


def refusing(error: Callable[[], Exception]) -> Counting:
    return Counting(lambda transport, target: transport.refuse(error()))


def unreachable() -> Exception:
    return ConnectFailed("tcp", "connection refused")


@pytest.mark.looptime
async def test_without_jitter_the_waits_are_the_bounds() -> None:
    """The n-th wait grows by the factor from initial_s to max_s, and stays there."""
    transport = refusing(unreachable)
    fleet = Fleet(transport=transport)
    fleet.connect(URI, reconnect=Reconnect(initial_s=0.5, max_s=6.0, factor=2.0, jitter=0.0))
    async with fleet:
        await asyncio.sleep(30.0)
    assert transport.waits[:6] == pytest.approx([0.5, 1.0, 2.0, 4.0, 6.0, 6.0])


@pytest.mark.looptime
async def test_full_jitter_spreads_below_a_growing_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the default jitter each wait is drawn from the whole range below its bound."""
    monkeypatch.setattr(random, "random", random.Random(1).random)
    transport = refusing(unreachable)
    fleet = Fleet(transport=transport)
    plan = Reconnect(initial_s=1.0, max_s=64.0)
    names = [fleet.connect(URI, reconnect=plan).name for _ in range(20)]
    async with fleet:
        await asyncio.sleep(1500.0)
    for name in names:
        times = [at for at, target in zip(transport.times, transport.targets, strict=True) if target.name == name]
        waits = [later - earlier for earlier, later in itertools.pairwise(times)]
        bounds = [min(2.0**n, 64.0) for n in range(len(waits))]
        assert all(wait <= bound + 1e-3 for wait, bound in zip(waits, bounds, strict=True))
        late = waits[6:]
        assert min(late) < 16.0
        assert max(late) > 48.0


@pytest.mark.looptime
async def test_accepting_and_closing_at_once_meets_a_growing_wait() -> None:
    """A server that accepts and then closes is contacted less and less often, for any length of time."""
    transport = Counting()
    fleet = Fleet(transport=transport)
    connection = fleet.connect(URI, reconnect=Reconnect(jitter=0.0), name="feed")

    async def serve() -> None:
        while True:
            socket = await transport.accept()
            await asyncio.sleep(0.01)
            socket.close(1000)

    async with fleet, asyncio.TaskGroup() as group:
        serving = group.create_task(serve())
        await asyncio.sleep(2 * 3600.0)
        serving.cancel()
    # At most one attempt per minute, except the first few: 0.5 + 1 + 2 + ... + 32 s.
    assert 2 * 60 <= len(transport.times) <= 2 * 60 + 8
    assert connection.stats().losses == len(transport.times)
    assert connection.session_count == len(transport.times)


@pytest.mark.looptime
@pytest.mark.parametrize(
    ("open_for", "frame", "afresh"), [(31.0, True, True), (31.0, False, False), (29.0, True, False)]
)
async def test_backoff_starts_afresh_only_after_stable_time_and_a_frame(
    open_for: float, frame: bool, afresh: bool
) -> None:
    """Time without frames from the peer, or frames without enough time, do not reset the backoff."""
    transport = Counting()
    for _ in range(5):
        transport.refuse(unreachable())
    fleet = Fleet(transport=transport)
    fleet.connect(URI, reconnect=Reconnect(jitter=0.0), liveness=FOREVER)
    async with fleet:
        socket = await transport.accept()
        if frame:
            await socket.feed("hello")
        await asyncio.sleep(open_for)
        lost_at = clock()
        socket.lose()
        await transport.accept()
        assert clock() - lost_at == pytest.approx(0.5 if afresh else 16.0)


@pytest.mark.looptime
async def test_a_pong_is_a_frame() -> None:
    """A silent feed whose peer answers pings is also stable."""
    transport = Counting()
    for _ in range(5):
        transport.refuse(unreachable())
    fleet = Fleet(transport=transport)
    fleet.connect(URI, reconnect=Reconnect(jitter=0.0))
    async with fleet:
        socket = await transport.accept()
        await asyncio.sleep(3600.0)
        lost_at = clock()
        socket.lose()
        await transport.accept()
        assert clock() - lost_at == pytest.approx(0.5)


@pytest.mark.looptime
async def test_the_restart_budget_ends_in_failed() -> None:
    """One restart more than max_restarts within window_s makes the endpoint FAILED, with the last error
    in the reason.
    """
    transport = refusing(unreachable)
    fleet = Fleet(transport=transport)
    plan = Reconnect(initial_s=1.0, factor=1.0, jitter=0.0, max_restarts=3, window_s=60.0)
    connection = fleet.connect(URI, name="feed", reconnect=plan)
    async with fleet:
        with pytest.raises(errors.EndpointFailed) as failed:
            await connection.wait_open()
        assert len(transport.times) == 1 + 3
    assert failed.value.name == "feed"
    assert "connection refused" in str(failed.value)
    assert connection.state is State.FAILED
    assert "more than 3 times" in str(connection.stats().last_error)


@pytest.mark.looptime
async def test_restarts_far_apart_are_within_the_budget() -> None:
    """Restarts before the window do not count."""
    transport = refusing(unreachable)
    fleet = Fleet(transport=transport)
    plan = Reconnect(initial_s=30.0, factor=1.0, jitter=0.0, max_restarts=3, window_s=60.0)
    connection = fleet.connect(URI, reconnect=plan)
    async with fleet:
        await asyncio.sleep(3600.0)
        assert connection.state is State.BACKOFF


def bad_certificate() -> Exception:
    error = ConnectFailed("tls", "the certificate is not valid")
    error.__cause__ = ssl.SSLCertVerificationError(1, "self-signed certificate")
    return error


@pytest.mark.looptime
@pytest.mark.parametrize(
    "error",
    [*(HandshakeRejected(status) for status in (401, 403, 404, 410)), bad_certificate()],
    ids=["401", "403", "404", "410", "certificate"],
)
async def test_errors_that_a_retry_cannot_change_are_fatal(error: Exception) -> None:
    """401, 403, 404, 410 and an invalid certificate make the endpoint FAILED at the first attempt."""
    transport = refusing(lambda: error)
    fleet = Fleet(transport=transport)
    connection = fleet.connect(URI)
    await fleet.serve()
    assert len(transport.times) == 1
    assert connection.state is State.FAILED


@pytest.mark.looptime
@pytest.mark.parametrize("status", [400, 402, 408, 418, 429, 500, 502, 503])
async def test_other_answers_are_retried(status: int) -> None:
    """Other answers of the server are retried, because they may change."""
    transport = Counting()
    transport.refuse(HandshakeRejected(status))
    fleet = Fleet(transport=transport)
    connection = fleet.connect(URI)
    async with fleet:
        await transport.accept()
        await connection.wait_open()
        assert len(transport.times) == 2


@pytest.mark.looptime
async def test_no_close_code_is_fatal() -> None:
    """Every close code that can be received leads to another attempt."""
    transport = Counting()
    fleet = Fleet(transport=transport)
    connection = fleet.connect(URI)
    codes = [*range(1000, 1016), *range(3000, 5000, 97), 3500, 3999, 4500, 4999]
    async with fleet:
        for code in codes:
            (await transport.accept()).close(code)
        await transport.accept()
        await connection.wait_open()
        assert connection.stats().losses == len(codes)


@pytest.mark.looptime
async def test_a_fatal_function_decides() -> None:
    """`fatal` of Reconnect replaces the default table: it gets the error, and its result decides."""
    seen: list[Exception] = []

    def fatal(error: Exception) -> bool:
        seen.append(error)
        return isinstance(error, errors.ConnectionLost) and error.code == 4003

    transport = Counting()
    transport.refuse(HandshakeRejected(404))
    fleet = Fleet(transport=transport)
    connection = fleet.connect(URI, reconnect=Reconnect(fatal=fatal))
    serving = asyncio.create_task(fleet.serve())
    (await transport.accept()).close(4000)
    (await transport.accept()).close(4003, "banned")
    await serving
    assert connection.state is State.FAILED
    assert [type(error) for error in seen] == [HandshakeRejected, errors.ConnectionLost, errors.ConnectionLost]
    assert "4003 banned" in str(connection.stats().last_error)


@pytest.mark.looptime
async def test_a_fatal_code_ends_the_endpoint_and_leaves_the_default() -> None:
    """A close code in `fatal_codes` makes the endpoint FAILED, another code does not, and a 401 still does."""
    transport = Counting()
    fleet = Fleet(transport=transport)
    plan = Reconnect(initial_s=0.1, fatal_codes=(4004, 4014))
    closed = fleet.connect(URI, name="closed", reconnect=plan)
    refused = fleet.connect(URI, name="refused", reconnect=plan)
    serving = asyncio.create_task(fleet.serve())
    (await transport.accept("closed")).close(4009)
    (await transport.accept("closed")).close(4004)
    (await transport.accept("refused")).lose()
    transport.refuse(HandshakeRejected(401))
    await serving
    assert (closed.state, refused.state) == (State.FAILED, State.FAILED)
    assert len(transport.times) == 4


@pytest.mark.looptime
async def test_functions_for_uri_and_headers_are_called_for_every_attempt() -> None:
    """The URI and headers are computed anew for each attempt."""
    made = 0

    async def uri() -> str:
        nonlocal made
        made += 1
        return f"{URI}?listenKey=number{made}"

    async def headers() -> Mapping[str, str]:
        return {"X-Attempt": str(made)}

    transport = Counting()
    transport.refuse(unreachable())
    fleet = Fleet(transport=transport)
    fleet.connect(Endpoint(uri, name="feed", headers=headers))
    async with fleet:
        (await transport.accept()).lose()
        socket = await transport.accept()
        assert socket.uri == f"{URI}?listenKey=number3"
        assert socket.headers == {"X-Attempt": "3"}
    assert [target.headers["X-Attempt"] for target in transport.targets] == ["1", "2", "3"]


@pytest.mark.looptime
@pytest.mark.parametrize("status", [401, 403])
@pytest.mark.parametrize("which", ["uri", "headers"])
async def test_fresh_credentials_get_one_fresh_attempt(status: int, which: str) -> None:
    """With a function for URI or headers, the first 401 or 403 may be an expired token; the second in a
    row is fatal.
    """

    async def uri() -> str:
        return URI

    async def headers() -> Mapping[str, str]:
        return {}

    def endpoint(name: str) -> Endpoint:
        if which == "uri":
            return Endpoint(uri, name=name)
        return Endpoint(URI, name=name, headers=headers)

    transport = Counting()
    transport.refuse(HandshakeRejected(status))
    fleet = Fleet(transport=transport)
    lucky = fleet.connect(endpoint("lucky"))
    serving = asyncio.create_task(fleet.serve())
    for _ in range(3):
        # After each OPEN, the next 401 is again a first one.
        socket = await transport.accept("lucky")
        await lucky.wait_open()
        transport.refuse(HandshakeRejected(status))
        socket.lose()
    await transport.accept("lucky")
    attempts = len(transport.times)
    for _ in range(2):
        transport.refuse(HandshakeRejected(status))
    unlucky = fleet.connect(endpoint("unlucky"))
    with pytest.raises(errors.EndpointFailed):
        await unlucky.wait_open()
    assert len(transport.times) == attempts + 2
    await fleet.close()
    await serving


@pytest.mark.looptime
async def test_a_uri_function_that_raises_is_a_failed_attempt() -> None:
    """An exception of the uri or headers function is retried with backoff, at stage uri, with the exception as the
    cause.
    """
    calls = 0

    async def uri() -> str:
        nonlocal calls
        calls += 1
        if calls < 3:
            raise OSError("the key shop is closed")
        return URI

    transport = Counting()
    fleet = Fleet(transport=transport)
    records = fleet.subscribe("$state.feed")
    fleet.connect(Endpoint(uri, name="feed"))
    async with fleet, records:
        await transport.accept()
        change: StateChange = (await anext(records)).data
        assert change.state is State.BACKOFF
        assert isinstance(change.error, ConnectFailed)
        assert change.error.stage == "uri"
        assert isinstance(change.error.__cause__, OSError)
        assert "the key shop is closed" in str(change.error)
    assert calls == 3


@pytest.mark.looptime
async def test_open_s_limits_a_hanging_uri_function() -> None:
    """The timeout of an attempt includes these functions, even one that suppresses its cancellation."""
    hung = 0

    async def uri() -> str:
        nonlocal hung
        hung += 1
        if hung == 1:
            await asyncio.sleep(10**6)
        if hung == 2:
            try:
                await asyncio.sleep(10**6)
            except asyncio.CancelledError:
                pass
        return URI

    transport = Counting()
    fleet = Fleet(transport=transport)
    connection = fleet.connect(Endpoint(uri, name="feed", open_s=5.0, reconnect=Reconnect(initial_s=0.0)))
    async with fleet:
        await asyncio.sleep(4.9)
        assert (hung, connection.state) == (1, State.CONNECTING)
        await asyncio.sleep(0.2)
        assert hung == 2
        assert connection.stats().last_error == "uri: not done within open_s = 5 s"
        await asyncio.sleep(5.0)
        assert hung == 3
        assert connection.stats().last_error == "uri: not done within open_s = 5 s"
        await transport.accept()


@pytest.mark.looptime
@pytest.mark.parametrize(
    "made", [None, 7, b"ws://feed.test/", "http://feed.test/", "ws://", "ws://feed.test/ x", "ws://feed.test/\r\nX: y"]
)
async def test_a_uri_function_that_returns_no_uri_is_fatal(made: object) -> None:
    """A result that is no valid URI is not connected to, and makes the endpoint FAILED."""

    async def uri() -> object:
        return made

    transport = Counting()
    fleet = Fleet(transport=transport)
    connection = fleet.connect(Endpoint(uri, name="feed"))  # type: ignore[arg-type]
    await fleet.serve()
    assert connection.state is State.FAILED
    assert str(connection.stats().last_error).startswith("uri: the uri function returned a uri that")
    assert not transport.times


@pytest.mark.looptime
async def test_a_uri_function_cannot_disable_tls() -> None:
    """With `ssl`, a URI that begins with ws:// is rejected, whether it is declared or computed."""

    async def uri() -> str:
        return "ws://feed.test/"

    transport = Counting()
    fleet = Fleet(transport=transport)
    connection = fleet.connect(Endpoint(uri, name="feed", ssl=ssl.create_default_context()))
    await fleet.serve()
    assert connection.state is State.FAILED
    assert connection.stats().last_error == (
        "uri: the uri function returned a uri that begins with ws://, but ssl is given"
    )
    assert not transport.times


@pytest.mark.looptime
@pytest.mark.parametrize(
    "made",
    [
        None,
        7,
        "X: y",
        ["X"],
        {"X": "a\r\nY: b"},
        {"X\r\nY": "b"},
        {"X": 7},
        {7: "x"},
        {"Host": "other"},
        {"Sec-WebSocket-Key": "x"},
    ],
)
async def test_a_headers_function_that_returns_no_headers_is_called_again(made: object) -> None:
    """Headers that are invalid, or contain line breaks, are not sent; this attempt fails, and another one follows."""
    returns = iter([made, {"X": "good"}])

    async def headers() -> object:
        return next(returns)

    transport = FakeTransport()
    fleet = Fleet(transport=transport)
    connection = fleet.connect(Endpoint(URI, name="feed", headers=headers))  # type: ignore[arg-type]
    async with fleet:
        socket = await transport.accept("feed")
        assert socket.headers == {"X": "good"}
        assert str(connection.stats().last_error).startswith("uri: the headers function")


@pytest.mark.looptime
async def test_a_headers_function_that_is_not_async_is_fatal() -> None:
    """A headers function that is not async makes the endpoint FAILED, because a retry would not change it."""
    transport = Counting()
    fleet = Fleet(transport=transport)
    connection = fleet.connect(Endpoint(URI, name="feed", headers=lambda: {"X": "y"}))  # type: ignore[arg-type, return-value]
    await fleet.serve()
    assert connection.state is State.FAILED
    assert not transport.times


@pytest.mark.looptime
async def test_a_cancelled_error_of_the_users_own_is_a_failed_attempt() -> None:
    """A CancelledError in a uri function or on_open fails the attempt, not the endpoint."""
    calls = 0

    async def uri() -> str:
        nonlocal calls
        calls += 1
        if calls == 1:
            raise asyncio.CancelledError
        return URI

    opened = 0

    async def on_open(session: object) -> None:
        nonlocal opened
        opened += 1
        if opened == 1:
            gone = asyncio.get_running_loop().create_future()
            gone.cancel()
            await gone

    transport = Counting()
    fleet = Fleet(transport=transport)
    connection = fleet.connect(Endpoint(uri, name="feed", on_open=on_open))
    async with fleet:
        await transport.accept()
        await transport.accept()
        await connection.wait_open()
        assert (calls, opened) == (3, 2)


@pytest.mark.parametrize("kind", ["seconds", "date"])
async def test_retry_after_holds_the_whole_host_and_no_other(kind: str) -> None:
    """After Retry-After, all endpoints of the host wait; other hosts are not affected."""
    value = "120" if kind == "seconds" else email.utils.formatdate(time.time() + 120, usegmt=True)
    async with FeedServer() as busy, FeedServer() as calm:
        busy.refuse(429, {"Retry-After": value}, times=1)
        fleet = Fleet()
        first = fleet.connect(busy.uri.replace("127.0.0.1", "localhost"), name="first", proxy=False)
        async with fleet:
            while first.state is not State.BACKOFF:
                await asyncio.sleep(0.01)
            second = fleet.connect(busy.uri.replace("127.0.0.1", "localhost"), name="second", proxy=False)
            other = fleet.connect(calm.uri, name="other", proxy=False)
            await other.wait_open()
            assert second.state is State.CONNECTING
            assert len(busy.requests) == 1


@pytest.mark.looptime
@pytest.mark.parametrize("status", [429, 503])
async def test_after_retry_after_the_host_is_asked_again(status: int) -> None:
    """The hold ends at the time that the server gave, for all endpoints of the host; a later answer does not shorten
    it.
    """
    transport = Counting()
    fleet = Fleet(transport=transport)
    for n in range(3):
        fleet.connect(f"ws://Feed.test:{8000 + n}/")
    began = clock()
    async with fleet:
        while len(transport.times) < 3:
            await asyncio.sleep(0)
        transport.refuse(HandshakeRejected(status, {}, 120.0))
        transport.refuse(HandshakeRejected(status, {}, 10.0))
        for _ in range(3):
            await transport.accept()
    asked = [at - began for at in transport.times]
    # The three attempts were concurrent; after that there is none for two minutes.
    assert asked[:3] == pytest.approx([0.0, 0.0, 0.0], abs=1e-3)
    assert len(asked) == 5
    assert min(asked[3:]) >= 120.0


@pytest.mark.looptime
async def test_a_hold_does_not_count_against_open_s() -> None:
    """The timeout of an attempt does not run while the attempt waits for the connect limiter."""
    transport = Counting()
    transport.refuse(HandshakeRejected(429, {}, 600.0))
    fleet = Fleet(transport=transport)
    fleet.connect(URI, name="first")
    async with fleet:
        await asyncio.sleep(1.0)
        second = fleet.connect(URI, name="second", open_s=1.0)
        await asyncio.sleep(590.0)
        assert second.state is State.CONNECTING
        assert second.stats().last_error is None
        await transport.accept("second")
        await second.wait_open()


class Leading(FakeTransport):
    """Redirects "feed" to another host, which answers with Retry-After."""

    async def open(self, target: DialRequest, progress: Progress) -> Wire:
        if target.name == "feed":
            progress.redirected = "ws://there.test:80"
            raise HandshakeRejected(429, {}, 3000.0)
        return await super().open(target, progress)


@pytest.mark.looptime
async def test_retry_after_applies_to_the_host_that_answered() -> None:
    """A Retry-After behind a redirect applies to the host that answered, not to the redirecting one."""
    transport = Leading()
    fleet = Fleet(transport=transport)
    fleet.connect("ws://here.test/", name="feed")
    async with fleet:
        await asyncio.sleep(1.0)
        fleet.connect("ws://here.test/", name="here")
        fleet.connect("ws://there.test/", name="there")
        await transport.accept("here")
        assert clock() < 2.0
        await transport.accept("there")
        assert clock() == pytest.approx(3000.0, abs=1.0)


@pytest.mark.looptime
async def test_retry_after_is_limited_to_one_hour() -> None:
    """Retry-After is limited to one hour."""
    transport = Counting()
    transport.refuse(HandshakeRejected(503, {}, 1e9))
    fleet = Fleet(transport=transport)
    fleet.connect(URI)
    async with fleet:
        await transport.accept()
    assert transport.waits == pytest.approx([3600.0], abs=61.0)


@pytest.mark.looptime
async def test_connects_per_s_paces_one_host() -> None:
    """Attempts to one host are spread by the limit; another host has its own limit."""
    transport = Counting()
    limits = Limits(connects_per_s=2.0, hosts={"Quick.test": Limits()})
    fleet = Fleet(transport=transport, limits=limits)
    for n in range(6):
        fleet.connect(URI, name=f"slow-{n}")
        fleet.connect("ws://quick.test/", name=f"quick-{n}")
    began = clock()
    async with fleet:
        for _ in range(12):
            await transport.accept()
        asked = {target.name: at - began for at, target in zip(transport.times, transport.targets, strict=True)}
    assert sorted(at for name, at in asked.items() if name.startswith("slow")) == pytest.approx(
        [0.0, 0.5, 1.0, 1.5, 2.0, 2.5], abs=1e-3
    )
    assert max(at for name, at in asked.items() if name.startswith("quick")) == pytest.approx(0.0, abs=1e-3)


@pytest.mark.looptime
async def test_the_pace_holds_after_a_hold() -> None:
    """Attempts that waited for the end of a Retry-After are spread, not made all at once."""
    transport = Counting()
    transport.refuse(HandshakeRejected(429, {}, 60.0))
    fleet = Fleet(transport=transport, limits=Limits(connects_per_s=1.0))
    for n in range(10):
        fleet.connect(URI, name=f"n{n}")
    async with fleet:
        for _ in range(10):
            await transport.accept()
    late = [at for at in transport.times if at - transport.times[0] >= 60.0]
    assert len(late) == 10
    assert min(b - a for a, b in itertools.pairwise(late)) >= 1.0 - 1e-3


@pytest.mark.looptime
async def test_handshakes_in_flight_are_bounded_for_each_host() -> None:
    """There are never more concurrent handshakes with a host than the limit; a hanging one delays no other host."""
    transport = Counting()
    fleet = Fleet(transport=transport, limits=Limits(handshakes=3))
    for n in range(10):
        fleet.connect(URI, name=f"n{n}", open_s=15.0)
    other = fleet.connect("ws://other.test/", name="other")
    async with fleet:
        await transport.accept("other")
        await other.wait_open()
        await asyncio.sleep(1.0)
        assert len(transport.times) == 3 + 1
        for answered in range(1, 8):
            await transport.accept()
            await asyncio.sleep(0.1)
            assert len(transport.times) == 3 + 1 + answered


@pytest.mark.looptime
async def test_restart_out_of_open() -> None:
    """restart() closes the socket and reconnects at once, and does not count as a loss."""
    transport = Counting()
    fleet = Fleet(transport=transport)
    connection = fleet.connect(URI, reconnect=Reconnect(initial_s=60.0, jitter=0.0))
    async with fleet:
        await transport.accept()
        await connection.wait_open()
        connection.restart()
        await transport.accept()
        await connection.wait_open()
        assert transport.waits == pytest.approx([0.0], abs=1e-3)
        assert (connection.session_count, connection.stats().losses) == (2, 0)
        assert connection.stats().last_error is None


@pytest.mark.looptime
async def test_restart_out_of_a_wait() -> None:
    """restart() during a wait ends the wait and resets the backoff."""
    transport = Counting()
    for _ in range(7):
        transport.refuse(unreachable())
    fleet = Fleet(transport=transport)
    connection = fleet.connect(URI, reconnect=Reconnect(jitter=0.0))
    async with fleet:
        await asyncio.sleep(40.0)  # 0.5 + ... + 32: during the seventh wait
        assert connection.state is State.BACKOFF
        transport.refuse(unreachable())
        connection.restart()
        restarted = clock()
        await transport.accept()
        assert clock() - restarted == pytest.approx(0.5, abs=1e-2)
        await connection.wait_open()


@pytest.mark.looptime
async def test_restart_within_an_attempt() -> None:
    """restart() during an attempt cancels it and makes another one at once, whether it was connecting or in on_open."""
    opened = 0

    async def on_open(session: object) -> None:
        nonlocal opened
        opened += 1
        if opened == 1:
            await asyncio.sleep(10**6)

    transport = Counting()
    fleet = Fleet(transport=transport)
    connection = fleet.connect(URI, on_open=on_open, reconnect=Reconnect(initial_s=60.0, jitter=0.0))
    async with fleet:
        await asyncio.sleep(1.0)
        connection.restart()
        await asyncio.sleep(1.0)
        assert len(transport.times) == 2
        await transport.accept()
        await asyncio.sleep(1.0)
        connection.restart()
        await transport.accept()
        await connection.wait_open()
        assert transport.waits == pytest.approx([1.0, 2.0], abs=1e-2)
        assert connection.stats().last_error is None


@pytest.mark.looptime
async def test_restart_as_an_attempt_succeeds() -> None:
    """If an attempt succeeds at the very moment of a restart, it is still abandoned."""
    transport = Counting()
    fleet = Fleet(transport=transport)
    connection = fleet.connect(URI, reconnect=Reconnect(initial_s=60.0, jitter=0.0))
    async with fleet:
        old = await transport.accept()
        connection.restart()
        new = await transport.accept()
        assert old is not new
        await connection.wait_open()
        await new.feed("x")
        with pytest.raises(errors.ConnectionLost):
            await old.feed("x")
        new.lose()
        lost_at = clock()
        await transport.accept()
        # The restart is over, so this is an ordinary loss.
        assert clock() - lost_at == pytest.approx(60.0)
        assert connection.stats().losses == 1


@pytest.mark.looptime
async def test_restart_before_the_start_changes_nothing() -> None:
    """restart() before the start has no effect: the first failure waits as usual."""
    transport = Counting()
    transport.refuse(unreachable())
    fleet = Fleet(transport=transport)
    connection = fleet.connect(URI, reconnect=Reconnect(initial_s=60.0, jitter=0.0))
    connection.restart()
    async with fleet:
        await transport.accept()
        assert transport.waits == pytest.approx([60.0])


@pytest.mark.looptime
async def test_restart_out_of_failed() -> None:
    """restart() of a FAILED endpoint resets its budget, backoff and rejections; the counts continue."""
    transport = Counting()
    transport.refuse(HandshakeRejected(404))
    fleet = Fleet(transport=transport)
    taken: list[str] = []

    async def processor(message: Message[str]) -> None:
        taken.append(message.data)

    connection = fleet.connect(URI, processor, name="feed", reconnect=Reconnect(max_restarts=0))
    fleet.connect("ws://other.test/", name="other")
    async with fleet:
        with pytest.raises(errors.EndpointFailed):
            await connection.wait_open()
        connection.restart()
        assert connection.state is State.CONNECTING
        socket = await transport.accept("feed")
        await socket.feed("a")
        socket.lose()
        with pytest.raises(errors.EndpointFailed):
            await asyncio.sleep(1.0)
            await connection.wait_open()
        connection.restart()
        socket = await transport.accept("feed")
        await socket.feed("b")
    assert taken == ["a", "b"]
    assert connection.session_count == 2
    assert fleet.stats().balanced


@pytest.mark.looptime
async def test_restart_of_a_closed_connection_is_rejected() -> None:
    """restart() of a CLOSED connection raises an error, whatever its state was before."""
    transport = Counting()
    transport.refuse(HandshakeRejected(404))
    fleet = Fleet(transport=transport)
    failed = fleet.connect(URI, name="failed")
    fleet.connect("ws://other.test/", name="other")
    async with fleet:
        with pytest.raises(errors.EndpointFailed):
            await failed.wait_open()
        await failed.close()
        assert failed.state is State.CLOSED
        with pytest.raises(errors.NotOpen):
            failed.restart()
        with pytest.raises(errors.NotOpen):
            await failed.wait_open()


@pytest.mark.looptime
async def test_an_unexpected_exception_fails_only_its_endpoint() -> None:
    """An unexpected exception in a supervisor makes that endpoint FAILED, and does not end the fleet."""

    def fatal(error: Exception) -> bool:
        raise ZeroDivisionError("a fault in fatal")

    transport = Counting()
    transport.refuse(unreachable())
    fleet = Fleet(transport=transport)
    broken = fleet.connect(URI, name="broken", reconnect=Reconnect(fatal=fatal))
    async with fleet:
        with pytest.raises(errors.EndpointFailed, match="ZeroDivisionError: a fault in fatal"):
            await broken.wait_open()
        whole = fleet.connect(URI, name="whole")
        socket = await transport.accept("whole")
        await whole.wait_open()
        await socket.feed("x")


@pytest.mark.looptime
async def test_every_change_of_state_has_a_record_in_order() -> None:
    """Each change of state has one record, with its cause, the number of the attempt and the wait."""
    transport = Counting()
    transport.refuse(unreachable())
    fleet = Fleet(transport=transport)
    records = fleet.subscribe("$state.>")
    connection = fleet.connect(URI, name="feed", reconnect=Reconnect(jitter=0.0))
    async with fleet:
        socket = await transport.accept()
        await connection.wait_open()
        socket.close(1012, "maintenance")
        await transport.accept()
        await connection.wait_open()
        await connection.close()
        changes: list[StateChange] = [(await anext(records)).data for _ in range(7)]
        records.close()
    transitions = [(c.previous.value, c.state.value, c.attempt, c.delay_s) for c in changes]
    assert transitions == [
        ("CONNECTING", "BACKOFF", 1, 0.5),
        ("BACKOFF", "CONNECTING", 2, 0.0),
        ("CONNECTING", "OPEN", 2, 0.0),
        ("OPEN", "BACKOFF", 2, 1.0),
        ("BACKOFF", "CONNECTING", 3, 0.0),
        ("CONNECTING", "OPEN", 3, 0.0),
        ("OPEN", "CLOSED", 3, 0.0),
    ]
    assert [str(c.error) for c in changes if c.error] == [
        "tcp: connection refused",
        "connection lost: 1012 maintenance",
    ]
