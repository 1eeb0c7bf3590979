"""The behaviour of each overflow policy at the bound, also compared with a simple model in any order of events."""

import asyncio
import logging
import math
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tests.support.flows import DROP_OLDEST, Tap, data, from_socket, injected, mailbox, put, turns
from wsfleet import Message, Overflow
from wsfleet.core.errors import Overflowed
from wsfleet.pipeline.mailbox import Mailbox

PAUSE, DROP_NEWEST, LATEST, FAIL = Overflow.PAUSE, Overflow.DROP_NEWEST, Overflow.LATEST, Overflow.FAIL


def counts(box: Mailbox) -> tuple[int, int, int, int, int]:
    return box.offered, box.processed, box.failed, box.dropped, box.pending


def begin(box: Mailbox) -> Message[Any]:
    """Take a message in hand, as a processor does at the beginning of a call."""
    message: Message[Any] = box.waiting.popleft()
    box.in_hand += 1
    return message


class Shelf:
    """Messages that a processor has set aside: in a lane, or handed to a thread."""

    def __init__(self, box: Mailbox) -> None:
        self.box = box
        self.kept: list[tuple[int, Message[Any]]] = []
        self.begun = False
        box.aside[self] = None

    def take(self, age: int) -> None:
        self.kept.append((age, self.box.waiting.popleft()))
        self.box.set_aside += 1

    @property
    def age(self) -> float:
        return math.inf if self.begun or not self.kept else self.kept[0][0]

    def drop_oldest(self) -> Message[Any] | None:
        return None if self.begun or not self.kept else self.kept.pop(0)[1]

    def droppable(self) -> Iterator[tuple[int, Message[Any]]]:
        return iter([] if self.begun else self.kept)

    def drop(self, message: Message[Any]) -> bool:
        if self.begun:
            return False
        self.kept = [entry for entry in self.kept if entry[1] is not message]
        return True


# DROP_NEWEST


async def test_drop_newest_keeps_the_oldest() -> None:
    """A full mailbox drops the arriving message, counts it, and pauses no source."""
    box, reports = mailbox(3, overflow=DROP_NEWEST)
    tap = Tap()
    put(box, tap, *map(from_socket, range(10)))
    assert not box.inject(injected(-1))
    assert data(box) == [0, 1, 2]
    assert counts(box) == (11, 0, 0, 8, 3)
    assert not tap.holds and reports.pending == [3]


async def test_drop_newest_takes_a_smaller_message_that_fits() -> None:
    """Only messages that do not fit are dropped: a later, smaller message that fits is taken."""
    box, _ = mailbox(10, 100, DROP_NEWEST)
    put(box, Tap(), from_socket(1, 60), from_socket(2, 60), from_socket(3, 40), from_socket(4, 1))
    assert data(box) == [1, 3]
    assert box.pending_bytes == 100


async def test_drop_newest_takes_an_oversized_message_alone() -> None:
    """A message larger than `bytes` is taken if nothing else is pending, and dropped otherwise."""
    box, _ = mailbox(10, 100, DROP_NEWEST)
    put(box, Tap(), from_socket(1, 500), from_socket(2, 500))
    assert data(box) == [1] and box.dropped == 1


# LATEST


async def test_latest_replaces_by_topic() -> None:
    """A newer message replaces the waiting one of its topic, which is dropped, however empty the mailbox is."""
    box, reports = mailbox(10, overflow=LATEST)
    put(box, Tap(), *(from_socket(n, topic=topic) for n, topic in enumerate("abcabba")))
    assert data(box) == [6, 5, 2]
    assert counts(box) == (7, 0, 0, 4, 3) and box.pending_bytes == 3
    assert reports.pending == []


async def test_latest_replaces_by_the_users_key() -> None:
    """The key is the result of the user's function."""
    box, _ = mailbox(10, overflow=LATEST, key=lambda message: message.data % 3)
    put(box, Tap(), *map(from_socket, range(8)))
    assert data(box) == [6, 7, 5]


async def test_latest_full_of_other_keys_drops_the_oldest() -> None:
    """If no waiting message has its key, the arriving one replaces the oldest."""
    box, reports = mailbox(3, overflow=LATEST)
    tap = Tap()
    put(box, tap, *(from_socket(n, topic=str(n)) for n in range(5)))
    assert data(box) == [2, 3, 4]
    assert counts(box) == (5, 0, 0, 2, 3)
    assert not tap.holds and reports.pending == [3]


