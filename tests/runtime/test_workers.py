"""A fleet in several processes, run as a command: one report, one end, and no process left behind."""

import asyncio
import contextlib
import itertools
import json
import os
import signal
import socket
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.command import Command, Start
from tests.support.servers.base import free_port
from wsfleet import Fleet
from wsfleet.cli.main import main
from wsfleet.runtime.run import Run
from wsfleet.runtime.sharding import Shard
from wsfleet.runtime.workers.worker import REPORT_S, _Worker
from wsfleet.testing import FeedServer

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals are sent as on Unix")

HANDLERS = """
import asyncio, os, time
from pathlib import Path

def note(*words):
    with open("notes", "a", buffering=1) as file:
        file.write(" ".join(map(str, words)) + "\\n")

async def who(message): note(os.getpid(), message.endpoint, message.data)

async def number(message): note("message", message.endpoint, message.session, message.index, os.getpid())

async def gap(message):
    gap = message.data
    silent_s = message.received_at - gap.last_message_at
    note("gap", gap.endpoint, gap.previous_session, gap.session, gap.last_index, gap.exact, 0 <= gap.down_s <= silent_s)

async def slow(message):
    note("begun", os.getpid())
    while not Path("go").exists():
        await asyncio.sleep(0.01)

async def hanging(message):
    note("begun", os.getpid())
    await asyncio.sleep(1000)

async def stubborn(message):
    note("begun", os.getpid())
    while True:
        try:
            await asyncio.sleep(1000)
        except asyncio.CancelledError:
            pass

async def blocking(message):
    note("begun", os.getpid())
    time.sleep(1000)

async def first_dies(message):
    if os.path.exists("die"):
        os.remove("die")
        os._exit(3)
"""


@pytest.fixture
async def start(tmp_path: Path) -> AsyncIterator[Start]:
    """Start `wsfleet` with these arguments in the folder of `handlers.py`; afterwards no process of it may be left."""
    (tmp_path / "handlers.py").write_text(HANDLERS)
    started: list[Command] = []

    async def start(*arguments: str, **environ: str) -> Command:
        command = [sys.executable, "-m", "wsfleet", *arguments]
        pipe = asyncio.subprocess.PIPE
        process = await asyncio.create_subprocess_exec(
            *command, cwd=tmp_path, stdout=pipe, stderr=pipe, env={**os.environ, **environ}
        )
        started.append(Command(process, tmp_path))
        return started[-1]

    yield start
    for command in started:
        await command.abandon()  # its output ends with the last process that has it open


def write(folder: Path, uri: str, endpoints: int, handler: str = "who", more: str = "", each: str = "") -> None:
    """A file with this number of endpoints, and one handler for all."""
    text = "".join(f'[[connect]]\nuri = "{uri}/{n}"\nname = "f{n}"\nclose_s = 0.1\n{each}' for n in range(endpoints))
    text += (
        f'[[process]]\nname = "all"\npattern = ">"\nhandler = "handlers:{handler}"\nbuffer = {{ messages = 5000 }}\n'
    )
    (folder / "feeds.toml").write_text(f"{more}\n{text}" if more.startswith("[fleet]") else f"{text}\n{more}")


def noted(folder: Path) -> list[list[str]]:
    path = folder / "notes"
    return [line.split() for line in path.read_text().splitlines()] if path.exists() else []


async def until_lines(command: Command, folder: Path, count: int) -> list[list[str]]:
    await command._until(lambda: len(noted(folder)) >= count)
    return noted(folder)


def begun(folder: Path) -> set[int]:
    return {int(words[1]) for words in noted(folder) if words[0] == "begun"}


