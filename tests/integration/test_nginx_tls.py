"""A fleet behind nginx, which terminates TLS: certificates, and restarts of the proxy and the feed."""

import ssl
from pathlib import Path

import pytest

from tests.integration.helpers import QUICK, Numbers, endpoint, opened, until
from tests.support.servers.nginx import NginxTls
from tests.support.servers.node_ws import NodeWs
from wsfleet import Endpoint, Fleet, State
from wsfleet.core.errors import EndpointFailed

pytestmark = pytest.mark.integration


async def test_killed_in_mid_flow_the_fleet_shakes_hands_again(tmp_path: Path) -> None:
    """After a TLS proxy dies, the connection returns; a direct connection to the same feed is not affected."""
    numbers = Numbers()
    async with NodeWs(tmp_path) as node, NginxTls(tmp_path, node) as nginx:
        fleet = Fleet()
        context = nginx.client_context()
        shaken = [
            fleet.connect(Endpoint(uri, name=name, decode="json", ssl=context, reconnect=QUICK), numbers.take)
            for name, uri in {
                "by-address": f"{nginx.uri}/feed?rate=100",
                "by-name": f"wss://localhost:{nginx.port}/feed?rate=100",
            }.items()
        ]
        fleet.connect(Endpoint(f"{node.uri}/feed?rate=100", name="direct", decode="json"), numbers.take)
        async with fleet:
            await until(lambda: all(numbers.count(c.name) > 20 for c in shaken), "messages before the kill")
            await nginx.kill()
            await until(lambda: all(c.state is not State.OPEN for c in shaken), "the loss is noticed")
            await nginx.start()
            await until(lambda: all(numbers.count(c.name, 2) > 20 for c in shaken), "messages after it")
        for connection in shaken:
            row = endpoint(fleet, connection.name)
            assert (row.connects, row.losses) == (2, 1)
        assert endpoint(fleet, "direct").losses == 0
        numbers.assert_no_holes()


@pytest.mark.parametrize("fault", ["another CA", "the system's CAs", "another host name"])
async def test_a_certificate_that_cannot_be_trusted_is_fatal_for_its_endpoint_alone(tmp_path: Path, fault: str) -> None:
    """An endpoint whose server has an invalid certificate is FAILED after one attempt; others are not affected."""
    numbers = Numbers()
    async with (
        NodeWs(tmp_path) as node,
        NginxTls(tmp_path, node) as nginx,
        NginxTls(tmp_path, node, names=("feed.example",)) as other,
    ):
        target, context = {
            "another CA": (nginx, other.client_context()),
            "the system's CAs": (nginx, None),
            "another host name": (other, other.client_context()),
        }[fault]
        fleet = Fleet()
        bad = fleet.connect(Endpoint(f"{target.uri}/feed?rate=100", name="bad", ssl=context, reconnect=QUICK))
        good = Endpoint(f"{nginx.uri}/feed?rate=100", name="good", decode="json", ssl=nginx.client_context())
        fleet.connect(good, numbers.take)
        async with fleet:
            with pytest.raises(EndpointFailed) as failed:
                await opened(bad)
            assert isinstance(failed.value.__cause__, Exception)
            assert isinstance(failed.value.__cause__.__cause__, ssl.SSLCertVerificationError)
            assert bad.state is State.FAILED
            before = numbers.count("good")
            await until(lambda: numbers.count("good") > before + 50, "the other endpoint continues")
        assert endpoint(fleet, "bad").connects == 0
        assert endpoint(fleet, "good").losses == 0
        assert len(node.events("open")) == 1


async def test_a_proxy_without_its_upstream_is_retried(tmp_path: Path) -> None:
    """502 while the server behind the proxy is down is not fatal: the fleet reconnects when the server returns."""
    numbers = Numbers()
    async with NodeWs(tmp_path) as node, NginxTls(tmp_path, node) as nginx:
        fleet = Fleet()
        feed = fleet.connect(
            Endpoint(
                f"{nginx.uri}/feed?rate=100", name="feed", decode="json", ssl=nginx.client_context(), reconnect=QUICK
            ),
            numbers.take,
        )
        async with fleet:
            await until(lambda: numbers.count("feed") > 20, "messages before the kill")
            await node.kill()
            await until(lambda: "502" in (endpoint(fleet, "feed").last_error or ""), "the proxy's 502")
            assert feed.state is not State.FAILED
            await node.start()
            await until(lambda: numbers.count("feed", 2) > 20, "messages after it")
        row = endpoint(fleet, "feed")
        assert (row.connects, row.losses) == (2, 1)
        numbers.assert_no_holes()


async def test_a_reload_of_the_proxy_leaves_open_connections_alone(tmp_path: Path) -> None:
    """A reload of nginx, with a renewed certificate, closes no open connection, and new ones are made through it."""
    numbers = Numbers()
    async with NodeWs(tmp_path) as node, NginxTls(tmp_path, node) as nginx:
        fleet = Fleet()
        options = {"decode": "json", "ssl": nginx.client_context()}
        fleet.connect(Endpoint(f"{nginx.uri}/feed?rate=100", name="old", **options), numbers.take)
        async with fleet:
            await until(lambda: numbers.count("old") > 20, "messages before the reload")
            nginx.reload()
            fleet.connect(Endpoint(f"{nginx.uri}/feed?rate=100", name="new", **options), numbers.take)
            await until(lambda: numbers.count("new") > 20, "messages through the new worker")
            before = numbers.count("old")
            await until(lambda: numbers.count("old") > before + 20, "messages through the old one")
        for name in ("old", "new"):
            row = endpoint(fleet, name)
            assert (row.connects, row.losses) == (1, 0)
        numbers.assert_no_holes()