async def test_latest_never_replaces_a_message_in_hand() -> None:
    """A message whose call has begun is not replaced; the next one of its key waits, and can be replaced."""
    box, _ = mailbox(3, overflow=LATEST)
    put(box, Tap(), from_socket(1))
    message = begin(box)
    put(box, Tap(), from_socket(2), from_socket(3))
    assert data(box) == [3] and counts(box) == (3, 0, 0, 1, 2)
    box.processed += 1
    box.settled(message)
    assert counts(box) == (3, 1, 0, 1, 1)


async def test_latest_drops_the_arriving_message_if_all_are_in_hand() -> None:
    """If all pending messages are in hand, the arriving message is dropped."""
    box, _ = mailbox(2, overflow=LATEST)
    put(box, Tap(), from_socket(1, topic="a"), from_socket(2, topic="b"))
    begin(box)
    begin(box)
    put(box, Tap(), from_socket(3, topic="c"))
    assert counts(box) == (3, 0, 0, 1, 2)


async def test_latest_keeps_within_the_bytes() -> None:
    """A larger replacement drops other messages, oldest first, and then is the last in the queue."""
    box, reports = mailbox(10, 100, LATEST)
    put(box, Tap(), *(from_socket(n, 30, topic) for n, topic in enumerate("abc")))
    put(box, Tap(), from_socket(3, 60, "b"))
    assert data(box) == [2, 3] and box.pending_bytes == 90
    assert reports.pending == [2], "reported after the replaced message was removed, and before the oldest was dropped"
    put(box, Tap(), from_socket(4, 70, "b"))
    assert data(box) == [2, 4] and box.pending_bytes == 100


async def test_a_replacement_that_just_fits_keeps_its_place() -> None:
    """A replacement keeps the position of the older message if it fits, up to the last byte."""
    box, _ = mailbox(10, 100, LATEST)
    put(box, Tap(), from_socket(1, 40, "a"), from_socket(2, 40, "b"), from_socket(3, 60, "a"))
    assert data(box) == [3, 2] and box.pending_bytes == 100


async def test_latest_takes_an_oversized_message_alone() -> None:
    """A message larger than `bytes` replaces the message of its key if that one is alone; otherwise it drops all
    others.
    """
    box, _ = mailbox(10, 100, LATEST)
    put(box, Tap(), from_socket(1, 10, "a"), from_socket(2, 10, "b"), from_socket(3, 500, "c"))
    assert data(box) == [3]
    put(box, Tap(), from_socket(4, 600, "c"))
    assert data(box) == [4] and counts(box) == (4, 0, 0, 3, 1) and box.pending_bytes == 600


async def test_a_replacement_that_fills_the_bytes_is_reported() -> None:
    """An episode also begins if a message of a known key makes the mailbox full."""
    box, reports = mailbox(10, 100, LATEST)
    put(box, Tap(), from_socket(1, 10))
    put(box, Tap(), from_socket(2, 100))
    put(box, Tap(), from_socket(3, 100))
    assert reports.pending == [1]


class Awkward:
    """A key that can be hashed, but not compared."""

    def __hash__(self) -> int:
        return 1

    def __eq__(self, other: object) -> bool:
        raise RuntimeError("not to be compared")


def _raising(message: Message[Any]) -> Any:
    raise KeyError(message.data)


def _cancelling(message: Message[Any]) -> Any:
    raise asyncio.CancelledError


@pytest.mark.parametrize("key", [_raising, _cancelling, lambda m: [m.data], lambda m: Awkward()])
async def test_a_key_function_that_fails_is_replaced_by_the_topic(key: Any, caplog: pytest.LogCaptureFixture) -> None:
    """If the key function raises, or its keys cannot be hashed or compared, no message is lost and one record is
    logged.
    """
    box, _ = mailbox(10, overflow=LATEST, key=key)
    with caplog.at_level(logging.ERROR, "wsfleet"):
        put(box, Tap(), *(from_socket(n, topic=topic) for n, topic in enumerate("abab")))
        put(box, Tap(), *(from_socket(n, topic=topic) for n, topic in enumerate("abab", 4)))
    assert counts(box)[0] == 8 and box.offered == box.dropped + box.pending
    assert {6, 7} <= set(data(box)) and len(box.waiting) <= 3
    assert len(caplog.records) == 1 and "box" in caplog.text


