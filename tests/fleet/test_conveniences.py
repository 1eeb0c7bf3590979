"""`Fleet.sink`, `Fleet.from_file`, `Fleet.run_async`, `Subscription.next`, and the error classes."""

import asyncio
import json
import pickle

import pytest

import wsfleet
from wsfleet import ConfigError, ConnectionLost, Fleet, FleetError, NotOpen, Subscription, sinks
from wsfleet.testing import FakeTransport

pytestmark = pytest.mark.looptime


@pytest.fixture
def transport() -> FakeTransport:
    return FakeTransport()


@pytest.mark.parametrize("as_text", [True, False])
async def test_a_sink_writes_messages_that_match_its_pattern(transport, tmp_path, as_text):
    """`fleet.sink` writes the messages of a pattern, with the options of `process`, until it is closed."""
    path = tmp_path / "out.jsonl"
    fleet = Fleet(transport=transport)
    fleet.connect("ws://feed.test/", name="feed", decode="json", topic="t.{n}")
    sink = f"jsonl:{path}" if as_text else sinks.open(f"jsonl:{path}")
    subscription = fleet.sink("t.*", sink, name="file", batch=2)
    assert isinstance(subscription, Subscription) and fleet.subscriptions["file"].pattern == "t.*"
    async with fleet:
        socket = await transport.accept("feed")
        await fleet.connections["feed"].wait_open()
        await socket.feed('{"n": 1}', '{"n": 2}')
    assert [json.loads(line)["topic"] for line in path.read_text().splitlines()] == ["t.1", "t.2"]


@pytest.mark.parametrize("sink", ["no-such-sink:x", print, None])
def test_an_invalid_sink_is_rejected(sink):
    """A text or object that is no sink raises ConfigError."""
    with pytest.raises(ConfigError, match="sink"):
        Fleet().sink("t.*", sink)


def test_a_fleet_from_a_file(tmp_path):
    """`Fleet.from_file` declares the contents of the file; the error for an invalid one contains all faults."""
    path = tmp_path / "feeds.toml"
    path.write_text('[[connect]]\nuri = "ws://feed.test/"\nname = "feed"\n')
    assert list(Fleet.from_file(path).connections) == ["feed"]
    path.write_text('[[connect]]\nuri = "nonsense"\nopen_s = -1\n')
    with pytest.raises(ConfigError) as refused:
        Fleet.from_file(path)
    assert len(str(refused.value).splitlines()) == 2


async def test_run_async_is_serve(transport):
    """Both names run the fleet in the current loop until it is closed."""
    assert Fleet.serve is Fleet.run_async
    fleet = Fleet(transport=transport)
    fleet.connect("ws://feed.test/", name="feed")
    running = asyncio.create_task(fleet.run_async())
    await transport.accept("feed")
    await fleet.close()
    await running


async def test_the_next_message_of_a_subscription(transport):
    """`next` returns a waiting message at once, waits for the next one, and times out without losing a message."""
    fleet = Fleet(transport=transport)
    async with fleet, fleet.subscribe("t") as subscription:
        fleet.publish("t", 1)
        assert (await subscription.next(timeout=0)).data == 1
        with pytest.raises(TimeoutError):
            await subscription.next(timeout=3.0)
        waiting = asyncio.create_task(subscription.next())
        await asyncio.sleep(1)
        fleet.publish("t", 2)
        assert (await waiting).data == 2
        cancelled = asyncio.create_task(subscription.next(timeout=5.0))
        await asyncio.sleep(1)
        fleet.publish("t", 3)
        cancelled.cancel()
        await asyncio.wait([cancelled])
        assert cancelled.cancelled() and (await subscription.next(timeout=5.0)).data == 3
        subscription.close()
        with pytest.raises(StopAsyncIteration):
            await subscription.next()


@pytest.mark.parametrize("error", [ConnectionLost(1006, "gone"), NotOpen("feed is closed")])
def test_connection_errors_can_be_caught_as_pythons(error):
    """These errors can be caught as ConnectionError, and keep their text and attributes when pickled."""
    assert isinstance(error, ConnectionError) and isinstance(error, wsfleet.FleetError)
    copied = pickle.loads(pickle.dumps(error))
    assert (type(copied), str(copied), repr(copied)) == (type(error), str(error), repr(error))


def test_every_error_is_exported_by_the_package():
    """Every error class of `wsfleet.errors` is exported by `wsfleet`."""
    assert all(getattr(wsfleet, name) is getattr(wsfleet.errors, name) for name in wsfleet.errors.__all__)


async def test_idle_waits_for_all_processors(transport):
    """`fleet.idle()` returns when no message is pending, including those published by processors."""
    fleet = Fleet(transport=transport)
    done = []

    @fleet.process("first")
    async def first(message):
        await asyncio.sleep(5.0)
        fleet.publish("second", message.data)

    @fleet.process("second", concurrency=2)
    async def second(message):
        await asyncio.sleep(5.0)
        done.append(message.data)

    async with fleet:
        await fleet.idle()
        for number in range(3):
            fleet.publish("first", number)
        await fleet.idle()
        assert done == [0, 1, 2]
        assert all(row.pending == 0 for row in fleet.stats().subscriptions)


async def test_idle_in_a_processor_is_refused(transport):
    """A processor cannot wait for `idle()`, because its own message is pending."""
    fleet = Fleet(transport=transport)
    refused = []

    @fleet.process("x")
    async def waits(message):
        with pytest.raises(FleetError, match="would wait for its caller"):
            await fleet.idle()
        refused.append(message.data)

    async with fleet:
        fleet.publish("x", 1)
        await fleet.idle()
        assert refused == [1]
