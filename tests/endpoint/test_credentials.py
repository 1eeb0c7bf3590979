"""Functions for URI and headers: called when the turn has come, and their results shared by `Credentials`."""

import asyncio
from collections.abc import Mapping

import pytest

from wsfleet import Credentials, Endpoint, Fleet, Limits, Reconnect, State
from wsfleet.core.errors import ConfigError, HandshakeRejected
from wsfleet.testing import FakeTransport
from wsfleet.transport.base import DialRequest, Progress, Wire

URI = "ws://feed.test/"


def clock() -> float:
    return asyncio.get_running_loop().time()


class Strict(FakeTransport):
    """A server that answers 401 to a token that is older than `valid_s`; the token is the time of its making."""

    def __init__(self, valid_s: float) -> None:
        super().__init__()
        self.valid_s = valid_s
        self.hosts: list[str] = []
        self.refused = 0

    async def open(self, target: DialRequest, progress: Progress) -> Wire:
        self.hosts.append(target.uri.partition("?")[0])
        made_at = float(target.headers.get("X-Token") or target.uri.partition("=")[2])
        if clock() - made_at > self.valid_s:
            self.refused += 1
            raise HandshakeRejected(401)
        return await super().open(target, progress)


async def headers() -> Mapping[str, str]:
    return {"X-Token": str(clock())}


async def uri() -> str:
    return f"{URI}?token={clock()}"


@pytest.mark.looptime
@pytest.mark.parametrize("which", ["uri", "headers"])
@pytest.mark.parametrize("wait", ["pace", "hold"])
async def test_a_token_is_made_when_the_turn_has_come(which: str, wait: str) -> None:
    """A token does not expire while the attempt waits for its turn at the host."""
    transport = Strict(valid_s=2.0)
    fleet = Fleet(transport=transport, limits=Limits(connects_per_s=5.0))
    for number in range(40):
        name = f"feed-{number}"
        fleet.connect(Endpoint(uri, name=name) if which == "uri" else Endpoint(URI, name=name, headers=headers))
    async with fleet:
        if wait == "hold":
            transport.refuse(HandshakeRejected(429, {}, 60.0))
        for _ in range(40):
            await transport.accept()
    assert transport.refused == 0


@pytest.mark.looptime
async def test_a_uri_with_a_new_host_waits_for_a_turn_at_that_host() -> None:
    """A uri function that names another host after the wait is dialed there, within the limits of that host."""
    transport = Strict(valid_s=2.0)
    fleet = Fleet(transport=transport, limits=Limits(connects_per_s=0.1))
    moved = False

    async def moving() -> str:
        return f"ws://{'new' if moved else 'old'}.test/?token={clock()}"

    for number in range(3):
        fleet.connect(Endpoint(moving, name=f"feed-{number}"))
    async with fleet:
        await transport.accept()
        moved = True
        began = clock()
        await transport.accept()
        assert clock() - began == pytest.approx(10.0, abs=0.1)
        await transport.accept()
        assert clock() - began == pytest.approx(20.0, abs=0.1)
        assert transport.hosts == ["ws://old.test/", "ws://new.test/", "ws://new.test/"]
        fleet.connect("ws://old.test/?token=1e9", name="late")  # both turns at the old host were given back
        await transport.accept("late")


class Shop:
    """Sells tokens, slowly: `sold` is the number of calls, `open_calls` the largest number at the same time."""

    def __init__(self) -> None:
        self.sold = self._calls = self.open_calls = 0
        self.error: Exception | None = None

    async def sell(self) -> str:
        self.sold += 1
        self._calls += 1
        self.open_calls = max(self.open_calls, self._calls)
        number = self.sold
        try:
            await asyncio.sleep(1.0)
            if self.error is not None:
                raise self.error
        finally:
            self._calls -= 1
        return f"token-{number}"


def crowd(fleet: Fleet, token: Credentials[str], which: str, size: int = 50) -> None:
    """Declare endpoints that use one token, in their headers or their URI."""

    async def with_token() -> Mapping[str, str]:
        return {"X-Token": await token()}

    async def uri_with_token() -> str:
        return f"{URI}?token={await token()}"

    shared = Credentials(with_token)
    for number in range(size):
        name, plan = f"feed-{number}", Reconnect(initial_s=1.0)
        if which == "headers":
            fleet.connect(Endpoint(URI, name=name, headers=shared if number % 2 else with_token, reconnect=plan))
        else:
            fleet.connect(Endpoint(uri_with_token, name=name, reconnect=plan))


class Checking(FakeTransport):
    """Answers `status` to the tokens in `bad`, and accepts the others."""

    def __init__(self) -> None:
        super().__init__()
        self.bad: set[str] = set()
        self.status = 401
        self.tokens: list[str] = []

    async def open(self, target: DialRequest, progress: Progress) -> Wire:
        token = target.headers.get("X-Token") or target.uri.partition("=")[2]
        self.tokens.append(token)
        if token in self.bad:
            raise HandshakeRejected(self.status)
        return await super().open(target, progress)


