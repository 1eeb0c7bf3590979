"""Fuzzing of the wire: bytes of a peer, and the way they arrive, compared with websockets.

An input is four bytes of parameters, followed by the peer's bytes: on an open connection, or from its answer to the
handshake on. `make fuzz` mutates the recorded inputs in `tests/support/fuzz_corpus`; findings are saved there.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

from websockets.client import ClientProtocol
from websockets.exceptions import InvalidStatus
from websockets.extensions.permessage_deflate import enable_client_permessage_deflate
from websockets.protocol import CLIENT
from websockets.typing import Subprotocol
from websockets.uri import parse_uri

from tests.support.wirecheck import Case, Conversation, bounds, check, compare, held, judged, reads_of
from tests.support.wirekit import Collector, Pipe
from wsfleet.core.errors import ConnectFailed, HandshakeRejected
from wsfleet.core.time_slice import READ_BYTES
from wsfleet.transport.base import DialRequest, Progress
from wsfleet.transport.dial import HEAD_MAX, Opening
from wsfleet.transport.fragments import FragmentedProtocol, most_fragments
from wsfleet.transport.websockets import WebSocketTransport, WebSocketWire

__all__ = ["HOW", "KEY", "SUBPROTOCOL", "TARGETS", "URI", "fails_loudly", "how"]

HOW = 4
"""Number of bytes of an input that determine how the others arrive."""

LIMITS = [10, 125, 126, 1000, 2**14, 2**16, 2**16 + 1, 2**20]
CHUNKS = [1, 2, 5, 256]
PAUSES = [0, 0, 1, 3]

URI = "ws://feed.example/"
KEY = "dGhlIHNhbXBsZSBub25jZQ=="
"""The handshake's key, which is always the same here, so that a recorded answer is valid for it."""

SUBPROTOCOL = "v1.feed"
TURNS = 200
"""Number of iterations of the event loop without input after which an attempt counts as hanging."""


def how(deflate: bool = False, limit: int = 2**20, cut: int = 0) -> bytes:
    """The first bytes of an input: the negotiated options, the longest message, and the size of the reads."""
    return bytes([0b10 | deflate, cut, 3 << 2, LIMITS.index(limit)])


def read(data: bytes) -> tuple[Conversation, Case]:
    """The meaning of an input; any bytes are valid."""
    flags, cut, takes, bound = data[:HOW].ljust(HOW, b"\0")
    conversation = Conversation(data[HOW:], LIMITS[bound & 7], bool(flags & 1))
    case = Case(
        cuts=[cut] if cut else [],
        as_text=bool(flags & 2),
        sliced=bool(flags & 4),
        early=bool(flags & 8),
        turns=flags >> 4 & 3,
        pause_every=PAUSES[takes & 3],
        chunk=CHUNKS[takes >> 2 & 3],
        close_after=bound >> 4 if bound & 8 else None,
    )
    return conversation, case


async def wire(data: bytes) -> None:
    """An open connection: the messages, the answers and the end must be those of websockets."""
    await compare(*read(data))


@dataclass
class Dialing:
    """Replaces the dialer: every connection leads to a peer that sends the same bytes for any request."""

    reads: list[bytes]
    pipe: Pipe | None = None

    async def dial(self, where: object, target: DialRequest, progress: Progress) -> Opening:
        self.pipe, opening = Pipe(), Opening()
        self.pipe.protocol = opening
        self.pipe.incoming.extend(self.reads)
        self.pipe.ending = True
        opening.connection_made(self.pipe)
        return opening


