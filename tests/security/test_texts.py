"""Texts of a peer are escaped and redacted in logs, errors and reports."""

import asyncio
import json
import logging
import traceback
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.peers import HOST, answering, listening
from wsfleet import Buffer, Fleet, Liveness, Message, Overflow, Reconnect, Session, Subscription
from wsfleet.cli.main import main
from wsfleet.core.error_text import shown
from wsfleet.core.errors import ConnectFailed, ConnectionLost, EndpointFailed
from wsfleet.core.text import one_line
from wsfleet.runtime.logs import log_to_stderr
from wsfleet.testing import FakeTransport

REASON = "\x1b]0;owned\x07 red\x9b31m\n12:00:00 INFO    forged: open \u202e"
SECRET = "q7s3kr1tZ9"
ONCE = Reconnect(initial_s=60.0, max_s=60.0, jitter=0.0)


async def first_error(states: Subscription) -> Exception:
    """The error of the first state change that has one."""
    async for message in states:
        if message.data.error is not None:
            return message.data.error
    raise AssertionError("it ended without an error")


@pytest.mark.parametrize(
    "error", [ConnectFailed("http", REASON), ConnectionLost(1000, REASON), EndpointFailed("a", REASON)], ids=repr
)
def test_the_text_of_an_error_is_escaped(error: Exception) -> None:
    """Escape sequences, line feeds and direction marks are escaped."""
    assert str(error).isprintable()
    assert one_line(REASON) in str(error)


async def test_a_close_reason_cannot_forge_a_line_of_the_log(caplog: pytest.LogCaptureFixture) -> None:
    """A program's log, the stats and the error's text contain it escaped; the error's `reason` is unchanged."""
    transport = FakeTransport()
    fleet = Fleet(transport=transport)
    states = fleet.subscribe("$state.feed")
    fleet.connect("ws://feed.test/", name="feed", reconnect=ONCE)
    async with fleet:
        (await transport.accept("feed")).close(1000, REASON)
        lost = await first_error(states)
        row = fleet.stats().endpoints[0]
    assert isinstance(lost, ConnectionLost)
    assert lost.reason == REASON
    assert row.last_error is not None
    assert row.last_error.isprintable()
    lines = [record.getMessage() for record in caplog.records if "connection lost" in record.getMessage()]
    assert lines
    assert all(text.isprintable() for text in lines)


@pytest.mark.parametrize(
    "header", ["Sec-WebSocket-Accept: {}", "Upgrade: {}", "Sec-WebSocket-Extensions: {}", "Connection: {}"]
)
async def test_a_secret_that_the_server_repeats_is_not_shown(header: str, caplog: pytest.LogCaptureFixture) -> None:
    """The log and the error, including its repr, do not contain the secrets of the attempt's URI."""
    caplog.set_level(logging.DEBUG)
    lines = ["HTTP/1.1 101 Switching Protocols", "Upgrade: websocket", "Connection: Upgrade", header.format(SECRET)]
    if header.startswith(("Upgrade", "Connection")):
        del lines[1 if header.startswith("Upgrade") else 2]
    async with listening(answering("\r\n".join([*lines, "", ""]).encode())) as port:
        fleet = Fleet()
        states = fleet.subscribe("$state.feed")
        fleet.connect(f"ws://{HOST}:{port}/?token={SECRET}", name="feed", reconnect=ONCE)
        async with fleet:
            error = await first_error(states)
            report = json.dumps(fleet.stats().to_dict())
    assert isinstance(error, ConnectFailed)
    for text in (caplog.text, report, str(error), repr(error), str(error.__cause__), repr(error.__cause__)):
        assert SECRET not in text


async def test_no_error_of_a_users_function_shows_a_secret_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    """The traceback of a failed key function or heartbeat contains no credentials."""

    def fail(*_: object) -> str:
        raise ValueError(f"cannot sign: token={SECRET}")

    transport = FakeTransport()
    fleet = Fleet(transport=transport)

    @fleet.process("*", name="lanes", concurrency=2, key=fail)
    async def key_order(message: Message[str]) -> None: ...

    @fleet.process("*", name="latest", buffer=Buffer(overflow=Overflow.LATEST, key=fail))
    async def latest(message: Message[str]) -> None: ...

    fleet.connect("ws://feed.test/", name="feed", liveness=Liveness(heartbeat=fail, heartbeat_s=0.01))
    async with fleet:
        await (await transport.accept("feed")).feed("a")
        while "heartbeat function failed" not in caplog.text:
            await asyncio.sleep(0.005)
    assert caplog.text.count("cannot sign: token=***") >= 3
    assert SECRET not in caplog.text