async def test_the_key_function_is_called_once_for_each_message() -> None:
    """A key function that returns a different key at each call loses no message, and no message is counted twice."""
    asked: list[int] = []

    def fickle(message: Message[Any]) -> int:
        asked.append(message.data)
        return len(asked) % 2

    box, _ = mailbox(10, overflow=LATEST, key=fickle)
    put(box, Tap(), *map(from_socket, range(9)))
    assert asked == list(range(9))
    assert counts(box) == (9, 0, 0, 7, 2) and box.pending_bytes == 2


async def test_a_key_function_may_close_the_mailbox() -> None:
    """Messages that are offered while the user's function closes the subscription are counted as dropped."""
    box, _ = mailbox(10, overflow=LATEST, key=lambda message: box.close() if message.data == 3 else message.data)
    put(box, Tap(), *map(from_socket, range(6)))
    assert counts(box) == (6, 0, 0, 6, 0) and box.pending_bytes == 0


# FAIL


async def test_fail_ends_only_its_mailbox() -> None:
    """The first message that does not fit ends the mailbox: all its messages are dropped, and waiters get the error."""
    box, reports = mailbox(3, overflow=FAIL)
    reported: list[tuple[int, int]] = []
    box.on_overflow = lambda mailbox: reported.append((mailbox.offered, mailbox.dropped))
    tap = Tap()
    put(box, tap, *map(from_socket, range(3)))
    assert box.error is None and not box.closed and reports.pending == [3]
    message = begin(box)
    put(box, tap, *map(from_socket, range(3, 6)))
    assert isinstance(box.error, Overflowed) and "3 messages" in str(box.error) and "'box'" in str(box.error)
    assert box.closed and not await box.ready()
    put(box, tap, from_socket(6))
    assert not box.inject(injected(-1))
    assert reported == [(6, 5)], "reported once, after everything is counted"
    box.processed += 1
    box.settled(message)
    assert counts(box) == (8, 1, 0, 7, 0)
    assert not tap.holds and reports.pending == [3]


async def test_fail_by_bytes_reports_the_state_of_the_mailbox() -> None:
    """A message that exceeds `bytes` ends the mailbox; the report has the state before its messages were dropped."""
    box, reports = mailbox(10, 100, overflow=FAIL)
    assert box.inject(injected(-1, 60))
    assert not box.inject(injected(-2, 60))
    assert box.error is not None and reports.pending == [1]
    assert counts(box) == (2, 0, 0, 2, 0)


async def test_fail_takes_an_oversized_message_alone() -> None:
    """A message larger than `bytes` is taken if nothing else is pending."""
    box, _ = mailbox(10, 100, overflow=FAIL)
    put(box, Tap(), from_socket(1, 500))
    assert data(box) == [1] and box.error is None
    put(box, Tap(), from_socket(2, 0))
    assert box.error is not None


# Messages set aside


async def test_messages_set_aside_are_dropped_first() -> None:
    """Messages that were set aside and whose call has not begun are dropped before those in the queue, oldest first."""
    box, _ = mailbox(6, overflow=DROP_OLDEST)
    put(box, Tap(), *map(from_socket, range(6)))
    one, two = Shelf(box), Shelf(box)
    for age, shelf in enumerate([one, two, one, two]):
        shelf.take(age)
    lost: list[Any] = []
    for n in range(6, 12):
        before = [*(m.data for _, m in (*one.kept, *two.kept)), *data(box)]
        put(box, Tap(), from_socket(n))
        after = [*(m.data for _, m in (*one.kept, *two.kept)), *data(box)]
        lost += [n for n in before if n not in after]
    assert lost == [0, 1, 2, 3, 4, 5]
    assert counts(box) == (12, 0, 0, 6, 6) and box.set_aside == 0