async def handshake(data: bytes) -> None:
    """A handshake and the bytes after it: it opens, is rejected or fails, as with websockets."""
    conversation, case = read(data)
    target = DialRequest(
        "a",
        URI,
        {},
        subprotocols=(SUBPROTOCOL,),
        compression="deflate" if conversation.deflate else None,
        proxy=False,
        max_size=conversation.limit,
    )
    transport = WebSocketTransport()
    dialing = Dialing(reads_of(conversation.stream, case.cuts))
    transport._dialer = dialing  # type: ignore[assignment]
    with patch("websockets.client.generate_key", return_value=KEY), bounds(case.sliced):
        outcome = await opened(transport, target, dialing)
        expected = answer(conversation, target)
    if isinstance(outcome, HandshakeRejected):
        # The body of a rejection is not read; for websockets one that it cannot read is a failure.
        assert expected in ("failed", outcome.status), f"rejected with {outcome.status}, not {expected}"
    elif isinstance(outcome, ConnectFailed):
        redirected = expected in (301, 302, 303, 307, 308)
        assert expected == "failed" or redirected, f"failed with {outcome}, not {expected}"
    else:
        assert isinstance(expected, ClientProtocol), f"opened, not {expected}"
        await same_rest(outcome, dialing.pipe, conversation, case, expected)


async def opened(transport: WebSocketTransport, target: DialRequest, dialing: Dialing) -> WebSocketWire | Exception:
    attempt = asyncio.create_task(transport.open(target, Progress()))
    idle = 0
    while not attempt.done():
        idle = 0 if dialing.pipe and dialing.pipe.read() else idle + 1
        assert idle < TURNS, "the attempt hangs"
        if dialing.pipe is not None and isinstance(dialing.pipe.protocol, Opening):
            assert len(dialing.pipe.protocol.early) <= HEAD_MAX + READ_BYTES, "an answer of unbounded size"
        await asyncio.sleep(0)
    try:
        return attempt.result()
    except (HandshakeRejected, ConnectFailed) as exc:
        return exc


def answer(conversation: Conversation, target: DialRequest) -> ClientProtocol | int | str:
    """The result of websockets for the peer's answer: an open connection, a rejection's status, or a failure."""
    protocol = ClientProtocol(
        parse_uri(URI),
        extensions=enable_client_permessage_deflate(None) if conversation.deflate else None,
        subprotocols=[Subprotocol(name) for name in target.subprotocols],
    )
    protocol.send_request(protocol.connect())
    end = conversation.stream.find(b"\r\n\r\n") + 4
    protocol.receive_data(
        conversation.stream[:end]
        if conversation.stream.startswith(b"HTTP/1.1 101") and end > 3
        else conversation.stream
    )
    protocol.receive_eof()
    events = protocol.events_received()
    if isinstance(protocol.handshake_exc, InvalidStatus):
        return protocol.handshake_exc.response.status_code
    return protocol if events and protocol.handshake_exc is None else "failed"


async def same_rest(
    wire: WebSocketWire, pipe: Pipe | None, conversation: Conversation, case: Case, expected: ClientProtocol
) -> None:
    """The bytes after the handshake have the result of an open connection with the negotiated options."""
    assert pipe is not None
    assert wire.subprotocol == expected.subprotocol
    pipe.written.clear()
    collector = Collector(as_text=case.as_text, chunk=case.chunk)
    collector.start(wire)
    await pipe.settle()
    assert held(wire) <= 2 * conversation.limit + 4 * READ_BYTES
    assert collector.error is not None, "the receiver did not get the end"
    judge = FragmentedProtocol(CLIENT, max_size=conversation.limit)
    judge.extensions = expected.extensions
    rest = conversation.stream[conversation.stream.index(b"\r\n\r\n") + 4 :]
    check(collector, pipe, judged(rest, judge, most_fragments(conversation.limit)))


TARGETS: dict[str, Callable[[bytes], Awaitable[None]]] = {"wire": wire, "handshake": handshake}


@contextmanager
def fails_loudly(loop: asyncio.AbstractEventLoop) -> Iterator[None]:
    """Raise the exception of a callback, which the loop itself would only log."""
    raised: list[dict[str, Any]] = []
    loop.set_exception_handler(lambda _, context: raised.append(context))
    try:
        yield
    finally:
        loop.set_exception_handler(None)
    if raised:
        raise AssertionError(raised[0]["message"]) from raised[0].get("exception")
