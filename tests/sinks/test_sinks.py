"""Each message becomes exactly one line for any data, and all resources are closed."""

import asyncio
import base64
import errno
import json
import os
import select
import subprocess
import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsfleet import Fleet, sinks
from wsfleet.core.errors import ConfigError, ConnectionLost
from wsfleet.core.message import DeadLetter, Malformed, Message, State, StateChange
from wsfleet.sinks import base
from wsfleet.sinks.base import line
from wsfleet.sinks.jsonl import JsonLines
from wsfleet.testing import FakeTransport


def shown(data: Any) -> Any:
    """Return the data of a message as in its line."""
    return json.loads(line(Message(data)))["data"]


def test_a_line_has_the_seven_keys_of_the_contract() -> None:
    """A line has the seven documented keys, with the data last, and ends with its only newline."""
    made = line(Message({"price": 1.5}, "trades.X", "trades", 7, 2, 1700000000.25, 13))
    assert json.loads(made) == {
        "topic": "trades.X",
        "endpoint": "trades",
        "index": 7,
        "session": 2,
        "received_at": 1700000000.25,
        "size": 13,
        "data": {"price": 1.5},
    }
    assert list(json.loads(made)) == ["topic", "endpoint", "index", "session", "received_at", "size", "data"]
    assert made.endswith(b"\n")
    assert made.count(b"\n") == 1


TEXT = st.text(st.characters(codec="utf-8"))
SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT


@given(st.recursive(SCALARS, lambda inner: st.lists(inner) | st.dictionaries(TEXT, inner)))
def test_json_comes_back_as_it_was(data: Any) -> None:
    """JSON data does not change in a round trip through a line."""
    assert shown(data) == data


@given(st.binary())
def test_bytes_are_marked_wherever_they_stand(data: bytes) -> None:
    """Bytes become {"base64": ...}, alone and within other data."""
    marked = {"base64": base64.b64encode(data).decode()}
    assert shown(data) == marked
    assert shown(bytearray(data)) == marked
    assert shown({"a": [data, 1], "b": "x"}) == {"a": [marked, 1], "b": "x"}


class Trade(msgspec.Struct, rename={"symbol": "s"}):
    symbol: str
    raw: bytes = b""


@dataclass
class Odd:
    inner: object


class Mute:
    def __repr__(self) -> str:
        raise RuntimeError("no")


def test_typed_data_is_written_as_msgspec_writes_it() -> None:
    """Structs keep their encoded names."""
    assert shown(Trade("X", b"\0")) == {"s": "X", "raw": {"base64": "AA=="}}


def test_the_records_of_the_dollar_topics_are_readable() -> None:
    """States are written by value, errors with type and text, nested messages with their fields, without secrets."""
    change = StateChange("a", State.OPEN, State.BACKOFF, ConnectionLost(1006, "wss://u:pw@h/?token=abc"), 1, 0.5)
    assert shown(change) == {
        "endpoint": "a",
        "previous": "OPEN",
        "state": "BACKOFF",
        "error": "ConnectionLost: connection lost: 1006 wss://***@h/?token=***",
        "attempt": 1,
        "delay_s": 0.5,
    }
    assert shown(Malformed("a", 1, 1, b"\xff", ValueError("bad")))["raw"] == {"base64": "/w=="}
    letter = shown(DeadLetter(Message(b"x", "t"), KeyError("k"), 3))
    assert letter["message"]["data"] == {"base64": "eA=="}
    assert letter["error"] == "KeyError: 'k'"


@pytest.mark.parametrize(
    "data",
    [
        object(),
        Odd(Odd(object())),
        Mute(),
        {(1, 2): 3},
        "\ud800",
        {"a": "\ud800"},
        2**300,
        float("nan"),
        {1, 2},
        (x for x in "ab"),
        Exception("\udfff"),
    ],
    ids=lambda data: type(data).__name__,
)
def test_no_data_breaks_a_line(data: Any) -> None:
    """Data that JSON cannot represent is written on one line."""
    made = line(Message(data, "t\ud800"))
    assert made.count(b"\n") == 1
    assert json.loads(made)["topic"] == "t\\ud800"


