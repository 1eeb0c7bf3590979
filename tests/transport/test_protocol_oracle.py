"""The wire gives the same messages and the same end as the parser of websockets, for any stream and any split."""

from itertools import pairwise

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from websockets.exceptions import ProtocolError
from websockets.extensions.permessage_deflate import PerMessageDeflate
from websockets.frames import Frame, Opcode

from tests.support.compiled import compiled
from tests.support.wirecheck import Case, Conversation, compare, oracle
from tests.support.wirekit import BINARY, CLOSE, CONT, PING, PONG, TEXT, frame, open_protocol, written_frames
from wsfleet.transport import protocol, scanner


@pytest.fixture(scope="module", autouse=True, params=["python", "compiled"])
def scan(request):
    """Both versions of the scanner."""
    before = protocol.scan
    protocol.scan = (scanner if request.param == "python" else compiled("wsfleet.transport._scanner")).scan
    yield
    protocol.scan = before


@pytest.mark.parametrize(("size", "form", "head"), [(3, 16, 126), (3, 64, 127), (65535, 16, 126), (65536, 16, 127)])
def test_a_length_is_written_in_a_form_that_can_hold_it(size: int, form: int, head: int) -> None:
    """The test's encoder can write each length in each form that can hold it."""
    made = frame(BINARY, bytes(size), form=form)
    assert made[1] == head
    assert len(made) == 2 + (2 if head == 126 else 8) + size


# Streams


class Sender:
    """A server's side: encodes generated items, with one compression context for all."""

    def __init__(self) -> None:
        self._deflate = PerMessageDeflate(False, False, 15, 15)

    def frame(self, opcode: int, payload: bytes, *, fin: bool = True, compressed: bool = False) -> bytes:
        if not compressed:
            return frame(opcode, payload, fin=fin)
        return Frame(Opcode(opcode), payload, fin).serialize(mask=False, extensions=[self._deflate])

    def fragmented(self, opcode: int, parts: list[bytes], between: list[bytes], *, compressed: bool = False) -> bytes:
        """Generate a message in several frames, with other frames in between."""
        stream = b""
        for number, part in enumerate(parts):
            fin = number == len(parts) - 1
            stream += self.frame(CONT if number else opcode, part, fin=fin, compressed=compressed)
            if not fin and number < len(between):
                stream += between[number]
        return stream


SIZES = [0, 1, 9, 10, 11, 124, 125, 126, 127, 999, 1000, 1001, 65535, 65536, 70_000]
NOT_UTF8 = [b"\xff", b"ok\xc3", b"\xed\xa0\x80", b"\xc0\xaf", b"\xf4\x90\x80\x80", b"x\x80"]
CLOSE_CODES = [1000, 1001, 1007, 1011, 1014, 3000, 4999, 0, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000, 65535]
opcodes = st.sampled_from([TEXT, TEXT, BINARY])
closes = st.one_of(
    st.just(frame(CLOSE)),
    st.sampled_from([b"\x03", b"\x03\xe8\xff", b"\x03\xe8" + b"r" * 123]).map(lambda payload: frame(CLOSE, payload)),
    st.builds(
        lambda code, why: frame(CLOSE, code.to_bytes(2, "big") + why.encode()),
        st.sampled_from(CLOSE_CODES),
        st.text(max_size=20),
    ),
)
# Each of these may only fail, whatever the limit.
faults = st.one_of(
    st.builds(lambda opcode: frame(opcode, b"abc", mask=b"mask"), st.sampled_from([CONT, TEXT, PING, CLOSE])),
    st.builds(
        lambda opcode, bits: frame(opcode, b"abc", reserved=bits),
        st.sampled_from([CONT, TEXT, BINARY, PING, CLOSE]),
        st.integers(1, 7),
    ),
    st.builds(frame, st.sampled_from([3, 4, 7, 11, 15]), st.sampled_from([b"", b"abc", bytes(130)])),
    st.builds(lambda opcode: frame(opcode, bytes(126)), st.sampled_from([PING, PONG, CLOSE])),
    st.builds(lambda opcode: frame(opcode, b"x", fin=False), st.sampled_from([PING, PONG, CLOSE])),
    st.builds(lambda fin: frame(CONT, b"abc", fin=fin), st.booleans()),
    st.sampled_from(NOT_UTF8).map(lambda payload: frame(TEXT, payload)),
    st.sampled_from([b"\x81\x7f" + b"\xff" * 8, b"\x82\x7f\x00\x00\x00\x01\x00\x00\x00\x00", b"\x82\x7e\xff\xff"]),
    st.sampled_from([frame(3, b"abc"), frame(TEXT, bytes(100_000)), frame(PING, bytes(126))]).map(lambda raw: raw[:10]),
    st.binary(min_size=1, max_size=20),
)


