"""A fleet on the npm package ws: compression, fragments, subprotocols, refusals, and a slow reader."""

import asyncio
import itertools
import json
from pathlib import Path
from typing import Any

import pytest

from tests.integration.helpers import QUICK, Numbers, endpoint, opened, subscription, until
from tests.support.servers.node_ws import NodeWs
from wsfleet import Buffer, Endpoint, Fleet, Liveness, Message, Session, State
from wsfleet.core.errors import EndpointFailed, HandshakeRejected

pytestmark = pytest.mark.integration


async def test_a_server_killed_in_mid_flow_takes_its_own_connections_alone(tmp_path: Path) -> None:
    """Ten connections to the server that dies return by themselves; five to another server are not affected."""
    numbers = Numbers()
    gaps: list[str] = []
    async with NodeWs(tmp_path) as doomed, NodeWs(tmp_path) as steady:
        fleet = Fleet()
        hit = [
            fleet.connect(
                Endpoint(f"{doomed.uri}/feed?rate=100", name=f"hit-{n}", decode="json", reconnect=QUICK), numbers.take
            )
            for n in range(10)
        ]
        for n in range(5):
            fleet.connect(Endpoint(f"{steady.uri}/feed?rate=100", name=f"calm-{n}", decode="json"), numbers.take)

        @fleet.process("$gap.*", name="gaps")
        async def on_gap(message: Message[Any]) -> None:
            assert (message.data.previous_session, message.data.session) == (1, 2)
            gaps.append(message.data.endpoint)

        async with fleet:
            await until(lambda: all(numbers.count(f"hit-{n}") > 20 for n in range(10)), "messages before the kill")
            await doomed.kill()
            await until(lambda: all(c.state is not State.OPEN for c in hit), "the loss is noticed")
            assert fleet.stats().balanced
            await doomed.start()
            await until(lambda: all(numbers.count(f"hit-{n}", 2) > 20 for n in range(10)), "messages after it")
        for n in range(10):
            row = endpoint(fleet, f"hit-{n}")
            assert (row.connects, row.losses) == (2, 1)
            assert numbers.seen[f"hit-{n}", 2][0] == 1
        for n in range(5):
            row = endpoint(fleet, f"calm-{n}")
            assert (row.connects, row.losses) == (1, 0)
        assert sorted(gaps) == sorted(c.name for c in hit)
        numbers.assert_no_holes()


@pytest.mark.parametrize(
    "query", ["n=500&size=30", "n=40&size=200000", "n=200&size=5000&fragments=3", "n=500&size=150"]
)
async def test_compressed_and_fragmented_messages_arrive_whole(tmp_path: Path, query: str) -> None:
    """Messages below and above the server's compression threshold, and fragmented ones, arrive complete
    and in order.
    """
    got: list[Any] = []

    async def collect(message: Message[Any]) -> None:
        got.append(message.data)

    wanted = dict(part.split("=") for part in query.split("&"))
    async with NodeWs(tmp_path, deflate=True) as server:
        fleet = Fleet()
        fleet.connect(
            Endpoint(f"{server.uri}/feed?{query}", name="feed", decode="json", compression="deflate"), collect
        )
        async with fleet:
            await until(lambda: len(got) == int(wanted["n"]), "all messages")
        assert [data["n"] for data in got] == list(range(1, int(wanted["n"]) + 1))
        assert {len(data["pad"]) for data in got} == {int(wanted["size"]) - 20}
        assert "permessage-deflate" in server.events("open")[0]["extensions"]
        row = endpoint(fleet, "feed")
        assert row.losses == 0
        # Bytes are counted after decompression.
        assert row.received_bytes > int(wanted["n"]) * (int(wanted["size"]) - 20)


async def test_no_compression_unless_asked_for(tmp_path: Path) -> None:
    """An endpoint that does not ask for compression gets none from a server that offers it."""
    numbers = Numbers()
    async with NodeWs(tmp_path, deflate=True) as server:
        fleet = Fleet()
        fleet.connect(Endpoint(f"{server.uri}/feed?n=10", name="feed", decode="json"), numbers.take)
        async with fleet:
            await until(lambda: numbers.count("feed") == 10, "all messages")
        assert not server.events("open")[0]["extensions"]


async def test_a_subprotocol_and_headers_are_negotiated(tmp_path: Path) -> None:
    """The server selects one of the offered subprotocols, which `on_open` can read, and gets the endpoint's headers."""
    picked: list[str | None] = []

    async def on_open(session: Session) -> None:
        picked.append(session.subprotocol)
        assert session.response_headers["Sec-WebSocket-Protocol"] == "v2.feed"

    async with NodeWs(tmp_path, subprotocol="v2.feed") as server:
        fleet = Fleet()
        feed = fleet.connect(
            Endpoint(
                f"{server.uri}/feed?n=1",
                subprotocols=["v1.feed", "v2.feed"],
                headers={"X-Desk": "7"},
                on_open=on_open,
            )
        )
        async with fleet:
            await opened(feed)
        assert picked == ["v2.feed"]
        (seen,) = server.events("open")
        assert seen["protocol"] == "v2.feed"
        assert seen["headers"]["x-desk"] == "7"


async def test_an_echo_is_unchanged(tmp_path: Path) -> None:
    """str is sent as text, bytes as binary, anything else as JSON text; close code 1001 ends the connection."""
    sent = ["text ✓", b"\x00\xff binary", {"op": "subscribe", "args": [1, None]}, "", b"", "x" * 300_000]
    got: list[Any] = []

    async def collect(message: Message[Any]) -> None:
        got.append(message.data)

    async with NodeWs(tmp_path) as server:
        fleet = Fleet()
        echo = fleet.connect(Endpoint(f"{server.uri}/echo", name="echo"), collect)
        async with fleet:
            await opened(echo)
            for data in sent:
                await echo.send(data)
            await until(lambda: len(got) == len(sent), "all echoes")
        assert got[:2] == sent[:2]
        assert json.loads(got[2]) == sent[2]
        assert got[3:] == sent[3:]
        assert endpoint(fleet, "echo").sent == len(sent)
        await until(lambda: server.events("close"), "the close")
        assert server.events("close")[0]["code"] == 1001


