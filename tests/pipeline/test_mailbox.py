"""Mailboxes are bounded in messages and in bytes, and account for each message that is put in."""

import asyncio
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, precondition, rule

from tests.support.flows import DROP_OLDEST, Tap, data, from_socket, injected, mailbox, put, turns
from wsfleet import Message, Overflow
from wsfleet.pipeline.mailbox import Mailbox

PAUSE = Overflow.PAUSE


def take(box: Mailbox, count: int = 1) -> list[Any]:
    """Take `count` messages as a loop does, and return their data."""
    return [box.hand_out().data for _ in range(count)]


def begin(box: Mailbox) -> Message[Any]:
    """Take a message in hand, as a processor does at the beginning of a call."""
    message = box.waiting.popleft()
    box.in_hand += 1
    return message


def end(box: Mailbox, message: Message[Any]) -> None:
    box.processed += 1
    box.settled(message)


def counts(box: Mailbox) -> tuple[int, int, int, int, int]:
    return box.offered, box.processed, box.failed, box.dropped, box.pending


# Bounds


async def test_the_bound_in_messages_includes_messages_in_hand() -> None:
    """A mailbox is full when waiting messages and those in hand together reach `messages`."""
    box, reports = mailbox(3)
    tap = Tap()
    put(box, tap, from_socket(1), from_socket(2))
    begin(box)
    begin(box)
    assert not tap.paused_by and not reports.pending
    put(box, tap, from_socket(3))
    assert tap.paused_by == {box} and reports.pending == [3]


async def test_the_bound_in_bytes_includes_messages_in_hand() -> None:
    """A mailbox is full when the bytes of waiting messages and those in hand reach `bytes`, however few messages there
    are.
    """
    box, reports = mailbox(1000, 100)
    tap = Tap()
    put(box, tap, from_socket(1, 60))
    begin(box)
    put(box, tap, from_socket(2, 39))
    assert not tap.paused_by
    put(box, tap, from_socket(3, 1))
    assert tap.paused_by == {box} and reports.pending == [3]
    assert box.pending_bytes == 100


async def test_a_mailbox_of_one_message_pauses_and_resumes() -> None:
    """With the smallest bound, one message fills the mailbox, and half of the bound is empty."""
    box, _ = mailbox(1, 1)
    tap = Tap()
    for n in range(3):
        put(box, tap, from_socket(n))
        assert tap.paused_by == {box}
        assert take(box) == [n]
        assert not tap.paused_by


async def test_the_bound_of_pause_may_be_exceeded_by_one_read() -> None:
    """All messages of one read are taken, even if they exceed the bound, because a read cannot be undone."""
    box, _ = mailbox(10)
    tap = Tap()
    put(box, tap, *map(from_socket, range(256)))
    put(box, tap, *map(from_socket, range(256, 300)))  # the rest of the same read
    assert data(box) == list(range(300))
    assert tap.holds == 1
    assert counts(box) == (300, 0, 0, 0, 300)


# Pausing


async def test_a_source_is_resumed_when_the_mailbox_is_at_half() -> None:
    """A paused source is resumed when pending is at half of both bounds, and not before."""
    box, _ = mailbox(10, 1000)
    tap = Tap()
    put(box, tap, *(from_socket(n, 100) for n in range(10)))
    take(box, 4)
    assert tap.paused_by
    take(box)
    assert not tap.paused_by
    assert not box.watched, "at half the mailbox need not check each message that leaves"


async def test_half_means_half_of_the_bytes_too() -> None:
    """A mailbox with few messages but many bytes is not half empty."""
    box, _ = mailbox(10, 1000)
    tap = Tap()
    put(box, tap, from_socket(1, 10), from_socket(2, 600), *(from_socket(n) for n in range(3, 12)))
    take(box)
    assert box.pending == 10 and tap.paused_by
    take(box)
    assert box.pending == 9 and box.pending_bytes < 500 and tap.paused_by
    take(box, 4)
    assert not tap.paused_by