def test_data_that_holds_itself_does_not_break_a_line() -> None:
    """A cycle in the data is not followed."""
    loop: list[Any] = []
    loop.append(loop)
    assert isinstance(shown(loop), str)


async def test_jsonl_appends_a_line_for_each_message(tmp_path: Path) -> None:
    """Existing content of the file is kept, and each batch is in the file when write returns."""
    path = tmp_path / "out.jsonl"
    for run in range(2):
        sink = sinks.open(f"jsonl:{path}")
        assert sink.name == "jsonl"
        await sink.open()
        for number in range(3):
            await sink.write([Message(f"{run}.{number}.{n}") for n in range(2)])
            assert path.read_bytes().count(b"\n") == run * 6 + (number + 1) * 2
        await sink.close()
        await sink.close()
    data = [json.loads(text)["data"] for text in path.read_text().splitlines()]
    assert data == [f"{run}.{number}.{n}" for run in range(2) for number in range(3) for n in range(2)]


async def test_nothing_is_touched_before_the_start(tmp_path: Path) -> None:
    """Declaring a sink creates no file and no thread."""
    threads = threading.active_count()
    sinks.open("jsonl:out.jsonl", folder=tmp_path)
    assert list(tmp_path.iterdir()) == []
    assert threading.active_count() == threads


async def test_a_line_after_a_crash_starts_on_a_new_line(tmp_path: Path) -> None:
    """After a crash within a line, the next line starts on a new line."""
    path = tmp_path / "out.jsonl"
    path.write_bytes(b'{"data":1}\n{"da')
    sink = sinks.open(f"jsonl:{path}")
    await sink.open()
    await sink.write([Message(2)])
    await sink.close()
    first, torn, second = path.read_text().splitlines()
    assert (first, torn, json.loads(second)["data"]) == ('{"data":1}', '{"da', 2)


async def test_a_failed_write_raises_and_the_next_one_begins_a_line(tmp_path: Path) -> None:
    """A full disk fails the batch, and the next batch starts on a new line."""
    path = tmp_path / "out.jsonl"
    sink = sinks.open(f"jsonl:{path}")
    await sink.open()
    assert isinstance(sink, base.LineSink)
    real = sink._file
    assert real is not None

    class Full:
        def __init__(self, room: int) -> None:
            self.room = room

        def __getattr__(self, name: str) -> Any:
            return getattr(real, name)

        def write(self, data: memoryview) -> int:
            if not self.room:
                raise OSError(errno.ENOSPC, "full")
            written = real.write(data[: self.room])
            self.room -= written or 0
            return written or 0

    for room in (10, 0):
        sink._file = Full(room)  # type: ignore[assignment]
        with pytest.raises(OSError, match="full"):
            await sink.write([Message("lost")])
    sink._file = real
    await sink.write([Message("kept")])
    await sink.close()
    torn, kept = path.read_text().splitlines()
    assert (len(torn), json.loads(kept)["data"]) == (10, "kept")


