"""`wsfleet run` with a sink: terminated, killed, and with a full disk, each while messages arrive."""

import asyncio
import contextlib
import json
import resource
import signal
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from tests.faults.kit import Numbered, until

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals are sent as on Unix")

FILE = """
[[connect]]
uri = "{uri}"
name = "sick"
decode = "json"
sink = "jsonl:lines.jsonl"
proxy = false

[[connect]]
uri = "{uri}"
name = "calm"
decode = "json"
handler = "handlers:take"
proxy = false
"""

HANDLERS = """
async def take(message):
    pass
"""


class Run:
    """The command, in `folder`."""

    def __init__(self, folder: Path, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self._folder = folder

    @property
    def text(self) -> bytes:
        """The contents of the sink's file."""
        path = self._folder / "lines.jsonl"
        return path.read_bytes() if path.exists() else b""

    async def writes(self, lines: int = 50) -> None:
        """Wait for this many more lines."""
        before = self.text.count(b"\n")
        await until(lambda: self.text.count(b"\n") >= before + lines, "lines are written")

    async def ended(self, number: signal.Signals) -> tuple[dict[str, Any], str]:
        """Send a signal and wait for the end; return the report's subscriptions, and the output."""
        self.process.send_signal(number)
        _, output = await self.process.communicate()
        report = json.loads((self._folder / "report.json").read_text())
        assert report["balanced"], report
        return {row["name"]: row for row in report["subscriptions"]}, output.decode()


@contextlib.asynccontextmanager
async def running(folder: Path, server: Numbered, before: Callable[[], None] | None = None) -> AsyncIterator[Run]:
    (folder / "feeds.toml").write_text(FILE.format(uri=server.uri))
    (folder / "handlers.py").write_text(HANDLERS)
    pipe = asyncio.subprocess.PIPE
    # No .pyc files are written: with a full disk or a killed process, they would be incomplete, for all later runs.
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-B", "-m", "wsfleet", "run", "feeds.toml", "--report", "report.json",
        cwd=folder, stdout=pipe, stderr=pipe, preexec_fn=before,
    )  # fmt: skip
    try:
        yield Run(folder, process)
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


def numbers(text: bytes) -> list[int]:
    """The numbers in the complete lines of a sink, which must be valid."""
    return [json.loads(line)["data"]["n"] for line in text.split(b"\n")[:-1]]


def first_of(came: list[int], server: Numbered) -> bool:
    """Whether these are the first numbers that one of the server's clients was sent."""
    return any(came == given[: len(came)] for given in server.handed)


async def test_sigterm_in_mid_flow(tmp_path: Path) -> None:
    """Received messages are written, and the report's counts are the file's lines; nothing is missing in between."""
    async with Numbered() as server, running(tmp_path, server) as run:
        await run.writes()
        rows, _ = await run.ended(signal.SIGTERM)
        assert run.process.returncode == 0
        came = numbers(run.text)
        assert run.text.endswith(b"\n")
        assert first_of(came, server)
        assert (rows["sick"]["processed"], rows["sick"]["failed"], rows["sick"]["dropped"]) == (len(came), 0, 0)


async def test_sigkill_in_mid_flow(tmp_path: Path) -> None:
    """All lines are complete except perhaps the last, which is not extended; a second run appends its
    own lines below.
    """
    async with Numbered() as server:
        async with running(tmp_path, server) as run:
            await run.writes()
            run.process.kill()
            await run.process.wait()
            before = run.text
            assert first_of(numbers(before), server)
        # The result of a kill within a write, which seldom happens by chance.
        if before.endswith(b"\n"):
            before += before.splitlines()[-1][:40]
            (tmp_path / "lines.jsonl").write_bytes(before)
        await server.wait_clients(0)
        async with running(tmp_path, server) as run:
            await run.writes()
            rows, _ = await run.ended(signal.SIGTERM)
        assert run.text.startswith(before + b"\n")
        came = numbers(run.text.removeprefix(before + b"\n"))
        assert first_of(came, server)
        assert rows["sick"]["processed"] == len(came)


def with_room_for_20_kb() -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.RLIM_INFINITY))


@pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="no limit of another process can be changed here")
async def test_a_disk_that_fills_up_and_is_emptied(tmp_path: Path) -> None:
    """Messages that cannot be written are counted as failed and logged once; afterwards writing continues."""
    async with Numbered() as server, running(tmp_path, server, with_room_for_20_kb) as run:
        await until(lambda: len(run.text) == 20_000, "the disk is full")
        sent = sum(map(len, server.handed))
        await until(lambda: sum(map(len, server.handed)) > sent + 50, "more is sent than can be written")
        resource.prlimit(run.process.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
        await run.writes()
        rows, output = await run.ended(signal.SIGTERM)
        assert run.process.returncode == 0
    text = run.text
    before = text[: text.rindex(b"\n", 0, 20_000) + 1]
    # The incomplete line is not extended.
    after = text[20_000:].removeprefix(b"\n")
    assert first_of(numbers(before), server)
    came = numbers(before) + numbers(after)
    assert came == sorted(set(came))
    sick, calm = rows["sick"], rows["calm"]
    assert sick["failed"] > 0
    assert sick["processed"] + sick["failed"] == sick["offered"]
    # A batch fails as a whole, although its first lines may be in the file.
    assert sick["processed"] <= len(came) <= sick["offered"]
    assert output.count("lines.jsonl: File too large") == 1
    assert (calm["failed"], calm["dropped"]) == (0, 0)