async def test_messages_in_hand_keep_sources_paused() -> None:
    """Messages in hand count towards the half at which sources are resumed."""
    box, _ = mailbox(4)
    tap = Tap()
    put(box, tap, *map(from_socket, range(4)))
    hands = [begin(box) for _ in range(4)]
    assert not box.waiting and tap.paused_by
    end(box, hands[0])
    assert tap.paused_by
    end(box, hands[1])
    assert not tap.paused_by


async def test_only_sources_that_fed_a_full_mailbox_are_paused() -> None:
    """A source is paused only if it puts a message into a full mailbox."""
    box, _ = mailbox(2)
    one, two, three = Tap(), Tap(), Tap()
    put(box, one, from_socket(1))
    put(box, two, from_socket(2))
    assert not one.paused_by and two.paused_by and not three.paused_by
    put(box, one, from_socket(3))
    assert one.paused_by == {box} and not three.paused_by


async def test_a_source_is_paused_by_the_set_of_full_mailboxes() -> None:
    """A source that is paused by two full mailboxes is resumed only when both have room."""
    one, _ = mailbox(2)
    two, _ = mailbox(2)
    tap = Tap()
    for box in (one, two):
        put(box, tap, from_socket(1), from_socket(2))
    assert tap.paused_by == {one, two}
    take(one, 2)
    assert tap.paused_by == {two}
    two.close()
    assert not tap.paused_by


async def test_a_closed_mailbox_resumes_its_sources() -> None:
    """Closing a full mailbox resumes all sources that it paused, immediately."""
    box, _ = mailbox(1)
    taps = [Tap() for _ in range(5)]
    for tap in taps:
        put(box, tap, from_socket(1))
    box.close()
    assert not any(tap.paused_by for tap in taps)
    assert box.stats().pending == 0


async def test_a_removed_source_is_not_referenced() -> None:
    """A mailbox keeps no reference to a removed source, and never calls it again."""
    box, _ = mailbox(2)
    gone, other = Tap(), Tap()
    put(box, gone, from_socket(1), from_socket(2))
    put(box, other, from_socket(3))
    box.forget(gone)
    assert not gone.paused_by and other.paused_by
    take(box, 3)
    assert not other.paused_by
    box.forget(gone)  # a second call has no effect


@pytest.mark.parametrize(("nbytes", "at_once"), [(4 * 2**16 + 100, 4), (4 * 2**16 - 1, 3), (2**16 + 100, 1), (1000, 1)])
async def test_sources_are_resumed_in_turn_as_space_becomes_free(nbytes: int, at_once: int) -> None:
    """Sources resume in the order in which they were paused: one for each 64 KiB of free room, but at least one."""
    box, _ = mailbox(10, nbytes)
    log: list[str] = []
    taps = [Tap(str(n), log) for n in range(10)]
    put(box, taps[0], *map(from_socket, range(10)))
    for n, tap in enumerate(taps[1:], 10):
        put(box, tap, from_socket(n))
    take(box, 13)
    assert log == []
    take(box)
    everyone = [str(n) for n in range(10)]
    assert log == everyone[:at_once]
    take(box)  # not one further source for each message that leaves
    assert log == everyone[:at_once]
    await asyncio.sleep(0)
    assert log == everyone[: 2 * at_once]
    await turns(10)
    assert log == everyone


async def test_resumed_sources_that_send_nothing_do_not_delay_others() -> None:
    """If the resumed sources send nothing, the next ones are resumed although no message leaves the mailbox."""
    box, _ = mailbox(4, 1000)
    taps = [Tap() for _ in range(20)]
    put(box, taps[0], *map(from_socket, range(4)))
    for n, tap in enumerate(taps[1:]):
        put(box, tap, from_socket(n))
    take(box, box.pending - 2)
    begin(box)  # one waits, one is in hand, and no more for now
    await turns(25)
    assert not any(tap.paused_by for tap in taps)


