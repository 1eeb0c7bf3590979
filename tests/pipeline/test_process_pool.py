"""Functions in processes: a failure there affects only its call, and no process is left behind."""

import asyncio
import functools
import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from multiprocessing import resource_tracker
from pathlib import Path
from typing import Any

import pytest

from tests.support import process_work
from tests.support.flows import balanced, feeding, row, until
from tests.support.servers.base import free_port
from wsfleet import Fleet, Message, Retry
from wsfleet.core.errors import ConfigError, FleetError
from wsfleet.pipeline.process_pool import ProcessCall
from wsfleet.testing import FakeTransport

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True, scope="module")
def _tracker() -> None:
    """A helper process of multiprocessing that runs until the program ends, and is no leak."""
    resource_tracker.ensure_running()


@pytest.fixture(autouse=True)
def _no_process_left() -> Iterator[None]:
    yield
    assert not multiprocessing.active_children()


class Bench:
    """A fleet with one processor "p" in processes, and its dead letters."""

    def __init__(self, function: Callable[..., Any] = process_work.work, drain_s: float = 10.0, **options: Any) -> None:
        self.transport = FakeTransport()
        self.fleet = Fleet(transport=self.transport, drain_s=drain_s)
        self.dead: list[Any] = []

        async def bury(message: Message[Any]) -> None:
            self.dead.append(message.data)

        self.fleet.process("t", name="p", offload="process", **options)(function)
        self.fleet.process("$dead.p")(bury)

    def publish(self, *data: tuple[str, Any]) -> None:
        for each in data:
            self.fleet.publish("t", each)

    async def idle(self) -> Any:
        await until(lambda: row(self.fleet, "p").pending == 0)
        return row(self.fleet, "p")


def lines(path: Path) -> list[str]:
    return path.read_text().split() if path.exists() else []


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    stat = Path(f"/proc/{pid}/stat")
    return not (stat.exists() and stat.read_text().rsplit(")", 1)[1].split()[0] == "Z")


async def test_a_function_runs_in_one_process_that_is_kept(tmp_path: Path) -> None:
    """All calls are made in the same other process; the exceptions that they raise are returned unchanged."""
    bench = Bench()
    note = str(tmp_path / "note")
    async with bench.fleet:
        bench.publish(("note", note), ("raise", "bad"), ("awkward", "odd"), ("sys.exit", 3), ("note", note))
        stats = await bench.idle()
        await until(lambda: len(bench.dead) == 3)
        balanced(bench.fleet)
    pids = lines(tmp_path / "note")
    assert len(pids) == 2 and len(set(pids)) == 1 and int(pids[0]) != os.getpid()
    assert (stats.processed, stats.failed) == (2, 3)
    bad, awkward, leaving = (d.error for d in bench.dead)
    assert isinstance(bad, ValueError) and bad.args == ("bad",)
    assert "in work" in "".join(bad.__notes__)  # the place where it was raised
    assert isinstance(awkward, FleetError) and "Awkward" in str(awkward) and "odd and odd" in str(awkward)
    assert isinstance(leaving, SystemExit)
    await until(lambda: not is_running(int(pids[0])))


async def test_async_functions_run_in_processes_too(tmp_path: Path) -> None:
    """`offload="process"` accepts an async function, a partial, and a method of an object that can be pickled."""
    bench = Bench(functools.partial(process_work.async_work))
    async with bench.fleet:
        bench.publish(("note", str(tmp_path / "note")), ("raise", "bad"))
        stats = await bench.idle()
    assert (stats.processed, stats.failed) == (1, 1)
    assert lines(tmp_path / "note")


async def test_concurrency_is_the_number_of_processes(tmp_path: Path) -> None:
    """`concurrency=2` makes calls in two processes at a time."""
    bench = Bench(concurrency=2)
    note = str(tmp_path / "note")
    async with bench.fleet:
        bench.publish(("sleep", note), ("sleep", note))
        stats = await bench.idle()
    seen = lines(tmp_path / "note")
    assert stats.processed == 2
    assert len(set(seen) - {"done"}) == 2


async def test_a_batch_is_sent_as_one(tmp_path: Path) -> None:
    """With `batch`, a process gets a list of messages from the socket, with all of their attributes."""
    transport = FakeTransport()
    fleet = Fleet(transport=transport)
    note = tmp_path / "note"
    fleet.connect("ws://feed.test/", process_work.batch_work, name="feed", offload="process", batch=3)
    async with feeding(fleet, transport) as socket:
        await socket.feed(*[str(note)] * 5)
        await until(lambda: row(fleet, "feed").processed == 5)
        balanced(fleet)
    assert note.read_text().splitlines() == ["[1, 2, 3]", "[4, 5]"]


