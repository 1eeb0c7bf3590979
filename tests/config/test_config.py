"""Configuration files: the fleet of a valid file, and the list of all faults of an invalid one."""

import asyncio
import re
import ssl
import sys
import textwrap
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, get_type_hints
from unittest.mock import AsyncMock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsfleet import Endpoint, Fleet, config
from wsfleet.config import Report
from wsfleet.config.faults import BadValue
from wsfleet.config.lines import find_lines
from wsfleet.config.substitution import SubstitutedText, Substitutor
from wsfleet.config.units import SIZES, TIMES, read_seconds, read_size
from wsfleet.config.values import Reader
from wsfleet.core.errors import ConfigError
from wsfleet.core.options import Buffer, Limits, Liveness, Overflow, Reconnect, Retry
from wsfleet.core.topics import can_match, compile_pattern, compile_topic
from wsfleet.pipeline.handler import Plan

HANDLERS = """
from dataclasses import dataclass

seen = []

async def subscribe(session): ...
async def on_trade(message): seen.append(message)
async def uri(): return "ws://127.0.0.1:1"
async def headers(): return {}
def plain(message): ...
def key(message): return message.topic
def number(data): return data.get("id")
def give_number(data): return 1, data
def topic(data): return "x"
def beat(): return "ping"
def fatal(error): return True

@dataclass
class Trade:
    symbol: str
"""

ON_TRADE = "[[process]]\npattern = '>'\nhandler = 'handlers:on_trade'\n"
CONNECT = '[[connect]]\nuri = "ws://h"\nname = "a"\n'

Check = Callable[..., Report]


@pytest.fixture
def check(tmp_path: Path) -> Check:
    """Write a file, with `handlers.py` beside it, and check it."""
    (tmp_path / "handlers.py").write_text(HANDLERS)

    def check(text: str, environ: Mapping[str, str] | None = None) -> Report:
        path = tmp_path / "feeds.toml"
        path.write_text(textwrap.dedent(text))
        return config.check(path, environ=environ or {})

    return check


def printed(report: Report) -> list[str]:
    """The faults as they are printed, without the folder."""
    return [re.sub(r"^.*/feeds\.toml", "feeds.toml", str(fault)) for fault in report.faults]


def endpoint(report: Report, name: str = "a") -> Endpoint:
    """The part with this name."""
    assert not report.faults, printed(report)
    assert report.fleet is not None
    made = report.fleet._registry.supervisors[name].endpoint
    assert isinstance(made, Endpoint)
    return made


# ---- the fleet of a valid file ----


def test_the_documented_example(check: Check) -> None:
    """The example in the documentation is valid, and declares the expected fleet."""
    report = check(
        """
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
        buffer = { messages = 10000, overflow = "drop_oldest" }
        """,
        {"FEED_TOKEN": "s3cret"},
    )
    made = endpoint(report, "trades")
    assert report.warnings == ()
    assert isinstance(report.fleet, Fleet)
    assert report.fleet.name == "demo"
    assert made.uri == "wss://feed.example/trades?token=s3cret"
    assert type(made.uri) is str
    assert made.on_open is sys.modules["handlers"].subscribe
    assert made.reconnect == Reconnect(max_s=10.0)
    stats = report.fleet.subscriptions["on_trade"].stats()
    assert (stats.pattern, stats.overflow) == ("trades.*", "drop_oldest")