async def test_sources_stay_paused_if_the_resumed_ones_fill_the_mailbox() -> None:
    """Resuming stops when the resumed sources bring more than half; the source that waited longest is next."""
    box, _ = mailbox(4, 1000)
    one, two, three = Tap(), Tap(), Tap()
    put(box, one, *map(from_socket, range(4)))
    put(box, two, from_socket(4))
    put(box, three, from_socket(5))
    take(box, 4)
    assert not one.paused_by and two.paused_by
    put(box, one, *map(from_socket, range(6, 12)))
    await turns(5)
    assert two.paused_by and three.paused_by and one.paused_by
    take(box, 6)
    assert not two.paused_by and three.paused_by and one.paused_by
    await turns(5)
    assert not three.paused_by and not one.paused_by


@pytest.mark.looptime(start=1000)
async def test_the_time_of_pausing_is_measured() -> None:
    """`pausing_s` is the time during which the mailbox paused any source, including the current pause."""
    box, _ = mailbox(2)
    one, two = Tap(), Tap()
    put(box, one, *map(from_socket, range(2)))
    await asyncio.sleep(3)
    put(box, two, from_socket(2))
    await asyncio.sleep(4)
    assert box.stats().pausing_s == 7
    take(box, 3)
    await asyncio.sleep(100)
    assert box.stats().pausing_s == 7


# Messages that did not come over a socket


async def test_publishing_into_a_full_mailbox_drops_the_oldest_of_that_kind() -> None:
    """If no source can be paused, the oldest message of this kind is dropped, and none that came over a socket."""
    box, _ = mailbox(3)
    tap = Tap()
    put(box, tap, from_socket(1))
    assert box.inject(injected(-1))
    put(box, tap, from_socket(2))
    assert box.inject(injected(-2))
    assert data(box) == [1, 2, -2]
    assert counts(box) == (4, 0, 0, 1, 3)


async def test_publishing_into_a_mailbox_full_of_live_messages_drops_the_new_one() -> None:
    """A message that did not come over a socket is dropped if only messages from sockets could make room."""
    box, reports = mailbox(2)
    put(box, Tap(), from_socket(1), from_socket(2))
    assert not box.inject(injected(-1))
    assert data(box) == [1, 2]
    assert counts(box) == (3, 0, 0, 1, 2)
    assert reports.pending == [2]


async def test_publishing_drops_replayed_messages_and_never_live_ones() -> None:
    """Replayed messages, which did not come over a socket, are dropped for published ones; live ones are not."""
    box, _ = mailbox(4)
    box.replay([from_socket(1), from_socket(2), from_socket(3)])
    put(box, Tap(), from_socket(4))
    assert box.inject(injected(5))
    assert data(box) == [2, 3, 4, 5]
    assert box.hand_out().data == 2
    put(box, Tap(), from_socket(6))
    assert box.inject(injected(7))
    assert data(box) == [4, 5, 6, 7]
    assert box.inject(injected(8))
    assert data(box) == [4, 6, 7, 8]
    assert (box.offered, box.processed, box.dropped, box.pending) == (8, 1, 3, 4)


async def test_a_rejected_message_does_not_change_the_replayed_ones() -> None:
    """Dropping a published message for lack of room does not change which messages count as replayed."""
    box, _ = mailbox(3, 10)
    box.replay([from_socket(1, 1), from_socket(2, 1)])
    put(box, Tap(), from_socket(3, 8))
    assert not box.inject(injected(4, 5))
    assert box.inject(injected(5, 1))
    assert box.inject(injected(6, 1))
    assert data(box) == [3, 5, 6]
    assert box.inject(injected(7, 1))
    assert data(box) == [3, 6, 7]


async def test_publishing_above_the_bound_replaces_an_older_message() -> None:
    """If a read exceeded the bound, an arriving message replaces an older one of its kind."""
    box, _ = mailbox(2)
    box.inject(injected(-1))
    put(box, Tap(), *map(from_socket, range(20)))
    assert box.inject(injected(-2))
    assert data(box) == [*range(20), -2]
    assert counts(box) == (22, 0, 0, 1, 21)


async def test_nothing_is_dropped_for_a_message_that_does_not_fit() -> None:
    """A message that would not fit even without the others of its kind is dropped, and no other is."""
    box, _ = mailbox(1000, 100)
    box.inject(injected(-1, 30))
    put(box, Tap(), from_socket(1, 60))
    assert not box.inject(injected(-2, 50))
    assert data(box) == [-1, 1]
    assert box.inject(injected(-3, 40))
    assert data(box) == [1, -3]
    assert box.pending_bytes == 100


