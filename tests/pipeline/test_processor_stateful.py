"""One processor under any order of messages, ends of calls, failures, cancellations and its own end."""

import asyncio
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from wsfleet import Buffer, Fleet, Message, Overflow, Retry
from wsfleet.testing import FakeTransport

NAME = "p"


class Calls(RuleBasedStateMachine):
    """Calls end when the test lets them; offered messages are accounted for, in order for each key, at any time."""

    @initialize(
        concurrency=st.integers(1, 3),
        keyed=st.booleans(),
        batch=st.sampled_from([None, 1, 2, 3]),
        retry=st.booleans(),
        overflow=st.sampled_from([Overflow.DROP_OLDEST, Overflow.DROP_NEWEST, Overflow.PAUSE]),
        bound=st.integers(3, 8),
    )
    def begin(
        self, concurrency: int, keyed: bool, batch: int | None, retry: bool, overflow: Overflow, bound: int
    ) -> None:
        self.runner = asyncio.Runner(debug=False)
        self.concurrency, self.keyed, self.batch, self.retry = concurrency, keyed, batch, retry
        self.calls: dict[int, tuple[list[int], asyncio.Future[None], Any]] = {}
        self.begun = 0
        self.count = 0
        self.finished: list[int] = []
        self.tries: dict[int, int] = {}
        self.last: dict[int, int] = {}
        self.closed = False
        self.fleet = Fleet(transport=FakeTransport(), drain_s=0)
        self.fleet.process(
            "t",
            name=NAME,
            concurrency=concurrency,
            key=(lambda message: message.data % 2) if keyed else None,
            batch=batch,
            retry=Retry(2, 0, 0) if retry else None,
            buffer=Buffer(bound, overflow=overflow),
        )(self._handle)
        self._run(self.fleet.__aenter__())
        self._turn()

    async def _handle(self, payload: Any) -> None:
        messages: list[Message[int]] = payload if self.batch is not None else [payload]
        numbers = [message.data for message in messages]
        assert 1 <= len(numbers) <= (self.batch or 1)
        self.begun += 1
        call, future = self.begun, asyncio.get_running_loop().create_future()
        busy = {number % 2 for others, _, _ in self.calls.values() for number in others}
        for number in numbers:
            assert not (self.keyed and number % 2 in busy)
            self.tries[number] = self.tries.get(number, 0) + 1
            assert self.tries[number] <= (2 if self.retry else 1)
            lane = number % 2 if self.keyed else 0
            if self.keyed or self.concurrency == 1:
                assert number >= self.last.get(lane, 0)
                self.last[lane] = number
        self.calls[call] = (numbers, future, asyncio.current_task())
        assert len(self.calls) <= self.concurrency
        try:
            await future
        finally:
            del self.calls[call]

    def _run(self, coroutine: Any) -> Any:
        return self.runner.run(coroutine)

    def _turn(self) -> None:
        async def turns() -> None:
            for _ in range(12):
                await asyncio.sleep(0)

        self._run(turns())

    @rule(count=st.integers(1, 4), turn=st.booleans())
    def publish(self, count: int, turn: bool) -> None:
        async def publish() -> None:
            for _ in range(count):
                self.count += 1
                self.fleet.publish("t", self.count)

        self._run(publish())
        if turn:
            self._turn()

    @precondition(lambda self: self.calls)
    @rule(data=st.data(), fate=st.sampled_from(["end", "fail", "cancel"]))
    def end(self, data: st.DataObject, fate: str) -> None:
        _, future, _ = self.calls[data.draw(st.sampled_from(sorted(self.calls)))]
        if fate == "end":
            future.set_result(None)
        elif fate == "fail":
            future.set_exception(ValueError("planted"))
        else:
            future.cancel()
        self._turn()

    @precondition(lambda self: self.calls)
    @rule(data=st.data())
    def cancel_a_worker(self, data: st.DataObject) -> None:
        _, _, task = self.calls[data.draw(st.sampled_from(sorted(self.calls)))]
        task.cancel()
        self._turn()

    @rule()
    def cancel_all_workers(self) -> None:
        async def cancel() -> None:
            for task in asyncio.all_tasks():
                if task.get_name() == f"wsfleet-{NAME}-processor":
                    task.cancel()

        self._run(cancel())
        self._turn()

    @precondition(lambda self: not self.closed)
    @rule()
    def close(self) -> None:
        async def close() -> None:
            self.fleet.subscriptions[NAME].close()

        self._run(close())
        self.closed = True

    @invariant()
    def in_balance(self) -> None:
        if not hasattr(self, "fleet"):
            return

        async def look() -> Any:
            return self.fleet.stats()

        stats = self._run(look())
        assert stats.balanced, stats.to_dict()
        row = stats.subscriptions[-1]
        in_hand = sum(len(numbers) for numbers, _, _ in self.calls.values())
        assert row.pending >= in_hand
        if self.closed:
            assert row.pending == in_hand

    @precondition(lambda self: not self.closed and not self.keyed)
    @rule()
    def nobody_idles(self) -> None:
        """If messages wait, all workers are in a call."""
        self._turn()

        async def look() -> Any:
            return self.fleet.stats().subscriptions[-1]

        row = self._run(look())
        in_hand = sum(len(numbers) for numbers, _, _ in self.calls.values())
        assert row.pending == in_hand or len(self.calls) == self.concurrency

    def teardown(self) -> None:
        if not hasattr(self, "fleet"):
            return
        self._run(self.fleet.__aexit__(None, None, None))

        async def look() -> Any:
            return self.fleet.stats()

        stats = self._run(look())
        assert stats.balanced and stats.subscriptions[-1].pending == 0 and not self.calls
        self.runner.close()


TestCalls = Calls.TestCase
TestCalls.settings = settings(stateful_step_count=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
