"""Each way in which a server can end a connection: the code is reported, earlier data arrive, and it reconnects."""

import asyncio
import struct
from collections.abc import Callable

from tests.faults.kit import Numbered, behind, suffering
from tests.support.peers import Handler, accept, reset
from tests.support.wirekit import CLOSE, TEXT, frame
from wsfleet import State
from wsfleet.core.errors import ConnectionLost

# Codes that are valid in a close frame (RFC 6455, section 7.4, and its registry), some of each range.
SENDABLE = [1000, 1001, 1002, 1003, *range(1007, 1015), 3000, 3003, 3999, 4000, 4001, 4408, 4999]

# Invalid codes: the frame is a protocol error, which is answered with 1002.
RESERVED = [0, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000, 65535]

End = Callable[[asyncio.StreamWriter], None]


def close_frame(payload: bytes) -> End:
    return lambda writer: writer.write(frame(CLOSE, payload))


def end_of_stream(writer: asyncio.StreamWriter) -> None:
    writer.close()


def within_a_frame(writer: asyncio.StreamWriter) -> None:
    writer.write(frame(TEXT, b'{"n": 0}')[:4])
    writer.close()


# The way in which the connection ends, and the code that is reported.
ENDS: list[tuple[End, int]] = [
    *((close_frame(struct.pack("!H", code) + b"so it is"), code) for code in SENDABLE),
    *((close_frame(struct.pack("!H", code)), 1002) for code in RESERVED),
    (close_frame(b""), 1005),
    (close_frame(b"\x03"), 1002),
    (close_frame(struct.pack("!H", 1000) + b"\xff"), 1007),
    (end_of_stream, 1006),
    (within_a_frame, 1006),
]


def ending(end: End, given: list[int]) -> Handler:
    """A server that sends these numbers and then ends the connection in this way."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await accept(reader, writer)
        for number in given:
            writer.write(frame(TEXT, b'{"n": %d}' % number))
        end(writer)
        await reader.read(1000)  # the answer to the close frame

    return handle


async def test_every_close_code() -> None:
    """No close is final: its code and reason are reported, all earlier data have arrived, and the
    endpoint reconnects.
    """
    handed = [list(range(start, start + 10)) for start in range(10**6, 10**6 + 100 * len(ENDS), 100)]
    faults = [ending(end, given) for (end, _), given in zip(ENDS, handed, strict=True)]
    async with Numbered() as server, behind(server, *faults) as port:
        async with suffering(f"ws://localhost:{port}") as case:
            await case.fails(len(ENDS))
            await case.comes_back()
        losses = case.errors
        assert [error.code for error in losses if isinstance(error, ConnectionLost)] == [code for _, code in ENDS]
        for code, error in zip(SENDABLE, losses, strict=False):
            assert str(error).startswith(f"connection lost: {code} so it is")
        assert case.sessions()[: len(ENDS)] == handed
        ways = [(change.previous, change.state) for change in case.changes if change.error is not None]
        assert ways == [(State.OPEN, State.BACKOFF)] * len(ENDS)
        stats = case.sick.stats()
        assert (stats.connects, stats.losses) == (len(ENDS) + 1, len(ENDS))


async def test_a_reset() -> None:
    """A reset connection is lost with 1006 and the system's error; only data in transit are missing."""
    handed: list[int] = []

    async def tears(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await accept(reader, writer)
        for number in range(10**6, 10**6 + 50):
            handed.append(number)
            writer.write(frame(TEXT, b'{"n": %d}' % number))
            await asyncio.sleep(0.001)
        reset(writer)

    async with Numbered() as server, behind(server, tears) as port:
        async with suffering(f"ws://localhost:{port}") as case:
            error = await case.fails()
            await case.comes_back()
        assert isinstance(error, ConnectionLost)
        assert error.code == 1006
        assert isinstance(error.__cause__, ConnectionResetError)
        case.destroyed([handed, *server.handed])