@pytest.mark.parametrize(("size", "taken"), [(29, True), (30, True), (31, False)])
async def test_publishing_above_the_bound_in_bytes_adds_no_bytes(size: int, taken: bool) -> None:
    """If a read exceeded the bound in bytes, a published message replaces an older one only if it is not larger."""
    box, _ = mailbox(1000, 100)
    box.inject(injected(-1, 30))
    put(box, Tap(), from_socket(1, 200))
    assert box.inject(injected(-2, size)) is taken
    assert data(box) == ([1, -2] if taken else [-1, 1])


async def test_publishing_drops_as_many_messages_as_needed() -> None:
    """Several small messages of the same kind make room for a larger one, oldest first."""
    box, _ = mailbox(1000, 100)
    for n in range(1, 11):
        box.inject(injected(-n, 10))
    assert box.inject(injected(-11, 25))
    assert data(box) == [-4, -5, -6, -7, -8, -9, -10, -11]
    assert box.pending_bytes == 95


async def test_publishing_more_than_the_bytes_is_taken_alone() -> None:
    """A published message larger than `bytes` is taken if nothing else is pending."""
    box, _ = mailbox(10, 10)
    assert box.inject(injected(-1, 1000))
    assert box.pending_bytes == 1000


async def test_published_data_are_never_compared() -> None:
    """Making room never calls `==` of the user's data, which may raise or have another meaning."""

    class Touchy:
        __hash__ = None  # type: ignore[assignment]

        def __eq__(self, other: object) -> bool:
            raise AssertionError("compared")

    box, _ = mailbox(3)
    put(box, Tap(), Message(Touchy(), "feed", "feed", 1, 1, 0.0, 1))
    box.inject(Message(Touchy(), "news"))
    put(box, Tap(), Message(Touchy(), "feed", "feed", 2, 1, 0.0, 1))
    last = Message(Touchy(), "news")
    assert box.inject(last)
    assert [*box.waiting][-1] is last and box.dropped == 1


# DROP_OLDEST


async def test_drop_oldest_keeps_the_newest() -> None:
    """A full mailbox drops the oldest waiting message, counts it, and pauses no source."""
    box, _ = mailbox(3, overflow=DROP_OLDEST)
    tap = Tap()
    put(box, tap, *map(from_socket, range(10)))
    put(box, tap, from_socket(10))
    assert data(box) == [8, 9, 10]
    assert counts(box) == (11, 0, 0, 8, 3)
    assert not tap.holds


async def test_drop_oldest_keeps_within_the_bytes() -> None:
    """As many of the oldest messages are dropped as the arriving one needs."""
    box, _ = mailbox(100, 100, DROP_OLDEST)
    put(box, Tap(), *(from_socket(n, 30) for n in range(3)), from_socket(3, 50))
    assert data(box) == [2, 3]
    assert box.pending_bytes == 80
    put(box, Tap(), from_socket(4, 20))
    assert data(box) == [2, 3, 4]


async def test_drop_oldest_never_drops_messages_in_hand() -> None:
    """If all pending messages are in hand, the arriving message is dropped."""
    box, reports = mailbox(2, overflow=DROP_OLDEST)
    tap = Tap()
    put(box, tap, from_socket(1), from_socket(2))
    hands = [begin(box), begin(box)]
    put(box, tap, from_socket(3))
    assert counts(box) == (3, 0, 0, 1, 2)
    for message in hands:
        end(box, message)
    assert counts(box) == (3, 2, 0, 1, 0)
    assert reports.pending == [2]


async def test_an_oversized_message_is_taken_alone() -> None:
    """A message larger than `bytes` is taken if nothing else is pending."""
    box, _ = mailbox(10, 100, DROP_OLDEST)
    put(box, Tap(), from_socket(1, 500))
    assert data(box) == [1]
    put(box, Tap(), from_socket(2, 1))
    assert data(box) == [2] and box.dropped == 1