def test_every_field_can_be_written(check: Check, tmp_path: Path) -> None:
    """Each option can be set in the file."""
    report = check(
        """
        [fleet]
        name = "all"
        drain_s = "500 ms"
        [fleet.limits]
        handshakes = 8
        connects_per_s = 2.5
        hosts."feed.example" = { handshakes = 1 }

        [[connect]]
        uri = "wss://feed.example"
        name = "a"
        headers = { "X-Key" = "${KEY}" }
        subprotocols = ["v1", "v2"]
        compression = "deflate"
        ssl = {}
        proxy = false
        open_s = 3
        close_s = "1 s"
        max_size = "2 MiB"
        on_open = ["hello", { op = "subscribe", args = ["${KEY}"] }, [1, 2]]
        decode = "handlers:Trade"
        topic = "handlers:topic"
        sends_per_s = 5
        required = true
        handler = "handlers:on_trade"
        buffer = { messages = 7, bytes = "64 KB", overflow = "pause" }
        liveness = { ping_s = false, pong_s = 5, stale_s = "90 s", heartbeat = "handlers:beat", heartbeat_s = 10 }

        [connect.reconnect]
        initial_s = 0.1
        max_s = "2 min"
        factor = 3
        jitter = 0
        stable_s = "1 h"
        max_restarts = 4
        fatal = "handlers:fatal"
        fatal_codes = [4004, 4014]

        [[connect]]
        uri = "handlers:uri"
        name = "b"
        headers = "handlers:headers"
        proxy = "http://proxy.example:3128"
        liveness = { heartbeat = { text = "a:b" }, heartbeat_s = 1 }
        topic = { text = "fixed" }
        sink = "jsonl:out.jsonl"
        """,
        {"KEY": "k3y"},
    )
    made = endpoint(report)
    handlers = sys.modules["handlers"]
    assert made.headers == {"X-Key": "k3y"}
    assert made.subprotocols == ("v1", "v2")
    assert (made.compression, made.proxy, made.required) == ("deflate", False, True)
    assert isinstance(made.ssl, ssl.SSLContext)
    assert made.ssl.verify_mode is ssl.CERT_REQUIRED
    assert made.ssl.check_hostname
    assert (made.open_s, made.close_s, made.max_size, made.sends_per_s) == (3, 1.0, 2**21, 5)
    assert made.decode is handlers.Trade
    assert made.topic is handlers.topic
    assert made.reconnect == Reconnect(0.1, 120.0, 3, 0, 3600.0, 4, fatal=handlers.fatal, fatal_codes=(4004, 4014))
    assert made.liveness == Liveness(None, 5, 90.0, handlers.beat, 10)
    other = endpoint(report, "b")
    assert (other.uri, other.headers) == (handlers.uri, handlers.headers)
    assert (other.proxy, other.topic, other.liveness.heartbeat) == ("http://proxy.example:3128", "fixed", "a:b")
    assert report.fleet is not None
    assert sorted(report.fleet.subscriptions) == ["a", "b"]
    assert not (tmp_path / "out.jsonl").exists()

    session = AsyncMock()
    assert made.on_open is not None
    asyncio.run(made.on_open(session))
    sent = [call.args[0] for call in session.send.await_args_list]
    assert sent == ["hello", {"op": "subscribe", "args": ["k3y"]}, [1, 2]]
    assert type(sent[1]["args"][0]) is str


def test_pools_and_every_option_of_a_processor_can_be_written(check: Check) -> None:
    """Pools and offloading of processors have the same meaning in the file as in a program."""
    report = check(
        """
        [[connect]]
        uri = "ws://h"
        name = "a"
        keep_last = 3
        handler = "handlers:plain"
        key = "handlers:key"
        retry = { attempts = 2, initial_s = "100 ms", max_s = "1 min" }

        [[pool]]
        uri = "ws://h"
        name = "p"
        size = 3
        identify = "handlers:give_number"
        match = "handlers:number"
        sends_per_s = 5
        sink = "stdout"
        batch = 10

        [[process]]
        pattern = "a"
        name = "calls"
        handler = "handlers:on_trade"
        concurrency = 4
        batch = 20
        timeout_s = "1500 ms"

        [[process]]
        pattern = "p"
        name = "elsewhere"
        handler = "handlers:plain"
        offload = "process"
        """
    )
    handlers = sys.modules["handlers"]
    assert endpoint(report).keep_last == 3
    assert endpoint(report, "p-3").decode == "json"
    assert report.warnings == ()
    assert report.fleet is not None
    declared = report.fleet._registry
    assert declared.pools["p"].size == 3
    plans = {each.name: each._plan for each in declared.processors.values()}
    assert plans == {
        "a": Plan(key=handlers.key, retry=Retry(2, 0.1, 60.0)),
        "p": Plan(batch=10),
        "calls": Plan(concurrency=4, batch=20, timeout_s=1.5),
        "elsewhere": Plan(offload="process"),
    }


@pytest.mark.parametrize("overflow", Overflow)
def test_every_overflow_can_be_written(check: Check, overflow: Overflow) -> None:
    """Each overflow policy has a word in the file."""
    key = ', key = "handlers:key"' if overflow is Overflow.LATEST else ""
    report = check(CONNECT + ON_TRADE + f'buffer = {{ bytes = "1 MiB", overflow = "{overflow.value}"{key} }}')
    assert report.fleet is not None, printed(report)
    (mailbox,) = report.fleet._registry.processors
    assert (mailbox.stats().overflow, mailbox.buffer.bytes) == (overflow.value, 2**20)


def test_limits_and_buffers_reach_the_fleet(tmp_path: Path) -> None:
    """Nested tables become the nested options."""
    reader = Reader(tmp_path, Substitutor(tmp_path, {}))
    limits = reader.value("limits", Limits, {"handshakes": 2, "hosts": {"h": {"connects_per_s": 1}}}, ())
    assert limits == Limits(2, hosts={"h": Limits(connects_per_s=1)})
    buffer = reader.value("buffer", Buffer, {"bytes": "1 MiB", "overflow": "latest", "messages": 3}, ())
    assert buffer == Buffer(3, 2**20, Overflow.LATEST)
    assert reader.faults == []