@pytest.mark.looptime
@pytest.mark.parametrize("which", ["uri", "headers"])
@pytest.mark.parametrize("status", [401, 403])
async def test_endpoints_share_one_token_until_it_is_refused(which: str, status: int) -> None:
    """All endpoints wait for one call of the function, and for one more after the server has refused the token."""
    shop, transport = Shop(), Checking()
    transport.status = status
    transport.bad.add("token-1")
    fleet = Fleet(transport=transport)
    crowd(fleet, Credentials(shop.sell), which)
    async with fleet:
        for _ in range(50):
            await transport.accept()
        for connection in fleet.connections.values():
            await connection.wait_open()
    assert (shop.sold, shop.open_calls) == (2, 1)
    assert transport.tokens.count("token-2") == 50


@pytest.mark.looptime
async def test_a_late_refusal_of_an_old_token_keeps_the_new_one() -> None:
    """A 401 for a token that was replaced meanwhile does not discard its successor."""
    shop, transport = Shop(), FakeTransport()
    token = Credentials(shop.sell)

    async def with_token() -> Mapping[str, str]:
        return {"X-Token": await token()}

    fleet = Fleet(transport=transport)
    for name in ("early", "late"):
        fleet.connect(Endpoint(URI, name=name, headers=with_token, open_s=100.0))
    async with fleet:
        await asyncio.sleep(2.0)
        transport.refuse(HandshakeRejected(401))
        assert (await transport.accept("early")).headers == {"X-Token": "token-2"}
        transport.refuse(HandshakeRejected(401))
        assert (await transport.accept("late")).headers == {"X-Token": "token-2"}
    assert shop.sold == 2


@pytest.mark.looptime
async def test_a_token_is_used_for_ttl_s() -> None:
    """Within `ttl_s` the value is kept; afterwards the function is called again."""
    shop = Shop()
    token = Credentials(shop.sell, ttl_s=60.0)
    assert await token() == "token-1"
    await asyncio.sleep(59.9)
    assert await token() == "token-1"
    await asyncio.sleep(0.2)
    assert [await token(), await token()] == ["token-2", "token-2"]


@pytest.mark.looptime
async def test_without_sharing_each_endpoint_has_a_value_of_its_own() -> None:
    """With `shared=False` an endpoint keeps its value over reconnects, and no other endpoint gets it."""
    shop, transport = Shop(), FakeTransport()

    async def with_token() -> Mapping[str, str]:
        return {"X-Token": await shop.sell()}

    own = Credentials(with_token, shared=False)
    fleet = Fleet(transport=transport)
    for name in ("a", "b"):
        fleet.connect(Endpoint(URI, name=name, headers=own))
    async with fleet:
        first = {name: (await transport.accept(name)).headers["X-Token"] for name in ("a", "b")}
        assert set(first.values()) == {"token-1", "token-2"}
        await fleet.connections["a"].wait_open()
        fleet.connections["a"].restart()
        assert (await transport.accept("a")).headers["X-Token"] == first["a"]


@pytest.mark.looptime
async def test_an_error_of_the_function_fails_all_that_wait_for_it() -> None:
    """The attempts that waited for one call fail with its error; the next attempt calls the function again."""
    shop = Shop()
    token = Credentials(shop.sell)
    shop.error = OSError("the token server is down")
    results = await asyncio.gather(*(token() for _ in range(3)), return_exceptions=True)
    assert results == [shop.error] * 3
    assert shop.sold == 1
    shop.error = None
    assert await token() == "token-2"


@pytest.mark.looptime
async def test_a_cancelled_call_is_made_again_by_one_that_waits() -> None:
    """The cancellation of the task that calls the function, as by its `open_s`, does not reach the other tasks."""
    shop = Shop()
    token = Credentials(shop.sell)
    tasks = [asyncio.create_task(token()) for _ in range(4)]
    await asyncio.sleep(0.5)
    tasks[0].cancel()
    tasks[1].cancel()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(result) for result in results[:2]] == [asyncio.CancelledError] * 2
    assert results[2:] == ["token-2"] * 2
    assert shop.open_calls == 1


@pytest.mark.looptime
async def test_a_function_that_is_not_async_is_fatal() -> None:
    """Another attempt would call the same function."""
    transport = FakeTransport()
    fleet = Fleet(transport=transport)
    plain = Credentials(lambda: {"X": "y"})  # type: ignore[arg-type, return-value]
    connection = fleet.connect(Endpoint(URI, name="feed", headers=plain))
    await fleet.serve()
    assert connection.state is State.FAILED
    assert "is not an async function" in str(connection.stats().last_error)


@pytest.mark.parametrize("bad", [{"ttl_s": 0.0}, {"ttl_s": "1"}, {"function": None}])
def test_bad_arguments_are_refused(bad: dict[str, object]) -> None:
    """Each fault is named in one ConfigError."""
    arguments = {"function": Shop().sell, **bad}
    with pytest.raises(ConfigError, match=f"Credentials: {next(iter(bad))} must be"):
        Credentials(**arguments)  # type: ignore[arg-type]


def test_the_repr_shows_no_value() -> None:
    """The repr names the function."""
    assert repr(Credentials(Shop().sell)) == "<Credentials of sell>"
