"""The command: exit codes, output, report, and signals."""

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.support.command import Command, Start
from wsfleet import accelerated
from wsfleet.cli.main import main
from wsfleet.runtime.locate import find_fleet
from wsfleet.runtime.loop import SELDOM, run_loop
from wsfleet.testing import FeedServer

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals are sent as on Unix")

HANDLERS = """
import asyncio, time
from pathlib import Path

def note(text):
    with open("notes", "a") as file:
        file.write(text + "\\n")

async def count(message): note(str(message.data))

async def state(message): note(message.data.state.value)

async def slow(message):
    note("begun")
    while not Path("go").exists():
        await asyncio.sleep(0.01)
    note("done")

async def hanging(message):
    note("begun")
    await asyncio.sleep(1000)

async def stubborn(message):
    note("begun")
    while True:
        try:
            await asyncio.sleep(1000)
        except asyncio.CancelledError:
            pass

async def blocking(message):
    note("begun")
    time.sleep(1000)
"""


@pytest.fixture
async def start(tmp_path: Path) -> AsyncIterator[Start]:
    """Start `wsfleet` with these arguments in the folder of `handlers.py`."""
    (tmp_path / "handlers.py").write_text(HANDLERS)
    started: list[Command] = []

    async def start(*arguments: str) -> Command:
        command = [sys.executable, "-m", "wsfleet", *arguments]
        pipe = asyncio.subprocess.PIPE
        process = await asyncio.create_subprocess_exec(*command, cwd=tmp_path, stdout=pipe, stderr=pipe)
        started.append(Command(process, tmp_path))
        return started[-1]

    yield start
    for command in started:
        await command.abandon()


@asynccontextmanager
async def feeding(server: FeedServer, *payloads: str) -> AsyncIterator[None]:
    """Send to each client once it is connected."""

    async def feed() -> None:
        await server.wait_clients(1)
        await server.send(*payloads)

    task = asyncio.create_task(feed())
    yield
    await task


def write(folder: Path, uri: str, more: str = "", handler: str = "handlers:count") -> None:
    """A file with one endpoint."""
    text = f'[[connect]]\nuri = "{uri}"\nname = "a"\nhandler = "{handler}"\n{more}'
    (folder / "feeds.toml").write_text(text)


# ---- run ----


async def test_run_a_file(start: Start, tmp_path: Path) -> None:
    """A file is run: handlers are called, sinks written, and the report agrees with the summary."""
    more = '[[process]]\npattern = "a"\nsink = "jsonl:out.jsonl"\n[[process]]\npattern = ">"\nsink = "stdout"'
    async with FeedServer() as server:
        write(tmp_path, server.uri, more)
        async with feeding(server, "x", "y"):
            command = await start("run", "feeds.toml", "--report", "report.json")
            await command.until_noted("x", "y")
        ended = await command.drained()
    assert ended.code == 0, ended.err
    assert (tmp_path / "notes").read_text().split() == ["x", "y"]
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [(row["topic"], row["index"], row["data"]) for row in rows] == [("a", 1, "x"), ("a", 2, "y")]
    assert [json.loads(line)["data"] for line in ended.out.splitlines()] == ["x", "y"]
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["balanced"] is True
    assert report["endpoints"][0]["received"] == 2
    assert {row["name"]: row["processed"] for row in report["subscriptions"]} == {"a": 2, "jsonl": 2, "stdout": 2}
    assert "2 received, 6 processed, 0 failed, 0 dropped, 0 malformed" in ended.err
    assert "0 reconnects" in ended.err
    assert "holds" in ended.err
    assert not list(tmp_path.glob(".report*"))


async def test_the_duration_ends_the_run(start: Start, tmp_path: Path) -> None:
    """After `--duration` the run ends with 0, with or without a server."""
    write(tmp_path, "ws://127.0.0.1:1")
    ended = await (await start("run", "feeds.toml", "--duration", "100 ms", "--quiet")).ended()
    assert ended.code == 0
    assert "0 received" in ended.err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_a_signal_drains(start: Start, tmp_path: Path, number: signal.Signals) -> None:
    """After the first signal the received messages are processed, and the command ends with 0."""
    async with FeedServer() as server:
        write(tmp_path, server.uri, handler="handlers:slow")
        async with feeding(server, *"abc"):
            command = await start("run", "feeds.toml", "--report", "report.json")
            await command.until_noted("begun")
        command.kill(number)
        (tmp_path / "go").touch()
        ended = await command.ended()
    assert ended.code == 0, ended.err
    report = json.loads((tmp_path / "report.json").read_text())
    (row,) = report["subscriptions"]
    assert (row["processed"], row["dropped"], row["pending"]) == (report["endpoints"][0]["received"], 0, 0)
    assert "3 processed" in ended.err


