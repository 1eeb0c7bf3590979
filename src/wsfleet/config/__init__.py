"""A fleet from a TOML file: the same options as in a program, under the same names.

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

- `[[connect]]` has the fields of `Endpoint`, `[[pool]]` also `size`, `identify` and `match`; both take a `handler`
  or a `sink` with the keywords of `[[process]]`. Relative paths, and the modules of functions, are looked for in the
  file's folder.
- A function is `"module:function"`. Where text may stand as well (`uri`, `topic`, `decode`, `heartbeat`), a string of
  that shape is a function; `{ text = "a:b" }` says that it is not, `{ function = "a:b" }` that it is. What something
  was filled into is text there: the environment does not say what is run.
- `[http]` serves a status page, metrics and reports: `listen`, by default "127.0.0.1:9464", and a `token`.
- `on_open` may be a list of payloads to send: strings as text, tables and lists as JSON.
- Numbers are in the field's unit, or text with one: "500 ms", "10 s", "2 min", "1 h", "64 KB", "16 MiB". `false` is
  none, as in `ping_s = false`.
- `${NAME}` in a string is the environment's value, `${file:PATH}` a file's content without the newline at its end,
  `$$` a `$`. No fault shows what was filled in.
- `ssl = { ca = "ca.pem", cert = "client.pem", key = "client.key" }`: `ca` in place of the system's authorities;
  certificates are always verified.
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
from wsfleet.config.reading import Unreadable, read
from wsfleet.config.reload import Entry, Reloader
from wsfleet.config.substitution import Substitutor
from wsfleet.config.values import Reader
from wsfleet.core.errors import ConfigError
from wsfleet.core.options import Endpoint
from wsfleet.fleet.fleet import Fleet, control_of

__all__ = ["Fault", "Reloader", "Report", "check", "load"]


@dataclass(frozen=True, slots=True)
class Report:
    """What was found in a file. `fleet` is there where nothing is wrong; it is declared, not started.

    `endpoints` are those of its connections and pools, with their names; `entries` and `settings` are for a `Reloader`.
    """

    faults: tuple[Fault, ...] = ()
    warnings: tuple[Fault, ...] = ()
    fleet: Fleet | None = None
    endpoints: tuple[tuple[str, Endpoint], ...] = ()
    entries: tuple[Entry, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict, repr=False)


def check(path: str | os.PathLike[str], *, environ: Mapping[str, str] = os.environ) -> Report:
    """Read the file at `path`, and report everything that is wrong with it in one go.

    The modules of its handlers are imported; no file is written, no connection opened.
    """
    path = Path(path)
    try:
        text, document = read(path)
    except Unreadable as exc:
        return Report((exc.fault,))
    report = _check(path, text, document, environ)
    if report.fleet is not None:
        control_of(report.fleet).reloader = Reloader(path, report, partial(check, environ=environ))
    return report


def _check(path: Path, text: str, document: dict[str, Any], environ: Mapping[str, str]) -> Report:
    substitutor = Substitutor(path.parent, environ)
    reader = Reader(path.parent, substitutor)
    builder = FleetBuilder(reader)
    substituted = substitutor.substitute_all(document, (), reader.faults)
    fleet = builder.build(substituted)
    entries, settings = tuple(builder.entries), {key: substituted.get(key) for key in ("fleet", "http")}
    if not reader.faults and not builder.warnings:
        return Report(fleet=fleet, endpoints=tuple(builder.endpoints), entries=entries, settings=settings)

    lines = find_lines(text)

    def located(found: list[tuple[Place, str]]) -> tuple[Fault, ...]:
        placed = sorted(((line_of(place, lines) or 0, format_place(place, substituted), said) for place, said in found))
        faults = (
            Fault.of(": ".join(filter(None, (f"{path}:{line}" if line else str(path), place))), said)
            for line, place, said in placed
        )
        return tuple(dict.fromkeys(faults))

    def hidden(found: list[tuple[Place, str]]) -> list[tuple[Place, str]]:
        return [(place, substitutor.hide(said)) for place, said in found]

    faults = located(reader.faults)
    warnings = located(hidden(builder.warnings))
    return Report(faults, warnings, None if faults else fleet, tuple(builder.endpoints), entries, settings)


def load(path: str | os.PathLike[str], *, environ: Mapping[str, str] = os.environ) -> Fleet:
    """Return the fleet that the file at `path` describes, ready to start.

    Raises ConfigError with every fault of the file: one line each in its text, and as `(place, text)` in `faults`.
    """
    report = check(path, environ=environ)
    if report.fleet is None:
        faults = report.faults
        raise ConfigError("\n".join(map(str, faults)), tuple((fault.where, fault.text) for fault in faults))
    return report.fleet