def test_modules_are_found_from_the_files_folder(check: Check, tmp_path: Path) -> None:
    """Modules of the same name in the folders of two files are different modules, each imported once."""
    first = check(CONNECT + 'handler = "handlers:on_trade"\non_open = "handlers:subscribe"')
    one = endpoint(first).on_open
    other = tmp_path / "other"
    other.mkdir()
    (other / "handlers.py").write_text("import count\nasync def on_trade(message): ...\nasync def subscribe(s): ...")
    (other / "count.py").write_text("from pathlib import Path\nwith open(__file__ + '.txt', 'a') as f: f.write('x')")
    (other / "feeds.toml").write_text(CONNECT + 'handler = "handlers:on_trade"\non_open = "handlers:subscribe"')
    second = config.check(other / "feeds.toml")
    assert endpoint(second).on_open is not one
    assert (other / "count.py.txt").read_text() == "x"


def test_numbers_can_come_from_the_environment(check: Check) -> None:
    """Environment variables are text; a number in one is converted."""
    report = check(
        CONNECT + 'required = "${R}"\nopen_s = "${S}"\nmax_size = "${M}"\nreconnect = { max_restarts = "${N}" }',
        {"R": "true", "S": "2", "M": "1 KiB", "N": "3"},
    )
    made = endpoint(report)
    assert (made.required, made.open_s, made.max_size, made.reconnect.max_restarts) == (True, 2.0, 1024, 3)


def test_load_returns_the_fleet_or_raises_every_fault(tmp_path: Path) -> None:
    """A valid file returns a fleet; an invalid one raises one ConfigError with a line for each fault."""
    path = tmp_path / "feeds.toml"
    path.write_text(CONNECT)
    assert list(config.load(path).connections) == ["a"]
    path.write_text(CONNECT + "x = 1\ny = 2")
    with pytest.raises(ConfigError) as caught:
        config.load(path)
    assert len(str(caught.value).splitlines()) == len(caught.value.faults) == 2


# ---- faults ----


