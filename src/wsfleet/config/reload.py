"""Reloads the configuration file of a running fleet, and changes only the entries that differ.

An entry is identified by its section and its name. If its table is unchanged, including the values substituted from the
environment and from files, it is not touched: its connections and its queued messages stay. Modules are not imported
again, so a restart is needed for a changed function, and for a new function in a module that is in use. Changes of
`[fleet]` and `[http]` need a restart too, and are reported.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wsfleet.config.reading import Given
from wsfleet.core.errors import ConfigError, FleetError
from wsfleet.endpoint.continuity import History
from wsfleet.fleet.fleet import Fleet, control_of
from wsfleet.fleet.reloading import Change, Reloaded

if TYPE_CHECKING:
    from wsfleet.config import Report

__all__ = ["Entry", "Reloader"]

Key = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Entry:
    """One table of a file, and the function that declares it in another fleet."""

    section: str
    name: str
    table: Mapping[str, Any] = field(repr=False)
    declare: Callable[[Fleet], object] = field(compare=False, repr=False)

    @property
    def key(self) -> Key:
        return self.section, self.name


@dataclass(frozen=True, slots=True)
class _Changes:
    """The entries of the new file, and the differences from the current ones."""

    wanted: dict[Key, Entry]
    gone: list[Entry]
    changed: list[Entry]
    added: list[Entry]
    restarts: list[str]
    untouched: set[str]  # names of endpoints, including the members of pools

    def done(self, sessions: Mapping[str, int], faults: Sequence[str] = ()) -> Reloaded:
        """Return the result of the reload. `sessions` has each endpoint's current session number."""
        kinds = (("removed", self.gone), ("changed", self.changed), ("added", self.added))
        changes = [Change(entry.section, entry.name, kind) for kind, entries in kinds for entry in entries]
        kept = {name: number for name, number in sessions.items() if name in self.untouched}
        return Reloaded(changes, self.restarts, kept, faults)


class Reloader:
    """Applies changes of a file to its running fleet.

    `report` is the one from which the fleet was declared; `read` reads the file into a new one. `keeps(section, name)`
    is whether an entry belongs to this fleet: a divided fleet has only some of them. `given` is what was applied last.
    """

    def __init__(self, path: Path, report: Report, read: Callable[..., Report]) -> None:
        self._path = path
        self._read = read
        self._settings = report.settings
        self._entries = {entry.key: entry for entry in report.entries}
        self._busy = False
        self.given = report.given
        self.keeps: Callable[[str, str], bool] = lambda section, name: True

    def use(self, given: Given) -> None:
        """From now on, use `given` instead of reading the file: another process has read it."""
        self._read = partial(self._read, given=given)

    async def reload(self, fleet: Fleet) -> Reloaded:
        """Read the file, apply the differences, and return a line for each change.

        A removed or changed entry drains like `Connection.close()`.

        Raises ConfigError with all faults of the file, before anything is changed; FleetError if another reload is in
        progress or if the fleet is not running. If cancelled, changes that have not started are not made.
        """
        if self._busy:
            raise FleetError("a reload is already in progress; try again later")
        control_of(fleet).check_reloadable()
        self._busy = True
        try:
            return await self._apply(fleet, await self.read())
        finally:
            self._busy = False

    async def read(self) -> Report:
        """Read the file without changing anything. Raises ConfigError with all faults."""
        # In a thread: thousands of endpoints, or the import of a new module, would block the loop.
        report = await asyncio.to_thread(self._read, self._path)
        if report.fleet is None:
            text = "\n".join(map(str, report.faults))
            raise ConfigError(text, tuple((fault.where, fault.text) for fault in report.faults))
        return report

    def note(self, report: Report, sessions: Mapping[str, int], faults: Sequence[str]) -> Reloaded:
        """Record `report` as applied by the workers, which found `faults`, and return the changes."""
        changes = self._changes(report)
        self._entries = changes.wanted
        self.given = report.given
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
            # Removals first, since new entries may use their names. Concurrently, since each may drain for a while.
            await asyncio.gather(
                *(self._close(fleet, entry) for entry in changes.gone),
                *(self._replace(fleet, entry) for entry in changes.changed),
            )
            for entry in changes.added:
                self._declare(fleet, entry)
        self.given = report.given
        return changes.done(control_of(fleet).session_counts())

    async def _replace(self, fleet: Fleet, entry: Entry) -> None:
        if entry.section == "process":  # declare the new one before the old one has drained, so no message is unrouted
            finish = control_of(fleet).detach_processor(entry.name)
            self._declare(fleet, entry)
            if finish is not None:
                await finish
        else:
            histories = await self._close(fleet, entry)
            self._declare(fleet, entry)
            control_of(fleet).go_on(histories)

    def _declare(self, fleet: Fleet, entry: Entry) -> None:
        entry.declare(fleet)
        self._entries[entry.key] = entry

    async def _close(self, fleet: Fleet, entry: Entry) -> dict[str, History]:
        """Close or detach the parts that the entry declared. Return the histories of its endpoints."""
        histories: dict[str, History] = {}
        if entry.section != "process":
            histories = await control_of(fleet).close(entry.name)
        elif (finish := control_of(fleet).detach_processor(entry.name)) is not None:
            await finish
        self._entries.pop(entry.key, None)
        return histories
