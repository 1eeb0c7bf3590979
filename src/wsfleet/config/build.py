"""Declares a fleet from the sections of a file. Opens and starts nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from difflib import get_close_matches
from functools import partial
from typing import Any, get_type_hints

from wsfleet import sinks
from wsfleet.config.faults import Place, did_you_mean
from wsfleet.config.reload import Entry
from wsfleet.config.values import Reader, Skip
from wsfleet.core.errors import ConfigError
from wsfleet.core.keywords import ProcessorOptions
from wsfleet.core.options import Endpoint, Limits
from wsfleet.core.topics import can_match, fleet_topics
from wsfleet.endpoint.pool import Identify
from wsfleet.endpoint.requests import Match
from wsfleet.fleet.fleet import Fleet
from wsfleet.pipeline.handler import Plan, check_processor

__all__ = ["FleetBuilder"]

# The comments after `#:`, here and in the options, are the descriptions in the configuration reference.
_FLEET = {
    "name": str,  #: the fleet's name in logs and reports
    "drain_s": float,  #: at shutdown: time limit for processing the messages already received
    "limits": Limits,  #: limits on connection attempts per host
}
_TARGET = {
    "handler": Callable[..., Any],  #: the function to call, async or plain
    "sink": str,  #: destination of messages without a function: "stdout" or "jsonl:PATH"
}
_OPTIONS = get_type_hints(ProcessorOptions)
_ENDPOINT = get_type_hints(Endpoint)
_CONNECT = _ENDPOINT | _TARGET | _OPTIONS
_POOL = _CONNECT | {
    "size": int,  #: number of connections
    "identify": Identify,  #: a function of a request that returns its id and the payload to send
    "match": Match,  #: a function of a message that returns the id of the request it answers, or None
}
_PROCESS = (
    {
        "pattern": str,  #: the topics to process: `*` matches one token, `>` the rest
        "name": str,  #: the subscription's name, one token; by default the name of the function or the sink
    }
    | _TARGET
    | _OPTIONS
)
_HTTP = {
    "listen": str,  #: address and port; an address other than loopback requires a token
    "token": str,  #: clients must send it as Authorization: Bearer TOKEN; without one, nothing can be changed over HTTP
}

# Placeholders for faulty values, so that the rest of the entry is still checked.
_URI = "wss://stand-in.invalid"


async def _handler(message: Any) -> None:
    """Placeholder for a handler that was not found. The fleet of a faulty file is never started."""


class FleetBuilder:
    """Builds a fleet from the sections of a document. The reader collects the faults."""

    def __init__(self, reader: Reader) -> None:
        self.warnings: list[tuple[Place, str]] = []
        self.endpoints: list[tuple[str, Endpoint]] = []
        self.entries: list[Entry] = []
        self._reader = reader
        self._patterns: list[tuple[str, Place]] = []
        self._topics: list[str] | None = []  # None: not all are known

    def build(self, document: Mapping[str, Any]) -> Fleet:
        """Return the fleet that `document` describes, without the faulty entries."""
        reader = self._reader
        sections = {"connect": self._connect, "pool": self._pool, "process": self._process}
        for key in document:
            if key not in ("fleet", "http", *sections):
                reader.note((key,), f"unknown section; {did_you_mean(key, ['fleet', 'http', *sections])}")
        fleet = reader.build(Fleet, *reader.table(document.get("fleet", {}), _FLEET, ("fleet",)), ("fleet",))
        for section, declare in sections.items():
            entries = document.get(section, [])
            if not isinstance(entries, list):
                reader.note((section,), f"must be an array of tables; write [[{section}]]")
                entries = []
            for number, entry in enumerate(entries):
                declare(fleet, entry, (section, number))
        if not document.get("connect") and not document.get("pool"):
            reader.note((), "there is no endpoint; add a [[connect]] with a uri")
        if "http" in document:
            self._http(fleet, document["http"])
        self._warn(fleet)
        return fleet

    def _http(self, fleet: Fleet, table: Any) -> None:
        values, faulty = self._reader.table(table, _HTTP, ("http",))
        try:
            self._reader.build(fleet.serve_http, values, faulty, ("http",))
        except Skip:
            pass

    def _connect(self, fleet: Fleet, table: Any, place: Place) -> None:
        def connect(fleet: Fleet, target: Any = None, **values: Any) -> Any:
            endpoint = Endpoint(**{key: values.pop(key) for key in list(values) if key in _ENDPOINT})
            return fleet.connect(endpoint, target, **values), endpoint

        self._declare_endpoint(fleet, table, connect, *self._reader.table(table, _CONNECT, place), place)

    def _pool(self, fleet: Fleet, table: Any, place: Place) -> None:
        def pool(fleet: Fleet, size: int, target: Any = None, **values: Any) -> Any:
            endpoint = Endpoint(**{key: values.pop(key) for key in list(values) if key in _ENDPOINT})
            return fleet.pool(endpoint, size, target, **values), endpoint

        values, faulty = self._reader.table(table, _POOL, place)
        if not {"size"} & (values.keys() | faulty):
            self._reader.note(place, "has no size; set the number of connections")
        self._declare_endpoint(fleet, table, pool, {"decode": "json"} | values, faulty, place, size=1)

    def _declare_endpoint(
        self,
        fleet: Fleet,
        table: Any,
        declare: Callable[..., Any],
        values: dict[str, Any],
        faulty: set[str],
        place: Place,
        **stand_ins: Any,
    ) -> None:
        reader = self._reader
        known = len(reader.faults)
        if not {"uri"} & (values.keys() | faulty):
            reader.note(place, 'has no uri; write uri = "wss://..."')
        self._take_target(values, faulty, place)
        if "target" not in values:
            for key in [key for key in values if key in _OPTIONS]:
                del values[key]
                reader.note((*place, key), "requires a handler or a sink")
        try:
            registry, endpoint = reader.build(partial(declare, fleet), values, faulty, place, uri=_URI, **stand_ins)
        except Skip:
            self._topics = None
            return
        self.endpoints.append((registry.name, endpoint))
        self._note_entry(place, registry.name, table, declare, values)
        if len(reader.faults) > known or faulty or callable(endpoint.topic):
            self._topics = None
        if self._topics is not None:
            self._topics += [registry.name, endpoint.topic or registry.name]

    def _process(self, fleet: Fleet, table: Any, place: Place) -> None:
        def process(fleet: Fleet, pattern: str, target: Any, **values: Any) -> Any:
            known = set(fleet.subscriptions)
            decorate: Callable[[Any], Any] = fleet.process(pattern, **values)
            decorate(target)
            (name,) = set(fleet.subscriptions) - known
            return name

        values, faulty = self._reader.table(table, _PROCESS, place)
        given = values.keys() | faulty
        if "pattern" not in given:
            self._reader.note(place, "has no pattern; set the topics to process")
        if not {"handler", "sink"} & given:
            self._reader.note(place, "has no handler; name a handler or a sink")
        self._take_target(values, faulty, place)
        known = len(self._reader.faults)
        name = self._reader.build(partial(process, fleet), values, faulty, place, pattern=">", target=_handler)
        if "pattern" in values and len(self._reader.faults) == known:
            self._note_entry(place, name, table, process, values)
            self._patterns.append((values["pattern"], (*place, "pattern")))

    def _note_entry(
        self, place: Place, name: str, table: Any, declare: Callable[..., Any], values: dict[str, Any]
    ) -> None:
        """Store the function that declares the entry in another fleet, under the name that it has in this one."""
        self.entries.append(Entry(str(place[0]), name, table, lambda fleet: declare(fleet, **values | {"name": name})))

    def _take_target(self, values: dict[str, Any], faulty: set[str], place: Place) -> None:
        """Replace the handler or the sink in `values` by the key "target"."""
        if {"handler", "sink"} <= values.keys() | faulty:
            self._reader.note(place, "has a handler and a sink; name one of them")
        handler, sink = values.pop("handler", None), values.pop("sink", None)
        if handler is not None:
            try:
                check_processor(handler, Plan())
                values["target"] = handler
            except ConfigError as exc:
                self._reader.note((*place, "handler"), exc.faults[0][1])
                values["target"] = _handler
        elif sink is not None:
            try:
                values["target"] = sinks.open(sink, folder=self._reader.folder)
            except ConfigError as exc:
                self._reader.note((*place, "sink"), str(exc))
                values["target"] = _handler
        elif {"handler", "sink"} & faulty:
            values["target"] = _handler

    def _warn(self, fleet: Fleet) -> None:
        if self._topics is None:
            return
        topics = self._topics + fleet_topics(fleet.connections, fleet.subscriptions)
        for pattern, place in self._patterns:
            if not any(can_match(pattern, topic) for topic in topics):
                like = topics if pattern.startswith("$") else sorted(set(self._topics))
                known = get_close_matches(pattern, like, n=3, cutoff=0.5) or like[:3]
                hint = f"; there are {', '.join(known)}" if known else ""
                self.warnings.append((place, f"no topic can match {pattern!r}{hint}"))