@pytest.mark.parametrize("handler", ["slow", "hanging", "blocking", "stubborn"])
async def test_a_second_signal_stops_at_once(start: Start, tmp_path: Path, handler: str) -> None:
    """Whatever a handler does, the second signal ends the command with 130."""
    async with FeedServer() as server:
        write(tmp_path, server.uri, "[fleet]\ndrain_s = 1000", handler=f"handlers:{handler}")
        async with feeding(server, "a"):
            command = await start("run", "feeds.toml", "--report", "report.json")
            await command.until_noted("begun")
        command.kill(signal.SIGINT)
        if handler != "blocking":
            await command.until_logged(
                "signal again to stop at once"
            )  # otherwise the system may combine two signals into one
        command.kill(signal.SIGINT)
        while handler == "blocking" and command.process.returncode is None:
            command.kill(signal.SIGINT)
            await asyncio.sleep(0.1)
        ended = await command.ended()
    assert ended.code == 130, ended.err
    report = json.loads((tmp_path / "report.json").read_text())
    (row,) = report["subscriptions"]
    ended_call = handler in ("slow", "hanging")
    assert (row["failed"], row["pending"], report["balanced"]) == (ended_call, not ended_call, True)
    assert "fleet ran for" in ended.err and "1 received, 0 processed" in ended.err
    assert ended_call == ("lost: 1 pending message" not in ended.err) == (", 1 pending" not in ended.err)


async def test_a_handler_that_never_ends_does_not_outlast_the_duration(start: Start, tmp_path: Path) -> None:
    """If a handler does not end, a run with `--duration` ends with 1, and logs the handler that delays it."""
    async with FeedServer() as server:
        write(tmp_path, server.uri, "[fleet]\ndrain_s = 0.1", handler="handlers:stubborn")
        async with feeding(server, "a"):
            for seconds in (1, 10, 100):  # enough to connect and to begin, even on a busy machine
                command = await start("run", "feeds.toml", "--duration", str(seconds), "--report", "report.json")
                ended = await command.ended()
                if command.notes.exists():
                    break
    assert ended.code == 1 and "shutdown timed out" in ended.err and "fleet ran for" in ended.err
    assert json.loads((tmp_path / "report.json").read_text())["subscriptions"][0]["pending"] == 1


async def test_a_closed_pipe_ends_the_run(start: Start, tmp_path: Path) -> None:
    """`wsfleet run feeds.toml | head -1` ends with 0."""
    async with FeedServer() as server:
        write(tmp_path, server.uri, '[[process]]\npattern = ">"\nsink = "stdout"')
        command = f"{sys.executable} -m wsfleet run feeds.toml 2>err | head -1; echo ${{PIPESTATUS[0]}}"
        process = await asyncio.create_subprocess_exec(
            "bash", "-c", command, cwd=tmp_path, stdout=asyncio.subprocess.PIPE
        )
        ending = asyncio.create_task(process.communicate())
        while not ending.done():
            await server.send("x")
            await asyncio.sleep(0.01)
        out, _ = await ending
    first, code = out.decode().splitlines()
    output = (tmp_path / "err").read_text()
    assert (json.loads(first)["data"], code) == ("x", "0"), output
    assert "Traceback" not in output
    assert "ERROR" not in output, output
    assert output.count("the reader of the standard output has closed it") <= 1


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a disk that is always full")
async def test_a_full_disk_is_one_line(start: Start, tmp_path: Path) -> None:
    """A sink that cannot write is reported with its path and the reason, once, and without a traceback."""
    async with FeedServer() as server:
        write(tmp_path, server.uri, '[[process]]\npattern = ">"\nsink = "jsonl:/dev/full"')
        command = await start("run", "feeds.toml", "--report", "report.json")
        await server.wait_clients(1)
        for number in range(20):
            await server.send(str(number))
            await asyncio.sleep(0.01)
        ended = await command.drained()
    assert ended.code == 0
    (line,) = [line for line in ended.lines() if "ERROR" in line]
    assert line.endswith("jsonl: the sink could not write: /dev/full: No space left on device")
    assert "Traceback" not in ended.err
    rows = json.loads((tmp_path / "report.json").read_text())["subscriptions"]
    (row,) = [row for row in rows if row["name"] == "jsonl"]
    assert (row["processed"], row["failed"] + row["pending"]) == (0, 20)


