"""How `wsfleet tap` writes messages to terminals and pipes."""

import asyncio
import io
import json
import os
import pty
import threading

import pytest

from wsfleet.cli.output import OutputStream, lines_for


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


PIPE, TERMINAL = io.StringIO(), Terminal()


def test_a_pipe_gets_text_as_it_came_and_binary_as_base64() -> None:
    """In a pipe nothing is changed: text is written as it is, binary as one line that can be decoded."""
    render = lines_for(PIPE, pretty=False)
    assert render("a\x1b[1m") == "a\x1b[1m\n"
    assert render(b"\x00\xff") == "AP8=\n"


@pytest.mark.parametrize(
    ("message", "means"),
    [
        ('{"b": 1.10, "a": [1]}', {"b": 1.1, "a": [1]}),
        (b'{"a": 1}', {"a": 1}),
        ("no JSON", "no JSON"),
        ("[" * 100_000, "[" * 100_000),
        (b"\x00\xff", {"base64": "AP8="}),
        ("", ""),
    ],
)
def test_a_pipe_gets_json_for_every_message(message: str | bytes, means: object) -> None:
    """With --json every message is written as JSON, even if it was none."""
    assert json.loads(lines_for(PIPE, pretty=True)(message)) == means


def test_pretty_json_keeps_numbers_and_order() -> None:
    """Pretty-printing changes only white space: numbers keep their digits, keys their order."""
    shown = lines_for(PIPE, pretty=True)('{"z":1.10,"a":12345678901234567890123}')
    assert shown == '{\n  "z": 1.10,\n  "a": 12345678901234567890123\n}\n'


@pytest.mark.parametrize("pretty", [False, True])
@pytest.mark.parametrize("message", ["x\x1b]0;title\x07", '{"x": "\x9b2J"}', b"\x1b[2J", b'{"x": "\xc2\x9b2J"}'])
def test_control_characters_of_the_peer_are_escaped_on_a_terminal(message: str | bytes, pretty: bool) -> None:
    """On a terminal the control characters of a peer are escaped."""
    shown = lines_for(TERMINAL, pretty)(message)
    for own in ("\x1b[0m", "\x1b[1m", "\x1b[32m", "\x1b[1;34m"):  # the colours of --json
        shown = shown.replace(own, "")
    assert "\x1b" not in shown
    assert "\x9b" not in shown
    assert "\x07" not in shown


def test_a_terminal_gets_the_beginning_of_binary_messages() -> None:
    """Binary is shown as its size, its first bytes, and the readable ones of them."""
    shown = lines_for(TERMINAL, pretty=False)(b"GIF89a\x00" + bytes(100))
    assert shown.startswith("<107 bytes> 47 49 46 38 39 61 00 00")
    assert "... " in shown
    assert "|GIF89a." in shown


async def test_a_slow_reader_does_not_block_the_loop() -> None:
    """While the reader is slow, `write` waits and the loop continues; the output arrives complete and in order."""
    reading, writing = os.pipe()
    text = "x" * 2**20
    with OutputStream(writing, lines_for(PIPE, pretty=False)) as outlet:
        task = asyncio.create_task(outlet.write([text, "end"]))
        for _ in range(10):
            await asyncio.sleep(0.001)
        assert not task.done()
        got = b""
        while len(got) < len(text) + 5:
            got += await asyncio.to_thread(os.read, reading, 2**16)
        await task
        assert got == f"{text}\nend\n".encode()
    os.close(reading)
    os.close(writing)


async def test_a_closed_pipe_is_a_broken_pipe_error() -> None:
    """Writing to a pipe without a reader raises BrokenPipeError."""
    reading, writing = os.pipe()
    os.close(reading)
    with OutputStream(writing, lines_for(PIPE, pretty=False)) as outlet, pytest.raises(BrokenPipeError):
        await outlet.write(["gone"])
    os.close(writing)


async def test_leaving_a_stuck_thread_behind_ends_with_its_reader() -> None:
    """A cancelled write that is stuck does not delay closing the output, and its thread ends when the reader does."""
    reading, writing = os.pipe()
    with OutputStream(writing, lines_for(PIPE, pretty=False)) as outlet, pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await outlet.write(["x" * 2**20])
    os.close(reading)
    while any(thread.name == "wsfleet-outlet" for thread in threading.enumerate()):
        await asyncio.sleep(0.01)
    os.close(writing)


def test_a_pseudo_terminal_is_a_terminal() -> None:
    """The format depends on the stream itself."""
    main, side = pty.openpty()
    with os.fdopen(side, "w") as stream:
        assert lines_for(stream, pretty=False)(b"\x00").startswith("<1 bytes>")
    os.close(main)