# Processes that die or hang, and messages that cannot be sent


@pytest.mark.parametrize(("verb", "argument", "code"), [("exit", 3, "3"), ("kill", None, "-9")])
async def test_a_process_that_dies_fails_only_its_call(verb: str, argument: Any, code: str, tmp_path: Path) -> None:
    """A process that exits or is killed during a call fails that call with the reason, and is replaced for the next
    one.
    """
    bench = Bench()
    note = str(tmp_path / "note")
    async with bench.fleet:
        bench.publish(("note", note), (verb, argument), ("note", note))
        stats = await bench.idle()
        await until(lambda: bench.dead)
        balanced(bench.fleet)
    assert (stats.processed, stats.failed) == (2, 1)
    assert isinstance(bench.dead[0].error, FleetError) and f"exit code {code}" in str(bench.dead[0].error)
    assert len(set(lines(tmp_path / "note"))) == 2


async def test_an_idle_process_that_dies_fails_nothing(tmp_path: Path) -> None:
    """A process that is killed between two calls is replaced, and no call fails."""
    bench = Bench()
    note = str(tmp_path / "note")
    async with bench.fleet:
        bench.publish(("note", note))
        await bench.idle()
        os.kill(int(lines(tmp_path / "note")[0]), signal.SIGKILL)
        await until(lambda: not multiprocessing.active_children())
        bench.publish(("note", note))
        stats = await bench.idle()
    assert (stats.processed, stats.failed) == (2, 0)


@pytest.mark.parametrize("function", [process_work.work, process_work.async_work])
async def test_a_process_past_its_time_is_replaced(function: Callable[..., Any], tmp_path: Path) -> None:
    """On `timeout_s` the process is killed and only its call fails; the start of a process does not
    count towards it.
    """
    bench = Bench(function, timeout_s=2)  # enough for calls that do not hang, even on a busy machine
    note = str(tmp_path / "note")
    async with bench.fleet:
        bench.publish(("hang", note), ("note", note))
        stats = await bench.idle()
        await until(lambda: bench.dead)
        balanced(bench.fleet)
    assert (stats.processed, stats.failed) == (1, 1)
    assert isinstance(bench.dead[0].error, TimeoutError) and "timeout_s = 2 s" in str(bench.dead[0].error)
    hung, other = lines(tmp_path / "note")
    assert hung != other and not is_running(int(hung))


async def test_a_call_whose_process_died_may_be_retried(tmp_path: Path) -> None:
    """`retry` repeats a call that died or timed out in a new process."""
    bench = Bench(timeout_s=1, retry=Retry(2, 0, 0))
    note = str(tmp_path / "note")
    async with bench.fleet:
        bench.publish(("hang", note))
        await bench.idle()
        await until(lambda: bench.dead)
    assert bench.dead[0].attempts == 2
    assert len(set(lines(tmp_path / "note"))) == 2


@pytest.mark.parametrize(
    ("data", "error"), [(lambda: None, Exception), (process_work.Unreadable(), ValueError)], ids=["pickle", "unpickle"]
)
async def test_data_that_cannot_be_pickled_fails_only_its_call(data: Any, error: Any, tmp_path: Path) -> None:
    """A message that cannot be pickled or unpickled is counted as failed; the process continues with the next one."""
    bench = Bench()
    note = str(tmp_path / "note")
    async with bench.fleet:
        bench.publish(("note", note))
        bench.fleet.publish("t", data)
        bench.publish(("note", note))
        stats = await bench.idle()
        await until(lambda: bench.dead)
    assert (stats.processed, stats.failed) == (2, 1)
    assert isinstance(bench.dead[0].error, error)
    assert len(set(lines(tmp_path / "note"))) == 1


# Declaring


class Holder:
    def __init__(self, held: Any) -> None:
        self.held = held

    def method(self, message: Message[Any]) -> None: ...


def replaced(message: Message[Any]) -> None: ...


first = replaced


def replaced(message: Message[Any]) -> None:  # type: ignore[no-redef]
    ...


def local_functions() -> list[Callable[..., Any]]:
    def local(message: Message[Any]) -> None: ...

    return [lambda message: None, local, functools.partial(local), Holder(lambda: None).method]