async def test_401_is_fatal_for_its_endpoint_alone(tmp_path: Path) -> None:
    """An endpoint that is refused with 401 is FAILED after one attempt; others on the same server are not affected."""
    numbers = Numbers()
    async with NodeWs(tmp_path) as server:
        fleet = Fleet()
        shut = fleet.connect(Endpoint(f"{server.uri}/refuse/401", name="shut", reconnect=QUICK))
        fleet.connect(Endpoint(f"{server.uri}/feed?rate=100", name="feed", decode="json"), numbers.take)
        async with fleet:
            with pytest.raises(EndpointFailed) as failed:
                await opened(shut)
            assert failed.value.name == "shut"
            assert isinstance(failed.value.__cause__, HandshakeRejected)
            assert failed.value.__cause__.status == 401
            before = numbers.count("feed")
            await until(lambda: numbers.count("feed") > before + 50, "the other endpoint continues")
            assert shut.state is State.FAILED
        assert len(server.events("refuse")) == 1
        assert endpoint(fleet, "feed").losses == 0


async def test_429_is_retried_no_sooner_than_the_server_asks(tmp_path: Path) -> None:
    """An endpoint that is refused with 429 and Retry-After retries after that time, until it is accepted."""
    numbers = Numbers()
    refusals: list[Any] = []
    async with NodeWs(tmp_path) as server:
        fleet = Fleet()
        fleet.connect(
            Endpoint(f"{server.uri}/refuse/429?times=2&after=1&n=5", name="busy", decode="json", reconnect=QUICK),
            numbers.take,
        )

        @fleet.process("$state.busy", name="states")
        async def on_state(message: Message[Any]) -> None:
            if message.data.error is not None:
                refusals.append(message.data.error)

        async with fleet:
            await until(lambda: numbers.count("busy") == 5, "accepted at the third attempt")
        assert [(error.status, error.retry_after_s) for error in refusals] == [(429, 1.0), (429, 1.0)]
        attempts = [event["at"] for event in server.events("refuse") + server.events("open")]
        assert len(attempts) == 3
        # The server's clock is a different one, in milliseconds.
        assert all(later - earlier > 950 for earlier, later in itertools.pairwise(attempts))
        row = endpoint(fleet, "busy")
        assert (row.connects, row.losses) == (1, 0)


async def test_a_stuck_processor_pauses_only_its_own_feed(tmp_path: Path) -> None:
    """While a processor is stuck, its feed is paused, not lost, far beyond the pong timeout; then all
    messages arrive.
    """
    numbers, others = Numbers(), Numbers()
    release = asyncio.Event()

    async def stuck(message: Message[Any]) -> None:
        await release.wait()
        await numbers.take(message)

    async with NodeWs(tmp_path) as server:
        fleet = Fleet()
        impatient = Liveness(ping_s=0.2, pong_s=0.4)
        fleet.connect(
            Endpoint(f"{server.uri}/feed?n=20000&size=2000", name="slow", decode="json", liveness=impatient),
            stuck,
            buffer=Buffer(messages=100),
        )
        fleet.connect(
            Endpoint(f"{server.uri}/feed?rate=100", name="quick", decode="json", liveness=impatient), others.take
        )
        async with fleet:
            await until(lambda: endpoint(fleet, "slow").paused_by == ("slow",), "the pause")
            # Messages of one read are still delivered.
            before = others.count("quick")
            await until(lambda: others.count("quick") > before + 20, "twenty messages of the other feed")
            received = endpoint(fleet, "slow").received
            before = others.count("quick")
            await until(lambda: others.count("quick") > before + 200, "two seconds of the other feed")
            row = endpoint(fleet, "slow")
            assert row.received == received, "a paused feed is not read"
            # The bound is exceeded by at most one read of 64 KiB beyond the 100 messages.
            assert received < 100 + 64
            release.set()
            await until(lambda: numbers.count("slow") == 20_000, "everything after the release")
        row = endpoint(fleet, "slow")
        assert (row.connects, row.losses) == (1, 0)
        assert row.paused_s > 0
        assert subscription(fleet, "slow").dropped == 0
        numbers.assert_no_holes()
        assert endpoint(fleet, "quick").losses == 0


async def test_processors_that_raise_affect_no_others(tmp_path: Path) -> None:
    """Messages for which a processor raises are counted as failed; a second subscription gets all of them."""
    numbers = Numbers()

    async def picky(message: Message[Any]) -> None:
        if message.data["n"] % 10 == 0:
            raise RuntimeError("not a tenth one")

    async with NodeWs(tmp_path) as server:
        fleet = Fleet()
        fleet.connect(Endpoint(f"{server.uri}/feed?n=1000", name="feed", decode="json"), picky)
        fleet.process("feed", name="witness")(numbers.take)
        async with fleet:
            await until(lambda: numbers.count("feed") == 1000, "all messages")
            await until(lambda: subscription(fleet, "feed").pending == 0, "all attempts")
        row = subscription(fleet, "feed")
        assert (row.offered, row.processed, row.failed, row.dropped) == (1000, 900, 100, 0)
        row = subscription(fleet, "witness")
        assert (row.offered, row.processed) == (1000, 1000)
        numbers.assert_no_holes()
