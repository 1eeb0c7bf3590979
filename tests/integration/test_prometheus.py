"""A running fleet in Debian's Prometheus: the server scrapes it, and is queried."""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.integration.helpers import PATIENCE_S, QUICK, opened
from tests.support.servers.prometheus import Prometheus
from wsfleet import Buffer, Fleet, Liveness, Message, Overflow, Subscription
from wsfleet.testing import FeedServer

pytestmark = pytest.mark.integration

LOOPS = ("asyncio",)  # the subject is Prometheus, whose requests are the same on both

DASHBOARD = Path(__file__).parents[2] / "deploy" / "grafana.json"

SECRET = "s3cr3tT0kenOfTwentyCharacters99"
HOSTILE = 'a"b\\c{d="e"}#é'
"""An endpoint's name: one token, with all characters that the text format escapes."""


async def answered(ask: Callable[[], Awaitable[Any]], what: str) -> Any:
    """Returns the result of `ask` as soon as it is true; fails with `what` after the time limit."""
    try:
        async with asyncio.timeout(PATIENCE_S):
            while not (answer := await ask()):
                await asyncio.sleep(0.1)
            return answer
    except TimeoutError:
        raise AssertionError(f"waited in vain: {what}") from None


async def is_true(prometheus: Prometheus, expression: str) -> None:
    """Waits until `expression`, a comparison, has a result."""
    await answered(lambda: prometheus.query(expression), expression)


class Scraped:
    """A fleet that receives, drops and fails messages, and the Prometheus that scrapes it."""

    def __init__(self, fleet: Fleet, feeds: FeedServer, prometheus: Prometheus, idle: Subscription) -> None:
        self.fleet, self.feeds, self.prometheus = fleet, feeds, prometheus
        self.idle = idle  # an endpoint that is no longer needed ends


@asynccontextmanager
async def scraped(folder: Path) -> AsyncIterator[Scraped]:
    fleet = Fleet(name='the "fleet"\n')
    served = fleet.serve_http("127.0.0.1:0")

    async def take(message: Message[str]) -> None:
        if message.data == "bad":
            raise ValueError(f"token={SECRET}")

    async with FeedServer() as feeds:
        for name in ("plain", HOSTILE):
            uri = f"{feeds.uri}/?token={SECRET}"
            fleet.connect(uri, take, name=name, reconnect=QUICK, liveness=Liveness(ping_s=0.1))
        idle = fleet.subscribe("*", name="idle", buffer=Buffer(messages=1, overflow=Overflow.DROP_OLDEST))
        async with fleet:
            for connection in fleet.connections.values():
                await opened(connection)
            async with Prometheus(folder, served.address) as prometheus:
                yield Scraped(fleet, feeds, prometheus, idle)


async def test_prometheus_scrapes_a_running_fleet(tmp_path: Path) -> None:
    """Prometheus knows the number of open endpoints, of received and dropped messages, and when an endpoint is down."""
    async with scraped(tmp_path) as it:
        prometheus = it.prometheus
        await is_true(prometheus, 'wsfleet_endpoints{job="fleet", state="OPEN"} == 2')
        await is_true(prometheus, 'up{job="fleet"} == 1 and on (instance) wsfleet_balanced == 1')
        await it.feeds.send(*["good"] * 50, *["bad"] * 7)
        await is_true(prometheus, "sum(wsfleet_endpoint_received_messages_total) == 114")
        # Prometheus extrapolates to the whole range, so only the fact of an increase is exact.
        await is_true(prometheus, "sum(increase(wsfleet_endpoint_received_messages_total[1m])) > 100")
        await is_true(prometheus, "sum(rate(wsfleet_received_messages_total[1m])) > 0")
        await is_true(prometheus, "wsfleet_failed_messages_total == 14")
        await is_true(prometheus, 'wsfleet_subscription_dropped_messages_total{subscription="idle"} == 113')
        await is_true(prometheus, "count(wsfleet_endpoint_latency_seconds > 0) == 2")
        it.feeds.refuse(503)
        it.feeds.drop()
        await is_true(prometheus, 'wsfleet_endpoints{state="OPEN"} == 0 and on (instance) wsfleet_losses_total == 2')


