"""The log about processors: the message that failed, and the processors that delay the shutdown."""

import asyncio

import pytest

from wsfleet import Fleet, Message
from wsfleet.pipeline.failure_log import KINDS
from wsfleet.testing import FakeTransport

URI = "ws://feed.test/"


@pytest.mark.parametrize(
    ("batch", "logged"),
    [(None, "p: a message failed: 2 of feed on t.b"), (2, "p: a message failed: 1 of feed on t.a, and 1 more in its")],
)
async def test_a_failed_message_can_be_found(batch: int | None, logged: str, caplog: pytest.LogCaptureFixture) -> None:
    """The log record contains the endpoint, its index and the topic of the message that failed."""
    transport = FakeTransport()
    fleet = Fleet(transport=transport)

    @fleet.process("t.*", name="p", batch=batch)
    async def handle(given: Message[str] | list[Message[str]]) -> None:
        if isinstance(given, list) or given.data == "b":
            raise ValueError("planted")

    fleet.connect(URI, name="feed", topic=lambda data: f"t.{data}")
    async with fleet:
        await (await transport.accept("feed")).feed("a", "b")
    assert logged in caplog.text


async def test_a_peers_topic_is_shortened_and_escaped_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    """Only the beginning of a long topic is logged, and its control characters are escaped."""
    transport = FakeTransport()
    fleet = Fleet(transport=transport)

    @fleet.process("t.*", name="p")
    async def handle(message: Message[str]) -> None:
        raise ValueError("planted")

    fleet.connect(URI, name="feed", topic=lambda data: f"t.{data}")
    async with fleet:
        await (await transport.accept("feed")).feed("\u202e" + "b" * 100_000)
    (logged,) = [text for text in caplog.messages if "a message failed" in text]
    assert logged.startswith("p: a message failed: 1 of feed on t.\\u202ebbb")
    assert logged.endswith("b...")
    assert len(logged) < 400 and logged.isprintable()


async def test_a_failed_message_without_an_endpoint(caplog: pytest.LogCaptureFixture) -> None:
    """A message of `Fleet.publish` is identified by its topic."""
    async with Fleet(transport=FakeTransport()) as fleet:

        @fleet.process("own.*", name="p")
        async def handle(message: Message[str]) -> None:
            raise ValueError("planted")

        fleet.publish("own.topic", 1)
    assert "p: a message failed: on own.topic" in caplog.text


@pytest.mark.looptime
async def test_each_kind_of_failure_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """Each kind of error is logged once in ten seconds, with the number of the others, independently of other kinds."""
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
    logged = [(record.exc_info[0], record.getMessage()) for record in caplog.records if record.exc_info]
    assert [kind for kind, _ in logged] == kinds * 2
    assert ["2 more since the last report" in text for _, text in logged] == [False, False, True, True]


@pytest.mark.looptime
async def test_the_number_of_kinds_of_failures_is_bounded(caplog: pytest.LogCaptureFixture) -> None:
    """The number of kinds that are distinguished is bounded; all others count as one kind."""
    async with Fleet(transport=FakeTransport()) as fleet:

        @fleet.process("own", name="p")
        async def handle(message: Message[int]) -> None:
            raise type(f"Error{message.data}", (ValueError,), {})("planted")

        for number in range(100):
            fleet.publish("own", number)
    assert len([record for record in caplog.records if "a message failed" in record.getMessage()]) == KINDS + 1


@pytest.mark.looptime
async def test_a_drain_that_waits_logs_the_processors(caplog: pytest.LogCaptureFixture) -> None:
    """After a second, one line names the processors that delay the shutdown and the time they have; idle ones are
    omitted.
    """
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