def utf8_cut_anywhere(text: str, places: list[int]) -> list[bytes]:
    """Split the bytes of `text`; a fragment may end within a character (RFC 6455, section 5.6)."""
    whole = text.encode()
    edges = [0, *sorted(place % (len(whole) + 1) for place in places), len(whole)]
    return [whole[start:stop] for start, stop in pairwise(edges)]


@st.composite
def conversations(draw) -> Conversation:
    """Generate mostly valid messages, then perhaps a close or an error, then more messages."""
    limit = draw(st.sampled_from([125, 1000, 70_000, 10, 1]))
    deflate = draw(st.booleans())
    sender = Sender()
    fitting = [size for size in SIZES if size <= limit]
    small = min(limit // 4, 12)
    texts = st.one_of(st.text(max_size=small).map(str.encode), st.sampled_from(fitting).map(lambda size: b"x" * size))
    blobs = st.one_of(st.binary(max_size=min(limit, 12)), st.sampled_from(fitting).map(bytes))
    forms = st.sampled_from([0, 0, 0, 16, 64])
    plain = st.one_of(
        st.builds(frame, st.just(TEXT), texts, form=forms),
        st.builds(frame, st.just(BINARY), blobs, form=forms),
    )
    controls = st.builds(frame, st.sampled_from([PING, PONG]), st.binary(max_size=min(limit, 125)))
    pieces = st.builds(utf8_cut_anywhere, st.text(max_size=small), st.lists(st.integers(0, 100), max_size=5))
    strange = st.one_of(controls, controls, controls, closes, plain, faults)

    def good(_: int) -> bytes:
        kind = draw(st.sampled_from(["plain", "plain", "plain", "control", "fragmented", "compressed", "both"]))
        if kind == "control":
            return draw(controls)
        if kind in ("compressed", "both") and deflate:
            if kind == "compressed":
                return sender.frame(draw(opcodes), draw(texts), compressed=True)
            return sender.fragmented(draw(opcodes), draw(pieces), draw(st.lists(controls, max_size=2)), compressed=True)
        if kind == "fragmented":
            return sender.fragmented(draw(opcodes), draw(pieces), draw(st.lists(controls, max_size=2)))
        return draw(plain)

    def bad() -> bytes:
        kind = draw(st.sampled_from(["fault", "close", "within", "bomb", "unasked", "not utf-8", "over"]))
        if kind == "close":
            return draw(closes)
        if kind == "within":
            return sender.fragmented(TEXT, [b"a"] * draw(st.integers(2, 4)), draw(st.lists(strange, max_size=3)))
        if kind == "bomb":
            return sender.frame(BINARY, bytes(100_000), compressed=True)
        if kind == "unasked":
            return sender.frame(TEXT, b"a", compressed=True)
        if kind == "not utf-8":
            parts = draw(pieces)
            parts.insert(draw(st.integers(0, len(parts))), draw(st.sampled_from(NOT_UTF8)))
            return sender.fragmented(TEXT, parts, [], compressed=deflate)
        if kind == "over":  # each fragment fits, all together do not
            return sender.fragmented(BINARY, [bytes(limit // 2 + 1), bytes(limit // 2 + 1), b""], [])
        return draw(faults)

    stream = b"".join(map(good, range(draw(st.integers(0, 10)))))
    if draw(st.booleans()):
        stream += bad()
        stream += b"".join(map(good, range(draw(st.integers(0, 3)))))
    if draw(st.integers(0, 4)) == 0 and stream:
        stream = stream[: -draw(st.integers(1, len(stream)))]
    return Conversation(stream, limit, deflate)


cases = st.builds(
    Case,
    cuts=st.lists(st.integers(1, 40), max_size=12),
    as_text=st.booleans(),
    chunk=st.sampled_from([1, 2, 5, 256]),
    pause_every=st.sampled_from([0, 0, 1, 3]),
    sliced=st.booleans(),
    early=st.booleans(),
    turns=st.integers(0, 2),
    close_after=st.one_of(st.none(), st.none(), st.none(), st.integers(0, 5)),
)


@settings(max_examples=2 * settings().max_examples)
@given(conversations(), cases)
@example(Conversation(frame(TEXT, b"\xff") + frame(TEXT, b"late"), 10, False), Case([]))
@example(Conversation(frame(BINARY, b"12345678", fin=False) + frame(CONT, b"123")[:2], 10, False), Case([3]))
@example(Conversation(frame(3, b"never comes")[:2], 1000, False), Case([1]))
@example(Conversation(frame(TEXT, b"a", fin=False) + frame(CLOSE, b"\x03\xe8"), 10, False), Case([], early=True))
@example(Conversation(frame(TEXT, b"a", fin=False) + frame(TEXT, b"b"), 10, False), Case([]))
@example(Conversation(frame(TEXT, b"1") * 50 + frame(CLOSE), 10, False), Case([7], False, 5, 1, True, True, 0))
@example(Conversation(frame(TEXT, b"1") + frame(PING) + frame(TEXT, b"2") * 2, 10, False), Case([], chunk=2))
@example(Conversation((frame(TEXT, b"1") + frame(PING)) * 4 + frame(CLOSE), 10, False), Case([4], close_after=2))
async def test_gives_what_websockets_gives(messages, case):
    """For any stream and any split, messages, answers and the end equal those of websockets."""
    await compare(messages, case)


def test_the_oracle_recognizes_differences():
    """The oracle recognizes messages, answers and close codes; otherwise the comparison could not fail."""
    good = oracle(frame(TEXT, b"a") + frame(PING, b"p") + frame(CLOSE, b"\x03\xe9bye"), 10, False)
    assert good.messages == [(b"a", True)]
    assert written_frames(good.written) == [(PONG, b"p"), (CLOSE, b"\x03\xe9bye")]
    assert (good.code, good.reason) == (1001, "bye")
    assert oracle(frame(TEXT, b"\xff"), 10, False).code == 1007
    assert oracle(frame(TEXT, bytes(11)), 10, False).code == 1009
    assert oracle(frame(TEXT, b"a", reserved=4), 10, False).code == 1002
    assert oracle(Sender().frame(TEXT, b"aaaa", compressed=True), 10, True).messages == [(b"aaaa", True)]
    assert oracle(Sender().frame(TEXT, bytes(100_000), compressed=True), 1000, True).code == 1009
    ours = oracle(frame(TEXT, b"a") + frame(PING) + frame(TEXT, b"b"), 10, False, close_at=3)
    assert ours.messages == [(b"a", True)]
    assert ours.code == 1001
    assert [opcode for opcode, _ in written_frames(ours.written)] == [CLOSE, PONG]
    assert oracle(b"", 10, False).code == 1006
    with pytest.raises(ProtocolError):
        open_protocol(10).send_continuation(b"", fin=True)