def alive(pid: int) -> bool:
    """Return whether the process exists and is no zombie."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, 0)
        stat = Path(f"/proc/{pid}/stat")
        with contextlib.suppress(OSError):
            return not stat.exists() or stat.read_text().rpartition(")")[2].split()[0] != "Z"
    return False


async def until_gone(*pids: int) -> None:
    while any(map(alive, pids)):
        await asyncio.sleep(0.05)


def read_report(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "report.json").read_text())
    return found


# ---- one fleet ----


async def test_a_hundred_endpoints_in_three_processes(start: Start, tmp_path: Path) -> None:
    """Each endpoint is connected once, each message processed once, and the report is that of one balanced fleet."""
    async with FeedServer() as server:
        write(tmp_path, server.uri, 100)
        command = await start("run", "feeds.toml", "--workers", "3", "--report", "report.json")
        await server.wait_clients(100)
        await server.send("x", "y")
        lines = await until_lines(command, tmp_path, 200)
        ended = await command.drained()
        assert len(server.requests) == 100
    assert ended.code == 0, ended.err
    pids = {name: {pid for pid, each, _ in lines if each == name} for name in (f"f{n}" for n in range(100))}
    assert all(len(each) == 1 for each in pids.values())
    assert len(set.union(*pids.values())) == 3
    assert Counter((name, data) for _, name, data in lines) == Counter((f"f{n}", d) for n in range(100) for d in "xy")

    report = read_report(tmp_path)
    assert report["balanced"] is True
    assert sorted(row["name"] for row in report["endpoints"]) == sorted(f"f{n}" for n in range(100))
    assert all((row["received"], row["connects"], row["state"]) == (2, 1, "CLOSED") for row in report["endpoints"])
    (row,) = report["subscriptions"]
    assert (row["name"], row["offered"], row["processed"]) == ("all", 200, 200)
    assert report["hub"] == {"published": 200, "injected": 0, "routed": 200, "unrouted": 0, "deliveries": 200}
    assert (report["workers"]["count"], report["workers"]["restarts"]) == (3, 0)
    assert not any(report["workers"]["lost"].values())
    assert "200 received, 200 processed, 0 failed, 0 dropped" in ended.err
    assert "workers    3, 0 restarts, 0 messages lost in their queues" in ended.err
    assert ended.err.rstrip().endswith("holds: every message is accounted for")
    assert ended.err.count("draining: processing the messages already received") == 1


async def test_a_killed_worker_is_started_again_and_the_others_go_on(start: Start, tmp_path: Path) -> None:
    """After kill -9, the worker's share is connected again, no other socket is lost, and the report
    contains the loss.
    """
    async with FeedServer() as server:
        port = free_port()
        write(tmp_path, server.uri, 30, more=f'[http]\nlisten = "127.0.0.1:{port}"')
        command = await start("run", "feeds.toml", "--workers", "3", "--report", "report.json")
        await server.wait_clients(30)
        await server.send("x")
        lines = await until_lines(command, tmp_path, 30)
        # For a loss to be seen, the parent must have received the numbers.
        await until_stats(port, lambda report: report["subscriptions"][0]["processed"] == 30)
        victim = int(lines[0][0])
        share = {name for pid, name, _ in lines if int(pid) == victim}
        os.kill(victim, signal.SIGKILL)
        while len(server.requests) < 30 + len(share):
            await asyncio.sleep(0.01)
        await server.wait_clients(30)
        await server.send("y")
        lines = await until_lines(command, tmp_path, 60)
        ended = await command.drained()
        asked = Counter(request.path.strip("/") for request in server.requests)
    assert ended.code == 0, ended.err
    assert {f"f{number}" for number, count in asked.items() if count == 2} == share
    assert max(asked.values()) == 2
    assert {name for pid, name, data in lines if data == "y"} == {f"f{n}" for n in range(30)}
    assert "died (killed by SIGKILL); restarting" in ended.err

    report = read_report(tmp_path)
    assert report["balanced"] is True
    # The counts of the dead process are separate: its successor starts at zero.
    workers = report["workers"]
    assert (workers["count"], workers["running"], workers["restarts"]) == (3, 0, 1)
    lost = workers["lost"]
    counted = ("connects", "received", "received_bytes", "published", "offered", "processed")
    assert {key: lost[key] for key in counted} == dict.fromkeys(counted, len(share))
    assert min(lost[f"hub_{key}"] for key in ("published", "routed", "deliveries")) >= len(share)
    assert [lost[key] for key in ("losses", "held", "failed", "dropped", "pending")] == [0] * 5
    assert {"losses", "held", "failed", "dropped", "pending", "blocked_s"} < lost.keys()
    # The summary contains them in its sums.
    assert "60 received, 60 processed, 0 failed, 0 dropped" in ended.err
    assert "workers    3, 1 restart, 0 messages lost in their queues" in ended.err
    assert "every message is accounted for, except messages lost in workers that died" in ended.err
    assert {row["name"] for row in report["endpoints"] if row["received"] == 1} == share
    assert report["subscriptions"][0]["processed"] == 60 - len(share)


async def test_a_killed_worker_leaves_gaps(start: Start, tmp_path: Path) -> None:
    """After kill -9 the endpoints of that worker go on with session and index, and report their gaps as not exact."""
    gaps = '[[process]]\npattern = "$gap.*"\nhandler = "handlers:gap"\n'
    async with FeedServer() as server:
        port = free_port()
        write(tmp_path, server.uri, 6, handler="number", more=f'{gaps}[http]\nlisten = "127.0.0.1:{port}"')
        command = await start("run", "feeds.toml", "--workers", "2")
        await server.wait_clients(6)
        await server.send("a", "b")
        lines = await until_lines(command, tmp_path, 12)
        # The parent must have the last numbers.
        await until_stats(port, lambda report: report["subscriptions"][0]["processed"] == 12)
        victim = lines[0][4]
        share = {name for _, name, _, _, pid in lines if pid == victim}
        os.kill(int(victim), signal.SIGKILL)
        while len(server.requests) < 6 + len(share):
            await asyncio.sleep(0.01)
        await server.wait_clients(6)
        await until_lines(command, tmp_path, 12 + len(share))
        await server.send("c")
        lines = (await until_lines(command, tmp_path, 12 + len(share) + 6))[12:]
        ended = await command.drained()
    assert ended.code == 0, ended.err
    assert sorted(line[1:] for line in lines if line[0] == "gap") == [
        [name, "1", "2", "2", "False", "True"] for name in sorted(share)
    ]
    assert {name: (session, index) for kind, name, session, index, *_ in lines if kind == "message"} == {
        f"f{n}": ("2" if f"f{n}" in share else "1", "3") for n in range(6)
    }


async def test_workers_of_a_program(start: Start, tmp_path: Path) -> None:
    """A Fleet of a program is divided like that of a file, with undivided pools."""
    program = """