@pytest.mark.parametrize(
    ("lines", "fault"),
    [
        # keys and types
        ("[conect]\nx = 1", "[conect]: unknown section; did you mean 'connect'?"),
        ("[[conect]]\nx = 1", "feeds.toml:4: conect: unknown section; did you mean 'connect'?"),
        ("[htp.a]\nx = 1", "feeds.toml:4: [htp]: unknown section; did you mean 'http'?"),
        ("[http]\nport = 1", "[http] port: unknown key; there are listen, token"),
        ("[[connect]]\nurl = 'ws://h'", "[[connect]] 2 url: unknown key; did you mean 'uri'?"),
        (
            "[[connect]]\nuri = 'ws://h'\nstale_s = 5",
            "[[connect]] 2 stale_s: unknown key; did you mean liveness = { stale_s = ... }?",
        ),
        ("name = 1", "name: unknown section"),
        ("[fleet]\ndrain = 1", "[fleet] drain: unknown key; did you mean 'drain_s'?"),
        ("[process]\npattern = '>'", "[process]: must be an array of tables; write [[process]]"),
        ("[[connect]]\nuri = 1", '[[connect]] 2 uri: must be text or "module:function", not 1'),
        ("[[connect]]\nuri = 'ws://h'\nrequired = 1", "required: must be true or false, not 1"),
        ("[[connect]]\nuri = 'ws://h'\nsubprotocols = 'v1'", "subprotocols: must be a list of strings, not 'v1'"),
        ("[[connect]]\nuri = 'ws://h'\nsubprotocols = [1]", "subprotocols[1]: must be text, not 1"),
        ("[[connect]]\nuri = 'ws://h'\nheaders = { a = 1 }", "headers.a: must be text, not 1"),
        ("[[connect]]\nuri = 'ws://h'\ncompression = 'gzip'", "compression: 'gzip' is unknown; there are deflate"),
        ("[[connect]]\nuri = 'ws://h'\nreconnect = 3", "reconnect: must be a table of initial_s, max_s,"),
        ("[[connect]]\nuri = 'ws://h'\nopen_s = 1979-05-27", "open_s: must be a number of seconds"),
        ("[[connect]]\nuri = 'ws://h'\ntopic = { x = 1 }", 'topic: must be text or "module:function", not a table'),
        ("[[process]]\npattern = '>'\nhandler = 'handlers:on_trade'\nbuffer = { messages = 1.5 }", "a whole number"),
        (
            "[[process]]\npattern = '>'\nhandler = 'handlers:on_trade'\nbuffer = { overflow = 'drop_oldst' }",
            "buffer.overflow: 'drop_oldst' is unknown; did you mean 'drop_oldest'?",
        ),
        # units
        ("[fleet]\ndrain_s = '10 parsecs'", "drain_s: '10 parsecs': unknown unit 'parsecs'; there are ms, s, min, h"),
        ("[fleet]\ndrain_s = '10 S'", "did you mean 's'?"),
        ("[fleet]\ndrain_s = 'soon'", "drain_s: 'soon' is not an amount; write a number, or a number with a unit"),
        (
            "[[connect]]\nuri = 'ws://h'\nmax_size = '1 kib'",
            "max_size: '1 kib': unknown unit 'kib'; did you mean 'KiB'?",
        ),
        ("[[connect]]\nuri = 'ws://h'\nmax_size = '0.3 B'", "is not a whole number of bytes"),
        ("[[connect]]\nuri = 'ws://h'\nmax_size = '10 s'", "unknown unit 's'"),
        # ranges, with the errors of the options themselves
        ("[fleet]\ndrain_s = -1", "[fleet] drain_s: must be a number of seconds from 0, not -1"),
        ("[[connect]]\nuri = 'ws://h'\nreconnect.factor = 0.5", "reconnect.factor: must be a number from 1, not 0.5"),
        ("[fleet.limits.hosts.'a.b']\nhandshakes = 0", '[fleet] limits.hosts."a.b".handshakes: must be a whole number'),
        ("[[connect]]\nuri = 'http://h'", "uri: must begin with ws:// or wss://"),
        (
            "[[connect]]\nuri = 'ws://h'\ndecode = 'jsno'",
            "decode: must be 'text', 'bytes', 'json', a type or a function",
        ),
        ("[[connect]]\nuri = 'ws://h'\ntopic = '{x}'", "topic: has fields of the decoded data"),
        (
            "[[connect]]\nuri = 'ws://h'\nliveness.heartbeat_s = 3",
            "liveness: heartbeat and heartbeat_s must be set together",
        ),
        # missing or excessive keys
        ("[[connect]]\nname = 'b'", '[[connect]] 2 "b": has no uri; write uri = "wss://..."'),
        ("[[process]]\nhandler = 'handlers:on_trade'", "[[process]] 1: has no pattern"),
        ("[[process]]\npattern = '>'", "[[process]] 1: has no handler; name a handler or a sink"),
        ("[[process]]\npattern = '>'\nhandler = 'handlers:on_trade'\nsink = 'stdout'", "has a handler and a sink"),
        ("[[connect]]\nuri = 'ws://h'\nbuffer.messages = 3", "[[connect]] 2 buffer: requires a handler or a sink"),
        # names and patterns
        ("[[connect]]\nuri = 'ws://h'\nname = 'a'", "[[connect]] 2 \"a\" name: 'a' is in use"),
        ("[[connect]]\nuri = 'ws://h'\nname = 'a.b'", "name: must be one token"),
        ("[[process]]\npattern = 'a..b'\nsink = 'stdout'", "[[process]] 1 pattern: 'a..b' has an empty token"),
        ("[[connect]]\nuri = 'ws://h'\ntopic = 'a..b'", "topic: 'a..b' is not a valid topic"),
        ("[[connect]]\nuri = 'handlers:uri'", "uri: is a function, which requires a name"),
        # functions
        ("[[process]]\npattern = '>'\nhandler = 'handlers'", "handler: 'handlers' is not a function; write \"module:f"),
        ("[[process]]\npattern = '>'\nhandler = 'handler:x'", "handler: there is no module 'handler' in"),
        ("[[process]]\npattern = '>'\nhandler = 'handlers:on_tade'", "has no 'on_tade'; did you mean 'on_trade'?"),
        ("[[process]]\npattern = '>'\nhandler = 'handlers:z_dataclass'", "has no 'z_dataclass'; there are subscribe, "),
        (
            "[[process]]\npattern = '>'\nhandler = 'handlers:seen'",
            "[[process]] 1 handler: must be a function or a sink, not []",
        ),
        ("[[process]]\npattern = '>'\nhandler = 'handlers:Trade'", "1 handler: must be a function or a sink"),
        ("[[connect]]\nuri = 'nowhere:uri'\nname = 'b'", "uri: there is no module 'nowhere'"),
        # files
        ("[[process]]\npattern = '>'\nsink = 'jsnol:x'", "sink: no sink is named 'jsnol'; did you mean 'jsonl'?"),
        ("[[process]]\npattern = '>'\nsink = 'jsonl:no/x'", "sink: jsonl: there is no folder"),
        ("[[connect]]\nuri = 'wss://h'\nssl = { ca = 'ca.pem' }", "ssl.ca: there is no file"),
        ("[[connect]]\nuri = 'wss://h'\nssl = { ca = 'handlers.py' }", "ssl: cannot be used:"),
        ("[[connect]]\nuri = 'wss://h'\nssl = { key = 'handlers.py' }", "ssl: has a key without a cert"),
        # references to the environment and to files
        ("[[connect]]\nuri = 'ws://h/${NOPE}'", "uri: the environment variable NOPE is not set"),
        ("[[connect]]\nuri = 'ws://h/${file:nope}'", "nope cannot be read: No such file or directory"),
        ("[[connect]]\nuri = 'ws://h/${A B}'", "uri: ${A B} is not a valid substitution"),
        ("[[connect]]\nuri = 'ws://h/${A'", "uri: '${' without a '}'; write ${NAME}, or $${ for a literal ${"),
        # pools, and `offload`
        ("[[pool]]\nuri = 'ws://h'\nname = 'p'", '[[pool]] 1 "p": has no size; set the number of connections'),
        ("[[pool]]\nuri = 'ws://h'\nname = 'p'\nsize = 0", "size: must be a whole number from 1 to 65,536, not 0"),
        ("[[pool]]\nuri = 'ws://h'\nname = 'p'\nsize = 4_000_000_000", "size: must be a whole number from 1 to 65,536"),
        ("[[pool]]\nuri = 'ws://h'\nname = 'p'\nsize = '2'", "size: must be a whole number, not '2'"),
        ("[[pool]]\nuri = 'ws://h'\nname = 'p'\nsize = 2\ndecode = 'text'", "decode: = 'text' gives no ids"),
        (ON_TRADE + "concurrency = 0", "concurrency: must be a whole number from 1, not 0"),
        (ON_TRADE + "batch = 6\nbuffer.messages = 5", "batch: must be at most the buffer's 5 messages, not 6"),
        (ON_TRADE + "timeout_s = 0", "timeout_s: must be a number of seconds above 0 or None, not 0"),
        (ON_TRADE + "timeout_s = '1 y'", "timeout_s: '1 y': unknown unit 'y'"),
        (ON_TRADE + "retry = { attempts = 0 }", "retry.attempts: must be a whole number from 1, not 0"),
        (ON_TRADE + "retry = 3", "retry: must be a table of attempts, initial_s, max_s"),
        (ON_TRADE + "offload = 'thread'", "offload: 'thread' is unknown; there are process"),
        (ON_TRADE + "key = 1", 'key: must be "module:function", not 1'),
        (ON_TRADE + "buffer.key = 'handlers:key'", "buffer.key: requires Overflow.LATEST"),
        ("[[process]]\npattern = '>'\nsink = 'stdout'\nconcurrency = 2", "concurrency: does not apply to a sink"),
        ("[[connect]]\nuri = 'ws://h'\nkeep_last = -1", "keep_last: must be a whole number from 0, not -1"),
    ],
)
def test_each_fault_has_its_line(check: Check, lines: str, fault: str) -> None:
    """Each fault is one line: its place, the problem, and the correct form."""
    begin = CONNECT if not lines.startswith("name") else ""
    report = check(begin + lines if begin else lines + "\n" + CONNECT)
    assert report.fleet is None
    assert len(printed(report)) == 1, printed(report)
    assert fault in printed(report)[0]
    assert "\n" not in printed(report)[0]


