"""Divides a fleet's endpoints among processes or hosts by rendezvous hashing of their names.

The owner of an endpoint depends only on its name and the number of shards, so processes need no coordination. If the
number grows from N to N + 1, about one endpoint in N + 1 moves, always to the new shard (Thaler and Ravishankar, "Using
name-based mappings to increase hit rates", 1998).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from hashlib import blake2b

from wsfleet.fleet.fleet import Fleet, control_of

__all__ = ["Shard", "divide", "held", "parse_shard"]


@dataclass(frozen=True, slots=True)
class Shard:
    """Shard `index` (from 0) of `count`.

    `level` is part of the hash, so that the shard of a host can be divided again among its workers.
    """

    index: int
    count: int
    level: str = "shard"

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"

    def holds(self, name: str) -> bool:
        """Whether the endpoint or pool `name` belongs to this shard. Each name belongs to exactly one."""
        return self._owner(name) == self.index

    def _owner(self, name: str) -> int:
        # Not crc32: it is linear, so the weights of two shards would be correlated for names of equal length.
        def weight(index: int) -> bytes:
            return blake2b(f"{self.level} {index} {name}".encode(), digest_size=8).digest()

        return max(range(self.count), key=weight)


def parse_shard(text: str) -> Shard:
    """Parse `I/N`. Raises ValueError."""
    parts = re.fullmatch(r"([0-9]{1,6})/([0-9]{1,6})", text)
    if parts is None:
        raise ValueError(f"{text!r} is not a shard; write I/N, for example 0/3")
    index, count = int(parts[1]), int(parts[2])
    if index >= count:
        raise ValueError(f"{text!r}: the shards of {count} are numbered from 0 to {count - 1}")
    return Shard(index, count)


def held(fleet: Fleet, *shards: Shard) -> set[str]:
    """Return the names of the connections that all of `shards` hold. A pool is not divided: its name decides."""
    names = control_of(fleet).deciding_names()
    return {name for name, deciding in names if all(shard.holds(deciding) for shard in shards)}


def divide(fleet: Fleet, *shards: Shard) -> None:
    """Remove the endpoints and pools that not all of `shards` hold from `fleet`, which must not have started.

    The processors declared with an endpoint are removed with it; processors for a pattern stay.
    """
    control = control_of(fleet)
    control.keep_connections(lambda name: all(shard.holds(name) for shard in shards))
    if control.reloader is not None:
        control.reloader.keeps = lambda section, name: section == "process" or all(s.holds(name) for s in shards)
