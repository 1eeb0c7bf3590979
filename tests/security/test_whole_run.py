"""A complete run with secrets in all possible places, of which none appears in any output."""

import asyncio
import base64
import json
import os
import subprocess
import sys
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from tests.support.peers import HOST, Handler, accept, answering, listening, request, until_gone
from tests.support.wirekit import CLOSE, TEXT, frame
from wsfleet.cli.main import main

MARK = "s3kr1tZ9"  # ends every planted secret; the text before it identifies its place

PROGRAM = """
import asyncio, json, logging, sys, traceback
from pathlib import Path
import msgspec
from wsfleet import Endpoint, Fleet, Liveness, Reconnect
from wsfleet.core.errors import Fatal

ports = json.loads(Path("ports.json").read_text())
MARK = "s3kr1tZ9"

file = logging.FileHandler("library.log", encoding="utf-8")  # the library's own records
file.setFormatter(logging.Formatter("%(levelname)s %(name)s %(message)s"))
logging.getLogger().addHandler(file)
logging.getLogger().addHandler(logging.StreamHandler(sys.stderr))
logging.getLogger().setLevel(logging.DEBUG)

class Trade(msgspec.Struct):
    price: float

def uri(name, extra=""):
    return f"ws://q7user:q7pass{MARK}@127.0.0.1:{ports[name]}/ws/q7pathq7pathq7path{MARK}?token=q7query{MARK}{extra}"

async def log_in(session):
    print(repr(session), flush=True)
    await session.send({"op": "login", "apiKey": f"q7open{MARK}"})

async def failing_login(session):
    raise RuntimeError(f"POST wss://q7u:q7login{MARK}@auth.example/?signature=q7sig{MARK} was refused")

async def fatal_login(session):
    raise Fatal(f'login {{"apiKey": "q7fatal{MARK}"}} refused')

async def failing_uri():
    raise OSError(f"GET https://auth.example/?client_secret=q7uri{MARK} failed")

async def failing_headers():
    raise ValueError(f"Authorization: Bearer q7bearer{MARK}")

def failing_beat():
    seen.add("heartbeat")
    raise ValueError(f"token=q7beat{MARK}")

def failing_fatal(error):
    raise ValueError(f"password=q7verdict{MARK} {error}")

async def process(message):
    if message.data == "fail":
        raise ValueError(f"insert into postgres://q7db:q7db{MARK}@db.example/ failed")

async def show(message):
    record = message.data
    error = getattr(record, "error", None)
    print(message.topic, "" if error is None else "".join(traceback.format_exception(error)), repr(error), flush=True)
    if error is not None:
        seen.add(message.topic)
    if expected <= seen:
        await fleet.close()

failing = "rejecting garbage redirecting token closing proxied login refused uri headers verdict"
expected = {f"$state.{name}" for name in failing.split()} | {"$malformed.malformed", "$dead.process", "heartbeat"}
seen = set()

def make():
    global fleet
    fleet = Fleet()
    for kind in ("state", "gap", "malformed", "dead"):
        fleet.process(f"${kind}.*", name=f"show-{kind}")(show)
    fleet.process("echo", name="process")(process)
    again = Reconnect(initial_s=0.05, max_s=0.2)
    common = dict(
        reconnect=again,
        headers={
            "Authorization": f"Bearer q7auth{MARK}", "X-Client": f"q7clientq7client{MARK}", "Cookie": f"sid=q7sid{MARK}"
        },
    )
    proxy = f"http://q7px:q7proxy{MARK}@127.0.0.1:{ports['garbage']}"
    endpoints = [
        Endpoint(uri("echo"), name="echo", on_open=log_in, **common),
        Endpoint(uri("rejecting"), name="rejecting", **common),
        Endpoint(uri("garbage"), name="garbage", **common),
        Endpoint(uri("redirecting"), name="redirecting", **common),
        Endpoint(uri("redirecting"), name="token", subprotocols=["v1", f"access-token.q7sub{MARK}"], **common),
        Endpoint(uri("closing"), name="closing", **common),
        Endpoint(uri("malformed"), name="malformed", decode=Trade, **common),
        Endpoint("wss://feed.invalid/", name="proxied", proxy=proxy, **common),
        Endpoint(uri("echo"), name="login", on_open=failing_login, **common),
        Endpoint(uri("echo"), name="refused", on_open=fatal_login, **common),
        Endpoint(failing_uri, name="uri", reconnect=again),
        Endpoint(uri("echo"), name="headers", headers=failing_headers, reconnect=again),
        Endpoint(uri("echo"), name="beat", liveness=Liveness(heartbeat=failing_beat, heartbeat_s=0.1), **common),
        Endpoint(
            uri("echo"), name="beats", liveness=Liveness(heartbeat=f'{{"key":"q7hb{MARK}"}}', heartbeat_s=0.1), **common
        ),
        Endpoint(uri("rejecting"), name="verdict", reconnect=Reconnect(fatal=failing_fatal), headers=common["headers"]),
    ]
    for endpoint in endpoints:
        connection = fleet.connect(endpoint)
        print(repr(endpoint), repr(connection), repr(fleet), flush=True)
    fleet.pool(Endpoint(uri("echo"), name="pool", decode="json", **common), size=2)
    return fleet
"""