def test_a_handler_and_a_sink_are_a_fault_even_if_the_handler_is_missing(check: Check) -> None:
    """The fault that an entry has both keys is reported although one of them is invalid."""
    report = check(CONNECT + "[[process]]\npattern = '>'\nhandler = 'handlers:nope'\nsink = 'stdout'")
    assert [fault for fault in printed(report) if "has a handler and a sink" in fault] and len(printed(report)) == 2


def test_all_faults_are_reported_at_once(check: Check) -> None:
    """An invalid value hides no other faults, and causes no further ones."""
    report = check(
        """
        [fleet]
        drain_s = "x"
        limits = { handshakes = 0, connects_per_s = -1 }

        [[connect]]
        uri = "ws://${NOPE}"
        name = "a"
        headers = 3
        reconnect = { max_s = "1 y", factor = 0 }
        liveness = { heartbeat = 3, heartbeat_s = 1 }
        topic = "{x}"
        decode = ["a"]
        handler = "nowhere:x"
        concurrency = 0
        batch = 10
        buffer = { messages = 5 }

        [[connect]]
        uri = "ws://h"
        name = "a"
        keep_last = -1
        """
    )
    assert printed(report) == [
        "feeds.toml:3: [fleet] drain_s: 'x' is not an amount; write a number, or a number with a unit as in \"10 s\"",
        "feeds.toml:4: [fleet] limits.connects_per_s: must be a number above 0 or None, not -1",
        "feeds.toml:4: [fleet] limits.handshakes: must be a whole number from 1, not 0",
        'feeds.toml:7: [[connect]] 1 "a" uri: the environment variable NOPE is not set; '
        "set it, or write $${NOPE} for a literal ${NOPE}",
        'feeds.toml:9: [[connect]] 1 "a" headers: must be a table or "module:function", not 3',
        'feeds.toml:10: [[connect]] 1 "a" reconnect.factor: must be a number from 1, not 0',
        "feeds.toml:10: [[connect]] 1 \"a\" reconnect.max_s: '1 y': unknown unit 'y'; there are ms, s, min, h",
        'feeds.toml:11: [[connect]] 1 "a" liveness.heartbeat: must be text or "module:function", not 3',
        'feeds.toml:13: [[connect]] 1 "a" decode: must be text or "module:function", not a list',
        f"feeds.toml:14: [[connect]] 1 \"a\" handler: there is no module 'nowhere' in {Path(shown_folder(report))}; "
        "there are handlers",
        'feeds.toml:15: [[connect]] 1 "a" concurrency: must be a whole number from 1, not 0',
        'feeds.toml:16: [[connect]] 1 "a" batch: must be at most the buffer\'s 5 messages, not 10',
        "feeds.toml:21: [[connect]] 2 \"a\" name: 'a' is in use",
        'feeds.toml:22: [[connect]] 2 "a" keep_last: must be a whole number from 0, not -1',
    ]