async def test_an_oversized_message_first_drops_all_that_waits() -> None:
    """A message larger than `bytes` replaces all waiting messages."""
    box, _ = mailbox(10, 100, DROP_OLDEST)
    put(box, Tap(), *(from_socket(n, 10) for n in range(5)), from_socket(9, 101))
    assert data(box) == [9]
    assert counts(box) == (6, 0, 0, 5, 1)


async def test_an_oversized_message_is_dropped_while_something_is_in_hand() -> None:
    """A message larger than `bytes` is dropped if messages are in hand."""
    box, _ = mailbox(10, 100, DROP_OLDEST)
    put(box, Tap(), from_socket(1, 10), from_socket(2, 10))
    begin(box)
    put(box, Tap(), from_socket(3, 101))
    assert counts(box) == (3, 0, 0, 2, 1)
    assert box.pending_bytes == 10


async def test_pause_takes_an_oversized_message_whole() -> None:
    """Under PAUSE, a message larger than `bytes` that came over a socket is never lost."""
    box, _ = mailbox(10, 100)
    tap = Tap()
    put(box, tap, from_socket(1, 500))
    assert data(box) == [1] and tap.paused_by
    take(box)
    assert not tap.paused_by and counts(box) == (1, 1, 0, 0, 0)


# Episodes


@pytest.mark.parametrize("overflow", [PAUSE, DROP_OLDEST])
async def test_a_full_episode_is_reported_once(overflow: Overflow) -> None:
    """A mailbox reports once that it became full, and again only after it was half empty."""
    box, reports = mailbox(10, overflow=overflow)
    tap = Tap()
    put(box, tap, *map(from_socket, range(10)))
    assert reports.pending == [10]
    for _ in range(100):
        put(box, tap, from_socket(1))
    assert len(reports.pending) == 1
    take(box, box.pending - 6)
    put(box, tap, *map(from_socket, range(5)))
    assert len(reports.pending) == 1
    take(box, box.pending - 5)
    put(box, tap, *map(from_socket, range(4)))
    assert len(reports.pending) == 1
    put(box, tap, from_socket(1))
    assert len(reports.pending) == 2


async def test_a_mailbox_full_of_bytes_is_reported_once() -> None:
    """An episode may begin by bytes as well as by messages."""
    box, reports = mailbox(10, 100)
    put(box, Tap(), from_socket(1, 99))
    assert reports.pending == []
    put(box, Tap(), from_socket(1, 1))
    put(box, Tap(), from_socket(1, 1))
    assert reports.pending == [2]


# Waiting, finishing, closing


@pytest.mark.parametrize("overflow", [Overflow.LATEST, Overflow.DROP_OLDEST])
async def test_a_smaller_replacement_may_end_an_episode(overflow: Overflow) -> None:
    """A mailbox that becomes half empty because a small message replaces a large one reports the next time it fills."""
    box, reports = mailbox(nbytes=10, overflow=overflow)
    put(box, Tap(), from_socket(1, 10))
    put(box, Tap(), from_socket(2, 1))
    put(box, Tap(), from_socket(3, 4))
    assert reports.pending == [1]
    put(box, Tap(), from_socket(4, 10))
    assert len(reports.pending) == 2


async def test_a_waiter_is_woken_by_a_message() -> None:
    """`ready` returns when a message is there, without taking it; a second wake-up of the same waiter does nothing."""
    box, _ = mailbox()
    waiter = asyncio.create_task(box.ready())
    await turns()
    assert not waiter.done()
    put(box, Tap(), from_socket(1))
    assert not box.waiters
    assert await waiter
    assert box.pending == 1


async def test_a_cancelled_wait_takes_nothing() -> None:
    """If a waiter is cancelled, even after it was woken, the message stays for the next one."""
    box, _ = mailbox()
    waiter = asyncio.create_task(box.ready())
    await turns()
    put(box, Tap(), from_socket(1))
    waiter.cancel()
    await asyncio.wait([waiter])
    assert waiter.cancelled()
    assert await box.ready() and take(box) == [1]


