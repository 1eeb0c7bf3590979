"""A fixed number of connections to one endpoint. Declared by the contract; it comes with a later version."""

from __future__ import annotations

from typing import Any

from wsfleet.errors import ConfigError

__all__ = ["Pool"]


class Pool:
    """A fixed number of connections to one endpoint. Not there yet: `Fleet.pool` refuses."""

    def __init__(self, *args: Any, **options: Any) -> None:
        raise ConfigError("pools are not supported yet")
