"""Creates a fleet from a TOML file. Options have the same names as in a program.

Input: a file, the environment. Output: a `Fleet`, or every fault of the file; changes for a reload. Imports core,
endpoint, pipeline, sinks and fleet.

```toml
[fleet]
name = "demo"

[[connect]]
uri = "wss://feed.example/trades?token=${FEED_TOKEN}"
name = "trades"
decode = "json"
topic = "trades.{symbol}"
on_open = "handlers:subscribe"
reconnect = { max_s = "10 s" }

[[process]]
pattern = "trades.*"
handler = "handlers:on_trade"
```

- `[[connect]]` has the fields of `Endpoint`, and `[[pool]]` also has `size`, `identify` and `match`. Both accept a
  `handler` or a `sink` with the keywords of `[[process]]`. Relative paths and the modules of functions are resolved
  in the file's directory.
- A function is written `"module:function"`. For options that also accept text (`uri`, `topic`, `decode`,
  `heartbeat`), a string of this form is a function; `{ text = "a:b" }` makes it text, `{ function = "a:b" }` a
  function. A string with a substitution is always text: the environment cannot choose the code to run.
- `[http]` serves a status page, metrics and reports: `listen`, by default "127.0.0.1:9464", and a `token`.
- `on_open` may be a list of payloads to send: strings are sent as text, tables and lists as JSON.
- Numbers are in the field's unit, or strings with a unit: "500 ms", "10 s", "2 min", "1 h", "64 KB", "16 MiB".
  `false` means None, for example `ping_s = false`.
- `${NAME}` in a string is replaced by the environment variable, `${file:PATH}` by the content of a file without the
  newline at its end, `$$` by `$`. Messages about faults do not show substituted values.
- `ssl = { ca = "ca.pem", cert = "client.pem", key = "client.key" }`: `ca` replaces the system's certificate
  authorities. Certificates are always verified.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from wsfleet.config.build import FleetBuilder
from wsfleet.config.faults import Fault, Place, format_place
from wsfleet.config.lines import find_lines, line_of
from wsfleet.config.reading import Given, Unreadable, parse, read
from wsfleet.config.reload import Entry, Reloader
from wsfleet.config.substitution import Substitutor
from wsfleet.config.values import Reader
from wsfleet.core.errors import ConfigError
from wsfleet.core.options import Endpoint
from wsfleet.fleet.fleet import Fleet, control_of

__all__ = ["Fault", "Reloader", "Report", "check", "load"]


@dataclass(frozen=True, slots=True)
class Report:
    """The result of checking a file.

    `fleet` is the declared fleet, not started, or None if there are faults. `endpoints` are the names and options of
    its connections and pools. `entries` and `settings` are used by `Reloader`. `given` lets another process build the
    same fleet, even if the files have changed since.
    """

    faults: tuple[Fault, ...] = ()
    warnings: tuple[Fault, ...] = ()
    fleet: Fleet | None = None
    endpoints: tuple[tuple[str, Endpoint], ...] = ()
    entries: tuple[Entry, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict, repr=False)
    given: Given | None = None


def check(
    path: str | os.PathLike[str], *, environ: Mapping[str, str] = os.environ, given: Given | None = None
) -> Report:
    """Check the file at `path`, and return all of its faults and warnings in one report.

    Imports the modules of its handlers. Writes no file and opens no connection. With `given`, uses its text and values,
    and reads neither the file nor the environment nor the files of `${file:PATH}`.
    """
    path = Path(path)
    try:
        text = read(path) if given is None else given.text
        document = parse(path, text)
    except Unreadable as exc:
        return Report((exc.fault,))
    report = _check(path, text, document, environ, given)
    if report.fleet is not None:
        control_of(report.fleet).reloader = Reloader(path, report, partial(check, environ=environ))
    return report


def _check(
    path: Path, source: str, document: dict[str, Any], environ: Mapping[str, str], given: Given | None = None
) -> Report:
    substitutor = Substitutor(path.parent, environ, None if given is None else given.values)
    reader = Reader(path.parent, substitutor)
    builder = FleetBuilder(reader)
    substituted = substitutor.substitute_all(document, (), reader.faults)
    fleet = builder.build(substituted)
    entries, settings = tuple(builder.entries), {key: substituted.get(key) for key in ("fleet", "http")}
    used = Given(source, substitutor.values)
    if not reader.faults and not builder.warnings:
        return Report(fleet=fleet, endpoints=tuple(builder.endpoints), entries=entries, settings=settings, given=used)

    lines = find_lines(source)

    def located(found: list[tuple[Place, str]]) -> tuple[Fault, ...]:
        placed = sorted(((line_of(place, lines) or 0, format_place(place, substituted), text) for place, text in found))
        faults = (
            Fault.of(": ".join(filter(None, (f"{path}:{line}" if line else str(path), place))), text)
            for line, place, text in placed
        )
        return tuple(dict.fromkeys(faults))

    def hidden(found: list[tuple[Place, str]]) -> list[tuple[Place, str]]:
        return [(place, substitutor.hide(text)) for place, text in found]

    faults = located(reader.faults)
    warnings = located(hidden(builder.warnings))
    return Report(faults, warnings, None if faults else fleet, tuple(builder.endpoints), entries, settings, used)


def load(path: str | os.PathLike[str], *, environ: Mapping[str, str] = os.environ) -> Fleet:
    """Create the fleet that the file at `path` describes. It is not started.

    Raises ConfigError with all faults of the file: one per line in its text, and as `(place, text)` in `faults`.
    """
    report = check(path, environ=environ)
    if report.fleet is None:
        faults = report.faults
        raise ConfigError("\n".join(map(str, faults)), tuple((fault.where, fault.text) for fault in faults))
    return report.fleet
