"""The outstanding requests of one socket: each future is resolved once, and none is left."""

import asyncio
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from wsfleet.core.errors import RequestLost
from wsfleet.endpoint import requests as replies_module
from wsfleet.endpoint.requests import PendingRequests


def replies_of(match: Any = lambda data: data) -> PendingRequests:
    return PendingRequests(match, lambda: None)


async def test_a_change_is_reported_for_the_first_and_the_last_request() -> None:
    """`on_change` is called when the first request is added, and when the last one is answered, forgotten or lost."""
    changes: list[int] = []
    replies = PendingRequests(lambda data: data, lambda: changes.append(len(replies)))
    futures = {number: replies.issue(number) for number in (1, 2)}
    assert changes == [1]
    assert replies.take(1) and changes == [1]
    replies.forget(2, futures[2])
    assert changes == [1, 0]
    replies.issue(3)
    assert replies.take(3) and changes == [1, 0, 1, 0]
    replies.issue(4)
    replies.lose("gone", socket_gone=True)
    assert changes == [1, 0, 1, 0, 1, 0]


async def test_own_ids_are_large_and_exact_as_doubles() -> None:
    """The ids lie above 2**32 and below 2**53, are consecutive, and begin at a different number on each socket."""
    starts = set()
    for _ in range(50):
        replies = replies_of()
        first = replies.number()
        assert 2**32 < first < 2**53 and replies.number() == first + 1
        replies.lose("gone", socket_gone=True)
        starts.update((first, replies.number()))
    assert len(starts) == 100


