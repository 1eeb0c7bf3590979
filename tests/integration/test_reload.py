"""Reading the file again, checked with nats-server, which numbers its connections."""

import asyncio
from pathlib import Path

import pytest

from tests.support.servers.nats import NatsServer
from wsfleet.config import load

pytestmark = pytest.mark.integration

HANDLERS = """
import json

async def log_in(session):
    await session.recv(match=lambda message: message.data.startswith(b"INFO "))
    login = json.dumps({"verbose": False, "pedantic": False, "name": session.endpoint})
    await session.send(f"CONNECT {login}\\r\\nPING\\r\\n".encode())
    await session.recv(match=lambda message: message.data == b"PONG\\r\\n")

async def take(message):
    pass
"""


def write(folder: Path, uri: str, names: str, more: str = "") -> None:
    tables = (
        f'[[connect]]\nuri = "{uri}"\nname = "{name}"\ndecode = "bytes"\nhandler = "nats_login:take"\n'
        f'on_open = "nats_login:log_in"\n{more if name == "changed" else ""}'
        for name in names.split()
    )
    (folder / "feeds.toml").write_text("".join(tables))


async def test_untouched_connections_keep_their_ids(tmp_path: Path) -> None:
    """Connections whose entries are unchanged in the file keep their number on the server."""
    (tmp_path / "nats_login.py").write_text(HANDLERS)
    async with NatsServer(tmp_path) as server:
        write(tmp_path, server.uri, "kept changed gone")
        async with load(tmp_path / "feeds.toml") as fleet:
            await asyncio.gather(*(each.wait_open() for each in fleet.connections.values()))
            before = await server.connections()
            write(tmp_path, server.uri, "kept changed added", "keep_last = 1\n")
            lines = await fleet.reload()
            await asyncio.gather(*(each.wait_open() for each in fleet.connections.values()))
            after = await server.connections()
    assert lines == ["[[connect]] gone: removed", "[[connect]] changed: changed", "[[connect]] added: added"]
    assert set(before) == {"kept", "changed", "gone"} and set(after) == {"kept", "changed", "added"}
    assert after["kept"] == before["kept"]
    assert min(after["changed"], after["added"]) > max(before.values())
