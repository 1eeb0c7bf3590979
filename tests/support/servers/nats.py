"""nats-server, which uses the NATS protocol in binary WebSocket frames."""

import asyncio
from collections.abc import Iterable
from pathlib import Path

import httpx

from tests.support.servers.base import HOST, Server, free_port, require

CONFIG = """\
listen: "{host}:{tcp_port}"
http: "{host}:{http_port}"
ping_interval: "{ping_interval}"
websocket {{
  listen: "{host}:{port}"
  no_tls: true
  compression: {compression}
}}
"""


class NatsServer(Server):
    """With a WebSocket port, `uri`, and the plain TCP one, which `publish` uses."""

    def __init__(self, folder: Path, *, ping_interval: str = "2m", compression: bool = False) -> None:
        super().__init__(folder)
        self._program = require("nats-server")
        self._ping_interval = ping_interval
        self._compression = compression
        self.tcp_port = 0
        self.http_port = 0

    def command(self) -> list[str]:
        self.tcp_port, self.http_port = free_port(), free_port()
        config = self.folder / "nats.conf"
        config.write_text(
            CONFIG.format(
                host=HOST,
                port=self.port,
                tcp_port=self.tcp_port,
                http_port=self.http_port,
                ping_interval=self._ping_interval,
                compression=str(self._compression).lower(),
            )
        )
        return [self._program, "-c", str(config)]

    async def connections(self) -> dict[str, int]:
        """The current connections according to the server's own monitoring: the name of each, and its id."""
        async with httpx.AsyncClient(trust_env=False, verify=False, timeout=60) as client:
            answer = (await client.get(f"http://{HOST}:{self.http_port}/connz")).json()
        return {each.get("name", ""): each["cid"] for each in answer["connections"]}

    async def publish(self, subject: str, payloads: Iterable[bytes]) -> None:
        """Publishes over a separate connection, and returns when the server has received all messages."""
        reader, writer = await asyncio.open_connection(HOST, self.tcp_port)
        try:
            await reader.readuntil(b"\r\n")  # INFO
            writer.write(b'CONNECT {"verbose":false,"pedantic":false}\r\n')
            for payload in payloads:
                writer.write(b"PUB %b %d\r\n%b\r\n" % (subject.encode(), len(payload), payload))
                await writer.drain()
            # The answer to a PING comes after everything before it was processed.
            writer.write(b"PING\r\n")
            while await reader.readuntil(b"\r\n") != b"PONG\r\n":
                pass
        finally:
            writer.close()
            await writer.wait_closed()