from wsfleet import Fleet
from handlers import who

def make():
    fleet = Fleet(name="made")
    fleet.pool("{uri}/pool", 4, who, name="p")
    for number in range(6):
        fleet.connect("{uri}/f", who, name=f"f{{number}}")
    return fleet
"""
    async with FeedServer() as server:
        (tmp_path / "program.py").write_text(program.format(uri=server.uri))
        command = await start("run", "program:make", "--workers", "2", "--report", "report.json")
        await server.wait_clients(10)
        await server.send("1")
        lines = await until_lines(command, tmp_path, 10)
        ended = await command.drained()
    assert ended.code == 0, ended.err
    assert len({pid for pid, name, _ in lines if name.startswith("p-")}) == 1
    report = read_report(tmp_path)
    assert (report["name"], len(report["endpoints"]), report["balanced"]) == ("made", 10, True)


async def test_more_workers_than_endpoints(start: Start, tmp_path: Path) -> None:
    """Workers without endpoints wait, and end when the others have ended by themselves."""
    async with FeedServer() as server:
        server.refuse(404)
        write(tmp_path, server.uri, 1)
        command = await start("run", "feeds.toml", "--workers", "2", "--report", "report.json")
        ended = await command.ended()
    assert ended.code == 1, ended.err
    assert [row["state"] for row in read_report(tmp_path)["endpoints"]] == ["FAILED"]


async def test_the_duration_ends_all(start: Start, tmp_path: Path) -> None:
    """After `--duration` all workers have ended with 0."""
    write(tmp_path, "ws://127.0.0.1:1", 4)
    ended = await (await start("run", "feeds.toml", "--workers", "2", "--duration", "2 s", "--quiet")).ended()
    assert ended.code == 0, ended.err
    assert "endpoints  4" in ended.err


# ---- the end ----


async def test_a_signal_drains_every_worker(start: Start, tmp_path: Path) -> None:
    """Messages received before SIGTERM are processed, in each worker."""
    async with FeedServer() as server:
        write(tmp_path, server.uri, 12, "slow")
        command = await start("run", "feeds.toml", "--workers", "2", "--report", "report.json")
        await server.wait_clients(12)
        await server.send("x", "y")
        await command._until(lambda: len(begun(tmp_path)) == 2)
        command.kill(signal.SIGTERM)
        await command.until_logged("signal again to stop at once")
        (tmp_path / "go").touch()
        ended = await command.ended()
    assert ended.code == 0, ended.err
    report = read_report(tmp_path)
    received = sum(row["received"] for row in report["endpoints"])
    (row,) = report["subscriptions"]
    assert (row["processed"], row["failed"], row["dropped"], row["pending"]) == (received, 0, 0, 0)
    assert report["balanced"] is True


@pytest.mark.parametrize("workers", [0, 2])
async def test_processors_that_hang_are_left_after_drain_s(start: Start, tmp_path: Path, workers: int) -> None:
    """Calls that never end are cancelled after `drain_s`, and counted as failed; the exit code is 0."""
    async with FeedServer() as server:
        write(tmp_path, server.uri, 12, "hanging", "[fleet]\ndrain_s = 0.2")
        more = ("--workers", str(workers)) if workers else ()
        command = await start("run", "feeds.toml", "--report", "report.json", *more)
        await server.wait_clients(12)
        await server.send("x")
        await command._until(lambda: len(begun(tmp_path)) == max(workers, 1))
        ended = await command.drained()
    assert ended.code == 0, ended.err
    report = read_report(tmp_path)
    (row,) = report["subscriptions"]
    assert (row["failed"], row["pending"], row["processed"]) == (max(workers, 1), 0, 0)
    assert report["balanced"] is True


@pytest.mark.parametrize("handler", ["blocking", "stubborn"])
@pytest.mark.parametrize("workers", [0, 2])
async def test_calls_that_never_end_do_not_delay_the_end(
    start: Start, tmp_path: Path, handler: str, workers: int
) -> None:
    """After one SIGTERM the command ends in time, with 1 and its report, even if a call blocks the loop for ever."""
    async with FeedServer() as server:
        write(tmp_path, server.uri, 8, handler, "[fleet]\ndrain_s = 0.2")
        more = ("--workers", str(workers)) if workers else ()
        command = await start("run", "feeds.toml", "--report", "report.json", *more)
        await server.wait_clients(8)
        await server.send("x")
        await command._until(lambda: len(begun(tmp_path)) == max(workers, 1))
        ended = await command.drained()
    assert ended.code == 1, ended.err
    assert read_report(tmp_path)["balanced"] is True
    await until_gone(*begun(tmp_path))


@pytest.mark.parametrize("handler", ["slow", "blocking"])
async def test_a_second_signal_stops_all_at_once(start: Start, tmp_path: Path, handler: str) -> None:
    """Whatever the calls do, the second signal ends all workers, and the command with 130 and its report."""
    async with FeedServer() as server:
        write(tmp_path, server.uri, 12, handler, "[fleet]\ndrain_s = 1000")
        command = await start("run", "feeds.toml", "--workers", "2", "--report", "report.json")
        await server.wait_clients(12)
        await server.send("x")
        await command._until(lambda: len(begun(tmp_path)) == 2)
        command.kill(signal.SIGINT)
        await command.until_logged("signal again to stop at once")
        command.kill(signal.SIGINT)
        ended = await command.ended()
    assert ended.code == 130, ended.err
    assert read_report(tmp_path)["balanced"] is True
    await until_gone(*begun(tmp_path))


@pytest.mark.parametrize("handler", ["who", "blocking"])
async def test_no_worker_outlives_a_killed_parent(start: Start, tmp_path: Path, handler: str) -> None:
    """After SIGKILL of the parent its workers end by themselves, even one whose loop is blocked for ever."""
    async with FeedServer() as server:
        write(tmp_path, server.uri, 12, handler, "[fleet]\ndrain_s = 0.2")
        command = await start("run", "feeds.toml", "--workers", "2")
        await server.wait_clients(12)
        await server.send("x")
        await command._until(lambda: len({words[handler == "blocking"] for words in noted(tmp_path)}) == 2)
        pids = {int(words[handler == "blocking"]) for words in noted(tmp_path)}
        assert command.process.pid not in pids
        command.kill(signal.SIGKILL)
        await until_gone(*pids)


async def test_a_closed_pipe_ends_all_workers(start: Start, tmp_path: Path) -> None:
    """`wsfleet run --workers 2 feeds.toml | head -1` ends with 0."""
    async with FeedServer() as server:
        write(tmp_path, server.uri, 4, more='[[process]]\npattern = ">"\nsink = "stdout"')
        command = f"{sys.executable} -m wsfleet run feeds.toml --workers 2 2>err | head -1; echo ${{PIPESTATUS[0]}}"
        process = await asyncio.create_subprocess_exec(
            "bash", "-c", command, cwd=tmp_path, stdout=asyncio.subprocess.PIPE
        )
        ending = asyncio.create_task(process.communicate())
        while not ending.done():
            await server.send("x")
            await asyncio.sleep(0.01)
        out, _ = await ending
    first, code = out.decode().splitlines()
    assert (json.loads(first)["data"], code) == ("x", "0"), (tmp_path / "err").read_text()


# ---- errors ----


@pytest.mark.parametrize(("required", "code"), [(True, 1), (False, 0)])
async def test_one_endpoint_that_fails(start: Start, tmp_path: Path, required: bool, code: int) -> None:
    """A failed required endpoint ends all workers with 1; another failed one does not end the others."""
    async with FeedServer() as good, FeedServer() as bad:
        bad.refuse(401)
        more = f'[[connect]]\nuri = "{bad.uri}"\nname = "bad"\nrequired = {str(required).lower()}\n'
        write(tmp_path, good.uri, 8, more=more)
        command = await start("run", "feeds.toml", "--workers", "2", "--report", "report.json")
        if not required:
            await good.wait_clients(8)
            await command.until_logged("401")
            command.kill(signal.SIGTERM)
        ended = await command.ended()
    assert ended.code == code, ended.err
    states = {row["name"]: row["state"] for row in read_report(tmp_path)["endpoints"]}
    assert (states["bad"], len(states)) == ("FAILED", 9)


async def test_a_sink_that_cannot_be_opened_ends_all(start: Start, tmp_path: Path) -> None:
    """If a sink cannot be opened, the command ends with 1, and nothing is run."""
    write(tmp_path, "ws://127.0.0.1:1", 4, more='[[process]]\npattern = ">"\nsink = "jsonl:out/x"')
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "x").symlink_to(tmp_path / "nowhere" / "x")
    ended = await (await start("run", "feeds.toml", "--workers", "2")).ended()
    assert ended.code == 1, ended.err
    assert "No such file or directory" in ended.err


def test_faults_of_the_file_are_reported_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An invalid file is exit code 2 and a line for each fault, for any number of workers."""
    file = tmp_path / "feeds.toml"
    file.write_text('[[connect]]\nuri = "http://h"\nx = 1\n')
    assert main(["run", str(file), "--workers", "3"]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 2


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--workers", "0"], "from 1 to 256, not '0'"),
        (["--workers", "many"], "from 1 to 256, not 'many'"),
        (["--shard", "3/3"], "'3/3': the shards of 3 are numbered from 0 to 2"),
        (["--shard", "1"], "'1' is not a shard; write I/N"),
    ],
)
def test_a_wrong_command_line(arguments: list[str], text: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A wrong command line is exit code 2 with the reason."""
    assert main(["run", "feeds.toml", *arguments]) == 2
    assert text in capsys.readouterr().err


# ---- several hosts ----


async def test_shards_have_every_endpoint_once(start: Start, tmp_path: Path) -> None:
    """Three hosts with a share each have every endpoint once; one of them has workers."""
    async with FeedServer() as server:
        write(tmp_path, server.uri, 30)
        hosts = [
            await start("run", "feeds.toml", "--shard", f"{index}/3", "--report", f"{index}.json", *more)
            for index, more in enumerate([(), ("--workers", "2"), ()])
        ]
        await server.wait_clients(30)
        for host in hosts:
            assert (await host.drained()).code == 0
    names = [
        {row["name"] for row in json.loads((tmp_path / f"{index}.json").read_text())["endpoints"]} for index in range(3)
    ]
    assert sum(map(len, names)) == 30
    assert names == [{f"f{n}" for n in range(30) if Shard(index, 3).holds(f"f{n}")} for index in range(3)]


# ---- the HTTP interface ----


PROGRAM = """
from wsfleet import Fleet
from handlers import first_dies

fleet = Fleet(name="watched")
for number in range(12):
    fleet.connect("{uri}", name=f"f{{number}}", required=number == 3)
fleet.process(">", name="all")(first_dies)
watch = fleet.serve_http("127.0.0.1:{port}", token="x" * 32)
"""


async def ask(port: int, path: str) -> tuple[int, str]:
    """Status and body of the answer from `port`. Status 0 if nothing listens there yet."""
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return 0, ""
    writer.write(f"GET {path} HTTP/1.0\r\nHost: 127.0.0.1\r\n\r\n".encode())
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    head, _, body = answer.partition(b"\r\n\r\n")
    return int(head.split()[1]), body.decode()


async def until_stats(port: int, seen: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    """The report, once the condition holds."""
    while True:
        status, body = await ask(port, "/api/stats")
        if status == 200 and seen(report := json.loads(body)):
            return report  # type: ignore[no-any-return]
        await asyncio.sleep(0.05)


async def test_the_parent_serves_one_page_for_all(start: Start, tmp_path: Path) -> None:
    """Only the parent serves HTTP: reports and metrics are those of one fleet, including the counts of
    a dead worker.
    """
    port = free_port()
    async with FeedServer() as server:
        (tmp_path / "program.py").write_text(PROGRAM.format(uri=server.uri, port=port))
        command = await start("run", "program:fleet", "--workers", "3")
        await server.wait_clients(12)
        await server.send("x")
        report = await until_stats(port, lambda report: all(row["received"] for row in report["endpoints"]))
        assert (report["name"], report["balanced"], len(report["endpoints"])) == ("watched", True, 12)
        assert {row["received"] for row in report["endpoints"]} == {1}
        assert (await ask(port, "/healthz"))[0] == 200
        assert (await ask(port, "/readyz"))[0] == 200
        metrics = (await ask(port, "/metrics"))[1]
        assert "wsfleet_endpoint_received_messages_total{" in metrics
        overview = json.loads((await ask(port, "/api/overview"))[1])
        assert (overview["workers"], overview["states"]["OPEN"], overview["totals"]["received"]) == (3, 12, 12)

        # Its process dies in the handler; until it is replaced some endpoints are down, and afterwards none.
        (tmp_path / "die").touch()
        await server.clients[0].send("y")
        report = await until_stats(port, lambda report: report["workers"]["running"] == 2)
        down = [row for row in report["endpoints"] if row["state"] == "BACKOFF"]
        assert all("worker died (exit code 3)" in row["last_error"] for row in down)
        report = await until_stats(
            port,
            lambda report: (
                report["workers"]["running"] == 3 and all(row["state"] == "OPEN" for row in report["endpoints"])
            ),
        )
        assert report["workers"]["restarts"] >= 1 and report["workers"]["lost"]["received"] > 0
        assert report["balanced"] is True
        history = json.loads((await ask(port, "/api/history"))[1])["samples"]
        received = [sample["received"] for sample in history]
        assert received == sorted(received)  # this includes lost messages
        assert (await command.drained()).code == 0
    assert (await ask(port, "/healthz"))[0] == 0


def totals(metrics: str) -> dict[str, float]:
    """The counters of the whole fleet."""
    lines = [line.split() for line in metrics.splitlines() if not line.startswith("#") and "{" not in line]
    return {name: float(value) for name, value in lines if name.endswith("_total")}


async def test_no_total_goes_back_when_a_worker_is_killed(start: Start, tmp_path: Path) -> None:
    """In every answer of /metrics, before and after kill -9, no counter of the whole fleet decreases."""
    port = free_port()
    async with FeedServer() as server:
        write(tmp_path, server.uri, 12, more=f'[http]\nlisten = "127.0.0.1:{port}"')
        command = await start("run", "feeds.toml", "--workers", "2")
        await server.wait_clients(12)
        await server.send("x")
        victim = int((await until_lines(command, tmp_path, 12))[0][0])
        seen: list[dict[str, float]] = []

        async def until_total(name: str, count: float) -> None:
            while not seen or seen[-1][name] < count:
                seen.append(totals((await ask(port, "/metrics"))[1]))
                await asyncio.sleep(0.02)

        await until_total("wsfleet_processed_messages_total", 12)
        os.kill(victim, signal.SIGKILL)
        await until_total("wsfleet_worker_restarts_total", 1)
        await server.wait_clients(12)
        await server.send("y")
        await until_total("wsfleet_processed_messages_total", 24)
        overview = json.loads((await ask(port, "/api/overview"))[1])
        assert (await command.drained()).code == 0
    assert len(seen[-1]) > 20
    for before, after in itertools.pairwise(seen):
        assert {name for name, count in before.items() if after[name] < count} == set()
    assert (overview["totals"]["received"], overview["totals"]["processed"]) == (24, 24)


async def test_an_address_in_use_ends_all(start: Start, tmp_path: Path) -> None:
    """If the HTTP server cannot start, nothing is run, and the reason is printed."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        (tmp_path / "program.py").write_text(PROGRAM.format(uri="ws://127.0.0.1:1", port=port))
        ended = await (await start("run", "program:fleet", "--workers", "2")).ended()
    assert ended.code == 1
    assert f"cannot listen on 127.0.0.1:{port}" in ended.err


@pytest.mark.looptime
async def test_a_worker_reports_more_often_at_first() -> None:
    """A new worker sends its first report soon, because most endpoints open in its first moments."""
    times: list[float] = []
    enough = asyncio.Event()

    class Parent:
        is_idle = True

        def listen(self, on_frame: object) -> None: ...

        def send(self, frame: dict[str, Any]) -> None:
            if frame["kind"] == "report":
                times.append(asyncio.get_running_loop().time())
                if len(times) == 10:
                    enough.set()

    worker = _Worker(Parent(), {"observed": False})  # type: ignore[arg-type]
    worker._run = Run(Fleet())
    worker._run.running.set()
    reporting = asyncio.create_task(worker._report(Fleet()))
    await enough.wait()
    reporting.cancel()
    await asyncio.wait({reporting})
    pauses = [after - before for before, after in itertools.pairwise(times)]
    assert pauses[0] < REPORT_S / 10
    assert pauses == sorted(pauses)
    assert pauses[-1] == pytest.approx(REPORT_S)


# ---- sinks ----


async def test_workers_share_a_file_and_the_standard_output(start: Start, tmp_path: Path) -> None:
    """Each message is one whole line of both workers, even if a batch exceeds the pipe's capacity."""
    more = '[[process]]\npattern = ">"\nsink = "jsonl:out.jsonl"\n[[process]]\npattern = ">"\nsink = "stdout"'
    (tmp_path / "out.jsonl").write_text('{"torn')
    async with FeedServer() as server:
        write(tmp_path, server.uri, 12, more=more)
        command = await start("run", "feeds.toml", "--workers", "3")
        await server.wait_clients(12)
        for number in range(50):
            await server.send(*(f"{number} {'x' * 997}" for _ in range(4)))
        await until_lines(command, tmp_path, 12 * 50 * 4)
        ended = await command.drained()
    assert ended.code == 0, ended.err
    torn, *lines = (tmp_path / "out.jsonl").read_text().splitlines()
    assert torn == '{"torn'
    expected = Counter((f"f{n}", index) for n in range(12) for index in range(1, 201))
    for each in (lines, ended.out.splitlines()):
        rows = [json.loads(line) for line in each]
        assert Counter((row["endpoint"], row["index"]) for row in rows) == expected


# ---- reloading ----


async def test_sighup_reloads_every_worker(start: Start, tmp_path: Path) -> None:
    """On SIGHUP, added entries open and removed ones close in each worker; an invalid file changes nothing.

    A worker without endpoints starts again when it gets some.
    """
    async with FeedServer() as server:
        write(tmp_path, server.uri, 8)
        command = await start("run", "feeds.toml", "--workers", "3", "--report", "report.json")
        await server.wait_clients(8)
        before = {client.request.path: client for client in server.clients}

        write(tmp_path, server.uri, 10)
        command.kill(signal.SIGHUP)
        await server.wait_clients(10)
        await command.until_logged("reload: [[connect]] f9: added")
        await command.until_logged("reload: 8 endpoints unchanged")
        assert set(before.values()) < set(server.clients)

        (tmp_path / "feeds.toml").write_text("[[connect]]\n")
        command.kill(signal.SIGHUP)
        await command.until_logged("feeds.toml:1: [[connect]] 1: has no uri")
        await command.until_logged("nothing was changed")
        assert len(server.clients) == 10

        write(tmp_path, server.uri, 1)
        command.kill(signal.SIGHUP)
        await command.until_logged("reload: [[connect]] f9: removed")
        await server.wait_clients(1)
        assert server.clients == (before["/0"],)

        write(tmp_path, server.uri, 12)
        command.kill(signal.SIGHUP)
        await server.wait_clients(12)
        assert before["/0"] in server.clients
        await server.send("x")
        lines = await until_lines(command, tmp_path, 12)
        assert {words[1] for words in lines} == {f"f{number}" for number in range(12)}
        assert (await command.drained()).code == 0
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["balanced"] is True


async def test_a_restarted_worker_starts_from_what_was_accepted(start: Start, tmp_path: Path) -> None:
    """A worker that dies starts again with the file and the values that the parent has accepted last, not with a file
    that was edited since, that a reload has refused, or whose secrets are gone."""
    async with FeedServer() as server:
        secret = tmp_path / "secret"
        secret.write_text("s3cret")
        each = 'headers = { X-Key = "${file:secret}" }\n'
        write(tmp_path, server.uri, 3, each=each)
        command = await start("run", "feeds.toml", "--workers", "2")
        await server.wait_clients(3)
        write(tmp_path, server.uri, 4, each=each)
        command.kill(signal.SIGHUP)
        await command.until_logged("reload: [[connect]] f3: added")
        await server.wait_clients(4)

        secret.unlink()
        (tmp_path / "feeds.toml").write_text("[[connect]]\n")
        command.kill(signal.SIGHUP)
        await command.until_logged("nothing was changed")
        await server.send("before")
        pids = {int(words[0]) for words in await until_lines(command, tmp_path, 4)}
        assert len(pids) == 2
        before = set(server.clients)
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        while len(set(server.clients) - before) < 4:
            await asyncio.sleep(0.01)
        assert {client.request.headers["X-Key"] for client in server.clients} == {"s3cret"}
        await server.send("after")
        lines = await until_lines(command, tmp_path, 8)
        assert {words[1] for words in lines[4:]} == {f"f{number}" for number in range(4)}
        assert (await command.drained()).code == 0


async def test_a_program_is_not_reloaded(start: Start, tmp_path: Path) -> None:
    """Workers of a program continue after SIGHUP, and the reason why nothing has changed is logged."""
    async with FeedServer() as server:
        (tmp_path / "program.py").write_text(PROGRAM.format(uri=server.uri, port=free_port()))
        command = await start("run", "program:fleet", "--workers", "2")
        await server.wait_clients(12)
        command.kill(signal.SIGHUP)
        await command.until_logged("comes from a program, not from a file")
        assert (await command.drained()).code == 0
