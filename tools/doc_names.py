"""Checks names in the documents against the code: paths of the HTTP interface, metrics, and log fields."""

import itertools
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit

from starlette.routing import Route

from wsfleet import Fleet
from wsfleet.runtime import logs
from wsfleet.serve.prometheus import exposition
from wsfleet.serve.status.app import make_app

SOURCE = Path(logs.__file__).parents[1]

METRIC = re.compile(r"\bwsfleet_\w+")
USUAL = {"time", "level", "logger", "message", "traceback"}
"""The fields of every log line."""


@cache
def metrics() -> frozenset[str]:
    """The names of a fleet's metrics in Prometheus."""
    fleet = Fleet()
    fleet.connect("wss://feed.example", name="feed")
    text = exposition(fleet.stats().to_dict())[0].decode()
    return frozenset(METRIC.findall("\n".join(line for line in text.splitlines() if not line.startswith("# HELP"))))


def metric_faults(text: str) -> Iterator[str]:
    """Return the unknown metrics in `text`. A name that ends with `_` is a prefix."""
    for name in sorted(set(METRIC.findall(text))):
        if not (name in metrics() or (name.endswith("_") and any(each.startswith(name) for each in metrics()))):
            yield f"there is no metric {name}"


def curl_fault(words: list[str]) -> str | None:
    """The faults of curl commands for a fleet on this machine."""
    method = next((after for word, after in itertools.pairwise(words) if word in ("--request", "-X")), "GET")
    routes = [cast(Route, route) for route in make_app(cast(Any, None), cast(Any, None)).routes]
    for word in words:
        url = urlsplit(word)
        if url.hostname in ("127.0.0.1", "localhost"):
            methods = [route.methods or set() for route in routes if route.path == (url.path or "/")]
            if not methods:
                return f"nothing is served at {url.path}"
            if not any(method in each for each in methods):
                return f"{url.path} does not support {method}"
    return None


@cache
def log_fields() -> frozenset[str]:
    """The fields described by `wsfleet.runtime.logs`."""
    rows = re.findall(r"^\| (`.*?) \|", logs.__doc__ or "", re.MULTILINE)
    return frozenset(re.findall(r"`(\w+)`", " ".join(rows)))


def log_faults(line: Any) -> Iterator[str]:
    """The unknown fields in `line`, if it looks like a log line."""
    if not isinstance(line, dict) or "logger" not in line:
        return
    for name in line.keys() - log_fields() - USUAL:
        yield f"the log has no field {name}"
    event = f'"{line.get("event")}"'
    if not any(event in path.read_text("utf-8") for path in SOURCE.rglob("*.py")):
        yield f"the log has no event {event}"