async def test_a_message_set_aside_whose_call_has_begun_stays() -> None:
    """A message whose call begins in a thread is not dropped, even if it begins at this very moment."""
    box, _ = mailbox(2, overflow=DROP_OLDEST)
    put(box, Tap(), from_socket(1), from_socket(2))
    sly, busy = Shelf(box), Shelf(box)
    sly.take(1)
    busy.take(2)
    busy.begun = True

    def begun_meanwhile() -> None:
        sly.begun = True

    sly.drop_oldest = begun_meanwhile  # type: ignore[method-assign]
    put(box, Tap(), from_socket(3))
    assert counts(box) == (3, 0, 0, 1, 2) and box.set_aside == 2


async def test_a_published_message_replaces_one_set_aside() -> None:
    """Under PAUSE, published messages that were set aside make room like those that wait, oldest first."""
    box, _ = mailbox(5)
    tap = Tap()
    box.inject(injected(-1))
    put(box, tap, from_socket(1))
    for n in (-2, -3, -4):
        box.inject(injected(n))
    one, two = Shelf(box), Shelf(box)
    two.take(0)
    one.take(1)
    one.take(2)
    for new, lost in ((-5, -1), (-6, -2), (-7, -3), (-8, -4)):
        pending = {m.data for m in [*box.waiting, *(m for _, m in (*one.kept, *two.kept))]}
        assert lost in pending
        assert box.inject(injected(new))
        pending = {m.data for m in [*box.waiting, *(m for _, m in (*one.kept, *two.kept))]}
        assert lost not in pending and new in pending and 1 in pending
        assert box.pending == 5
    assert counts(box) == (9, 0, 0, 4, 5)


async def test_a_published_message_is_dropped_if_its_replacement_has_begun() -> None:
    """If the message that would make room is begun at this very moment, the arriving message is dropped and counted."""
    box, _ = mailbox(2)
    box.inject(injected(-1))
    put(box, Tap(), from_socket(1))
    shelf = Shelf(box)
    shelf.take(0)
    shelf.drop = lambda message: False  # type: ignore[method-assign]
    assert not box.inject(injected(-2))
    assert counts(box) == (3, 0, 0, 1, 2) and box.set_aside == 1


async def test_closing_drops_messages_set_aside() -> None:
    """`close` drops messages that were set aside and have not begun, and leaves the others."""
    box, _ = mailbox(10)
    put(box, Tap(), *map(from_socket, range(4)))
    begun, not_begun = Shelf(box), Shelf(box)
    begun.take(0)
    not_begun.take(1)
    begun.begun = True
    box.close()
    assert counts(box) == (4, 0, 0, 3, 1) and box.set_aside == 1
    idle = asyncio.create_task(box.idle())
    await turns()
    assert not idle.done()
    box.processed += 1
    box.settled_aside(begun.kept[0][1])
    await idle
    assert counts(box) == (4, 1, 0, 3, 0) and box.pending_bytes == 0


async def test_a_replacement_down_to_half_resumes_paused_sources() -> None:
    """A source is resumed when pending is at half, even if a smaller message replaced a published one."""
    box, _ = mailbox(10, 100)
    tap = Tap()
    box.inject(injected(-1, 90))
    put(box, tap, from_socket(1, 10))
    assert tap.paused_by
    assert box.inject(injected(-2, 20))
    assert box.pending_bytes == 30 and not tap.paused_by


@pytest.mark.parametrize(("messages", "nbytes", "size"), [(5, 10**6, 1), (10**6, 50, 10)])
async def test_the_source_is_notified_at_twice_the_bound(messages: int, nbytes: int, size: int) -> None:
    """A source that sends although it is paused is notified each time the mailbox has taken another bound of messages
    or bytes.
    """
    box, _ = mailbox(messages, nbytes)
    tap = Tap()
    for n in range(9):
        put(box, tap, from_socket(n, size))
        assert not tap.overfull_by and not box.overfull
    put(box, tap, from_socket(9, size))
    assert tap.overfull_by == [box] and box.overfull


# Any order, compared with a model


