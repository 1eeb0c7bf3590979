"""Generated configuration files: a valid one declares the intended options, and any text at all gets a verdict."""

import asyncio
import datetime
import io
import json
import os
import re
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import fields
from pathlib import Path
from typing import Any
from unittest.mock import AsyncMock, patch

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from wsfleet import Endpoint, config
from wsfleet.cli.main import main
from wsfleet.config import lines
from wsfleet.config.faults import DEEPEST
from wsfleet.core import options
from wsfleet.core.options import Buffer, Liveness, Overflow, Reconnect
from wsfleet.core.text import printable

SECRET = "hunter2"
ENVIRONMENT = {
    "S": SECRET,
    "WORDS": f"10 {SECRET} x",
    "URI": f"wss://{SECRET}:{SECRET}@{SECRET}:99999/{SECRET}",
    "FUNCTION": f"{SECRET}.x:{SECRET}",
    "FORMAT": f"{{{SECRET}!}}",
    "NAMED": f"os:{SECRET}.x",
    "SINK": f"jsonl:{SECRET}/{SECRET}",
    "LINES": f"a\n{SECRET}\t\x1b[2J",
}
"""Secrets, and the one word in them that occurs nowhere else."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("files")
    (made / "token").write_text(SECRET)
    return made


# Writing TOML


def written(value: object) -> str:
    """`value` in TOML, on one line."""
    match value:
        case bool():
            return "true" if value else "false"
        case int() | float():
            return repr(value)
        case str():
            # The escapes of JSON are those of TOML, except for DEL, and for characters beyond the BMP, which need no
            # escape.
            return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
        case datetime.date():
            return value.isoformat()
        case list() | tuple():
            return f"[{', '.join(map(written, value))}]"
        case Mapping():
            return f"{{{', '.join(f'{written(key)} = {written(item)}' for key, item in value.items())}}}"
    raise TypeError(value)


def statements(table: Mapping[str, Any], header: str, forms: Iterator[int]) -> Iterator[str]:
    """`table` in lines: the tables in it as inline tables, dotted keys, or separate tables, as `forms` decides."""
    yield header
    own = []
    for key, value in table.items():
        form = next(forms) if isinstance(value, Mapping) and value else 0
        if form == 0:
            yield f"{written(key)} = {written(value)}"
        elif form == 1:
            yield from (f"{written(key)}.{written(inner)} = {written(item)}" for inner, item in value.items())
        else:
            own.append(key)
    for key in own:
        yield from statements(table[key], f"[{header.strip('[]')}.{written(key)}]", forms)


@given(st.text() | st.text("\x7f\x1b\n\"'\\\0é\U0001f600"), st.integers() | st.floats(allow_nan=False))
def test_the_writer_writes_toml(text: str, number: float) -> None:
    """tomllib reads the same values that the writer of these tests wrote."""
    value = {"key": [text, number, {text: True}]}
    assert tomllib.loads("\n".join(statements({"a": value}, "[x]", iter([1])))) == {"x": {"a": value}}


# Valid files


def times(least: float = 0.0) -> st.SearchStrategy[tuple[object, float]]:
    """A duration as it is written, and its value."""
    ms = st.integers(int(least * 1000) or 1, 10**7)
    return st.one_of(
        ms.map(lambda n: (n / 1000, n / 1000)),
        ms.map(lambda n: (f"{n} ms", n / 1000)),
        st.integers(1, 1000).map(lambda n: (f"{n}min", n * 60.0)),
        st.integers(1, 1000).map(lambda n: (n, n)),
    )


def sizes() -> st.SearchStrategy[tuple[object, int]]:
    return st.integers(1, 10**6).flatmap(lambda n: st.sampled_from([(n, n), (f"{n} KiB", n * 2**10), (f"{n}B", n)]))


def as_is(values: st.SearchStrategy[Any]) -> st.SearchStrategy[tuple[Any, Any]]:
    return values.map(lambda value: (value, value))


def texts(values: st.SearchStrategy[str]) -> st.SearchStrategy[tuple[str, str]]:
    """A text as it is written, with each `$` doubled, and parts of it from the environment or a file."""
    kept = values.map(lambda text: (text.replace("$", "$$"), text))
    return kept | st.tuples(kept, st.sampled_from(["${S}", "${file:token}"])).map(
        lambda found: (found[0][0] + found[1], found[0][1] + SECRET)
    )


WORDS = st.text("abcXYZ019_-", min_size=1, max_size=8)
counts = as_is(st.integers(1, 10**6))
maybe_times = times() | st.just((False, None))


def tables(**kinds: st.SearchStrategy[tuple[Any, Any]]) -> st.SearchStrategy[dict[str, tuple[Any, Any]]]:
    return st.fixed_dictionaries({}, optional=kinds)


def both(made: type, table: st.SearchStrategy[dict[str, tuple[Any, Any]]]) -> st.SearchStrategy[tuple[Any, Any]]:
    """A table of options, and the object that it declares."""
    return table.map(lambda pairs: (first(pairs), made(**second(pairs))))


def first(pairs: Mapping[str, tuple[Any, Any]]) -> dict[str, Any]:
    return {key: pair[0] for key, pair in pairs.items()}


def second(pairs: Mapping[str, tuple[Any, Any]]) -> dict[str, Any]:
    return {key: pair[1] for key, pair in pairs.items()}


PAYLOADS = st.recursive(
    st.text(max_size=5).filter(lambda text: "$" not in text) | st.integers(-9, 9) | st.booleans(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=3),
    max_leaves=5,
)
ENDPOINT = tables(
    headers=st.dictionaries(WORDS.map("X-".__add__), texts(st.text("abc $;=", max_size=5)), max_size=2).map(
        lambda pairs: (first(pairs), second(pairs))
    ),
    # A repeated name is a fault (RFC 6455, section 4.1), whatever its form.
    subprotocols=st.lists(texts(WORDS), max_size=2, unique_by=lambda pair: pair[1]).map(
        lambda pairs: ([a for a, _ in pairs], tuple(b for _, b in pairs))
    ),
    compression=as_is(st.just("deflate")),
    proxy=as_is(st.sampled_from([False, "http://proxy.example:3128"])),
    open_s=times(0.001),
    close_s=times(0.001),
    max_size=sizes(),
    max_fragments=counts,
    decode=as_is(st.sampled_from(["text", "bytes"])),
    topic=texts(WORDS),
    keep_last=counts,
    sends_per_s=as_is(st.floats(0.1, 1e6)),
    reconnect=both(
        Reconnect,
        tables(
            initial_s=times(),
            max_s=times(),
            factor=as_is(st.floats(1, 100)),
            jitter=as_is(st.floats(0, 1)),
            stable_s=times(),
            max_restarts=as_is(st.integers(0, 99)),
            window_s=times(0.001),
        ),
    ),
    liveness=both(Liveness, tables(ping_s=maybe_times, pong_s=maybe_times, stale_s=maybe_times)),
    required=as_is(st.booleans()),
)
BUFFER = both(
    Buffer,
    tables(
        messages=counts,
        bytes=sizes(),
        overflow=st.sampled_from(["pause", "fail"]).map(lambda word: (word, Overflow(word))),
    ),
)


@given(
    st.lists(st.tuples(WORDS, texts(st.sampled_from(["", "?a=b", "/$", "/x:y"])), ENDPOINT), min_size=1, max_size=3),
    st.lists(st.tuples(WORDS, BUFFER), max_size=2),
    times(0.001),
    st.integers(0, 3),
    st.lists(PAYLOADS, max_size=3),
    st.randoms(use_true_random=False),
)
def test_a_valid_file_declares_the_intended_options(
    folder: Path, connects: Any, processes: Any, drain_s: Any, size: int, payloads: list[Any], random: Any
) -> None:
    """In any form of tables and values, each option of each section has the intended value."""
    forms = iter(lambda: random.randrange(3), None)
    parts = [list(statements({"name": "f", "drain_s": drain_s[0]}, "[fleet]", forms))]
    for number, (name, uri, pairs) in enumerate(connects):
        table = {"uri": f"wss://h.example{uri[0]}", "name": f"{name}-{number}", **first(pairs)}
        parts.append(list(statements(table, "[[connect]]", forms)))
    for number, (name, buffer) in enumerate(processes):
        table = {"pattern": "*", "name": f"{name}.{number}".replace(".", "-p"), "sink": "stdout", "buffer": buffer[0]}
        parts.append(list(statements(table, "[[process]]", forms)))
    if size:
        table = {"uri": "ws://h", "name": "pool", "size": size, "on_open": payloads}
        parts.append(list(statements(table, "[[pool]]", forms)))
    path = folder / "good.toml"
    path.write_text("\n".join(line for part in parts for line in part), encoding="utf-8")

    report = config.check(path, environ=ENVIRONMENT)

    assert not report.faults, [*map(str, report.faults)]
    fleet = report.fleet
    assert fleet is not None
    declared = fleet._registry
    assert (fleet.name, fleet._lifecycle._drain_s) == ("f", drain_s[1])
    made = {name: supervisor.endpoint for name, supervisor in declared.supervisors.items()}
    for number, (name, uri, pairs) in enumerate(connects):
        meant = Endpoint(f"wss://h.example{uri[1]}", name=f"{name}-{number}", **second(pairs))
        same(made.pop(f"{name}-{number}"), meant)
    assert [each.buffer for each in declared.processors] == [buffer[1] for _, buffer in processes]
    assert len(made) == size
    for endpoint in made.values():
        session = AsyncMock()
        assert endpoint.on_open is not None
        asyncio.run(endpoint.on_open(session))
        assert [call.args[0] for call in session.send.await_args_list] == payloads


def same(found: Endpoint, meant: Endpoint) -> None:
    for each in fields(Endpoint):
        assert getattr(found, each.name) == getattr(meant, each.name), each.name


# Arbitrary files


KEYS = st.sampled_from(
    [
        each.name
        for kind in (Endpoint, Reconnect, Liveness, Buffer, options.Retry, options.Limits)
        for each in fields(kind)
    ]
) | st.sampled_from(
    ["size", "pattern", "handler", "sink", "drain_s", "text", "function", "ca", "cert", "a\nb", "\x1b[2J", ""]
)
TEXTS = st.sampled_from(
    [
        *[
            "wss://h",
            "ws://h:0",
            "os:getcwd",
            "os:nope",
            "json",
            "jsonl:",
            "jsonl:~nobody/x",
            "jsonl:x/y",
            "~nobody/x",
            "stdout",
        ],
        *[
            "drop_oldest",
            ">",
            "a.*",
            "{a}",
            "10parsecs",
            "5KiB",
            "$$",
            "$",
            "${",
            "${NOPE}",
            "${}",
            "${file:}",
            "${file:~nobody/x}",
            "${file:token}",
        ],
        *["", "\0", "a\nb", "\x1b[2J", "x" * 5000, "${file:a\nb}", "${a\nb}", "jsonl:a\nb/c", f"jsonl:{'x' * 300}/y"],
        *[
            f"{before}${{{name}}}{after}"
            for name in ENVIRONMENT
            for before, after in [("", ""), ("x ", ""), ("", ":x")]
        ],
    ]
)
NUMBERS = st.integers(-2, 3) | st.sampled_from([2**31, 2**63 - 1, 2**63, -(2**64), 10**400, 0.5, -0.0, 1e308, 5e-324])
VALUES = st.recursive(
    TEXTS | NUMBERS | st.booleans() | st.floats() | st.dates(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=6,
)
SECTIONS = st.sampled_from(["[fleet]", "[[connect]]", "[[connect]]", "[[pool]]", "[[process]]", "[process]", "[other]"])
RUBBISH = st.sampled_from(
    [
        *["\0", "\r", "\ufeff", "\x7f", "\\", '"', '"""', "'''", "[", "]]", "{", "}", "=", ".", "#", "1e999"],
        *["9" * 5000, "0x" + "f" * 5000, "\n[[connect]]\n", "\n[[[x]]]\n", "\nx = 2020-13-45\n", "\nx = [\n1,\n"],
        *["\nx = " + "[" * 5000, "\nx = " + "[" * 200 + "]" * 200, "\nx = " + "{a=" * 200 + "1" + "}" * 200],
        ".".join("a" * 500) + " = 1",
    ]
)


