"""Divides a fleet's endpoints among processes or hosts, by a hash of their names alone.

Nobody has to be asked whose an endpoint is, and it stays where it is until their number changes: from N to N + 1 about
one in N + 1 moves, all of them to the new one (rendezvous hashing).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from hashlib import blake2b

from wsfleet.fleet.fleet import Fleet, control_of

__all__ = ["Shard", "divide", "held", "parse_shard"]


@dataclass(frozen=True, slots=True)
class Shard:
    """Share `index`, from 0, of `count`. Shares of different `level` are drawn apart, so that one can be shared out
    again: a host's among its workers."""

    index: int
    count: int
    level: str = "shard"

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"

    def holds(self, name: str) -> bool:
        """Whether the endpoint or pool `name` belongs to this share; of each name that is true of exactly one."""
        return self._owner(name) == self.index

    def _owner(self, name: str) -> int:
        # Not crc32: it is linear, so that over names of one length the same shares would win against the same others.
        def weight(index: int) -> bytes:
            return blake2b(f"{self.level} {index} {name}".encode(), digest_size=8).digest()

        return max(range(self.count), key=weight)


def parse_shard(text: str) -> Shard:
    """Return the share that `I/N` says. Raises ValueError, with what is wrong."""
    parts = re.fullmatch(r"([0-9]{1,6})/([0-9]{1,6})", text)
    if parts is None:
        raise ValueError(f"{text!r} is no share; write I/N, as in 0/3")
    index, count = int(parts[1]), int(parts[2])
    if index >= count:
        raise ValueError(f"{text!r}: of {count} shares the first is 0 and the last {count - 1}")
    return Shard(index, count)


def held(fleet: Fleet, *shards: Shard) -> set[str]:
    """Return the names of the connections that all of `shards` hold. A pool stays whole: its own name decides."""
    names = control_of(fleet).deciding_names()
    return {name for name, deciding in names if all(shard.holds(deciding) for shard in shards)}


def divide(fleet: Fleet, *shards: Shard) -> None:
    """Leave `fleet`, which has not started, only the endpoints and pools that all of `shards` hold.

    What goes takes its own processors along and leaves no row; processors over a pattern stay, for whatever comes.
    """
    control = control_of(fleet)
    control.keep_connections(lambda name: all(shard.holds(name) for shard in shards))
    if control.reloader is not None:
        control.reloader.keeps = lambda section, name: section == "process" or all(s.holds(name) for s in shards)