class Model:
    """The rules of the documentation, one by one, without any optimization."""

    def __init__(self, overflow: Overflow, most: int, most_bytes: int) -> None:
        self.overflow, self.most, self.most_bytes = overflow, most, most_bytes
        self.aside: list[Message[int]] = []
        self.waiting: list[Message[int]] = []
        self.hands: list[Message[int]] = []
        self.dropped: list[int] = []
        self.reports = 0
        self.full = self.closed = self.failed = False

    @property
    def pending(self) -> list[Message[int]]:
        return [*self.aside, *self.waiting, *self.hands]

    def fits(self, message: Message[int]) -> bool:
        pending = self.pending
        size = sum(m.size for m in pending) + message.size
        return not pending or (len(pending) < self.most and size <= self.most_bytes)

    def report(self) -> None:
        self.reports += not self.full
        self.full = True

    def look(self) -> None:
        pending = self.pending
        if len(pending) >= self.most or sum(m.size for m in pending) >= self.most_bytes:
            self.report()

    def drop(self, message: Message[int]) -> None:
        self.dropped.append(message.data)
        for kept in (self.aside, self.waiting):
            kept[:] = [m for m in kept if m is not message]

    def close(self) -> None:
        self.closed = True
        for message in (*self.aside, *self.waiting):
            self.drop(message)

    def offer(self, message: Message[int]) -> None:
        if self.closed:
            self.drop(message)
            return
        if self.overflow is PAUSE and message.session:
            self.waiting.append(message)
            self.look()
            return
        if self.overflow is LATEST:
            same = [m for m in self.waiting if m.topic == message.topic]
            if same:
                place = self.waiting.index(same[0])
                self.drop(same[0])
                if self.fits(message):
                    self.waiting.insert(place, message)
                    self.look()
                    self.left()
                    return
        if not self.fits(message):
            self.report()
            self.make_room(message)
        if any(m is message for m in self.waiting):
            return
        if not self.closed and self.fits(message):
            self.waiting.append(message)
            self.look()
            if self.overflow in (DROP_OLDEST, LATEST):
                self.left()  # the messages that were dropped for it may have been larger
        else:
            self.drop(message)

    def make_room(self, message: Message[int]) -> None:
        droppable = [*self.aside, *self.waiting]
        if self.overflow is FAIL:
            self.failed = True
            self.close()
        elif self.overflow in (DROP_OLDEST, LATEST):
            while droppable and not self.fits(message):
                self.drop(droppable.pop(0))
        elif self.overflow is PAUSE:
            self.replace_published(message, [m for m in droppable if not m.session])

    def replace_published(self, message: Message[int], published: list[Message[int]]) -> None:
        nbytes = sum(m.size for m in self.pending)
        gone: list[Message[int]] = []
        for old in published:
            gone.append(old)
            freed = sum(m.size for m in gone)
            if freed >= message.size or nbytes - freed + message.size <= self.most_bytes:
                break
        else:
            if len(gone) < len(self.pending):
                return
        for old in gone:
            self.drop(old)
        self.waiting.append(message)
        self.left()

    def left(self) -> None:
        pending = self.pending
        if len(pending) <= self.most // 2 and sum(m.size for m in pending) <= self.most_bytes // 2:
            self.full = False


