"""Prints the configuration reference as Markdown: every key of a file, with its type and default from the code.

    python -m tools.config_reference

The keys and their types are the annotations that are used to read the file; their descriptions are the `#:` comments
of their declarations. A key without a description is an error.
"""

import ast
import enum
import inspect
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING, fields, is_dataclass
from functools import cache
from types import ModuleType
from typing import Any, get_args, get_origin, get_type_hints

from wsfleet import Fleet
from wsfleet.config import build, values
from wsfleet.core import keywords, options, retry
from wsfleet.core.options import Buffer, Endpoint, Limits, Liveness, Reconnect, Retry

FEW = 24
"""Maximum length of a default that is shown."""

TABLES: dict[str, type] = {
    "reconnect": Reconnect,
    "liveness": Liveness,
    "limits": Limits,
    "buffer": Buffer,
    "retry": Retry,
}

SECTIONS = {
    "fleet": "[fleet]",
    "connect": "[[connect]]",
    "pool": "[[pool]]",
    "process": "[[process]]",
    "http": "[http]",
}

ABOUT = {
    "fleet": "Optional.",
    "connect": "One endpoint to stay connected to. With a `handler` or a `sink` it also takes the keys of "
    "`[[process]]`, except `pattern` and `name`.",
    "pool": "Several connections to one endpoint. It takes the keys of `[[connect]]`, where the default of `decode` is "
    "`json`, and these:",
    "process": "A function or a sink for the messages of a pattern.",
    "http": "The HTTP interface of the fleet. Without this section it does not listen.",
    "reconnect": "In `[[connect]]` and `[[pool]]`. Each wait is random below a bound that grows by `factor`.",
    "liveness": "In `[[connect]]` and `[[pool]]`. The deadlines stand still while reading is paused.",
    "limits": "In `[fleet]`, for each host.",
    "buffer": "In every section with a `handler` or a `sink`.",
    "retry": "In every section with a `handler` or a `sink`.",
    "ssl": "In `[[connect]]` and `[[pool]]`. Certificates are always verified.",
}

GIVEN = "must be given"
DEFAULTS = {"uri": GIVEN, "pattern": GIVEN, "size": GIVEN, "handler": "one of the two", "sink": "one of the two"}
FUNCTIONS = {retry.is_fatal: "for 401, 403, 404, 407, 410, a bad URI, a bad certificate"}


def sections() -> dict[str, dict[str, Any]]:
    """The sections of a file, and the annotation of each of their keys."""
    return {name: getattr(build, f"_{name.upper()}") for name in SECTIONS if hasattr(build, f"_{name.upper()}")}


def meanings(module: ModuleType) -> Iterator[tuple[str, str]]:
    """Yield the `#:` comments, on the line or above it, as `owner.key`; an owner is a class or a dict."""
    source = inspect.getsource(module)
    lines = source.splitlines()
    for owner in ast.parse(source).body:
        if isinstance(owner, ast.ClassDef):
            keys = [(node.lineno, node.target.id) for node in owner.body
                    if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)]  # fmt: skip
            name = owner.name
        elif isinstance(owner, ast.Assign) and isinstance(owner.targets[0], ast.Name):
            tables = [node for node in ast.walk(owner.value) if isinstance(node, ast.Dict)]
            keys = [(key.lineno, key.value) for table in tables for key in table.keys
                    if isinstance(key, ast.Constant)]  # fmt: skip
            name = owner.targets[0].id
        else:
            continue
        for line, key in keys:
            _, found, comment = lines[line - 1].partition("#: ")
            if not found and lines[line - 2].strip().startswith("#: "):
                comment = lines[line - 2].strip().removeprefix("#: ")
            if comment:
                yield f"{name}.{key}", comment


@cache
def all_meanings() -> Mapping[str, str]:
    return dict(pair for module in (keywords, options, build, values) for pair in meanings(module))


def meaning(owners: Sequence[str], key: str) -> str:
    """Return the description of `key`. Raises LookupError if there is none."""
    for owner in owners:
        if f"{owner}.{key}" in all_meanings():
            return all_meanings()[f"{owner}.{key}"]
    raise LookupError(f"{key!r} has no description: add a `#:` comment to its declaration")