@pytest.mark.parametrize("function", local_functions(), ids=["lambda", "local", "partial", "method"])
@pytest.mark.parametrize("how", ["process", "connect", "pool"])
def test_a_function_that_cannot_be_pickled_is_rejected_at_declaration(how: str, function: Any) -> None:
    """A lambda, a local function, or a method of an object that cannot be pickled raises ConfigError
    and uses no name.
    """
    fleet = Fleet()
    with pytest.raises(ConfigError, match="cannot be sent to another process") as raised:
        if how == "process":
            fleet.process("t", name="p", offload="process")(function)
        elif how == "connect":
            fleet.connect("ws://feed.test/", function, name="p", offload="process")
        else:
            fleet.pool("ws://feed.test/", 2, function, name="p", offload="process")
    assert [field for field, _ in raised.value.faults] == ["offload"]
    assert not fleet.subscriptions and not fleet.connections
    fleet.pool("ws://feed.test/", 2, name="p")


@pytest.mark.parametrize("function", [process_work.work, functools.partial(process_work.work), Holder(1).method])
def test_a_function_that_can_be_pickled_is_accepted(function: Any) -> None:
    """A function of a module, a partial of one, and a method of an object that can be pickled are accepted."""
    fleet = Fleet()
    fleet.process("t", name="p", offload="process")(function)
    assert "p" in fleet.subscriptions


async def test_a_function_that_is_no_longer_found_is_refused_at_the_start() -> None:
    """If another function has replaced a function under its name, it cannot be imported, and the fleet
    does not start.
    """
    fleet = Fleet(transport=FakeTransport())
    fleet.process("t", offload="process")(first)
    with pytest.raises(ConfigError, match="cannot be sent"):
        async with fleet:
            pass


# Programs


def start(tmp_path: Path, program: str, **options: Any) -> "subprocess.Popen[str]":
    path = tmp_path / "program.py"
    path.write_text(textwrap.dedent(program))
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT)])}
    return subprocess.Popen(
        [sys.executable, str(path), str(tmp_path / "note")],
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        **options,
    )


