"""The log of the command: lines for people, JSON for machines, and no logging set up by the library."""

import asyncio
import io
import json
import logging
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from wsfleet import Fleet
from wsfleet.runtime.logs import JsonLines, Lines, log_to_stderr
from wsfleet.testing import FeedServer

SECRET = "s3cr3tT0kenOfTwentyCharacters99"


@pytest.fixture
def written() -> Iterator[io.StringIO]:
    """The library's log records, formatted as JSON."""
    text = io.StringIO()
    handler = logging.StreamHandler(text)
    handler.setFormatter(JsonLines())
    log = logging.getLogger("wsfleet")
    log.addHandler(handler)
    level = log.level
    log.setLevel(logging.INFO)
    yield text
    log.removeHandler(handler)
    log.setLevel(level)


async def test_details_of_a_record_are_in_fields(written: io.StringIO) -> None:
    """Each detail of a record is a separate field, so that programs need not parse sentences."""
    async with FeedServer() as server, Fleet() as fleet:

        async def broken(message: object) -> None:
            raise ValueError("no such price")

        feed = fleet.connect(server.uri, broken, name="feed")
        await feed.wait_open()
        await server.send("x")
        while not fleet.stats().subscriptions[0].failed:
            await asyncio.sleep(0.01)
    entries = [json.loads(line) for line in written.getvalue().splitlines()]
    opened, failed = (entry for entry in entries if "event" in entry)
    assert (opened["event"], opened["endpoint"], opened["state"]) == ("endpoint.open", "feed", "OPEN")
    assert (failed["event"], failed["subscription"], failed["level"]) == ("message.failed", "feed", "ERROR")
    assert "no such price" in failed["error"]
    assert "Traceback" in failed["traceback"]


def test_an_object_is_a_line_without_secrets() -> None:
    """Newlines and control characters are escaped, and texts that look like secrets are removed."""
    record = logging.LogRecord("wsfleet", logging.WARNING, "", 1, "a\nb\x1b[2J %s", (f"token={SECRET}",), None)
    record.error = ValueError(f"wss://h/?token={SECRET}")
    line = JsonLines().format(record)
    assert SECRET not in line
    assert line.isprintable()
    assert json.loads(line)["message"].startswith("a\nb\x1b[2J")
    assert "\n" not in Lines().format(record)


def test_the_library_sets_up_no_logging() -> None:
    """Importing the library and running a fleet do not change the program's logging."""
    program = (
        "import asyncio, logging, wsfleet\n"
        "from wsfleet.testing import FeedServer\n"
        "async def main():\n"
        "    async with FeedServer() as server, wsfleet.Fleet() as fleet:\n"
        "        await fleet.connect(server.uri).wait_open()\n"
        "asyncio.run(main())\n"
        "found = [l for l in (logging.root, *map(logging.getLogger, logging.root.manager.loggerDict))"
        " if l.name.split('.')[0] in ('root', 'wsfleet') and (l.handlers or l.level not in (0, 30))]\n"
        "print(found)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_the_command_logs_json_with_the_option(tmp_path: Path) -> None:
    """With --log-json each line of a run is an object; the last has the numbers of the summary, with --quiet too."""
    file = tmp_path / "fleet.toml"
    file.write_text('[[connect]]\nname = "gone"\nuri = "ws://127.0.0.1:1/"\n')
    command = [sys.executable, "-m", "wsfleet", "run", str(file), "--log-json", "--quiet", "--duration"]
    for duration in ("0.5", "5", "50"):  # enough for an attempt, even on a busy machine
        done = subprocess.run([*command, duration], capture_output=True, text=True, check=False)
        entries = [json.loads(line) for line in done.stderr.splitlines()]
        down = next((entry for entry in entries if entry.get("event") == "endpoint.down"), None)
        if down is not None:
            break
    assert down is not None
    assert down["endpoint"] == "gone"
    assert down["time"].endswith("+00:00")
    assert sum(entry.get("event") == "endpoint.down" for entry in entries) == 1
    last = entries[-1]
    assert (last["event"], last["fleet"], last["balanced"]) == ("fleet.ended", "fleet", True)
    assert (last["received"], last["endpoints"], last["reconnects"], last["endpoints_failed"]) == (0, 1, 0, 0)


def test_lines_have_a_date_except_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each line has a date in a log file, and none on a terminal."""
    handlers: list[logging.Handler] = []
    monkeypatch.setattr(logging, "basicConfig", lambda **options: handlers.extend(options["handlers"]))
    record = logging.LogRecord("wsfleet", logging.WARNING, "", 1, "late", (), None)
    for is_terminal, time in ((False, r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d"), (True, r"\d\d:\d\d:\d\d")):
        written = io.StringIO()
        monkeypatch.setattr(written, "isatty", lambda is_terminal=is_terminal: is_terminal)
        monkeypatch.setattr(sys, "stderr", written)
        log_to_stderr()
        handlers.pop().handle(record)
        assert re.fullmatch(rf"{time} WARNING late\n", written.getvalue())