async def test_a_cancelled_wait_is_forgotten() -> None:
    """Cancelled waiters leave nothing behind, however many there were."""
    box, _ = mailbox()
    for _ in range(10):
        waiter = asyncio.create_task(box.ready())
        await turns()
        waiter.cancel()
        await asyncio.wait([waiter])
    assert not box.waiters


async def test_a_finished_mailbox_returns_waiting_messages_and_then_ends() -> None:
    """After `finish`, waiting messages are still returned, then waiting ends at once; `reopen` reverts this."""
    box, _ = mailbox()
    put(box, Tap(), from_socket(1))
    box.finish()
    assert await box.ready() and take(box) == [1]
    assert not await box.ready()
    box.reopen()
    waiter = asyncio.create_task(box.ready())
    await turns()
    assert not waiter.done()
    box.finish()
    assert not await waiter


async def test_closing_drops_waiting_messages_and_leaves_those_in_hand() -> None:
    """`close` counts waiting messages as dropped at once; calls in progress are counted when they end."""
    box, _ = mailbox(10)
    tap = Tap()
    put(box, tap, *(from_socket(n, 5) for n in range(10)))
    message = begin(box)
    box.close()
    box.close()
    assert counts(box) == (10, 0, 0, 9, 1) and box.pending_bytes == 5
    assert not tap.paused_by
    end(box, message)
    assert counts(box) == (10, 1, 0, 9, 0) and box.pending_bytes == 0


async def test_messages_after_close_are_dropped() -> None:
    """A closed mailbox takes nothing, pauses no source, and counts the messages that it was offered."""
    box, reports = mailbox(2)
    box.close()
    tap = Tap()
    put(box, tap, *map(from_socket, range(5)))
    assert not box.inject(injected(-1))
    assert counts(box) == (6, 0, 0, 6, 0)
    assert not tap.holds and not reports.pending


@pytest.mark.parametrize("how", ["settled", "closed"])
async def test_idle_waits_for_messages_in_hand(how: str) -> None:
    """`idle` returns when nothing waits and nothing is in hand."""
    box, _ = mailbox()
    await box.idle()
    put(box, Tap(), from_socket(1), from_socket(2))
    message = begin(box)
    waiter = asyncio.create_task(box.idle())
    await turns()
    if how == "closed":
        box.close()
    else:
        second = begin(box)
        end(box, second)
    await turns()
    assert not waiter.done()
    end(box, message)
    await waiter


@pytest.mark.parametrize("how", ["taken", "closed"])
async def test_idle_ends_when_no_message_waits(how: str) -> None:
    """`idle` returns when the last message was taken or dropped, and its waiters are then released."""
    box, _ = mailbox()
    put(box, Tap(), from_socket(1))
    waiter = asyncio.create_task(box.idle())
    await turns()
    assert not waiter.done()
    if how == "closed":
        box.close()
    else:
        take(box)
    assert not box.idle_waiters
    await turns()
    assert waiter.done()


# All of this in any order