def wait_for(condition: Callable[[], Any]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def finish(program: "subprocess.Popen[str]", code: int = 0) -> tuple[str, str]:
    out, err = program.communicate(timeout=60)
    assert program.returncode == code, (program.returncode, out, err)
    return out, err


DECORATED = """
    import sys
    from wsfleet import Fleet
    from tests.support.process_work import work

    fleet = Fleet(drain_s=30)

    @fleet.process("t", offload="process")
    def on_message(message):
        work(message)

    @fleet.process("started")
    async def on_start(message):
        fleet.publish("t", (sys.argv[2] if len(sys.argv) > 2 else VERB, sys.argv[1]))

    if __name__ == "__main__":
        fleet.publish("started", 1)
        fleet.run()
        print(fleet.stats().subscriptions[0].processed, fleet.stats().balanced)
"""


def test_a_decorated_function_of_the_main_module_is_found(tmp_path: Path) -> None:
    """With the decorator in a program's main file, its usual place, the process can import the function."""
    with start(tmp_path, DECORATED.replace("VERB", '"note"')) as program:
        wait_for(lambda: lines(tmp_path / "note"))
        program.send_signal(signal.SIGINT)
        assert finish(program)[0] == "1 True\n"


def test_ctrl_c_lets_processes_finish_their_calls(tmp_path: Path) -> None:
    """SIGINT to the whole process group, as a terminal sends it, drains: the call in a process finishes."""
    with start(tmp_path, DECORATED.replace("VERB", '"sleep"'), start_new_session=True) as program:
        wait_for(lambda: lines(tmp_path / "note"))
        os.killpg(program.pid, signal.SIGINT)
        assert finish(program)[0] == "1 True\n"
    assert lines(tmp_path / "note")[1:] == ["done"]


def test_a_group_signalled_while_a_process_starts_goes_on(tmp_path: Path) -> None:
    """A process that is starting also survives the signal, and makes the call that waits for it."""
    with start(tmp_path, DECORATED.replace("VERB", '"note"'), start_new_session=True) as program:
        children = Path(f"/proc/{program.pid}/task")
        if not children.exists():
            pytest.skip("no /proc here")

        def spawned() -> bool:
            found = " ".join(f.read_text() for f in children.glob("*/children"))
            return any("spawn_main" in Path(f"/proc/{pid}/cmdline").read_text() for pid in found.split())

        wait_for(spawned)
        os.killpg(program.pid, signal.SIGTERM)
        assert finish(program)[0] == "1 True\n"
    assert lines(tmp_path / "note")


def test_processes_end_when_their_parent_is_killed(tmp_path: Path) -> None:
    """If the parent is killed, its processes see the broken pipe and end after their calls."""
    with start(tmp_path, DECORATED.replace("VERB", '"sleep"'), start_new_session=True) as program:
        wait_for(lambda: lines(tmp_path / "note"))
        child = int(lines(tmp_path / "note")[0])
        assert is_running(child)
        program.kill()
        program.wait()
        wait_for(lambda: not is_running(child))


def test_no_process_delays_the_end_of_a_program_that_does_not_end_its_fleet(tmp_path: Path) -> None:
    """A loop that is stopped during a call leaves no process, and the program ends."""
    program_text = """
        import asyncio, sys
        from pathlib import Path
        from wsfleet import Fleet
        from tests.support.process_work import work

        async def main():
            fleet = Fleet()
            fleet.process("t", offload="process")(work)
            await fleet.__aenter__()
            fleet.publish("t", ("hang", sys.argv[1]))
            while not Path(sys.argv[1]).exists():
                await asyncio.sleep(0.01)

        if __name__ == "__main__":
            loop = asyncio.new_event_loop()
            loop.run_until_complete(main())
    """
    with start(tmp_path, program_text) as program:
        finish(program)
    wait_for(lambda: not is_running(int(lines(tmp_path / "note")[0])))


def test_a_program_without_a_guard_gets_an_error(tmp_path: Path) -> None:
    """A program that starts its fleet on import would start again in each process: this is reported once, by the
    program itself, which spawns no further process; other code of the program is not started twice either."""
    program_text = """
        import sys, threading
        from wsfleet import Fleet
        from tests.support.process_work import work

        open(sys.argv[1], "a").write("imported\\n")
        fleet = Fleet(drain_s=0)
        fleet.serve_http("127.0.0.1:PORT")
        fleet.process("t", name="p", offload="process")(work)
        failed = []

        @fleet.process("$dead.p")
        async def dead(message):
            failed.append(message)
            if len(failed) == 5:
                await fleet.close()

        for _ in range(5):
            fleet.publish("t", ("note", sys.argv[1]))
        fleet.run()
    """
    with start(tmp_path, program_text.replace("PORT", str(free_port()))) as program:
        _, err = finish(program)
    assert "under if __name__ == '__main__'" in err
    assert "died before its first call" in err
    assert err.count("Traceback") == 1
    assert lines(tmp_path / "note") == ["imported"] * 2


def test_a_typed_in_function_is_refused(tmp_path: Path) -> None:
    """A function that was typed in interactively cannot be imported by a process, and is rejected at declaration."""
    code = """
from wsfleet import Fleet
from wsfleet.core import errors
def handle(message): ...
try:
    Fleet().process("t", offload="process")(handle)
except errors.ConfigError as exc:
    print(exc.faults[0][0])
"""
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run([sys.executable, "-"], input=code, env=environment, text=True, capture_output=True)
    assert (done.stdout, done.stderr) == ("offload\n", "")


# The end


async def test_the_drain_waits_for_processes(tmp_path: Path) -> None:
    """At the shutdown, calls in processes and the messages that wait for them are finished."""
    bench = Bench(drain_s=60)
    note = str(tmp_path / "note")
    async with bench.fleet:
        bench.publish(("sleep", note), ("note", note))
    assert row(bench.fleet, "p").processed == 2
    balanced(bench.fleet)


@pytest.mark.parametrize("verb", ["hang", None])
async def test_cancelling_the_fleet_kills_its_processes(verb: str | None, tmp_path: Path) -> None:
    """Cancelling `serve()` during a call, or while a process starts, fails the call and leaves no process."""
    bench = Bench()
    bench.fleet.connect("ws://feed.test/", name="feed")
    serving = asyncio.create_task(bench.fleet.serve())
    await asyncio.sleep(0)
    note = str(tmp_path / "note")
    bench.publish(("hang", note))
    if verb:
        await until(lambda: lines(tmp_path / "note"))
    else:
        await until(multiprocessing.active_children)
    serving.cancel()
    await asyncio.gather(serving, return_exceptions=True)
    stats = row(bench.fleet, "p")
    assert (stats.failed, stats.pending) == (1, 0)
    balanced(bench.fleet)
    await until(lambda: not multiprocessing.active_children())


async def test_closing_a_subscription_ends_its_processes(tmp_path: Path) -> None:
    """The process of a closed processor ends after its last call, while the fleet continues."""
    bench = Bench()
    async with bench.fleet:
        bench.publish(("note", str(tmp_path / "note")))
        await bench.idle()
        assert multiprocessing.active_children()
        bench.fleet.subscriptions["p"].close()
        await until(lambda: not multiprocessing.active_children())
        balanced(bench.fleet)


def test_no_call_is_made_after_stop() -> None:
    """A call that is stopped starts no new process."""
    call = ProcessCall(process_work.work, None)
    call.stop()
    with pytest.raises(FleetError, match="ended"):
        call(Message(("raise", "x")))
    call.close()