async def test_labels_are_unchanged_and_contain_no_secret(tmp_path: Path) -> None:
    """Names with quotes, backslashes and newlines are read back; no stored text contains a secret."""
    async with scraped(tmp_path) as it:
        await it.feeds.send("bad")
        await is_true(it.prometheus, "wsfleet_failed_messages_total == 2")
        # Over a range: on a busy machine the last scrape may have timed out, which ends all series for the moment.
        rows = await it.prometheus.query("last_over_time(wsfleet_endpoint_open[5m]) == 1")
        assert {dict(labels)["endpoint"] for labels in rows} == {"plain", HOSTILE}
        (info,) = await it.prometheus.query("last_over_time(wsfleet_info[5m])")
        assert dict(info)["name"] == it.fleet.name
        kept = await it.prometheus.ask("series", **{"match[]": '{job="fleet"}'})
        assert len(kept) > 50
        assert SECRET not in json.dumps(kept)
        assert "ws://" not in json.dumps(kept)

        async def scraped_well() -> bool:
            targets = await it.prometheus.ask("targets")
            assert SECRET not in json.dumps(targets)
            return [target["lastError"] for target in targets["activeTargets"]] == [""]

        await answered(scraped_well, "a scrape without an error")


async def test_the_rules_are_loaded_and_one_fires(tmp_path: Path) -> None:
    """Prometheus accepts all rules of deploy/alerts.yml, and has evaluated each of them with a real fleet's metrics."""
    async with scraped(tmp_path) as it:

        async def evaluated() -> list[dict[str, Any]]:
            groups = (await it.prometheus.ask("rules")).get("groups", [])
            rules = [rule for group in groups for rule in group["rules"]]
            return rules if all(rule["health"] != "unknown" for rule in rules) else []

        rules = await answered(evaluated, "the rules")
        assert {rule["health"] for rule in rules} == {"ok"}, [rule.get("lastError") for rule in rules]
        # `for` waits five minutes; this test only waits until the alert is pending.
        it.feeds.refuse(503)
        it.feeds.drop()
        await is_true(it.prometheus, 'ALERTS{alertname="WsfleetEndpointDown", alertstate="pending"}')


def _expressions(dashboard: dict[str, Any]) -> list[str]:
    targets = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    return targets + [annotation["expr"] for annotation in dashboard["annotations"]["list"]]


def _filled_in(expression: str) -> str:
    """As Grafana sends it, with All selected."""
    filled = re.sub(r"\$(job|instance)\b", ".*", expression).replace("$__rate_interval", "1m")
    assert not re.search(r"\$\w", filled), f"a variable without a value: {expression}"
    return filled


async def test_the_dashboard_uses_existing_metrics(tmp_path: Path) -> None:
    """Each metric in deploy/grafana.json is exposed, and each expression has a result, or may have none."""
    dashboard = json.loads(DASHBOARD.read_text("utf-8"))
    expressions = [_filled_in(each) for each in _expressions(dashboard)]
    assert len(expressions) > 20
    async with scraped(tmp_path) as it:
        await it.feeds.send("good", "bad")
        await is_true(
            it.prometheus, "wsfleet_failed_messages_total == 2 and on (instance) count_over_time(wsfleet_info[1m]) > 2"
        )
        exposed = set(await it.prometheus.ask("label/__name__/values"))
        for expression in expressions:
            named = set(re.findall(r"\bwsfleet_\w+", expression))
            assert named
            assert named <= exposed, f"{named - exposed} in {expression}"

            async def shown(expression: str = expression) -> bool:
                # Nothing is down, so a comparison has no result; it is enough that it is valid.
                return bool(await it.prometheus.query(expression)) or "== 0" in expression

            await answered(shown, expression)
        variables = {each["name"]: each for each in dashboard["templating"]["list"]}
        for name in ("job", "instance"):
            metric, label = re.fullmatch(r"label_values\((\w+).*, (\w+)\)", variables[name]["definition"]).groups()  # type: ignore[union-attr]
            assert metric in exposed
            assert await it.prometheus.ask(f"label/{label}/values", **{"match[]": metric})


def test_the_panels_are_complete_and_do_not_overlap() -> None:
    """Each panel has its own id, a title and a description, and does not overlap others."""
    panels = json.loads(DASHBOARD.read_text("utf-8"))["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    assert all(panel["title"] and panel["description"] for panel in panels)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        assert max(x for x, _ in cells) < 24
        taken |= cells
