"""Reloading over HTTP."""

from pathlib import Path

from tests.support.http import client as http_client
from wsfleet.config import load
from wsfleet.testing import FeedServer

TOKEN = "let-me-change-things-please"


async def test_a_reload_needs_the_token(tmp_path: Path) -> None:
    """A valid file is applied, and the answer contains settings that need a restart, and unchanged entries.

    An invalid one is rejected with its faults, and without the token nothing is reloaded.
    """
    file = tmp_path / "fleet.toml"
    async with FeedServer() as server:
        table = f'[[connect]]\nuri = "{server.uri}"\nname = "NAME"\n'
        head = f'[http]\nlisten = "127.0.0.1:0"\ntoken = "{TOKEN}"\n'
        file.write_text(head + table.replace("NAME", "a"))
        async with load(file) as fleet:
            await fleet.connections["a"].wait_open()
            (observer,) = fleet.observers
            async with http_client(observer.address) as client:  # type: ignore[attr-defined]
                bearer = {"Authorization": f"Bearer {TOKEN}"}
                file.write_text(head + "[[connect]]\n")
                refused = await client.post("/api/reload", headers=bearer)
                fleet_table = "[fleet]\ndrain_s = 1\n"
                file.write_text(head + fleet_table + table.replace("NAME", "a") + table.replace("NAME", "b"))
                unauthorized = await client.post("/api/reload")
                assert set(fleet.connections) == {"a"}
                good = await client.post("/api/reload", headers=bearer)
                await fleet.connections["b"].wait_open()
    assert refused.status_code == 422
    assert "fleet.toml:4" in refused.json()["faults"][0]
    assert unauthorized.status_code == 401
    assert (good.status_code, good.json()) == (
        200,
        {"changed": ["[[connect]] b: added"], "restart": ["fleet"], "kept": {"a": 1}},
    )