def shown_folder(report: Report) -> str:
    return report.faults[0].where.partition("/feeds.toml")[0]


def test_an_import_error_is_reported_with_its_place(check: Check, tmp_path: Path) -> None:
    """An exception during the import of a module is one line with the user's file and line."""
    (tmp_path / "broken.py").write_text("x = 1\nraise ValueError('a\\nb')")
    (tmp_path / "exits.py").write_text("import sys\nsys.exit(3)")
    (tmp_path / "needs.py").write_text("import not_there_at_all")
    (tmp_path / "syntax.py").write_text("def (")
    report = check(
        CONNECT
        + "\n".join(
            f"[[process]]\npattern = '>'\nhandler = '{name}:x'"
            for name in ("broken", "exits", "needs", "syntax", "broken")
        )
    )
    broken, exits, needs, syntax, again = printed(report)
    assert "importing 'broken' failed: ValueError: a b (broken.py, line 2)" in broken
    assert "importing 'exits' failed: SystemExit: 3 (exits.py, line 2)" in exits
    assert "ModuleNotFoundError: No module named 'not_there_at_all' (needs.py, line 1)" in needs
    assert "SyntaxError" in syntax
    assert "ValueError" in again


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("[[connect]]\nuri = = 1", "feeds.toml:2:7: not TOML:"),
        ("[[connect]]\nuri = 1 2", "feeds.toml:2:9: not TOML:"),
        ('[[connect]]\nuri = """x', "feeds.toml:2:"),
        ("a = 1\na = 2", "feeds.toml:2:"),
    ],
)
def test_bad_syntax_is_reported_with_line_and_column(check: Check, text: str, where: str) -> None:
    """If the file is no valid TOML, this is the only fault, with its place."""
    (fault,) = printed(check(text))
    assert fault.startswith(where)


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    """A missing file, a folder, and a file that is not text are one line each."""
    (tmp_path / "binary.toml").write_bytes(b"\xff")
    for name, fault in [("nope.toml", "No such file"), ("", "Is a directory"), ("binary.toml", "is not UTF-8")]:
        (found,) = config.check(tmp_path / name).faults
        assert fault in found.text


def test_a_file_without_endpoints_is_a_fault(check: Check) -> None:
    """A file without endpoints is a fault, because there would be nothing to run."""
    for text in ("", "[fleet]\nname = 'x'\n"):
        (fault,) = printed(check(text))
        assert fault == "feeds.toml: there is no endpoint; add a [[connect]] with a uri"


# ---- arbitrary files ----

OPTIONS = (Endpoint, Reconnect, Liveness, Buffer)
KEYS = st.sampled_from(sorted({key for option in OPTIONS for key in get_type_hints(option)})) | st.sampled_from(
    [
        "name",
        "limits",
        "drain_s",
        "handshakes",
        "hosts",
        "pattern",
        "handler",
        "sink",
        "size",
        "ca",
        "function",
        "text",
        "x",
        "buffer",
        "retry",
        "timeout_s",
    ]
)
TEXTS = """a a.b wss://h ws://h:x x:y os:getcwd os:nope json deflate > stdout jsonl: drop_oldest latest process
    {a} ${NOPE} ${S} ${ $$"""
VALUES = st.recursive(
    st.sampled_from([*TEXTS.split(), "10 s", "1 KiB", "", "\0", "\ud800"])
    | st.booleans()
    | st.integers(-2, 3)
    | st.floats()
    | st.dates(),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=6,
)
ENTRIES = st.dictionaries(KEYS, VALUES, max_size=6)
DOCUMENTS = st.fixed_dictionaries(
    {},
    optional={"fleet": ENTRIES | VALUES, "other": VALUES}
    | {section: st.lists(ENTRIES | VALUES, max_size=3) | VALUES for section in ("connect", "pool", "process")},
)