@pytest.mark.parametrize(
    ("required", "others", "code"), [(True, 0, 1), (True, 1, 1), (False, 0, 1), (False, 1, 0)], ids=str
)
async def test_endpoints_that_fail(start: Start, tmp_path: Path, required: bool, others: int, code: int) -> None:
    """If a required endpoint or all endpoints fail, the exit code is 1; the report is still written."""
    async with FeedServer() as good, FeedServer() as server:
        server.refuse(401)
        more = f"required = {str(required).lower()}\n" + f'[[connect]]\nuri = "{good.uri}"\nname = "b"\n' * others
        more += '[[process]]\npattern = "$state.a"\nhandler = "handlers:state"'
        write(tmp_path, server.uri, more)
        command = await start("run", "feeds.toml", "--report", "report.json")
        if code == 0:
            await command.until_noted("FAILED")
            command.kill(signal.SIGTERM)
        ended = await command.ended()
    assert ended.code == code, ended.err
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["endpoints"][0]["state"] == "FAILED"
    assert "1 failed (a)" in ended.err


async def test_a_sink_that_cannot_be_opened_ends_the_run(start: Start, tmp_path: Path) -> None:
    """If a sink cannot be opened, nothing is run."""
    write(tmp_path, "ws://127.0.0.1:1", '[[process]]\npattern = ">"\nsink = "jsonl:out/x"')
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "x").symlink_to(tmp_path / "nowhere" / "x")
    ended = await (await start("run", "feeds.toml")).ended()
    assert ended.code == 1
    assert "No such file or directory" in ended.err
    assert "Traceback" not in ended.err


PROGRAMS = """
from wsfleet import Fleet
from wsfleet.core.errors import ConfigError
from handlers import count

URI = "{uri}"
fleet = Fleet(name="object")
fleet.connect(URI, count, name="a")

def make():
    fleet = Fleet(name="made")
    fleet.connect(URI, count, name="a")
    return fleet

def wrong():
    fleet = Fleet()
    fleet.connect("http://h")

def raises():
    1 / 0

async def later():
    return make()

number = 3
"""


@pytest.mark.parametrize(("target", "name"), [("program:fleet", "object"), ("program:make", "made")])
async def test_run_a_program(start: Start, tmp_path: Path, target: str, name: str) -> None:
    """`module:fleet` is found from the current folder: a Fleet, or a function that returns one."""
    async with FeedServer() as server:
        (tmp_path / "program.py").write_text(PROGRAMS.format(uri=server.uri))
        async with feeding(server, "x"):
            command = await start("run", target)
            await command.until_noted("x")
        ended = await command.drained()
    assert ended.code == 0, ended.err
    assert f"{name} ran for" in ended.err
    assert (tmp_path / "notes").read_text() == "x\n"


async def test_a_pattern_of_no_dollar_topic_is_a_warning(start: Start, tmp_path: Path) -> None:
    """For a program, too, a pattern with unknown `$` topics causes a warning at the start; other topics may be
    published.
    """
    (tmp_path / "misspelt.py").write_text(
        "from wsfleet import Fleet\n"
        "fleet = Fleet()\n"
        "for n, pattern in enumerate(['$stat.*', '$state', '$gap.>', '$dead.later', 'orders.*', '>']):\n"
        "    fleet.process(pattern, name=f'p{n}')(print)\n"
    )
    ended = await (await start("run", "misspelt:fleet", "--duration", "0.1")).ended()
    warnings = [line.partition("; there are ")[0] for line in ended.err.splitlines() if "warning" in line]
    assert warnings == [
        "misspelt:fleet: warning: p0: no topic can match '$stat.*'",
        "misspelt:fleet: warning: p1: no topic can match '$state'",
    ]
    assert ended.code == 0