def grouped() -> Exception:
    return ExceptionGroup("unhandled", [KeyError("a"), ExceptionGroup("in it", [ValueError(f"token={SECRET}")])])


def noted() -> Exception:
    error = ValueError("it failed")
    error.add_note(f"token={SECRET}")
    return error


def behind_a_group() -> Exception:
    error = ExceptionGroup("unhandled", [ValueError("a")])
    error.exceptions[0].__cause__ = noted()
    return error


def unreadable() -> Exception:
    try:
        compile(f"token={SECRET} $", "rules.py", "exec")
    except SyntaxError as exc:
        return exc
    raise AssertionError


class Odd(Exception):
    """The value that it was made of is only in its repr."""

    def __str__(self) -> str:
        return "odd"


@pytest.mark.parametrize("make", [grouped, noted, behind_a_group, unreadable, lambda: Odd({"token": SECRET})])
async def test_no_error_of_a_processor_shows_a_secret(
    make: Callable[[], Exception], caplog: pytest.LogCaptureFixture
) -> None:
    """A secret in a group, a note, a line of source or the repr appears neither in the log nor in the record."""
    fleet = Fleet(transport=FakeTransport())
    dead = fleet.subscribe("$dead.p")

    @fleet.process("a", name="p")
    async def fail(message: Message[str]) -> None:
        raise make()

    async with fleet:
        fleet.publish("a", "x")
        letter = (await anext(aiter(dead))).data
    shown = "".join(traceback.format_exception(letter.error)) + repr(letter) + caplog.text
    assert "a message failed" in shown
    assert SECRET not in shown
    if make is not unreadable and make is not grouped:
        assert str(make()) in shown
    if make is grouped:
        assert "KeyError: 'a'" in shown and "ValueError: token=***" in shown


async def test_no_error_behind_an_attempts_shows_a_secret() -> None:
    """A secret in the note of an error in a group, after that of a failed attempt, is not shown either."""

    async def run_on_open(session: Session) -> None:
        raise ExceptionGroup("unhandled", [noted()])

    transport = FakeTransport()
    fleet = Fleet(transport=transport)
    states = fleet.subscribe("$state.feed")
    fleet.connect("ws://feed.test/", name="feed", on_open=run_on_open, reconnect=ONCE)
    async with fleet:
        await transport.accept("feed")
        error = await first_error(states)
    assert SECRET not in "".join(traceback.format_exception(error))
    assert "ExceptionGroup: unhandled" in str(error)


def test_an_error_without_secrets_is_unchanged() -> None:
    """Texts without secrets are not changed, including those of a group with notes."""
    error = ExceptionGroup("unhandled", [ValueError("a")])
    error.add_note("of no importance")
    assert shown(error) is error
    undecodable = UnicodeDecodeError("utf-8", f"token={SECRET}".encode(), 0, 1, "invalid start byte")
    assert shown(undecodable) is undecodable


def test_the_commands_log_shows_no_secret_of_a_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    """The log of `wsfleet run` is redacted and escaped as a whole, for any logger."""
    root = logging.getLogger()
    before, root.handlers = root.handlers, []
    try:
        log_to_stderr()
        try:
            raise ValueError(f"GET wss://someone:{SECRET}@feed.example/?token={SECRET}\x1b[2J")
        except ValueError:
            logging.getLogger("somebody.else").exception("it failed")
    finally:
        root.handlers = before
    shown = capsys.readouterr().err
    assert "Traceback" in shown
    assert "feed.example" in shown
    assert SECRET not in shown
    assert "\x1b" not in shown


def test_a_program_that_cannot_be_made_shows_no_secret(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """If a function that should return a fleet fails, its error is shown without credentials."""
    (tmp_path / "faulty.py").write_text(f"def make():\n    raise OSError('wss://u:{SECRET}@feed.example/')\n")
    monkeypatch.chdir(tmp_path)
    assert main(["run", "faulty:make"]) == 2
    shown = capsys.readouterr().err
    assert "feed.example" in shown
    assert SECRET not in shown