@pytest.mark.parametrize(("drawn", "first"), [(min, 2**32 + 1), (max, 2**52 - 1)])
async def test_own_ids_begin_at_a_random_large_number(drawn: Any, first: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first id is a number between 2**32 and 2**52, so that at least as many exact ids follow."""
    monkeypatch.setattr(replies_module.random, "randrange", lambda low, high: drawn(low, high - 1))
    assert replies_of().number() == first


@pytest.fixture(autouse=True)
def _short_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replies_module, "REMEMBERED", 100)


async def test_a_late_reply_is_recognized_at_any_time() -> None:
    """A reply to an id of this socket is recognized for the life of the socket, whatever was sent in between."""
    replies = replies_of()
    numbers = [replies.number() for _ in range(3 * replies_module.REMEMBERED)]
    for number in numbers:
        replies.forget(number, replies.issue(number))
    assert all(map(replies.take, numbers))
    assert not replies.take(numbers[0] - 1) and not replies.take(numbers[-1] + 1)
    assert not replies._past
    replies.lose("gone", socket_gone=True)
    assert not any(map(replies.take, numbers))


async def test_a_bounded_number_of_the_users_ids_is_kept() -> None:
    """Of the ids made by the user, only the last ones are kept, in bounded memory."""
    replies = replies_of()
    for n in range(replies_module.REMEMBERED + 5):
        replies.forget(f"id-{n}", replies.issue(f"id-{n}"))
    assert len(replies._past) == replies_module.REMEMBERED
    assert replies.take(f"id-{replies_module.REMEMBERED}") and not replies.take("id-0")


async def test_an_id_used_again_is_as_new_as_its_last_use() -> None:
    """The ids used least recently are evicted first, so that a late reply to a recent request is recognized."""
    replies = replies_of()
    used = ["again", *range(replies_module.REMEMBERED - 1), "again", "last"]
    for number in used:
        replies.forget(number, replies.issue(number))
    assert not replies.take(0) and all(map(replies.take, ["again", "last", 1]))


async def test_an_id_is_free_again_once_its_reply_is_there() -> None:
    """An answered id may be used again at once, and the end of the first request does not affect the second one."""
    replies = replies_of()
    first = replies.issue("a")
    assert replies.take("a") and not replies
    second = replies.issue("a")
    replies.forget("a", first)
    assert len(replies) == 1 and not second.done()
    assert replies.take("a") and second.done()


async def test_cancelled_requests_of_an_open_socket_are_recognized() -> None:
    """If requests fail and the socket stays open, later replies are recognized; on the next socket they are not."""
    replies = replies_of()
    for socket_gone in (False, True):
        lost = replies.issue("a")
        replies.lose("why", socket_gone=socket_gone)
        assert isinstance(lost.exception(), RequestLost)
        assert replies.take("a") is not socket_gone


@pytest.mark.parametrize("error", [KeyError, asyncio.CancelledError])
async def test_data_that_match_cannot_read_is_no_reply(error: type[BaseException]) -> None:
    """If `match` raises or returns an invalid id, the message is treated like any other."""

    def match(data: Any) -> Any:
        if data == "odd":
            raise error
        return [data]

    assert not replies_of(match).take("odd")
    assert not replies_of(match).take("unhashable")


async def test_an_id_that_is_none_or_in_use_is_rejected() -> None:
    """Two outstanding requests with the same id are rejected, and None means that there is no id."""
    replies = replies_of()
    replies.issue("a").cancel()
    for bad in ("a", None):
        with pytest.raises(ValueError):
            replies.issue(bad)


class Requests(RuleBasedStateMachine):
    """One socket after the other: requests sent, answered, answered twice, cancelled, lost."""

    @initialize(own=st.booleans())
    def begin(self, own: bool) -> None:
        self.loop = asyncio.new_event_loop()
        self.own = own
        self.resolved: list[int] = []
        self.replies = PendingRequests(lambda data: data[0], lambda: self.resolved.append(len(self.replies)))
        self.count = 0
        self.waiting: dict[Any, asyncio.Future[Any]] = {}
        self.past: list[Any] = []  # of this socket
        self.gone: list[Any] = []  # of earlier sockets

    def _run(self, function: Any) -> Any:
        async def run() -> Any:
            return function()

        return self.loop.run_until_complete(run())

    @rule()
    def issue(self) -> None:
        self.count += 1
        number = self.replies.number() if self.own else f"id-{self.count}"
        self.waiting[number] = self._run(lambda: self.replies.issue(number))

    def _one(self, data: st.DataObject) -> Any:
        return data.draw(st.sampled_from(list(self.waiting)))

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def answer(self, data: st.DataObject) -> None:
        number = self._one(data)
        future = self.waiting.pop(number)
        assert not future.done()
        assert self.replies.take((number, "reply"))
        assert future.result() == (number, "reply")
        self.replies.forget(number, future)
        self.past.append(number)

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def give_up(self, data: st.DataObject) -> None:
        number = self._one(data)
        future = self.waiting.pop(number)
        future.cancel()
        # The task may run only after the reply has arrived.
        if data.draw(st.booleans()):
            assert self.replies.take((number, "reply"))
        self.replies.forget(number, future)
        self.past.append(number)

    @precondition(lambda self: self.past)
    @rule(data=st.data())
    def answer_late(self, data: st.DataObject) -> None:
        assert self.replies.take((data.draw(st.sampled_from(self.past)), "again"))

    @precondition(lambda self: self.gone)
    @rule(data=st.data())
    def answer_over_another_socket(self, data: st.DataObject) -> None:
        assert not self.replies.take((data.draw(st.sampled_from(self.gone)), "elsewhere"))

    @rule()
    def not_ours(self) -> None:
        assert not self.replies.take((1, "a message"))
        assert not self.replies.take((None, "a message"))
        assert not self.replies.take(("id-0", "a message"))

    @rule(socket_gone=st.booleans())
    def lose(self, socket_gone: bool) -> None:
        self._run(lambda: self.replies.lose("why", socket_gone=socket_gone))
        for number, future in self.waiting.items():
            assert isinstance(future.exception(), RequestLost)
            self.replies.forget(number, future)
        self.past += self.waiting
        self.waiting.clear()
        if socket_gone:
            self.gone += self.past
            self.past.clear()

    def teardown(self) -> None:
        if hasattr(self, "loop"):
            assert len(self.replies) == len(self.waiting)
            self.lose(True)
            assert not self.replies and not self.replies._past
            assert not self.resolved or self.resolved[-1] == 0
            self.loop.close()


TestRequests = Requests.TestCase
TestRequests.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)