@given(DOCUMENTS)
def test_no_document_breaks_the_check(document: dict[str, Any]) -> None:
    """For any content of a file, the result is a fleet or faults of one line each."""
    report = config._check(Path("feeds.toml"), "", document, {"S": "hunter2"})
    assert (report.fleet is None) == bool(report.faults)
    for fault in report.faults:
        assert "\n" not in str(fault)
        assert "hunter2" not in str(fault)


# ---- secrets ----

SECRET = "hunter2'\"\\\n\tsecret"


@pytest.mark.parametrize("secret", [SECRET, "x.", "ab", "a b c d e f", "wss://u:pass@h:p0rt/x", "wss://u:pa/ss@h"])
def test_referenced_values_are_never_shown(check: Check, tmp_path: Path, secret: str) -> None:
    """For any fault of a value from the environment or a file, the message shows only the reference."""
    (tmp_path / "secret").write_text(secret)
    report = check(
        """
        [fleet]
        name = "${S}"
        drain_s = "${S}"
        [[connect]]
        uri = "${S}"
        name = "${S}"
        headers = { "X" = "${S}" }
        proxy = "${S}"
        decode = "${S}"
        topic = "${S}..x"
        on_open = "${S}"
        subprotocols = ["${S}"]
        compression = "${S}"
        required = "${S}"
        ssl = { ca = "${S}" }
        handler = "${S}"
        buffer = { messages = "${S}", overflow = "${S}" }
        liveness = { ping_s = "${S}" }
        [[connect]]
        uri = "wss://user:${file:secret}@h"
        name = "${file:secret}"
        [[connect]]
        uri = "ws://h"
        name = "x${file:secret} "
        [[process]]
        pattern = "a.${S}.>.b"
        sink = "${S}"
        name = "${S}"
        """,
        {"S": secret},
    )
    assert len(report.faults) > 10
    for line in printed(report):
        shown = line.replace("feeds.toml", "").replace("'x${file:secret} '", "")
        assert secret not in shown or len(secret) < 4, line
        assert repr(secret) not in shown, line
        assert repr(secret)[1:-1] not in shown or len(secret) < 4, line
        assert "'p0rt'" not in shown, line
        assert "'pa'" not in shown, line
    assert any("${S}" in line for line in printed(report))


@given(st.text(st.characters(codec="utf-8"), min_size=4), st.text(max_size=5))
def test_hiding_finds_every_copy(secret: str, around: str) -> None:
    """A text that contains a secret, as it is or as a repr, does not contain it after redaction."""
    substitutor = Substitutor(Path(), {"S": secret})
    value = substitutor.substitute(around.replace("$", "") + "${S}")
    hidden = substitutor.hide(f"must not be {value!r}; {secret}")
    assert secret not in hidden.replace(f"must not be {around.replace('$', '') + '${S}'!r}; ", "")


# ---- units ----


@given(st.integers(0, 10**12), st.sampled_from(sorted(SIZES)), st.sampled_from(["", " ", "  "]))
def test_sizes_are_exact(number: int, unit: str, space: str) -> None:
    """An integer with a unit is exactly that many bytes."""
    assert read_size(f"{number}{space}{unit}") == number * SIZES[unit]
    assert read_size(str(number)) == number


@given(st.integers(0, 10**6), st.integers(0, 999), st.sampled_from(sorted(TIMES)))
def test_times_are_the_nearest_float(whole: int, part: int, unit: str) -> None:
    """A decimal with a unit is the nearest float, without intermediate rounding."""
    text = f"{whole}.{part:03d}"
    if unit == "ms":
        assert read_seconds(f"{text} ms") == float(f"{text}e-3")
    assert read_seconds(f"{text} s") == float(text)
    assert read_seconds(f".{part:03d}") == float(f".{part:03d}")
    assert read_seconds(f"{text} {unit}") == pytest.approx(float(text) * float(TIMES[unit]))


@given(st.text(max_size=12))
def test_any_text_is_an_amount_or_wrong(text: str) -> None:
    """Any text gives a number or a fault that quotes the text."""
    for read in (read_seconds, read_size):
        try:
            made: object = read(text)
        except BadValue as exc:
            made = str(exc)
        assert isinstance(made, int | float) or repr(text) in str(made)


# ---- references ----


