"""The header fields of an HTTP message."""

from __future__ import annotations

from collections.abc import Iterator

import websockets.datastructures

__all__ = ["Headers"]


class Headers(websockets.datastructures.Headers):
    """The `Headers` of websockets: names are case-insensitive, and `get_all(name)` returns all values of a field.

    For a field with several values, `headers[name]` returns them joined by commas (RFC 9110, section 5.2). The class of
    websockets raises an exception instead, which a peer could cause. Names keep their spelling.
    """

    __slots__ = ()

    def __getitem__(self, key: str) -> str:
        values = self.get_all(key)
        if not values:
            raise KeyError(key)
        return ", ".join(values)

    def __iter__(self) -> Iterator[str]:
        # The first spelling of each name.
        return iter({name.lower(): name for name, _ in reversed(list(self.raw_items()))}.values())