@pytest.mark.parametrize(
    ("target", "fault"),
    [
        ("program:number", "program:number: is int; name a Fleet, or a function without arguments that returns one"),
        ("program:later", "program:later: is an async function; name a Fleet"),
        ("program:raises", "program:raises: the function raised ZeroDivisionError: division by zero"),
        ("program:wrong", "program:wrong: Endpoint: uri must begin with ws:// or wss://"),
        ("program:flet", "has no 'flet'; did you mean 'fleet'?"),
        ("misspelled:fleet", "has no 'fleet'; did you mean 'flet'?"),
        ("misspelled:x", "has no 'x'; there are flet, other"),
        ("program.py", "program.py is a Python file; write program:fleet"),
        ("some/program.py", "some/program.py is a Python file; write some.program:fleet"),
        ("../program.py", "../program.py is a Python file; write program:fleet"),
        ("nowhere:fleet", "there is no module 'nowhere'"),
        ("feeds", "'feeds' is neither a TOML file nor module:fleet"),
        (
            "wss://u:p4ss@h/?token=x",
            "wsfleet: wss://***@h/?token=*** is a URI; use `wsfleet tap` to print the messages of a server",
        ),
        ("nope.toml", "nope.toml: cannot be read: No such file or directory"),
    ],
)
async def test_a_wrong_target_is_one_line(start: Start, tmp_path: Path, target: str, fault: str) -> None:
    """A wrong target is exit code 2 and one clear line."""
    (tmp_path / "program.py").write_text(PROGRAMS.format(uri="ws://h"))
    (tmp_path / "misspelled.py").write_text("from wsfleet import Fleet\nflet = Fleet()\nother = Fleet()\n")
    ended = await (await start("run", target)).ended()
    assert ended.code == 2
    assert fault in ended.err
    assert len(ended.lines()) == 1


# ---- check ----


THRESHOLDS = """
import gc
from wsfleet import Fleet
from wsfleet.runtime.locate import find_fleet
{own}
fleet = Fleet()

@fleet.process("$state.>")
async def tell(message):
    print(message.data.state.value, gc.get_threshold(), flush=True)

fleet.connect("{uri}", name="a")
"""


@pytest.mark.skipif(sys.version_info >= (3, 14), reason="its collector never goes through everything at once")
@pytest.mark.parametrize(("own", "expected"), [("", SELDOM), ("gc.set_threshold(9, 8, 7)", (9, 8, 7))])
async def test_run_defers_full_garbage_collections(
    start: Start, tmp_path: Path, own: str, expected: tuple[int, int, int]
) -> None:
    """The command defers full garbage collections, which block the loop, unless the program has configured them."""
    async with FeedServer() as server:
        (tmp_path / "program.py").write_text(THRESHOLDS.format(own=own, uri=server.uri))
        command = await start("run", "program:fleet")
        await server.wait_clients(1)
        ended = await command.drained()
    assert f"OPEN {expected}" in ended.out


