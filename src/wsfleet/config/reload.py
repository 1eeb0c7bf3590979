"""Reads a fleet's file again while the fleet runs, and changes only what the file changed.

An entry is known by its section and its name. One whose table says what it said before, with what is filled in from the
environment and from files, is not touched: its sockets, its mailbox and what waits there stay. Modules are not imported
again, so a changed function needs a restart, or a new one in a module that is in use; so do changes of `[fleet]` and
`[http]`, which are told.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wsfleet.core.errors import ConfigError, FleetError
from wsfleet.fleet.fleet import Fleet, control_of
from wsfleet.fleet.reloading import Change, Reloaded

if TYPE_CHECKING:
    from wsfleet.config import Report

__all__ = ["Entry", "Reloader"]

Key = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Entry:
    """One table of a file: what it says, and how to declare it in another fleet."""

    section: str
    name: str
    table: Mapping[str, Any] = field(repr=False)
    declare: Callable[[Fleet], object] = field(compare=False, repr=False)

    @property
    def key(self) -> Key:
        return self.section, self.name


@dataclass(frozen=True, slots=True)
class _Changes:
    """What a file says now, and how that differs from before."""

    wanted: dict[Key, Entry]
    gone: list[Entry]
    changed: list[Entry]
    added: list[Entry]
    restarts: list[str]
    untouched: set[str]  # endpoints, the members of pools among them

    def done(self, sessions: Mapping[str, int], faults: Sequence[str] = ()) -> Reloaded:
        """Return what this came to; `sessions` has the number of each endpoint's session now."""
        told = (("removed", self.gone), ("changed", self.changed), ("added", self.added))
        changes = [Change(entry.section, entry.name, what) for what, entries in told for entry in entries]
        kept = {name: number for name, number in sessions.items() if name in self.untouched}
        return Reloaded(changes, self.restarts, kept, faults)


class Reloader:
    """Keeps one fleet like its file. `report` is what the fleet was declared from, and `read` makes another.

    `keeps(section, name)` tells which entries are this fleet's: of a fleet that is divided, others have the rest.
    """

    def __init__(self, path: Path, report: Report, read: Callable[[Path], Report]) -> None:
        self._path = path
        self._read = read
        self._settings = report.settings
        self._entries = {entry.key: entry for entry in report.entries}
        self._busy = False
        self.keeps: Callable[[str, str], bool] = lambda section, name: True

    async def reload(self, fleet: Fleet) -> Reloaded:
        """Read the file again, change what is different, and return a line for each change.

        Raises ConfigError with every fault of the file, and then nothing was changed; FleetError where another reload
        is under way, or the fleet does not run. What is removed or changed drains as `Connection.close()` does.
        Cancelled, it leaves undone what it has not begun.
        """
        if self._busy:
            raise FleetError("a reload is under way; try again when it is done")
        control_of(fleet).check_reloadable()
        self._busy = True
        try:
            return await self._apply(fleet, await self.read())
        finally:
            self._busy = False

    async def read(self) -> Report:
        """Read the file, and change nothing. Raises ConfigError with every fault."""
        # Elsewhere, as thousands of endpoints take a while, and so may a module that is new.
        report = await asyncio.to_thread(self._read, self._path)
        if report.fleet is None:
            text = "\n".join(map(str, report.faults))
            raise ConfigError(text, tuple((fault.where, fault.text) for fault in report.faults))
        return report

    def note(self, report: Report, sessions: Mapping[str, int], faults: Sequence[str]) -> Reloaded:
        """Return what `report` changes, and take it as done: others did it, and found `faults`."""
        changes = self._changes(report)
        self._entries = changes.wanted
        return changes.done(sessions, faults)

    def _changes(self, report: Report) -> _Changes:
        wanted = {entry.key: entry for entry in report.entries if self.keeps(*entry.key)}
        before = self._entries = {key: entry for key, entry in self._entries.items() if self.keeps(*key)}
        same = {entry.name for key, entry in wanted.items() if key[0] != "process" and before.get(key) == entry}
        members = {} if report.fleet is None else control_of(report.fleet).pool_members()
        return _Changes(
            wanted,
            gone=[entry for key, entry in before.items() if key not in wanted],
            changed=[entry for key, entry in wanted.items() if key in before and before[key] != entry],
            added=[entry for key, entry in wanted.items() if key not in before],
            restarts=[name for name in ("fleet", "http") if report.settings.get(name) != self._settings.get(name)],
            untouched=same.union(*(members[name] for name in same & members.keys())),
        )

    async def _apply(self, fleet: Fleet, report: Report) -> Reloaded:
        changes = self._changes(report)
        with control_of(fleet).kept_open():
            # What is gone first: its names may be taken by others. All at once, as each may drain for a while.
            await asyncio.gather(
                *(self._close(fleet, entry) for entry in changes.gone),
                *(self._replace(fleet, entry) for entry in changes.changed),
            )
            for entry in changes.added:
                self._declare(fleet, entry)
        return changes.done(control_of(fleet).session_counts())

    async def _replace(self, fleet: Fleet, entry: Entry) -> None:
        if entry.section == "process":  # its name is free at once, so that no message finds nobody
            finish = control_of(fleet).detach_processor(entry.name)
            self._declare(fleet, entry)
            if finish is not None:
                await finish
        else:
            await self._close(fleet, entry)
            self._declare(fleet, entry)

    def _declare(self, fleet: Fleet, entry: Entry) -> None:
        entry.declare(fleet)
        self._entries[entry.key] = entry

    async def _close(self, fleet: Fleet, entry: Entry) -> None:
        if entry.section != "process":
            await control_of(fleet).close(entry.name)
        elif (finish := control_of(fleet).detach_processor(entry.name)) is not None:
            await finish
        self._entries.pop(entry.key, None)
