"""Messages that reach no processor are logged: the first one of each kind, once for each endpoint."""

import logging

import pytest

from wsfleet import Fleet
from wsfleet.testing import FakeTransport


async def logged(caplog: pytest.LogCaptureFixture, *payloads: str, topic: str = "trades.{symbol}") -> list[str]:
    transport = FakeTransport()
    async with Fleet(transport=transport) as fleet:
        fleet.connect("ws://feed.test/", name="feed", decode="json", topic=topic)
        await (await transport.accept("feed")).feed(*payloads)
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


async def test_the_first_malformed_message_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """One warning contains the endpoint, the message and the topic of later ones; a second malformed message adds
    none.
    """
    (line,) = await logged(caplog, '{"symbol": "A"}', "no JSON", "nor this")
    assert line.startswith("feed: cannot decode message 2: DecodeError: ")
    assert "$malformed.feed" in line


async def test_the_first_message_without_its_topic_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """One warning contains the format and the topic that these messages get instead."""
    (line,) = await logged(caplog, '{"symbol": "A"}', '{"s": "A"}', '{"symbol": null}')
    assert line == (
        "feed: message 2 lacks a field of the topic 'trades.{symbol}'; messages without it are published as 'feed'"
    )


async def test_a_topic_that_equals_the_name_causes_no_warning(caplog: pytest.LogCaptureFixture) -> None:
    """A topic that equals the endpoint's name by chance causes no warning."""
    assert await logged(caplog, '{"symbol": "feed"}', topic="{symbol}") == []
