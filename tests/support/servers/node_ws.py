"""A server on the npm package ws, the WebSocket implementation of most Node.js programs."""

import json
from pathlib import Path
from typing import Any

from tests.support.servers.base import HOST, Server, missing, require

NODE = Path(__file__).parent / "node"


class NodeWs(Server):
    """See node/server.js for its paths: /feed, /echo, /refuse/STATUS."""

    def __init__(self, folder: Path, *, deflate: bool = False, subprotocol: str | None = None) -> None:
        super().__init__(folder)
        self._program = require("node")
        if not (NODE / "node_modules" / "ws").is_dir():
            missing("the npm package ws")
        self._options = {"host": HOST, "deflate": deflate, "subprotocol": subprotocol}

    def command(self) -> list[str]:
        return [self._program, str(NODE / "server.js"), json.dumps({**self._options, "port": self.port})]

    def events(self, kind: str, path: str | None = None) -> list[dict[str, Any]]:
        """The records of the server over all its starts: of one kind, and of one path if given."""
        lines = [json.loads(line) for line in self.log_text().splitlines() if line.startswith("{")]
        return [event for event in lines if event["event"] == kind and path in (None, event.get("path"))]