@st.composite
def files(draw: st.DrawFn) -> bytes:
    """A file in TOML with mostly valid keys; most of the files have some damage."""
    forms = iter(lambda: draw(st.integers(0, 2)), None)
    written = []
    for header in draw(st.lists(SECTIONS, max_size=4)):
        good = {} if draw(st.booleans()) else {"uri": "ws://h", "handler": "os:getcwd"}
        written += statements(good | draw(st.dictionaries(KEYS, VALUES, max_size=4)), header, forms)
    text = "\n".join(written)
    for _ in range(draw(st.sampled_from([0, 0, 1, 3]))):
        place = draw(st.integers(0, len(text)))
        text = text[:place] + draw(RUBBISH) + text[place + draw(st.sampled_from([0, 0, 1, 9])) :]
    content = text.encode()
    return content + b"\xff" if draw(st.integers(0, 20)) == 0 else content


CONNECT = '[[connect]]\nuri = "ws://h"\nname = "a"\n'


@given(files())
@example(f"{CONNECT}x = {'[' * 5000}".encode())
@example(f"{CONNECT}on_open = {'[' * 200}{']' * 200}".encode())
@example(f"{CONNECT}{'.'.join('x' * 1000)} = 1".encode())
@example(f"{CONNECT}open_s = {'9' * 5000}".encode())
@example(f"{CONNECT}open_s = 0x{'9' * 5000}".encode())
@example(f'{CONNECT}ssl = {{ ca = "~nobody/x" }}'.encode())
@example(f'{CONNECT}ssl = {{ ca = "{"a" * 5000}" }}'.encode())
@example(f'{CONNECT}sink = "jsonl:~nobody/x"'.encode())
@example(f'{CONNECT}sink = "jsonl:{"a" * 5000}/x"'.encode())
@example(f'{CONNECT}proxy = "${{file:~nobody/x}}"'.encode())
@example(f'{CONNECT}"a\\nb\\u001b[2J" = 1'.encode())
@example(f'{CONNECT}sink = "jsonl:a\\nb\\u001b[2J/c"'.encode())
@example(b'[[connect]]\nuri = "x"\nname = "a\\nb\\u001b[2J"')
@example(f'{CONNECT}handler = "${{FUNCTION}}"'.encode())
@example(f'{CONNECT}topic = "${{S}}"\n[[process]]\nsink = "stdout"\npattern = "x.${{S}}"'.encode())
def test_any_file_gets_a_verdict(folder: Path, content: bytes) -> None:
    """`wsfleet check` always ends with a verdict: a line with its place for each fault, no secret, no control
    character.
    """
    path = folder / "any.toml"
    path.write_bytes(content)
    printed = io.StringIO()
    with patch.dict(os.environ, ENVIRONMENT), redirect_stdout(printed), redirect_stderr(printed):
        code = main(["check", str(path)])
        report = config.check(path)
    assert code == (0 if report.fleet else 2)
    assert (report.fleet is None) == bool(report.faults)
    output = printed.getvalue().split("\n")[:-1]
    assert len(output) == len(report.warnings) + len(report.faults) + (code == 0)
    for line in output:
        assert re.match(rf"{re.escape(str(path))}(:\d+)?(:\d+)?: ", line), line
        assert printable(line) == line, line
        assert len(line.splitlines()) == 1, line
        assert SECRET not in line


def test_a_text_that_breaks_the_parser_is_reported_with_its_line(folder: Path) -> None:
    """Nesting and numbers that exceed the limits of Python are reported with their line, as is too deep nesting."""
    for broken, fault in [
        ("x = " + "[" * 5000, "is nested too deeply to be read"),
        ("x = " + "9" * 5000, "has a number with too many digits"),
        ("x = " + "[" * DEEPEST + "]" * DEEPEST, f"is nested more than {DEEPEST} levels deep"),
    ]:
        path = folder / "deep.toml"
        path.write_text(f"{CONNECT}\n{broken}\n[fleet]\nx = [\n1\n]\n")
        found = config.check(path).faults[0]
        assert found.where.startswith(f"{path}:5")
        assert found.text == fault


def test_a_long_list_is_not_parsed_again_with_each_line() -> None:
    """To find the lines, a list of a thousand lines is parsed only where it may end, not at each of them."""
    text = CONNECT + "on_open = [\n" + '  "subscribe",\n' * 1000 + "]\nx = 1\n"
    with patch.object(lines.tomllib, "loads", wraps=tomllib.loads) as loads:
        found = lines.find_lines(text)
    assert found[("connect", 0, "x")] == 1006
    assert loads.call_count < 10