async def test_lines_that_are_written_whole_are_not_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a write that the disk cut off, the whole lines count as processed, and only the others as failed."""
    path = tmp_path / "out.jsonl"
    transport = FakeTransport()
    real = JsonLines._open_file
    room = [10**6]

    def open_file(sink: Any) -> tuple[Any, bool]:
        file, torn = real(sink)

        class Full:
            def __getattr__(self, name: str) -> Any:
                return getattr(file, name)

            def fileno(self) -> int:
                return file.fileno()

            def write(self, data: memoryview) -> int:
                if not room[0]:
                    raise OSError(errno.ENOSPC, "full")
                written = file.write(data[: room[0]]) or 0
                room[0] -= written
                return written

        return Full(), torn

    monkeypatch.setattr(JsonLines, "_open_file", open_file)
    async with Fleet(transport=transport) as fleet:
        fleet.connect("ws://a.test", name="a")
        subscription = fleet.sink("a", f"jsonl:{path}")
        socket = await transport.accept("a")
        await socket.feed("x")
        await fleet.idle()
        size = path.stat().st_size
        room[0] = 2 * size + 5
        await socket.feed("y", "y", "y", "y")
        await fleet.idle()
        stats = subscription.stats()
        assert (stats.processed, stats.failed) == (3, 2)
        assert len(path.read_text().splitlines()) == 4
        room[0] = 1 + size + 5  # the first byte ends the line that was cut off, which is not written whole by that
        await socket.feed("z", "z")
        await fleet.idle()
        stats = subscription.stats()
    assert (stats.processed, stats.failed) == (4, 3)
    assert len(path.read_text().splitlines()) == 6


async def test_a_file_that_cannot_be_opened_raises_and_leaves_nothing(tmp_path: Path) -> None:
    """A failed open raises OSError and leaves no thread."""
    (tmp_path / "sub").mkdir()
    sink = sinks.open("jsonl:sub/out.jsonl", folder=tmp_path)
    (tmp_path / "sub").rmdir()
    with pytest.raises(FileNotFoundError):
        await sink.open()


async def test_a_full_pipe_does_not_block_close(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Close waits a limited time for a blocked write, logs it, and returns."""
    monkeypatch.setattr(base, "GRACE_S", 0.05)
    path = tmp_path / "pipe"
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        sink = sinks.open(f"jsonl:{path}")
        await sink.open()
        writing = asyncio.create_task(sink.write([Message("x" * 2**20)]))
        while not select.select([reader], [], [], 0)[0]:
            await asyncio.sleep(0.01)
        writing.cancel()
        await sink.close()
        assert "write still blocked" in caplog.text
    finally:
        os.close(reader)  # the hanging write fails, and the thread ends


async def test_stdout_where_it_is_no_file(capsys: pytest.CaptureFixture[str]) -> None:
    """If sys.stdout was replaced, lines are written to the replacement."""
    sink = sinks.open("stdout")
    await sink.open()
    await sink.write([Message("ü")])
    await sink.close()
    assert json.loads(capsys.readouterr().out)["data"] == "ü"


async def test_stdout_keeps_the_programs_own_output_in_order(capfd: pytest.CaptureFixture[str]) -> None:
    """Lines follow the earlier output of the program, which can write again after the sink is closed."""
    print("before")
    sink = sinks.open("stdout")
    await sink.open()
    await sink.write([Message(1)])
    await sink.close()
    print("after", flush=True)
    before, made, after = capfd.readouterr().out.splitlines()
    assert (before, json.loads(made)["data"], after) == ("before", 1, "after")


def test_stdout_whose_reader_is_gone() -> None:
    """A closed pipe fails the batch with a clear text, and does not disturb the exit of the program."""
    program = """
import asyncio, sys
from wsfleet import sinks
from wsfleet.core.message import Message

async def main():
    sink = sinks.open("stdout")
    await sink.open()
    sys.stdin.read()
    for _ in range(2):
        try:
            await sink.write([Message("x")])
        except BrokenPipeError as exc:
            print(exc, file=sys.stderr)
    await sink.close()

asyncio.run(main())
"""
    with subprocess.Popen(
        [sys.executable, "-c", program],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        assert process.stderr is not None
        process.stdout.close()
        process.stdin.close()
        errors = process.stderr.read()
    assert errors.count("the reader of the standard output has closed it") == 2
    assert process.returncode == 0, errors


@pytest.mark.parametrize(
    ("spec", "fault"),
    [
        ("jsnol:x", "did you mean 'jsonl'?"),
        ("kafka:x", "there are jsonl, stdout"),
        ("", "no sink is named ''"),
        ("jsonl", "a path is missing"),
        ("jsonl:", "a path is missing"),
        ("jsonl:nowhere/x.jsonl", "there is no folder"),
        ("jsonl:.", "is a folder"),
        ("stdout:x", "does not take an argument"),
    ],
)
def test_a_sink_that_cannot_work_is_refused_at_once(spec: str, fault: str, tmp_path: Path) -> None:
    """An invalid sink raises ConfigError with a hint."""
    with pytest.raises(ConfigError, match=fault.replace("?", r"\?")):
        sinks.open(spec, folder=tmp_path)
