"""Names that cannot be resolved, are resolved slowly, or change their address."""

import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.faults.kit import Numbered, suffering, until
from tests.support.peers import HOST
from wsfleet import State

Found = list[tuple[Any, ...]]


def at(port: int) -> Callable[[], Found]:
    return lambda: [(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (HOST, port))]


class Names:
    """Replaces the system's resolver. `answers` are returned in order, the last one repeatedly."""

    def __init__(self) -> None:
        self.answers: list[Callable[[], Found]] = []
        self.asked = 0
        self.go = threading.Event()

    def __call__(self, host: str, port: int, **options: Any) -> Found:
        assert host == "feed.test"
        self.asked += 1
        return (self.answers.pop(0) if len(self.answers) > 1 else self.answers[0])()

    def hangs(self) -> Found:
        self.go.wait(60)
        raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")

    def is_unknown(self) -> Found:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    def is_down(self) -> Found:
        raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Iterator[Names]:
    names = Names()
    monkeypatch.setattr(socket, "getaddrinfo", names)
    yield names
    names.go.set()


async def test_a_name_that_cannot_be_looked_up(names: Names) -> None:
    """An unknown name and a resolver that is down fail their attempts at stage dns, and are retried."""
    async with Numbered() as server:
        names.answers = [names.is_unknown, names.is_down, at(server.port)]
        async with suffering("ws://feed.test/") as case:
            await case.fails(2)
            await case.comes_back()
        first, second = case.errors
        assert (str(first)[:5], str(second)[:5]) == ("dns: ", "dns: ")
        assert "Name or service not known" in str(first)
        assert "Temporary failure in name resolution" in str(second)
        assert isinstance(first.__cause__, socket.gaierror)


async def test_a_resolver_that_hangs(names: Names) -> None:
    """A lookup that never ends is cancelled after open_s, at stage dns; attempts continue until there is an answer."""
    async with Numbered() as server:
        names.answers = [names.hangs, at(server.port)]
        async with suffering("ws://feed.test/", open_s=2.0) as case:
            error = await case.fails(2)
            assert str(error) == "dns: not done within open_s = 2 s"
            names.go.set()
            await case.comes_back()


async def test_a_slow_resolver(names: Names) -> None:
    """A slow lookup within open_s is awaited, and delays no other endpoint."""
    async with Numbered() as server:

        def slow() -> Found:
            names.go.wait(60)
            return at(server.port)()

        names.answers = [slow]
        async with suffering("ws://feed.test/") as case:
            await until(lambda: names.asked, "the name is looked up")
            await case.flows("calm", more=30)
            assert case.sick.state is State.CONNECTING
            names.go.set()
            await case.comes_back()
            assert case.errors == []


async def test_a_name_that_moves(names: Names) -> None:
    """Each attempt resolves the name again: if a feed has moved, the next attempt finds it."""
    async with Numbered() as old, Numbered() as new:
        names.answers = [at(old.port)]
        async with suffering("ws://feed.test/") as case:
            await case.flows()
            names.answers = [at(new.port)]
            old.drop()
            await old.stop()
            await until(lambda: new.clients, "it is connected to the new address")
            await case.comes_back()
            assert case.sick.session_count == 2
        came = case.sessions()
        assert came[0] == old.handed[0][: len(came[0])]
        assert came[1] == new.handed[0][: len(came[1])]


async def test_a_name_with_a_dead_address_beside_a_good_one(names: Names) -> None:
    """If a name has several addresses, one that works is enough."""
    async with Numbered() as server, Numbered() as gone:
        await gone.stop()
        names.answers = [lambda: at(gone.port)() + at(server.port)()]
        async with suffering("ws://feed.test/") as case:
            await case.comes_back()
            assert case.errors == []