@given(st.lists(st.sampled_from(["a", "$", "{", "}", "$$", "${X}", "$${X}", "${", "é", " "])))
def test_references_are_resolved_from_left_to_right(parts: list[str]) -> None:
    """`$$` is a dollar, `${X}` the value, all else is unchanged, and an unclosed reference is a fault."""
    text = "".join(parts)
    made, rest, used = "", text, False
    while rest:
        if rest.startswith("$$"):
            made, rest = made + "$", rest[2:]
        elif rest.startswith("${"):
            name, closed, after = rest[2:].partition("}")
            if not closed or name != "X":
                made = ""
                break
            made, rest, used = made + "value", after, True
        else:
            made, rest = made + rest[0], rest[1:]
    substitutor = Substitutor(Path(), {"X": "value"})
    if rest:
        with pytest.raises(BadValue):
            substitutor.substitute(text)
        return
    substituted = substitutor.substitute(text)
    assert substituted == made
    assert isinstance(substituted, SubstitutedText) == used


def test_a_file_is_filled_in_without_its_last_newline(tmp_path: Path) -> None:
    """A newline at the end of a secret's file, which editors and echo write, is removed."""
    (tmp_path / "token").write_text("a\nb\r\n")
    assert Substitutor(tmp_path, {}).substitute("x${file:token}y") == "xa\nby"


# ---- lines ----


def test_lines_are_found_in_every_form() -> None:
    """Tables, arrays of tables, dotted keys, strings and arrays over several lines: each has the line in which it
    begins.
    """
    text = textwrap.dedent(
        '''\
        # [not] a table
        top = """
        [no]
        x = 1
        """

        [fleet] # comment
        limits.hosts."a.b" = { handshakes = 1 }
        [[connect]]
        uri = "x"
        on_open = [
          "[[connect]]",
          { a = 1 },
        ]
        [connect.reconnect]
        max_s = 1
        [[connect]]
        uri = 'y'
        '''
    )
    lines = find_lines(text)
    assert lines[("top",)] == 2
    assert lines[("fleet",)] == 7
    assert lines[("fleet", "limits", "hosts", "a.b", "handshakes")] == 8
    assert lines[("connect", 0)] == 9
    assert lines[("connect", 0, "uri")] == 10
    assert lines[("connect", 0, "on_open", 1)] == 11
    assert lines[("connect", 0, "reconnect")] == 15
    assert lines[("connect", 0, "reconnect", "max_s")] == 16
    assert lines[("connect", 1)] == 17
    assert lines[("connect", 1, "uri")] == 18


# ---- patterns that match nothing ----

TOKENS = st.sampled_from(["a", "b", "ab", "_"])
PATTERNS = st.lists(TOKENS | st.just("*"), min_size=1, max_size=3).flatmap(
    lambda tokens: st.sampled_from([".".join(tokens), ".".join([*tokens, ">"]), ">"])
)
FORMATS = st.lists(st.sampled_from(["a", "b", "{x}", "a{x}", "{x}b"]), min_size=1, max_size=4).map(".".join)


@given(PATTERNS, FORMATS, TOKENS)
def test_no_warning_where_a_message_can_come(pattern: str, template: str, value: str) -> None:
    """If a pattern matches a topic that the format can make, there is no warning."""
    topic = compile_topic(template)({"x": value})
    assert topic is not None
    if compile_pattern(pattern)(topic):
        assert can_match(pattern, template)
    if "{" not in template:
        assert can_match(pattern, template) == compile_pattern(pattern)(topic)


def test_a_pattern_that_nothing_can_match_is_a_warning(check: Check) -> None:
    """A pattern that can match nothing causes a warning with its place and the existing topics; the file is valid."""
    report = check(
        """
        [[connect]]
        uri = "ws://h"
        name = "trades"
        decode = "json"
        topic = "trades.{symbol}"
        [[process]]
        pattern = "tades.*"
        sink = "stdout"
        [[process]]
        pattern = "trades.*"
        sink = "stdout"
        name = "out"
        [[process]]
        pattern = "$state.trades"
        sink = "stdout"
        [[process]]
        pattern = "$dead.out"
        sink = "stdout"
        [[process]]
        pattern = "$dead.nobody"
        sink = "stdout"
        [[process]]
        pattern = "trades"
        sink = "stdout"
        """
    )
    assert report.fleet is not None
    assert [warning.text.partition(";")[0] for warning in report.warnings] == [
        "no topic can match 'tades.*'",
        "no topic can match '$dead.nobody'",
    ]
    assert report.warnings[0].where.endswith("feeds.toml:8: [[process]] 1 pattern")
    assert "trades.{symbol}" in report.warnings[0].text


def test_no_warning_where_a_function_makes_topics(check: Check) -> None:
    """With a topic function there is no warning, because its topics are unknown."""
    report = check(CONNECT + "topic = 'handlers:topic'\n[[process]]\npattern = 'x.y.z'\nsink = 'stdout'")
    assert report.warnings == ()
    assert not report.faults