def checked(folder: Path, text: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    path = folder / "feeds.toml"
    path.write_text(text)
    code = main(["check", str(path)])
    out, err = capsys.readouterr()
    return code, out.replace(f"{folder}/", ""), err.replace(f"{folder}/", "")


def test_check_a_good_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A valid file is exit code 0 and one line, even with a warning."""
    text = '[[connect]]\nuri = "ws://h"\nsink = "stdout"\n'
    assert checked(tmp_path, text, capsys) == (0, "feeds.toml: good; 1 endpoint, 1 processor\n", "")
    code, out, err = checked(tmp_path, text + '[[process]]\npattern = "x"\nsink = "stdout"\n', capsys)
    assert (code, out) == (0, "feeds.toml: good; 1 endpoint, 2 processors\n")
    assert err == "feeds.toml:5: [[process]] 1 pattern: warning: no topic can match 'x'; there are h\n"


def test_check_and_run_report_every_fault(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each fault of the file is one line with its place, and the exit code is 2, for `run` and `check`."""
    text = '[[connect]]\nuri = "http://h"\nx = 1\n[[process]]\npattern = "a..b"\n'
    code, out, err = checked(tmp_path, text, capsys)
    assert (code, out) == (2, "")
    assert err.splitlines() == [
        "feeds.toml:2: [[connect]] 1 uri: must begin with ws:// or wss://",
        "feeds.toml:3: [[connect]] 1 x: unknown key; " + err.splitlines()[1].partition("unknown key; ")[2],
        "feeds.toml:4: [[process]] 1: has no handler; name a handler or a sink",
        "feeds.toml:5: [[process]] 1 pattern: 'a..b' has an empty token",
    ]
    assert main(["run", str(tmp_path / "feeds.toml")]) == 2
    assert capsys.readouterr().err.replace(f"{tmp_path}/", "") == err


# ---- the command line ----


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ([], "required: COMMAND"),
        (["rum"], "invalid choice: 'rum'"),
        (["run"], "required"),
        (["run", "x.toml", "--duration", "soon"], "'soon' is not an amount"),
        (["run", "x.toml", "--duration", "0"], "must be above 0"),
        (["run", "x.toml", "--report", "no/report.json"], "--report: no such directory: no; create it first"),
        (["run", "x.toml", "--report", "."], "--report: . is a directory; name a file"),
    ],
)
def test_a_wrong_command_line(
    arguments: list[str], text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A wrong command line is exit code 2 with the reason; a report that cannot be written is reported
    before the run.
    """
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.toml").write_text('[[connect]]\nuri = "ws://127.0.0.1:1"\n')
    assert main(arguments) == 2
    assert text in capsys.readouterr().err


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    """`--version` prints the version and whether the compiled parts are used, and ends with 0."""
    assert main(["--version"]) == 0
    parts = "compiled parts in use" if accelerated else "pure Python"
    assert re.fullmatch(rf"wsfleet \d+\.\d+\.\d+ \({parts}\)\n", capsys.readouterr().out)


@pytest.mark.parametrize("command", ["", "run", "check", "tap", "demo", "bench"])
def test_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The help of every command lists its options."""
    assert main([*command.split(), "--help"]) == 0
    assert capsys.readouterr().out.startswith("usage: wsfleet")


# ---- the loop ----


def test_a_users_error_is_not_attributed_to_a_missing_uvloop(monkeypatch: pytest.MonkeyPatch) -> None:
    """A user's traceback begins with the user's own error, even if uvloop is not installed."""

    async def fails() -> None:
        raise ValueError("mine")

    monkeypatch.setitem(sys.modules, "uvloop", None)
    with pytest.raises(ValueError, match="mine") as caught:
        run_loop(fails())
    assert caught.value.__context__ is None


@pytest.mark.parametrize(
    ("command", "text"),
    [
        (["demo", "--duration", "1"], 'wsfleet demo: rich missing; install "wsfleet[cli]"'),
        (["bench"], 'wsfleet bench: rich missing; install "wsfleet[cli]"'),
        (["tap", "ws://127.0.0.1:1"], 'wsfleet tap: rich missing; install "wsfleet[cli]"'),
        (["top"], 'wsfleet top: textual and httpx missing; install "wsfleet[top]"'),
    ],
)
def test_a_command_says_which_extra_it_needs(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: list[str], text: str
) -> None:
    """Without its packages a command ends with 2, and one line contains the packages and the extra."""
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert main(command) == 2
    assert capsys.readouterr().err == f"{text}\n"


def test_a_pattern_of_no_endpoint_is_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In a program, a pattern that no topic of its endpoints can match is a warning, as it is in a file."""
    (tmp_path / "unmatched.py").write_text(
        "from wsfleet import Fleet\n"
        "fleet = Fleet()\n"
        "fleet.connect('ws://a.test', name='a', topic='trades.{symbol}', decode='json')\n"
        "fleet.pool('ws://b.test', 2, name='b')\n"
        "for pattern in ('trades.*', 'trade.*', 'a', 'b', 'c', '>'):\n"
        "    fleet.process(pattern, name=f'p{len(fleet.subscriptions)}')(print)\n"
    )
    monkeypatch.chdir(tmp_path)
    assert find_fleet("unmatched:fleet") is not None
    warned = [line.partition("; there are ")[0].rpartition(": ")[2] for line in capsys.readouterr().err.splitlines()]
    assert warned == [f"no topic of an endpoint can match {pattern!r}" for pattern in ("trade.*", "c")]


ENTRIES = {
    "module": ["-m", "wsfleet"],
    "script": ["-c", "import sys; from _wsfleet import main; sys.exit(main())"],
}


@pytest.mark.parametrize("module", ["wsfleet.core", "wsfleet.cli.main"])
@pytest.mark.parametrize("entry", ENTRIES)
@pytest.mark.parametrize(("number", "code"), [("SIGHUP", 2), ("SIGINT", 130)])
def test_a_signal_while_the_command_is_imported(
    tmp_path: Path, module: str, entry: str, number: str, code: int
) -> None:
    """While `wsfleet run` is imported, SIGHUP does not end it, and SIGINT ends it without a traceback."""
    (tmp_path / "sitecustomize.py").write_text(f"""
import os, signal, sys
class Finder:
    def find_spec(self, name, path, target=None):
        if name == "{module}":
            os.kill(os.getpid(), signal.{number})
sys.meta_path.insert(0, Finder())
""")
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])}
    command = [sys.executable, *ENTRIES[entry], "run", "missing.toml"]
    ended = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=60)
    assert ended.returncode == code, ended.stderr
    assert ("missing.toml" in ended.stderr) == (number == "SIGHUP") == bool(ended.stderr)
