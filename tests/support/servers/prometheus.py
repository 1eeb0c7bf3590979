"""Prometheus, which scrapes a target, and answers queries."""

from pathlib import Path
from typing import Any

import httpx

from tests.support.servers.base import HOST, Server, require

ALERTS = Path(__file__).parents[3] / "deploy" / "alerts.yml"

CONFIG = """\
global: {{scrape_interval: 200ms, scrape_timeout: 200ms, evaluation_interval: 200ms}}
rule_files: [{alerts}]
scrape_configs:
  - job_name: fleet
    static_configs: [{{targets: ["{target}"]}}]
"""


class Prometheus(Server):
    """It scrapes `target`, an address, five times a second, and has the rules of deploy/alerts.yml."""

    scheme = "http"

    def __init__(self, folder: Path, target: str) -> None:
        super().__init__(folder)
        self._program = require("prometheus")
        self._target = target

    def command(self) -> list[str]:
        config = self.folder / "prometheus.yml"
        config.write_text(CONFIG.format(alerts=ALERTS, target=self._target))
        data = self.folder / "data"
        return [
            self._program,
            f"--config.file={config}",
            f"--storage.tsdb.path={data}",
            f"--web.listen-address={HOST}:{self.port}",
        ]

    async def ask(self, what: str, **parameters: str) -> Any:
        """The data of an answer of its HTTP API; raises AssertionError with its error if it refuses."""
        # Without the environment's proxies, and without the settings of the user.
        async with httpx.AsyncClient(base_url=self.uri, trust_env=False, verify=False, timeout=60) as client:
            answer = await client.get(f"/api/v1/{what}", params=parameters)
        if answer.status_code == 503:  # it still reads its storage
            return {"result": []}
        body = answer.json()
        assert body["status"] == "success", f"{parameters}: {body.get('error')}"
        return body["data"]

    async def query(self, expression: str) -> dict[frozenset[tuple[str, str]], float]:
        """The current values of an expression, by their labels."""
        found = (await self.ask("query", query=expression))["result"]
        return {frozenset(each["metric"].items()): float(each["value"][1]) for each in found}