def echoing(head: str) -> Handler:
    """A server that repeats the path, the Authorization and the cookie of the request in its answer."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        first, headers = await request(reader)
        path = first.split(" ")[1]
        repeated = {name: headers.get(name, "-") for name in ("authorization", "x-client", "cookie")}
        writer.write(head.format(path=path, key=path.rpartition("=")[2], **repeated).encode())
        writer.close()
        await until_gone(reader)

    return handle


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await accept(reader, writer)
    writer.write(frame(TEXT, b"fail"))
    await until_gone(reader)


async def closing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await accept(reader, writer)
    writer.write(frame(CLOSE, b"\x0f\xa0" + f"bad q7query{MARK}, q7auth{MARK}, apiKey=q7open{MARK}".encode()))
    writer.close()
    await until_gone(reader)


async def malformed(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await accept(reader, writer)
    writer.write(frame(TEXT, f'{{"price": "q7", "token": "q7data{MARK}"}}'.encode()))
    await until_gone(reader)


SERVERS: dict[str, Handler] = {
    "echo": echo,
    "closing": closing,
    "malformed": malformed,
    "rejecting": echoing("HTTP/1.1 503 no {key}\r\nSet-Cookie: {cookie}\r\nX-Was: {authorization}\r\n\r\n{path}"),
    "garbage": echoing("HTTP/1.1 101 x\r\nUpgrade: {key} {authorization}\r\nConnection: Upgrade\r\n\r\n"),
    "redirecting": echoing(f"HTTP/1.1 302 x\r\nLocation: ws://u:q7loc{MARK}@{HOST}:1/?token=q7loc{MARK}\r\n\r\n"),
    "unused": answering(b""),
}


@pytest.mark.skipif(sys.platform == "win32", reason="the command is run as on Unix")
async def test_no_output_of_a_run_has_a_secret(tmp_path: Path) -> None:
    """Standard output and error, the log of the library itself at DEBUG, tracebacks, reprs, `$` topics, the report."""
    (tmp_path / "program.py").write_text(PROGRAM)
    async with AsyncExitStack() as stack:
        ports = {name: await stack.enter_async_context(listening(handle)) for name, handle in SERVERS.items()}
        (tmp_path / "ports.json").write_text(json.dumps(ports))
        command = [sys.executable, "-X", "dev", "-m", "wsfleet", "run", "program:make", "--duration", "60"]
        process = await asyncio.create_subprocess_exec(
            *command, "--report", "report.json", cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            env={name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")},
        )  # fmt: skip
        out, err = await process.communicate()
    outputs = {
        "stdout": out.decode(),
        "stderr": err.decode(),
        "log": (tmp_path / "library.log").read_text("utf-8"),
    }
    assert process.returncode == 0, outputs["stderr"]
    outputs["report"] = (tmp_path / "report.json").read_text("utf-8")
    rows = {row["name"]: row for row in json.loads(outputs["report"])["endpoints"]}
    for name in ("rejecting", "garbage", "redirecting", "token", "closing", "proxied", "login", "refused"):
        assert rows[name]["last_error"], f"{name} was meant to fail: {rows[name]}"
    assert rows["malformed"]["malformed"], "its message was meant to be malformed"
    for seen in ("heartbeat function failed", "a message failed", "cannot decode message", "the supervisor failed"):
        assert seen in outputs["log"], outputs["log"]
    encoded = base64.b64encode(f"q7user:q7pass{MARK}".encode()).decode()
    for name, output in outputs.items():
        found = [line for line in output.splitlines() if MARK in line or encoded in line]
        assert not found, f"{name}:\n" + "\n".join(found)


def test_no_output_of_a_check_has_a_secret(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`wsfleet check` reports each fault of a value from the environment or a file, without the value."""
    monkeypatch.setenv("PLANTED", f"q7env{MARK}")
    monkeypatch.setenv("HTTPS_PROXY", f"http://q7px:q7proxy{MARK}@proxy.example:3128")
    (tmp_path / "secret").write_text(f"q7file{MARK}\n")
    entries = [
        'uri = "wss://feed.example/?token=${PLANTED}"',
        'uri = "${PLANTED}"',
        'uri = "ws://u:${file:secret}@feed.example:port/"',
        'uri = "ws://a.example"\nheaders = { "${PLANTED}" = "x", X = "${file:secret}\\u0001" }',
        'uri = "ws://b.example"\ndecode = "${PLANTED}"\nproxy = "${file:secret}"\nname = "a b ${PLANTED}"',
        'uri = "ws://c.example"\nhandler = "${PLANTED}:${file:secret}"\nmax_size = "${PLANTED}"',
        'uri = "ws://d.example"\nssl = { ca = "${file:secret}" }\nreconnect = { max_s = "${PLANTED}" }',
        'uri = "ws://e.example"\nsink = "jsonl:${PLANTED}/${file:secret}"\nsubprotocols = ["${PLANTED} x"]',
    ]
    file = tmp_path / "feeds.toml"
    file.write_text("\n".join(f"[[connect]]\n{entry}" for entry in entries))
    assert main(["check", str(file)]) == 2
    shown = capsys.readouterr()
    assert shown.err.count("\n") >= len(entries)
    file.write_text(f"[[connect]]\n{entries[0]}")
    assert main(["check", str(file)]) == 0
    assert MARK not in shown.out + shown.err + "".join(capsys.readouterr())


@pytest.mark.parametrize("command", ["check", "run"])
def test_a_uri_in_place_of_a_file_is_not_repeated(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    """If a URI is given in place of a file or program, its password does not appear in a log."""
    assert main([command, f"wss://u:q7pass{MARK}@feed.example/?token=q7query{MARK}"]) == 2
    shown = capsys.readouterr().err
    assert "feed.example" in shown and shown.count("\n") == 1
    assert MARK not in shown