def takes(key: str, hint: Any) -> tuple[str, str]:
    """Return the type of `key`, and its unit."""
    kinds = values._alternatives(hint)
    texts: list[str] = []
    unit = ""
    if float in kinds or int in kinds:
        texts.append("number" if float in kinds else "whole number")
        unit = "s" if values._is_time(key, kinds) else "bytes" if key in values._SIZES else ""
        unit = "per second" if key.endswith("_per_s") else unit
    for kind in kinds:
        if isinstance(kind, type) and issubclass(kind, enum.Enum):
            texts += [f'`"{each.value}"`' for each in kind]
        elif isinstance(kind, str):
            texts.append(f'`"{kind}"`')
        elif kind is values.ssl.SSLContext or (isinstance(kind, type) and is_dataclass(kind)):
            texts.append(f"[table](#{key})" if key != "hosts" else "table")
        elif get_origin(kind) is Mapping:
            texts.append("table")
        elif get_origin(kind) is Sequence:
            texts.append("list of whole numbers" if int in get_args(kind) else "list of texts")
    if values._takes_text(kinds):
        texts.append("text")
    if values._FUNCTION in kinds:
        texts.append("function")
    if key == "on_open":
        texts.append("list of payloads")
    if bool in kinds:
        texts.append("`true`, `false`")
    elif False in kinds or (type(None) in kinds and unit == "s"):
        texts.append("`false`")
    return ", ".join(texts), unit


def amount(key: str, value: Any) -> str:
    """Return a default as it is written in the file."""
    if value is None or value == () or (isinstance(value, Mapping) and not value):
        return "none"
    if callable(value):
        return FUNCTIONS[value]
    if key in ("identify", "match"):
        return str(value)
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, str):
        return f'`"{value}"`'
    if is_dataclass(value):
        return "see there"
    if key in values._SIZES and value % 2**20 == 0:
        return f'`"{value // 2**20} MiB"`'
    return f"`{value:g}`"


def defaults(source: Any) -> dict[str, Any]:
    """The defaults of an options class, or of a method's keywords."""
    if is_dataclass(source):
        made = {each.name: each.default_factory() if each.default_factory is not MISSING else each.default
                for each in fields(source)}  # fmt: skip
        return {key: value for key, value in made.items() if value is not MISSING}
    parameters = inspect.signature(source).parameters.values()
    return {each.name: each.default for each in parameters if each.default is not inspect.Parameter.empty}


def table(keys: Mapping[str, Any], owners: Sequence[str], known: Mapping[str, Any]) -> str:
    """The rows of `keys`, as a table."""
    rows = ["| key | takes | unit | default | meaning |", "| --- | --- | --- | --- | --- |"]
    for key, hint in keys.items():
        kinds, unit = takes(key, hint)
        default = DEFAULTS.get(key) or amount(key, known.get(key))
        comment = meaning(owners, key).replace("|", "\\|")
        rows.append(f"| `{key}` | {kinds} | {unit} | {default} | {comment} |")
    return "\n".join(rows)


def own_keys(name: str) -> dict[str, Any]:
    """The keys of a section that are shown there; the others belong to the sections it refers to."""
    keys = sections()[name]
    elsewhere = {"connect": {*build._TARGET, *build._OPTIONS}, "pool": set(sections()["connect"])}.get(name, set())
    return {key: hint for key, hint in keys.items() if key not in elsewhere}


def known_defaults(name: str) -> dict[str, Any]:
    if name == "pool":
        return {"identify": "JSON-RPC 2.0", "match": "JSON-RPC 2.0"}
    places = {"fleet": "__init__", "process": "process", "http": "serve_http"}
    return defaults(getattr(Fleet, places[name]) if name in places else Endpoint)


def reference() -> str:
    """Return the complete page."""
    parts = []
    for name in sections():
        owners = {"connect": ["Endpoint"], "process": ["CallOptions", "ProcessorOptions", "_PROCESS", "_TARGET"]}
        shown = table(own_keys(name), owners.get(name, [f"_{name.upper()}"]), known_defaults(name))
        parts.append(f"## {SECTIONS[name]}\n\n{ABOUT[name]}\n\n{shown}")
    for name, kind in TABLES.items():
        shown = table(get_type_hints(kind), [kind.__name__], defaults(kind))
        parts.append(f"## {name}\n\n{ABOUT[name]}\n\n{shown}")
    parts.append(f"## ssl\n\n{ABOUT['ssl']}\n\n{table(values._TLS_FILES, ['_TLS_FILES'], {})}")
    return "\n\n".join(parts) + "\n"


if __name__ == "__main__":
    print(reference(), end="")
