"""A client for servers on loopback."""

from typing import Any

import httpx


def client(address: str = "", **options: Any) -> httpx.AsyncClient:
    """Return a client of the server at `address`, with a long timeout; it loads no certificates."""
    given = {"base_url": f"http://{address}" if address else "", "trust_env": False, "verify": False, "timeout": 60}
    return httpx.AsyncClient(**given | options)