class Policy(RuleBasedStateMachine):
    """Puts, takes, calls, messages set aside, failures and closings in any order."""

    overflow = PAUSE

    @initialize(messages=st.integers(1, 6), nbytes=st.integers(1, 40))
    def make(self, messages: int, nbytes: int) -> None:
        self.loop = asyncio.new_event_loop()
        self.loop.set_debug(False)  # thousands of short runs
        self.box, self.reports = mailbox(messages, nbytes, self.overflow)
        self.box.on_overflow = lambda mailbox: self.reported.append(mailbox.offered)
        self.reported: list[int] = []
        self.model = Model(self.overflow, messages, nbytes)
        self.tap = Tap()
        self.shelves: list[Shelf] = []
        self.number = self.processed = self.failed = 0

    def teardown(self) -> None:
        if hasattr(self, "loop"):
            self.loop.close()

    def run(self, function: Any) -> None:
        async def in_the_loop() -> None:
            function()

        self.loop.run_until_complete(in_the_loop())

    @rule(sizes=st.lists(st.tuples(st.integers(0, 50), st.sampled_from("abcd")), min_size=1, max_size=5))
    def read(self, sizes: list[tuple[int, str]]) -> None:
        """A read of a source, which may continue to read although it is paused."""
        messages = []
        for size, topic in sizes:
            self.number += 1
            messages.append(from_socket(self.number, size, topic))
        self.run(lambda: put(self.box, self.tap, *messages))
        for message in messages:
            self.model.offer(message)

    @rule(size=st.integers(0, 50), topic=st.sampled_from("abcd"))
    def publish(self, size: int, topic: str) -> None:
        self.number += 1
        message = injected(self.number, size, topic)
        taken: list[bool] = []
        self.run(lambda: taken.append(self.box.inject(message)))
        before = len(self.model.dropped)
        self.model.offer(message)
        assert taken == [message.data not in self.model.dropped[before:]]

    @precondition(lambda self: self.model.waiting)
    @rule()
    def take(self) -> None:
        self.run(lambda: self.seen(self.box.hand_out(), self.model.waiting.pop(0)))
        self.processed += 1
        self.model.left()

    @precondition(lambda self: self.model.waiting)
    @rule()
    def begin(self) -> None:
        self.model.hands.append(self.model.waiting.pop(0))
        self.seen(begin(self.box), self.model.hands[-1])

    @precondition(lambda self: self.model.waiting and self.overflow is not LATEST)
    @rule(which=st.integers(0, 2))
    def set_aside(self, which: int) -> None:
        while len(self.shelves) <= which:
            self.shelves.append(Shelf(self.box))
        self.model.aside.append(self.model.waiting.pop(0))
        self.shelves[which].take(self.model.aside[-1].data)

    @precondition(lambda self: self.model.hands)
    @rule(which=st.integers(0, 100), fails=st.booleans())
    def end(self, which: int, fails: bool) -> None:
        message = self.model.hands.pop(which % len(self.model.hands))
        self.failed += fails
        self.processed += not fails
        self.box.failed, self.box.processed = self.failed, self.processed
        self.run(lambda: self.box.settled(message))
        self.model.left()

    @rule()
    def turn(self) -> None:
        self.loop.run_until_complete(turns(3))

    @precondition(lambda self: self.number > 25)
    @rule()
    def close(self) -> None:
        self.run(self.box.close)
        self.model.close()

    def seen(self, message: Message[int], expected: Message[int]) -> None:
        assert message is expected
        assert message.data not in self.model.dropped, "a dropped message is returned"

    @invariant()
    def it_is_as_in_the_model(self) -> None:
        if not hasattr(self, "box"):
            return
        box, model = self.box, self.model
        assert list(box.waiting) == model.waiting
        kept = sorted((entry for shelf in self.shelves for entry in shelf.kept), key=lambda entry: entry[0])
        assert [message for _, message in kept] == model.aside and box.set_aside == len(kept)
        assert counts(box) == (self.number, self.processed, self.failed, len(model.dropped), len(model.pending))
        assert box.offered == box.processed + box.failed + box.dropped + box.pending
        assert box.pending_bytes == sum(m.size for m in model.pending)
        assert len(self.reports.pending) == model.reports
        assert (box.error is not None) == model.failed == (len(self.reported) == 1)
        assert box.closed == model.closed

    @invariant()
    def the_bounds_hold(self) -> None:
        if hasattr(self, "box") and self.overflow is not PAUSE:
            assert self.box.pending <= self.model.most
            assert self.box.pending_bytes <= self.model.most_bytes or self.box.pending == 1
            assert not self.tap.holds


class Pausing(Policy):
    pass


class DroppingOldest(Policy):
    overflow = DROP_OLDEST


class DroppingNewest(Policy):
    overflow = DROP_NEWEST


class Replacing(Policy):
    overflow = LATEST


class Failing(Policy):
    overflow = FAIL


class TestPausing(Pausing.TestCase):  # type: ignore[misc, name-defined]
    """PAUSE behaves like the model, in any order of events."""

    settings = settings(stateful_step_count=30)


class TestDroppingOldest(DroppingOldest.TestCase):  # type: ignore[misc, name-defined]
    """DROP_OLDEST behaves like the model, in any order of events."""

    settings = settings(stateful_step_count=30)


class TestDroppingNewest(DroppingNewest.TestCase):  # type: ignore[misc, name-defined]
    """DROP_NEWEST behaves like the model, in any order of events."""

    settings = settings(stateful_step_count=30)


class TestReplacing(Replacing.TestCase):  # type: ignore[misc, name-defined]
    """LATEST behaves like the model, in any order of events."""

    settings = settings(stateful_step_count=30)


class TestFailing(Failing.TestCase):  # type: ignore[misc, name-defined]
    """FAIL behaves like the model, in any order of events."""

    settings = settings(stateful_step_count=30)
