"""What the log says of a processor: which message failed, and whom the end is waiting for."""

import asyncio

import pytest

from wsfleet import Fleet, Message
from wsfleet.pipeline.failure_log import KINDS
from wsfleet.testing import FakeTransport

URI = "ws://feed.test/"


@pytest.mark.parametrize(
    ("batch", "told"),
    [(None, "p: a message failed: 2 of feed on t.b"), (2, "p: a message failed: 1 of feed on t.a, and 1 more in its")],
)
async def test_a_failed_message_can_be_found(batch: int | None, told: str, caplog: pytest.LogCaptureFixture) -> None:
    """The log names the endpoint, its count and the topic of the message that failed."""
    transport = FakeTransport()
    fleet = Fleet(transport=transport)

    @fleet.process("t.*", name="p", batch=batch)
    async def handle(given: Message[str] | list[Message[str]]) -> None:
        if isinstance(given, list) or given.data == "b":
            raise ValueError("planted")

    fleet.connect(URI, name="feed", topic=lambda data: f"t.{data}")
    async with fleet:
        await (await transport.accept("feed")).feed("a", "b")
    assert told in caplog.text


async def test_a_topic_of_a_peers_making_is_a_part_of_one_line(caplog: pytest.LogCaptureFixture) -> None:
    """Its beginning alone is logged, and no terminal obeys it."""
    transport = FakeTransport()
    fleet = Fleet(transport=transport)

    @fleet.process("t.*", name="p")
    async def handle(message: Message[str]) -> None:
        raise ValueError("planted")

    fleet.connect(URI, name="feed", topic=lambda data: f"t.{data}")
    async with fleet:
        await (await transport.accept("feed")).feed("\u202e" + "b" * 100_000)
    (told,) = [text for text in caplog.messages if "a message failed" in text]
    assert told.startswith("p: a message failed: 1 of feed on t.\\u202ebbb")
    assert told.endswith("b...")
    assert len(told) < 400 and told.isprintable()


async def test_a_failed_message_without_an_endpoint(caplog: pytest.LogCaptureFixture) -> None:
    """What the program published itself is named by its topic."""
    async with Fleet(transport=FakeTransport()) as fleet:

        @fleet.process("own.*", name="p")
        async def handle(message: Message[str]) -> None:
            raise ValueError("planted")

        fleet.publish("own.topic", 1)
    assert "p: a message failed: on own.topic" in caplog.text


@pytest.mark.looptime
async def test_each_kind_of_failure_is_told(caplog: pytest.LogCaptureFixture) -> None:
    """A second kind does not hide behind the first; of each, one in ten seconds is told, with a count of the rest."""
    kinds = [ValueError, KeyError]
    async with Fleet(transport=FakeTransport()) as fleet:

        @fleet.process("own", name="p")
        async def handle(message: Message[int]) -> None:
            raise kinds[message.data % 2]("planted")

        for wait_s in (0.0, 11.0):
            await asyncio.sleep(wait_s)
            for number in range(6):
                fleet.publish("own", number)
            await asyncio.sleep(0.1)
    told = [(record.exc_info[0], record.getMessage()) for record in caplog.records if record.exc_info]
    assert [kind for kind, _ in told] == kinds * 2
    assert ["2 more since the last report" in text for _, text in told] == [False, False, True, True]


@pytest.mark.looptime
async def test_a_class_for_each_failure_is_no_leak(caplog: pytest.LogCaptureFixture) -> None:
    """Kinds are told apart up to a bound; all others are one kind together."""
    async with Fleet(transport=FakeTransport()) as fleet:

        @fleet.process("own", name="p")
        async def handle(message: Message[int]) -> None:
            raise type(f"Error{message.data}", (ValueError,), {})("planted")

        for number in range(100):
            fleet.publish("own", number)
    assert len([record for record in caplog.records if "a message failed" in record.getMessage()]) == KINDS + 1


@pytest.mark.looptime
async def test_a_drain_that_waits_says_for_whom(caplog: pytest.LogCaptureFixture) -> None:
    """After a second, one line names the processors that hold up the end, and how long they may; not the idle ones."""
    transport = FakeTransport()
    fleet = Fleet(transport=transport)

    @fleet.process(">", name="stuck")
    async def stuck(message: Message[str]) -> None:
        await asyncio.sleep(5.0)

    @fleet.process(">", name="quick")
    async def quick(message: Message[str]) -> None: ...

    fleet.connect(URI, name="feed")
    async with fleet:
        await (await transport.accept("feed")).feed("a")
    assert [record.getMessage() for record in caplog.records if "waiting" in record.getMessage()] == [
        "draining: waiting up to 10 s for 'stuck'"
    ]