class BoundedQueue(RuleBasedStateMachine):
    """Puts, takes, calls, failures and closings in any order, compared with a simple model."""

    overflow = PAUSE
    sources = Bundle("sources")

    @initialize(messages=st.integers(1, 8), nbytes=st.integers(1, 40))
    def make(self, messages: int, nbytes: int) -> None:
        self.loop = asyncio.new_event_loop()
        self.loop.set_debug(False)  # thousands of short runs
        self.most, self.most_bytes = messages, nbytes
        self.box, self.reports = mailbox(messages, nbytes, self.overflow)
        self.hands: list[Message[int]] = []
        self.taps: list[Tap] = []
        self.number = 0
        self.put_in: list[Message[int]] = []
        self.got: list[int] = []
        self.biggest_read = 0

    def teardown(self) -> None:
        if hasattr(self, "loop"):
            self.loop.close()

    def run(self, function: Any) -> None:
        async def call() -> None:
            function()

        self.loop.run_until_complete(call())

    @rule(target=sources)
    def connect(self) -> Tap:
        self.taps.append(Tap())
        return self.taps[-1]

    @rule(tap=sources, sizes=st.lists(st.integers(0, 50), min_size=1, max_size=5))
    def read(self, tap: Tap, sizes: list[int]) -> None:
        """A source that is not paused puts a read into the mailbox."""
        if tap.paused_by:
            return
        messages = []
        for size in sizes:
            self.number += 1
            messages.append(from_socket(self.number, size))
        self.put_in += messages
        self.biggest_read = max(self.biggest_read, len(messages))
        self.run(lambda: put(self.box, tap, *messages))

    @rule(size=st.integers(0, 50))
    def publish(self, size: int) -> None:
        self.number += 1
        message = injected(self.number, size)
        before = self.box.dropped
        sockets = [m for m in self.box.waiting if m.session]
        taken: list[bool] = []
        self.run(lambda: taken.append(self.box.inject(message)))
        assert taken == [message in self.box.waiting]
        assert taken == [True] or self.box.dropped > before
        if self.overflow is PAUSE:
            assert [m for m in self.box.waiting if m.session] == sockets, (
                "a message that came over a socket was dropped"
            )
        self.put_in.append(message)

    @precondition(lambda self: self.box.waiting)
    @rule()
    def take(self) -> None:
        self.run(lambda: self.got.append(self.box.hand_out().data))

    @precondition(lambda self: self.box.waiting)
    @rule()
    def begin(self) -> None:
        self.hands.append(begin(self.box))
        self.got.append(self.hands[-1].data)

    @precondition(lambda self: self.hands)
    @rule(which=st.integers(0, 100), fails=st.booleans())
    def end(self, which: int, fails: bool) -> None:
        message = self.hands.pop(which % len(self.hands))
        if fails:
            self.box.failed += 1
        else:
            self.box.processed += 1
        self.run(lambda: self.box.settled(message))

    @rule()
    def turn(self) -> None:
        self.loop.run_until_complete(turns(20))

    @precondition(lambda self: len(self.put_in) > 20)
    @rule()
    def close(self) -> None:
        self.run(self.box.close)
        assert not self.box.waiting

    @invariant()
    def every_message_is_accounted_for(self) -> None:
        if hasattr(self, "box"):
            box = self.box
            assert box.offered == len(self.put_in)
            assert box.offered == box.processed + box.failed + box.dropped + box.pending
            assert box.in_hand == len(self.hands)
            assert box.pending_bytes == sum(m.size for m in [*box.waiting, *self.hands])

    @invariant()
    def the_order_is_kept_and_nobody_sees_a_dropped_message(self) -> None:
        if hasattr(self, "box"):
            seen = [*self.got, *data(self.box)]
            assert seen == sorted(set(seen))

    @invariant()
    def the_bounds_hold(self) -> None:
        if not hasattr(self, "box"):
            return
        box = self.box
        if self.overflow is PAUSE:
            assert box.pending <= self.most + self.biggest_read * len(self.taps)
        else:
            assert box.pending <= self.most
            assert box.pending_bytes <= self.most_bytes or box.pending == 1

    @invariant()
    def nobody_is_paused_for_nothing(self) -> None:
        """A source is paused only by a mailbox that was full and has not been half empty since."""
        if hasattr(self, "box"):
            held = [tap for tap in self.taps if tap.paused_by]
            assert not (held and self.overflow is not PAUSE)
            assert not (held and self.box.closed)
            if held:
                self.loop.run_until_complete(turns(3 * len(held)))
                at_half = self.box.pending <= self.most // 2 and self.box.pending_bytes <= self.most_bytes // 2
                assert not at_half or not any(tap.paused_by for tap in held)


class Dropping(BoundedQueue):
    overflow = DROP_OLDEST


class TestBounded(BoundedQueue.TestCase):  # type: ignore[misc, name-defined]
    """PAUSE keeps its counts, order and bound, and resumes its sources, in any order of events."""

    settings = settings(stateful_step_count=30)


class TestDropping(Dropping.TestCase):  # type: ignore[misc, name-defined]
    """DROP_OLDEST keeps its counts, order and bound, in any order of events."""

    settings = settings(stateful_step_count=30)
