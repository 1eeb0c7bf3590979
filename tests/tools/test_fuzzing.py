"""The recorded inputs of `make fuzz` pass, and a planted fault is found."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from tests.support.compiled import compiled
from tests.support.fuzzing import HOW, TARGETS, fails_loudly, how, read
from tests.support.wirekit import CLOSE, CONT, PING, TEXT, frame
from wsfleet.transport import protocol, scanner, websockets
from wsfleet.transport.dial import Opening
from wsfleet.transport.fragments import Fragments

CORPUS = Path(__file__).parents[1] / "support" / "fuzz_corpus"
INPUTS = sorted(path for target in TARGETS for path in (CORPUS / target).iterdir())


@pytest.fixture(scope="module", params=["python", "compiled"])
def scan(request: pytest.FixtureRequest) -> Iterator[None]:
    before = protocol.scan
    protocol.scan = (scanner if request.param == "python" else compiled("wsfleet.transport._scanner")).scan
    yield
    protocol.scan = before


@pytest.mark.parametrize("path", INPUTS, ids=lambda path: f"{path.parent.name}-{path.name}")
async def test_a_recorded_input_has_the_result_of_websockets(scan: None, path: Path) -> None:
    """Recorded traffic of servers and findings of the fuzzer give the same result as in websockets, however they are
    split.
    """
    data = path.read_bytes()
    with fails_loudly(asyncio.get_running_loop()):
        await TARGETS[path.parent.name](data)
        for cut in (0, 1, 7):
            for flags in (data[0], data[0] ^ 0b1110):
                await TARGETS[path.parent.name](bytes([flags, cut]) + data[2:])


def test_both_kinds_are_recorded() -> None:
    """The inputs contain plain and compressed frames, and answers that open, redirect and refuse."""
    streams = [read(path.read_bytes())[0] for path in INPUTS]
    assert {each.deflate for each in streams} == {True, False}
    answers = {each.stream[9:12] for each in streams if each.stream.startswith(b"HTTP/1.1 ")}
    assert answers >= {b"101", b"302", b"429", b"503"}
    assert any(b"permessage-deflate" in each.stream for each in streams)


@pytest.mark.parametrize("data", [b"", b"\xff", b"\xff" * HOW, bytes(HOW), how() + b"\x81"])
@pytest.mark.parametrize("target", TARGETS)
async def test_any_bytes_are_an_input(target: str, data: bytes) -> None:
    """The fuzzer may create any input: none is invalid."""
    await TARGETS[target](data)


MESSAGES = frame(TEXT, b"a", fin=False) + frame(PING, b"p") + frame(CONT, b"b") + frame(TEXT, b"c") + frame(CLOSE)
RECORDED = (CORPUS / "handshake" / "ws").read_bytes()


def broken(*_: Any, **__: Any) -> Any:
    raise ZeroDivisionError


@pytest.mark.parametrize(
    ("place", "name", "fault", "target", "data"),
    [
        (protocol, "scan", lambda data, pos, *_: len(data), "wire", how() + MESSAGES),
        (Fragments, "add", lambda *_: b"?", "wire", how() + MESSAGES),
        (protocol.WebSocketWire, "_deliver", broken, "wire", how() + MESSAGES),
        (protocol.WebSocketWire, "_end", lambda *_: None, "handshake", RECORDED),
        (websockets, "parse_head", broken, "handshake", RECORDED),
        (websockets, "_redirect", broken, "handshake", how() + b"HTTP/1.1 302 x\r\nLocation: /x\r\n\r\n"),
        (websockets, "_rejection", lambda *_: OSError(), "handshake", how() + b"HTTP/1.1 404 x\r\n\r\n"),
        (Opening, "_fail", lambda *_: None, "handshake", how() + b"HTTP"),
        (Opening, "eof_received", broken, "handshake", how() + b"HTTP"),
    ],
)
async def test_a_planted_fault_is_found(place: Any, name: str, fault: Any, target: str, data: bytes) -> None:
    """An input fails if messages are lost, added or changed, an error is raised, or the run does not end."""
    with patch.object(place, name, fault), pytest.raises((AssertionError, ZeroDivisionError)):  # noqa: SIM117
        with fails_loudly(asyncio.get_running_loop()):
            await TARGETS[target](data)


async def test_unbounded_memory_is_found() -> None:
    """A wire that keeps delivered messages in memory fails."""
    with patch("tests.support.wirecheck.held", return_value=10**9), pytest.raises(AssertionError):
        await TARGETS["wire"](how() + MESSAGES)
