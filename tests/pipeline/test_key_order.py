"""Lanes decide which message may be taken next, for any order of taking, freeing and dropping."""

from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tests.support.flows import DROP_OLDEST, Tap, from_socket, mailbox, put
from wsfleet import Message, Overflow
from wsfleet.core.time_slice import SLICE_S
from wsfleet.pipeline import key_order as lanes_module
from wsfleet.pipeline.key_order import KeyOrder, Taken


def key_of(message: Message[Any]) -> str:
    return message.topic


async def test_a_batch_out_of_several_lanes_is_in_order_of_arrival() -> None:
    """When several keys become free, their messages are taken oldest first, whichever became free first."""
    box, _ = mailbox()
    key_order = KeyOrder(box, key_of)
    put(box, Tap(), *(from_socket(n, topic="ab"[n % 2]) for n in range(6)))
    a, b = key_order.take(1), key_order.take(1)
    assert [m.index for m in a.messages + b.messages] == [0, 1]
    assert not key_order.take(1).messages  # the rest is now set aside
    key_order.free(b.keys)
    key_order.free(a.keys)
    taken = key_order.take(4)
    assert [m.index for m in taken.messages] == [2, 3, 4, 5]
    assert taken.keys == {"a", "b"}


class Clock:
    """Replaces `time`: the time slice is over after a given number of calls."""

    def __init__(self, looks: int) -> None:
        self._now = 0.0
        self._step = SLICE_S / (looks + 0.5)

    def perf_counter(self) -> float:
        self._now += self._step
        return self._now


async def test_the_search_for_a_free_key_is_limited_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """`take` stops when its time slice is over, reports this, and continues there on the next call."""
    monkeypatch.setattr(lanes_module, "time", Clock(100))
    box, _ = mailbox(10_000)
    key_order = KeyOrder(box, key_of)
    put(box, Tap(), *(from_socket(n, topic="a") for n in range(110)), from_socket(110, topic="b"))
    key_order.take(1)
    assert not key_order.take(1).messages and key_order.more
    assert [m.index for m in key_order.take(1).messages] == [110] and not key_order.more


class Interleavings(RuleBasedStateMachine):
    """A mailbox with lanes, and workers that take and finish messages, while the policy drops waiting ones."""

    @initialize(overflow=st.sampled_from([DROP_OLDEST, Overflow.PAUSE, Overflow.LATEST]), look=st.integers(1, 5))
    def begin(self, overflow: Overflow, look: int) -> None:
        self.time, lanes_module.time = lanes_module.time, Clock(look)  # type: ignore[assignment]
        self.box, _ = mailbox(8 if overflow is not Overflow.PAUSE else 1000, overflow=overflow)
        self.key_order = KeyOrder(self.box, lambda message: message.topic[0])
        self.count = 0
        self.calls: list[Taken] = []
        self.last: dict[str, int] = {}
        self.taken: set[int] = set()

    @rule(topics=st.lists(st.sampled_from(["a1", "a2", "b1", "c1"]), min_size=1, max_size=6))
    def arrive(self, topics: list[str]) -> None:
        messages = [from_socket(self.count + n, topic=topic) for n, topic in enumerate(topics)]
        self.count += len(messages)
        put(self.box, Tap(), *messages)

    @rule(most=st.integers(1, 3))
    def take(self, most: int) -> None:
        busy = {key for call in self.calls for key in call.keys}
        taken = self.key_order.take(most)
        assert len(taken.messages) <= most
        assert taken.keys == {m.topic[0] for m in taken.messages} and not taken.keys & busy
        for message in taken.messages:
            assert message.index not in self.taken
            self.taken.add(message.index)
            if not self.box.may_replace:
                assert message.index > self.last.get(message.topic[0], -1)
            self.last[message.topic[0]] = message.index
        if not taken.messages and not self.key_order.more:
            # No message that could have been taken was left.
            assert self.box.may_replace or not self.box.waiting
            assert {m.topic[0] for m in self.box.waiting} <= busy
        if taken.messages:
            self.box.in_hand += len(taken.messages)
            self.calls.append(taken)

    @precondition(lambda self: self.calls)
    @rule(data=st.data())
    def end(self, data: st.DataObject) -> None:
        call = self.calls.pop(data.draw(st.integers(0, len(self.calls) - 1)))
        self.box.processed += len(call.messages)
        for message in call.messages:
            self.box.settled(message)
        self.key_order.free(call.keys)

    @rule()
    def drop(self) -> None:
        kept = [m.index for _, m in sorted(e for lane in self.box.aside for e in lane.messages)]  # type: ignore[attr-defined]
        waiting = kept + [m.index for m in self.box.waiting]
        dropped = self.box._drop_oldest()
        assert dropped == bool(waiting)
        left = {m.index for lane in self.box.aside for _, m in lane.messages}  # type: ignore[attr-defined]
        left |= {m.index for m in self.box.waiting}
        assert set(waiting) - left == set(waiting[:1])

    @invariant()
    def in_balance(self) -> None:
        box = self.box
        assert box.set_aside == sum(len(lane.messages) for lane in box.aside)  # type: ignore[attr-defined]
        assert box.in_hand == sum(len(call.messages) for call in self.calls)
        assert box.offered == self.count == box.processed + box.dropped + box.pending
        assert box.pending_bytes == box.pending

    def teardown(self) -> None:
        if not hasattr(self, "box"):
            return
        lanes_module.time = self.time
        # Each message that was not dropped can be taken.
        for _ in range(200):
            taken = self.key_order.take(3)
            self.key_order.free(taken.keys)
            for call in self.calls:
                self.key_order.free(call.keys)
            self.calls.clear()
        assert not self.box.waiting and not self.box.set_aside and not self.box.aside


TestInterleavings = Interleavings.TestCase
TestInterleavings.settings = settings(stateful_step_count=40, deadline=None)
